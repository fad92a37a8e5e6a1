"""The pool in memory: what every click reads and few transactions change.

A click at 10,000 images must not read 10,000 rows. Ids, points, entropies, the plan and the labels are kept as arrays,
each topic with the revision at which it was read. The database raises a topic's revision by triggers, so one row read
inside a transaction tells whether the arrays are what that transaction sees, whichever thread or process wrote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from coldstart.campaign.planning import current_map, current_plan
from coldstart.selection import Spread
from coldstart.store import Image, ImageMap, Label, Model, Plan, PlanPick, Revision, Scoring, bytes_to_vector
from coldstart.store.schema import POINT_DTYPE

Mask = NDArray[np.bool_]

MAX_SET_ASIDE = 100
"""How many of the images that are set aside are named with their reason."""


@dataclass(frozen=True, eq=False)
class Pool:
    """The images that may be served, in the order of their ids: `index` is an image's position in every array.

    Attributes
    ----------
    revision : int
        Another one whenever anything here is, of all pools that a database ever held.
    rows : list of int
        The database row of each image.
    points : ndarray of shape (n_images, n_dims), float
        Positions on the current map; 0 where `on_map` is False.
    entropy : ndarray of shape (n_images,), float
        In nats, of the newest scoring; its mean for images that it does not know.
    picks : list of PlanPick
        The plan in serving order; `planned` holds the index of each, -1 where it may not be served.
    """

    revision: int
    random_state: int
    rows: list[int]
    image_ids: list[str]
    clusters: list[int | None]
    on_map: Mask
    points: NDArray[np.float64]
    entropy: NDArray[np.float64]
    map: ImageMap | None
    plan: Plan | None
    picks: list[PlanPick]
    scoring: Scoring | None
    model_version: str | None
    n_held_out: int
    set_aside: dict[str, str]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def index_of_row(self) -> dict[int, int]:
        """Index of each database row."""
        return {row: index for index, row in enumerate(self.rows)}

    @cached_property
    def index_of_id(self) -> dict[str, int]:
        """Index of each image id."""
        return {image_id: index for index, image_id in enumerate(self.image_ids)}

    @cached_property
    def spread(self) -> Spread:
        """Distances on the map as the last click left them; for one thread at a time."""
        return Spread(self.points)

    def under(self, plan: Plan, picks: list[PlanPick]) -> Pool:
        """Return this pool with another plan, and with the same distances: for the same thread."""
        other = replace(self, plan=plan, picks=picks)
        vars(other)["spread"] = self.spread
        return other

    @cached_property
    def planned(self) -> NDArray[np.intp]:
        """Index of each pick of the plan, -1 where it may not be served."""
        return np.array([self.index_of_row.get(pick.image_row, -1) for pick in self.picks], dtype=np.intp)

    @cached_property
    def random_order(self) -> NDArray[np.intp]:
        """A shuffle that depends on the seed and the ids alone: clicks at once draw what clicks in turn draw."""
        digests = [hashlib.blake2b(f"{self.random_state} {image_id}".encode()).digest() for image_id in self.image_ids]
        return np.array(sorted(range(len(self)), key=digests.__getitem__), dtype=np.intp)

    def mask(self, rows: Collection[int]) -> Mask:
        """Which images are among these database rows."""
        own = self._row_array
        among = np.zeros(own.max(initial=0) + 1, dtype=bool)
        wanted = np.fromiter(rows, dtype=np.intp, count=len(rows))
        among[wanted[wanted < len(among)]] = True
        mask: Mask = among[own]
        return mask

    @cached_property
    def _row_array(self) -> NDArray[np.intp]:
        return np.array(self.rows, dtype=np.intp)


@dataclass(frozen=True)
class Labels:
    """Database rows of the images with a final label, and what is wrong with labels that cannot be learned from."""

    rows: list[int]
    problems: list[str]


_REVISIONS = select(Revision.topic, Revision.number)


class PoolMemory:
    """Pool and labels as a session sees them, read from the database only when their revision has changed."""

    def __init__(self, random_state: int):
        self._random_state = random_state
        self._pool: tuple[int, Pool] | None = None
        self._labels: tuple[int, Labels] | None = None

    def read(self, session: Session) -> tuple[Pool, Labels]:
        """Pool and labels of this session's transaction."""
        revisions = dict(session.execute(_REVISIONS).tuples().all())
        pool, labels = self._pool, self._labels
        if pool is None or pool[0] != revisions["pool"]:
            pool = self._pool = revisions["pool"], _read_pool(session, self._random_state, revisions["pool"])
        if labels is None or labels[0] != revisions["labels"]:
            labels = self._labels = revisions["labels"], _read_labels(session)
        return pool[1], labels[1]


def _read_labels(session: Session) -> Labels:
    found = session.execute(select(Label.image, Label.problem)).tuples().all()
    return Labels([row for row, _ in found], [problem for _, problem in found if problem is not None])


def _read_pool(session: Session, random_state: int, revision: int) -> Pool:
    current = current_map(session)
    plan = current_plan(session)
    scoring = session.scalar(select(Scoring).order_by(Scoring.id.desc()).limit(1))
    columns = (Image.id, Image.image_id, Image.cluster, Image.map_id, Image.point, Image.scoring_id, Image.entropy)
    present = session.execute(
        select(Image.held_out, Image.problem, *columns).where(Image.present).order_by(Image.image_id)
    ).all()
    usable: list[Any] = [row for row in present if not row.held_out and row.problem is None]
    on_map = np.array([current is not None and row.map_id == current.id for row in usable], dtype=bool)
    known = [bytes_to_vector(row.point, POINT_DTYPE) for row, mapped in zip(usable, on_map, strict=True) if mapped]
    points = np.zeros((len(usable), len(known[0]) if known else 0))
    if known:
        points[on_map] = known
    entropy = np.zeros(len(usable))
    if scoring is not None:
        entropy[:] = [row.entropy if row.scoring_id == scoring.id else scoring.mean for row in usable]
    picks = select(PlanPick).where(PlanPick.plan_id == plan.id).order_by(PlanPick.rank) if plan is not None else None
    aside = [row for row in present if row.problem is not None][:MAX_SET_ASIDE]
    return Pool(
        revision=revision,
        random_state=random_state,
        rows=[row.id for row in usable],
        image_ids=[row.image_id for row in usable],
        clusters=[row.cluster for row in usable],
        on_map=on_map,
        points=points,
        entropy=entropy,
        map=current,
        plan=plan,
        picks=list(session.scalars(picks)) if picks is not None else [],
        scoring=scoring,
        model_version=session.scalar(select(Model.version).order_by(Model.id.desc()).limit(1)),
        n_held_out=sum(row.held_out for row in present),
        set_aside={row.image_id: row.problem for row in aside},
    )
