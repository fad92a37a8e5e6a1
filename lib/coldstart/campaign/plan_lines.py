"""Lines of the selection log that hold plans: what each was made from, what it took the place of, and its picks."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from coldstart.campaign.decisions import (
    Arrays,
    pack_hashes,
    pack_ids,
    pack_points,
    record,
    settings_of_a_choice,
    software,
)
from coldstart.campaign.drafting import Ground
from coldstart.settings import Settings
from coldstart.store import Image, MethodPlan, Plan, bytes_to_vector
from coldstart.store.schema import POINT_DTYPE

PLAN, METHOD_PLAN = "plan", "method_plan"

PLAN_FIELDS = ("map_id", "budget", "size", "n_clusters", "silhouettes", "silhouette_sample_size")


def record_plan(
    session: Session,
    settings: Settings,
    proposed: Ground,
    settled: Ground,
    is_new: bool,
    plan: Plan,
    picks: Sequence[Mapping[str, Any]],
) -> None:
    """Log our own plan.

    Parameters
    ----------
    proposed, settled : Ground
        What it was made from, and the same when it was written: clicks go on meanwhile.
    is_new : bool
        Whether anything was planned anew; otherwise the plan before was cut or its budget noted.
    plan, picks
        What `coldstart.campaign.drafting.settle` gave.
    """
    names = dict(session.execute(select(Image.id, Image.image_id)).tuples().all())
    details = {
        "settings": settings_of_a_choice(settings),
        "is_new": is_new,
        "plan": {name: getattr(plan, name) for name in PLAN_FIELDS},
        "before": None if proposed.plan is None else {name: getattr(proposed.plan, name) for name in PLAN_FIELDS},
        "picks": [{"image_id": names[pick["image_row"]], **pick} for pick in picks],
        "software": software(),
    }
    arrays: dict[str, NDArray[Any]] = {
        "rows": np.array(proposed.rows, dtype=np.int64),
        "taken": _sorted(proposed.taken),
        "taken_since": _sorted(settled.taken - proposed.taken),
        "freed_since": _sorted(proposed.taken - settled.taken),
        "picks_before": _json(settled.picks),
    }
    if is_new:
        arrays["points"] = pack_points(proposed.points)
        arrays["ids"] = pack_ids(names[row] for row in proposed.rows)
    record(session, PLAN, details, arrays=arrays)


def grounds_of(details: Mapping[str, Any], arrays: Arrays, points: NDArray[np.float64]) -> tuple[Ground, Ground]:
    """Return what the plan of a line was made from, and the same when it was written."""
    plan, taken = details["before"], set(arrays["taken"].tolist())
    proposed = Ground(
        map_id=details["plan"]["map_id"],
        rows=arrays["rows"].tolist(),
        points=points,
        taken=taken,
        plan=None if plan is None else Plan(**plan),
        picks=json.loads(arrays["picks_before"].tobytes()),
    )
    since = (taken | set(arrays["taken_since"].tolist())) - set(arrays["freed_since"].tolist())
    return proposed, Ground(**{**vars(proposed), "taken": since})


def record_method_plan(
    session: Session,
    made: MethodPlan,
    rows: Sequence[Image],
    taken: Collection[int],
    before: Mapping[str, str],
    settings: Settings,
) -> None:
    """Log what another method planned from these images, their vectors and points."""
    details = {
        "settings": settings_of_a_choice(settings),
        "plan": {name: getattr(made, name) for name in ("method", "map_id", "budget", "size", "random_state")},
        "picks": made.picks,
        "before": dict(before),
        "software": software(),
    }
    points = np.stack([bytes_to_vector(row.point or b"", POINT_DTYPE) for row in rows])
    arrays: dict[str, NDArray[Any]] = {
        "ids": pack_ids(row.image_id for row in rows),
        "rows": np.array([row.id for row in rows], dtype=np.int64),
        "vectors": pack_hashes(row.vector or b"" for row in rows),
        "points": pack_points(points),
        "taken": _sorted(taken),
    }
    record(session, METHOD_PLAN, details, arrays=arrays)


def _sorted(rows: Collection[int]) -> NDArray[np.int64]:
    return np.array(sorted(rows), dtype=np.int64)


def _json(value: Any) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
