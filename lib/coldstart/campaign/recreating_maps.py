"""Decide again what the lines of maps, placed images and plans hold, from the vectors whose hashes they have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from coldstart.campaign.baselines import make_method_plan
from coldstart.campaign.decisions import Arrays, checksum, unpack, unpack_ids, vector_hash
from coldstart.campaign.drafting import propose, settle
from coldstart.campaign.map_lines import basis_of
from coldstart.campaign.plan_lines import PLAN_FIELDS, grounds_of
from coldstart.projection import fit_projection, place
from coldstart.settings import Settings
from coldstart.store import FormerPoint, Image, Store, bytes_to_vector, vector_to_bytes
from coldstart.store.schema import POINT_DTYPE, Base

Recreated = tuple[bool | None, str]
"""Whether a decision comes out the same, None where that cannot be told; and a part of a sentence about it."""

TOLERANCE = 1e-9
"""How much numbers may differ, in relation to themselves: another processor sums in another order."""

_LINES = Base.metadata.tables["decisions"]


class GoneError(Exception):
    """What a decision was made from is not in the database any more."""


class Vectors:
    """The vectors of the images, and of images that were replaced, by their hashes; read once.

    Parameters
    ----------
    store : Store
        The campaign's database.
    """

    def __init__(self, store: Store):
        self._store = store
        self._known: dict[bytes, bytes] | None = None

    def raw(self, hashes: NDArray[np.uint8]) -> list[bytes]:
        """Return the vectors with these hashes as the database keeps them.

        Raises
        ------
        GoneError
            If one of them is not there any more.
        """
        if self._known is None:
            with self._store.reading() as session:
                self._known = {
                    vector_hash(raw): raw
                    for column in (Image.vector, FormerPoint.vector)
                    for raw in session.scalars(select(column).where(column.is_not(None)))
                    if raw is not None
                }
        found = [raw for row in hashes if (raw := self._known.get(row.tobytes())) is not None]
        if len(found) < len(hashes):
            raise GoneError(
                f"{len(hashes) - len(found)} of {len(hashes)} vectors are not in the database any more: their images "
                "were replaced, or embedded by another encoder"
            )
        return found

    def table(self, hashes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the vectors with these hashes as rows."""
        return np.array([bytes_to_vector(raw) for raw in self.raw(hashes)], dtype=np.float64)

    def points(self, logged: NDArray[Any]) -> NDArray[np.float64]:
        """Return points as they were before the log took hashes of those that are vectors."""
        return self.table(logged) if logged.dtype == np.uint8 else logged


def recreate_map(details: dict[str, Any], arrays: Arrays, vectors: Vectors) -> Recreated:
    """Project the vectors again."""
    raw, projection = vectors.raw(arrays["vectors"]), details["projection"]
    if not _has_checksum(details, arrays, raw):
        return False, "the checksum of the ids, signatures and vectors is another one"
    table = vectors.table(arrays["vectors"])
    points = fit_projection(table, projection["method"], random_state=projection["random_state"])
    return _compared(points, arrays, vectors, f"the same {projection['method']} map of {len(raw)} images")


def recreate_placed(details: dict[str, Any], arrays: Arrays, vectors: Vectors, store: Store) -> Recreated:
    """Place the images again on the map that they were placed on."""
    if details["line"] is None or "basis" not in arrays:
        return None, "the map was made before the campaign kept this log"
    with store.reading() as session:
        of_map = unpack(session.scalar(select(_LINES.c.arrays).where(_LINES.c.id == details["line"])))
    basis, raw = basis_of(arrays), vectors.raw(arrays["vectors"])
    if not _has_checksum(details, arrays, raw):
        return False, "the checksum of the ids, signatures and vectors is another one"
    known, chart = vectors.table(of_map["vectors"][basis]), vectors.points(of_map["points"][basis])
    points = place(vectors.table(arrays["vectors"]), known, chart, details["method"])
    return _compared(points, arrays, vectors, f"the same places of {len(raw)} images on the map")


def recreate_plan(details: dict[str, Any], arrays: Arrays, vectors: Vectors) -> Recreated:
    """Make our plan again, or cut it again."""
    settings = Settings.model_construct(**details["settings"])
    points = vectors.points(arrays["points"]) if details["is_new"] else np.zeros((len(arrays["rows"]), 2))
    proposed, settled = grounds_of(details, arrays, points)
    made = propose(proposed, settings)
    if (made is not None) != details["is_new"]:
        return False, "a new plan comes out" if made is not None else "no new plan comes out"
    plan, picks = settle(settled, made, settings)
    logged = [{name: value for name, value in pick.items() if name != "image_id"} for pick in details["picks"]]
    for rank, (pick, other) in enumerate(zip(picks, logged, strict=False), start=1):
        if not alike(pick, other):
            return False, f"pick {rank} comes out otherwise, and was image '{details['picks'][rank - 1]['image_id']}'"
    if len(picks) != len(logged):
        return False, f"{len(picks)} picks come out, and there were {len(logged)}"
    for name in PLAN_FIELDS:
        if not alike(getattr(plan, name), details["plan"][name]):
            return False, f"the plan's {name} comes out as {getattr(plan, name)!r}, and was {details['plan'][name]!r}"
    what = f"{plan.n_clusters} clusters" if details["is_new"] else "cut from the plan before"
    return True, f"the same {len(picks)} picks in the same order, {what}"


def recreate_method_plan(details: dict[str, Any], arrays: Arrays, vectors: Vectors) -> Recreated:
    """Have another method plan again."""
    raw, points, plan = vectors.raw(arrays["vectors"]), vectors.points(arrays["points"]), details["plan"]
    columns = zip(unpack_ids(arrays["ids"]), arrays["rows"].tolist(), raw, points, strict=True)
    rows = [
        Image(image_id=name, id=row, vector=vector, point=vector_to_bytes(point, POINT_DTYPE))
        for name, row, vector, point in columns
    ]
    settings, taken = Settings.model_construct(**details["settings"]), set(arrays["taken"].tolist())
    made = make_method_plan(plan["method"], plan["map_id"], rows, taken, details["before"], settings)
    if list(made.picks.items()) != list(details["picks"].items()):
        return False, f"other picks of '{plan['method']}' come out, or for other reasons"
    return True, f"the same {len(made.picks)} picks of '{plan['method']}' in the same order"


def alike(value: Any, other: Any) -> bool:
    """Tell whether two values in JSON types are the same, numbers within the tolerance."""
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(alike(value[key], other[key]) for key in value)
    if isinstance(value, float) and isinstance(other, float):
        return math.isclose(value, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(value == other)


def _has_checksum(details: dict[str, Any], arrays: Arrays, raw: Sequence[bytes]) -> bool:
    parts = [unpack_ids(arrays["ids"]), unpack_ids(arrays["signatures"])]
    return bool(checksum(*parts, *(np.frombuffer(vector, dtype=np.uint8) for vector in raw)) == details["checksum"])


def _compared(points: NDArray[np.float64], arrays: Arrays, vectors: Vectors, sentence: str) -> Recreated:
    before = vectors.points(arrays["points"])
    if points.shape == before.shape and np.allclose(points, before, rtol=TOLERANCE, atol=TOLERANCE):
        return True, sentence
    return False, "the points come out otherwise"
