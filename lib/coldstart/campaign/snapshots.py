"""The pool as clicks saw it, in the selection log.

Every click reads the whole pool, which few transactions change. So the log holds it whole now and then, and in between
what changed: an image that arrives at a pool of 10,000 adds its own values and no others.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import String, select, type_coerce
from sqlalchemy.orm import Session

from coldstart.campaign.decisions import Arrays, pack_ids, pack_points, record, unpack, unpack_ids
from coldstart.campaign.pool import Pool
from coldstart.store import ImageMap, Plan, PlanPick, Scoring
from coldstart.store.schema import Base

KIND = "pool"
WHOLE_EVERY = 64
"""How many lines in a row hold the pool together: one whole, the others what changed."""
UNREADABLE = (KeyError, IndexError, ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error)
"""What reading a line raises that was changed since it was written."""

_LINES = Base.metadata.tables["decisions"]
_TEXT = type_coerce(_LINES.c.details, String)
_LAST = select(_LINES.c.id, _TEXT).where(_LINES.c.kind == KIND).order_by(_LINES.c.id.desc()).limit(1)

_MAP_FIELDS = ("id", "encoder", "method", "random_state")
_PLAN_FIELDS = ("id", "budget", "size", "n_clusters")
_SCORING_FIELDS = ("id", "model_version", "n_images", "minimum", "maximum", "mean")
_PICK_FIELDS = ("rank", "image_row", "cluster", "cluster_size", "role", "distance")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A pool as the log holds it.

    Attributes
    ----------
    details : dict
        What there is once for the whole pool: map, plan, scoring, model.
    columns : dict of str to ndarray of shape (n_images, ...)
        What there is for each image; `points` are hashes where they are too wide for the log.
    picks : list of list
        The fields of each pick of the plan, in serving order.
    """

    details: dict[str, Any]
    image_ids: list[str]
    columns: dict[str, NDArray[Any]]
    picks: list[list[Any]]

    @classmethod
    def of(cls, pool: Pool) -> Snapshot:
        """Take over a pool."""
        clusters = [-1 if cluster is None else cluster for cluster in pool.clusters]
        return cls(
            details={
                "revision": pool.revision,
                "n_images": len(pool),
                "n_held_out": pool.n_held_out,
                "model_version": pool.model_version,
                "map": _fields(pool.map, _MAP_FIELDS),
                "plan": _fields(pool.plan, _PLAN_FIELDS),
                "scoring": _fields(pool.scoring, _SCORING_FIELDS),
            },
            image_ids=pool.image_ids,
            columns={
                "rows": np.array(pool.rows, dtype=np.int64),
                "clusters": np.array(clusters, dtype=np.int32),
                "on_map": pool.on_map,
                "points": pack_points(pool.points),
                "entropy": pool.entropy,
            },
            picks=[[getattr(pick, name) for name in _PICK_FIELDS] for pick in pool.picks],
        )

    def pool(self, random_state: int, vectors_of: Callable[[NDArray[np.uint8]], NDArray[np.float64]]) -> Pool:
        """Return the pool; `vectors_of` finds the vectors with these hashes, where points are vectors."""
        points, details = self.columns["points"], self.details
        return Pool(
            revision=details["revision"],
            random_state=random_state,
            rows=self.columns["rows"].tolist(),
            image_ids=self.image_ids,
            clusters=[None if cluster < 0 else cluster for cluster in self.columns["clusters"].tolist()],
            on_map=self.columns["on_map"],
            points=vectors_of(points) if points.dtype == np.uint8 else points,
            entropy=self.columns["entropy"],
            map=None if details["map"] is None else ImageMap(**details["map"]),
            plan=None if details["plan"] is None else Plan(**details["plan"]),
            picks=[PlanPick(**dict(zip(_PICK_FIELDS, pick, strict=True))) for pick in self.picks],
            scoring=None if details["scoring"] is None else Scoring(**details["scoring"]),
            model_version=details["model_version"],
            n_held_out=details["n_held_out"],
            set_aside={},
        )

    @property
    def planned_rows(self) -> list[int]:
        """Database rows of the plan's images, in serving order."""
        return [pick[_PICK_FIELDS.index("image_row")] for pick in self.picks]

    def arrays(self, base: Snapshot | None) -> Arrays:
        """Return what differs from `base`, or everything where there is none; `after` is the inverse."""
        if base is None:
            return {"ids": pack_ids(self.image_ids), **self.columns, "picks": _pack_json(self.picks)}
        arrays: dict[str, NDArray[Any]] = {}
        came = np.zeros(len(self.image_ids), dtype=bool)
        before = np.arange(len(self.image_ids))
        if self.image_ids != base.image_ids:
            known = {image_id: index for index, image_id in enumerate(base.image_ids)}
            before = np.array([known.get(image_id, -1) for image_id in self.image_ids], dtype=np.int64)
            came = before < 0
            arrays["before"] = np.diff(before, prepend=-1)  # almost all 1: compresses to almost nothing
            arrays["ids"] = pack_ids(image_id for image_id, new in zip(self.image_ids, came, strict=True) if new)
        for name, values in self.columns.items():
            differs = came | _differs(values, base.columns[name], before)
            if differs.any():
                arrays[name] = values[differs]
                arrays[f"{name}_at"] = np.packbits(differs)
        if self.picks != base.picks:
            arrays["picks"] = _pack_json(self.picks)
        return arrays

    @classmethod
    def after(cls, base: Snapshot | None, details: dict[str, Any], arrays: Arrays) -> Snapshot:
        """Return what was logged with these details and `arrays(base)`."""
        picks = json.loads(arrays["picks"].tobytes()) if base is None or "picks" in arrays else base.picks
        n_images = details["n_images"]
        if base is None:
            names = ("rows", "clusters", "on_map", "points", "entropy")
            return cls(details, unpack_ids(arrays["ids"]), {name: arrays[name] for name in names}, picks)
        image_ids, before = base.image_ids, np.arange(n_images)
        if "before" in arrays:
            before, new = np.cumsum(arrays["before"]) - 1, iter(unpack_ids(arrays["ids"]))
            image_ids = [base.image_ids[index] if index >= 0 else next(new) for index in before.tolist()]
        columns = {}
        for name, values in base.columns.items():
            columns[name] = values[before] if len(values) else values
            if name in arrays:
                differs = np.unpackbits(arrays[f"{name}_at"], count=n_images).astype(bool)
                changed = arrays[name]
                if changed.shape[1:] != values.shape[1:] or not len(values):
                    columns[name] = np.zeros((n_images, *changed.shape[1:]), dtype=changed.dtype)
                columns[name][differs] = changed
        return cls(details, image_ids, columns, picks)


class PoolLog:
    """Writes the pool into the log where it is another one than the log's last; for one thread at a time."""

    def __init__(self) -> None:
        self._last: tuple[int, Snapshot] | None = None

    def line(self, session: Session, pool: Pool) -> int:
        """Return the number of a line that holds this pool, which is written where the last one holds another."""
        last, details = session.execute(_LAST).first(), {}
        if last is not None:
            with suppress(*UNREADABLE):  # no click fails for what somebody did to the log
                details = {"revision": None, "depth": WHOLE_EVERY, **json.loads(last[1])}
        if last is not None and details.get("revision") == pool.revision:
            return int(last[0])
        base, depth = None, details.get("depth", WHOLE_EVERY) + 1
        if last is not None and depth < WHOLE_EVERY:
            base = self._known(session, last[0], details["revision"])
        snapshot = Snapshot.of(pool)
        about = {"base": last[0] if last and base else None, "depth": depth if base else 0}
        number = record(session, KIND, {**snapshot.details, **about}, arrays=snapshot.arrays(base))
        self._last = number, snapshot
        return number

    def _known(self, session: Session, line: int, revision: object) -> Snapshot | None:
        """What a line holds; None where somebody made it unreadable."""
        if self._last is not None and (self._last[0], self._last[1].details["revision"]) == (line, revision):
            return self._last[1]
        try:
            return read_snapshot(session, line)
        except UNREADABLE:
            return None


def read_snapshot(session: Session, line: int, known: tuple[int, Snapshot] | None = None) -> Snapshot:
    """Return what a line of this kind holds; `known` is what one before it does, where that is at hand."""
    waiting: list[tuple[dict[str, Any], Arrays]] = []
    number: int | None = line
    while number is not None and (known is None or number != known[0]):
        found = session.execute(select(_TEXT, _LINES.c.arrays).where(_LINES.c.id == number)).one_or_none()
        if found is None:
            raise KeyError(f"line {number} is gone")
        waiting.append((json.loads(found[0]), unpack(found[1])))
        number = waiting[-1][0]["base"]
    snapshot = known[1] if known is not None and number is not None else None
    for details, arrays in reversed(waiting):
        snapshot = Snapshot.after(snapshot, details, arrays)
    if snapshot is None:
        raise KeyError(line)
    return snapshot


def _fields(row: object, names: tuple[str, ...]) -> dict[str, Any] | None:
    return None if row is None else {name: getattr(row, name) for name in names}


def _pack_json(value: Any) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)


def _differs(values: NDArray[Any], base: NDArray[Any], before: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the values are another than before; all, where they are of another kind or there were none."""
    if values.shape[1:] != base.shape[1:] or values.dtype != base.dtype or not len(base):
        return np.ones(len(values), dtype=bool)
    unequal = values != base[before]
    return unequal.reshape(len(values), -1).any(axis=1) if unequal.size else np.zeros(len(values), dtype=bool)
