"""The table behind the map page: one row for each image, one list for each column.

What a click or a saved label changes is a small part of it, so the rest is kept between reads: the columns of `fixed`
until an image, a point, an entropy or the plan changes, and what was served until somebody else's servings are found.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from coldstart.campaign.inventory import SKIPPED
from coldstart.campaign.planning import current_map, current_plan
from coldstart.campaign.shown import without_folders
from coldstart.settings import Settings
from coldstart.store import Image, Label, Plan, PlanPick, Revision, Scoring, Serving, bytes_to_vector
from coldstart.store.schema import POINT_DTYPE

POOL, PLANNED, SERVED, LABELLED = "pool", "planned", "served", "labelled"
HELD_OUT, SET_ASIDE, SKIPPED_STATE = "held_out", "set_aside", SKIPPED

POINT_DIGITS = 5
"""Significant digits of the largest coordinate: a fifth of a pixel on a screen of 20,000."""
ENTROPY_DECIMALS = 4

Columns = dict[str, list[Any]]


@dataclass(frozen=True, eq=False)
class MapTable:
    """The images that are there, by id.

    Attributes
    ----------
    revision : str
        Another one where anything in the table is.
    fixed : dict of str to list
        `image_id`, `x`, `y`, `cluster` (from 1), `entropy` (relative to ln C, of the newest scoring), `rank` (in the
        plan, from 1) and `medoid`; the same object as long as none of these changed.
    moving : dict of str to list
        `state`, `phase`, `served_order` (from 1, of the first serving), `annotator`, `reason` and `distance`.
    """

    revision: str
    fixed: Columns
    moving: Columns

    def __len__(self) -> int:
        return len(self.fixed["image_id"])

    @cached_property
    def index_of_id(self) -> dict[str, int]:
        """Where in each column an image is."""
        return {image_id: index for index, image_id in enumerate(self.fixed["image_id"])}


class _Served(NamedTuple):
    """The newest serving of an image, and when among all images it was served first."""

    order: int
    phase: str
    annotator: str | None
    reason: str | None
    distance: float | None


@dataclass(frozen=True, eq=False)
class _Fixed:
    columns: Columns
    index_of_row: dict[int, int]
    state: list[str]
    reason: list[str | None]
    distance: list[float | None]


class MapMemory:
    """Reads the table, and keeps what did not change since the last read; for any thread."""

    def __init__(self) -> None:
        self._fixed: tuple[int, _Fixed] | None = None
        self._served: tuple[tuple[int, int], dict[int, _Served]] = (0, 0), {}
        self._table: MapTable | None = None

    def read(self, session: Session, settings: Settings, now: float | None = None) -> MapTable:
        """Read the table as a session sees it at a time, which is now where none is given."""
        since = reserved_since(settings, now)
        revision = map_revision(session, since)
        table = self._table
        if table is None or table.revision != revision:
            fixed = self._read_fixed(session, settings)
            moving = _moving(session, fixed, self._read_served(session), since)
            table = self._table = MapTable(revision, fixed.columns, moving)
        return table

    def _read_fixed(self, session: Session, settings: Settings) -> _Fixed:
        number = session.execute(select(Revision.number).where(Revision.topic == "pool")).scalar_one()
        kept = self._fixed
        if kept is None or kept[0] != number:
            kept = self._fixed = number, _read_fixed(session, settings)
        return kept[1]

    def _read_served(self, session: Session) -> dict[int, _Served]:
        """What was served; only what is new is read, as long as nothing of the rest is gone."""
        count, newest = session.execute(select(func.count(), func.coalesce(func.max(Serving.id), 0))).one()
        (n_known, last), known = self._served
        n_new = session.scalar(select(func.count()).where(Serving.id > last)) or 0
        if count != n_known + n_new:
            last, known = 0, {}
        if newest > last:
            known = dict(known)
            for row, *values in session.execute(_servings_after(last)).tuples():
                before = known.get(row)
                known[row] = _Served(before.order if before is not None else len(known) + 1, *values)
        self._served = (count, newest), known
        return known


def reserved_since(settings: Settings, now: float | None = None) -> float:
    """Time after which an image must have been served to be with somebody still."""
    return (time.time() if now is None else now) - 60 * settings.reserve_minutes


def map_revision(session: Session, since: float) -> str:
    """What changes when the table does: the topics that it is read from, and how many images are with somebody."""
    topics = select(Revision.number).where(Revision.topic.in_(("pool", "labels", "servings"))).order_by(Revision.topic)
    held = session.scalar(select(func.count()).where(Serving.outcome.is_(None), Serving.served_at > since))
    return "-".join(f"{number:x}" for number in [*session.scalars(topics), held or 0])


def _servings_after(last: int) -> Any:
    why = (func.json_extract(Serving.why, f"$.{key}") for key in ("reason", "distance"))
    columns = (Serving.image_row, Serving.phase, Serving.annotator, *why)
    return select(*columns).where(Serving.id > last).order_by(Serving.id)


def _read_fixed(session: Session, settings: Settings) -> _Fixed:
    current, plan = current_map(session), current_plan(session)
    scoring = session.scalar(select(Scoring.id).order_by(Scoring.id.desc()).limit(1))
    columns = (Image.id, Image.image_id, Image.held_out, Image.problem, Image.map_id, Image.point)
    scored = (Image.cluster, Image.scoring_id, Image.entropy)
    present = select(*columns, *scored).where(Image.present).order_by(Image.image_id)
    rows = session.execute(present).tuples().all()
    index_of_row = {row[0]: index for index, row in enumerate(rows)}
    aside = session.execute(select(Image.id, Image.path).where(Image.present, Image.problem.is_not(None)))
    path_of_row = dict(aside.tuples().all())
    map_id = current.id if current is not None else None
    x, y = _coordinates([row[5] if map_id is not None and row[4] == map_id else None for row in rows])
    nats = [row[8] if scoring is not None and row[7] == scoring else math.nan for row in rows]
    relative = np.maximum(np.array(nats, dtype=float), 0.0) / math.log(len(settings.labels) + 1)
    fixed = _Fixed(
        columns={
            "image_id": [row[1] for row in rows],
            "x": x,
            "y": y,
            "cluster": [None if row[6] is None else row[6] + 1 for row in rows],
            "entropy": _or_none(relative.round(ENTROPY_DECIMALS)),
            "rank": [None] * len(rows),
            "medoid": [False] * len(rows),
        },
        index_of_row=index_of_row,
        state=[SET_ASIDE if row[3] is not None else HELD_OUT if row[2] else POOL for row in rows],
        reason=[None if row[3] is None else without_folders(row[3], path_of_row[row[0]]) for row in rows],
        distance=[None] * len(rows),
    )
    if plan is not None:
        _add_plan(fixed, plan, session.scalars(select(PlanPick).where(PlanPick.plan_id == plan.id)).all())
    return fixed


def _add_plan(fixed: _Fixed, plan: Plan, picks: Sequence[PlanPick]) -> None:
    for pick in picks:
        if (index := fixed.index_of_row.get(pick.image_row)) is None:
            continue
        fixed.columns["rank"][index] = pick.rank + 1
        fixed.columns["medoid"][index] = pick.role == "medoid"
        if fixed.state[index] == POOL:
            fixed.state[index] = PLANNED
            fixed.distance[index] = pick.distance
            fixed.reason[index] = planned_reason(plan, pick, len(picks))


def planned_reason(plan: Plan, pick: PlanPick, n_picks: int) -> str:
    """Why an image is in the plan, in words."""
    role = "medoid" if pick.role == "medoid" else "farthest point"
    of_cluster = f"cluster {pick.cluster + 1} of {plan.n_clusters} ({pick.cluster_size} images)"
    return f"planned: {role} of {of_cluster}, pick {pick.rank + 1} of {n_picks}"


def _coordinates(points: Sequence[bytes | None]) -> tuple[list[float | None], list[float | None]]:
    """The first two coordinates of each point; a line is drawn as a diagonal."""
    xy = np.full((len(points), 2), math.nan)
    known = [index for index, point in enumerate(points) if point is not None]
    if known:
        found = bytes_to_vector(b"".join(points[index] or b"" for index in known), POINT_DTYPE)
        found = found.reshape(len(known), -1)
        xy[known] = found[:, :2] if found.shape[1] > 1 else np.repeat(found, 2, axis=1)
        extent = float(np.abs(xy[known]).max())
        xy = xy.round(POINT_DIGITS - math.ceil(math.log10(extent)) if extent > 0 else 0)
    return _or_none(xy[:, 0]), _or_none(xy[:, 1])


def _or_none(values: NDArray[np.float64]) -> list[float | None]:
    found: list[float | None] = values.tolist()
    for index in np.flatnonzero(np.isnan(values)).tolist():
        found[index] = None
    return found


def _moving(session: Session, fixed: _Fixed, served: dict[int, _Served], since: float) -> Columns:
    n = len(fixed.state)
    state, reason, distance = list(fixed.state), list(fixed.reason), list(fixed.distance)
    phase: list[str | None] = [None] * n
    order: list[int | None] = [None] * n
    annotator: list[str | None] = [None] * n
    for row, serving in served.items():
        if (index := fixed.index_of_row.get(row)) is None:
            continue
        order[index], phase[index], annotator[index] = serving.order, serving.phase, serving.annotator
        if state[index] != SET_ASIDE and serving.reason is not None:
            reason[index], distance[index] = serving.reason, serving.distance
    for name, rows in (
        (SKIPPED_STATE, _skipped_rows(session)),
        (SERVED, _rows(session, select(Serving.image_row).where(Serving.outcome.is_(None), Serving.served_at > since))),
        (LABELLED, _rows(session, select(Label.image))),
    ):
        for row in rows:
            index = fixed.index_of_row.get(row)
            if index is not None and state[index] not in (SET_ASIDE, HELD_OUT):
                state[index] = name
    for row, who in session.execute(select(Label.image, Label.annotator)).tuples():
        if (index := fixed.index_of_row.get(row)) is not None:
            annotator[index] = who
    return {
        "state": state,
        "phase": phase,
        "served_order": order,
        "annotator": annotator,
        "reason": reason,
        "distance": [None if value is None else round(value, 5) for value in distance],
    }


def _rows(session: Session, rows: Any) -> list[int]:
    return list(session.scalars(rows))


def _skipped_rows(session: Session) -> list[int]:
    """Images whose newest serving was skipped."""
    newest = select(func.max(Serving.id)).group_by(Serving.image_row)
    return _rows(session, select(Serving.image_row).where(Serving.outcome == SKIPPED, Serving.id.in_(newest)))
