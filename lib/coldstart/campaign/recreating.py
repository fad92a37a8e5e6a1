"""Decide again what one line of the selection log holds."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from coldstart.campaign import choices
from coldstart.campaign.choices import MEASURED, state_of
from coldstart.campaign.choosing import State, choose, explain
from coldstart.campaign.decisions import Arrays, Line, unpack, vector_hash
from coldstart.campaign.pool import Pool
from coldstart.campaign.snapshots import Snapshot, read_snapshot
from coldstart.store import FormerPoint, Image, Store, bytes_to_vector

Recreated = tuple[bool | None, str]
"""Whether a decision comes out the same, None where that cannot be told; and a part of a sentence about it."""

TOLERANCE = 1e-9
"""How much numbers may differ, in relation to themselves: another processor sums in another order."""
STORED_TOLERANCE = 1e-6
"""The same for the candidates' scores, which the log holds as float32."""


class VectorsGoneError(Exception):
    """What a decision was made from is not in the database any more."""


class Recreator:
    """Decides lines again, best in their order: what one needs, the one before it often needed.

    Parameters
    ----------
    store : Store
        The campaign's database.

    Attributes
    ----------
    servings : set of int
        Rows of the servings that the lines so far speak of.
    """

    def __init__(self, store: Store):
        self.servings: set[int] = set()
        self._store = store
        self._snapshot: tuple[int, Snapshot] | None = None
        self._pool: tuple[int, Pool] | None = None

    def recreate(self, number: int, line: Line) -> Recreated | None:
        """Decide a line again; None where it holds no decision."""
        details = json.loads(line.text)
        if line.kind == choices.KIND:
            self.servings.add(details["serving"])
            decide = partial(self._click, line.image_id)
        else:
            return None
        try:
            return decide(details, unpack(line.arrays))
        except VectorsGoneError as error:
            return None, str(error)

    def candidates(self, details: dict[str, Any], arrays: Arrays) -> dict[str, dict[str, float]]:
        """Return what a click with these details and arrays compared, by image id."""
        columns = {name: arrays[name].astype(np.float64) for name in MEASURED if name in arrays}
        if not columns:
            return {}
        state = self._state(details, arrays)
        pick = choose(state, details["strategy"], details["alpha"])
        if pick is not None and "entropy" in pick.candidates:
            columns["entropy"] = pick.candidates["entropy"]
        return {
            state.pool.image_ids[index]: {name: float(values[index]) for name, values in columns.items()}
            for index in np.flatnonzero(~np.isnan(columns["distance"]))
        }

    def _click(self, image_id: str | None, details: dict[str, Any], arrays: Arrays) -> Recreated:
        state = self._state(details, arrays)
        pool = state.pool
        pick = choose(state, details["strategy"], details["alpha"])
        if pick is None:
            return False, f"every image is labelled, and image '{image_id}' was served"
        if pool.image_ids[pick.index] != image_id:
            return False, f"image '{pool.image_ids[pick.index]}' comes out, and '{image_id}' was served"
        why = explain(state, pick)
        for name in why.keys() | details["answer"].keys():
            if not _alike(why.get(name), details["answer"].get(name)):
                return False, f"the {name} comes out as {why.get(name)!r}, and was {details['answer'].get(name)!r}"
        for name in MEASURED:
            expected = pick.candidates.get(name)
            if (expected is None) != (name not in arrays):
                return False, f"the candidates' {name} is not what the choice compares"
            if expected is not None and not _close(expected, arrays[name]):
                return False, f"the candidates' {name} comes out otherwise"
        compared = f", and {int(np.isfinite(pick.candidates['distance']).sum())} candidates" if pick.candidates else ""
        return True, f"the same image, reason and numbers{compared}"

    def _state(self, details: dict[str, Any], arrays: Arrays) -> State:
        return state_of(details, arrays, self._pool_of(details["pool"], details["settings"]["random_state"]))

    def _pool_of(self, line: int, random_state: int) -> Pool:
        if self._snapshot is None or self._snapshot[0] != line:
            with self._store.reading() as session:
                self._snapshot = line, read_snapshot(session, line, self._snapshot)
            self._pool = None
        if self._pool is None or self._pool[1].random_state != random_state:
            self._pool = line, self._snapshot[1].pool(random_state, self._vectors)
        return self._pool[1]

    def _vectors(self, hashes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Find the vectors with these hashes among those of the images, and of images that were replaced."""
        with self._store.reading() as session:
            known = {
                vector_hash(raw): raw
                for column in (Image.vector, FormerPoint.vector)
                for raw in session.scalars(select(column).where(column.is_not(None)))
                if raw is not None
            }
        wanted = [known.get(row.tobytes()) for row in hashes]
        gone = sum(raw is None for raw in wanted)
        if gone:
            raise VectorsGoneError(
                f"{gone} of {len(wanted)} vectors are not in the database any more: the images were replaced, or "
                "embedded by another encoder"
            )
        vectors = [bytes_to_vector(raw) for raw in wanted if raw is not None]
        return np.array(vectors, dtype=np.float64)


def _alike(value: Any, other: Any) -> bool:
    """Tell whether two values of an answer are the same, numbers within the tolerance."""
    if isinstance(value, float) and isinstance(other, float):
        return math.isclose(value, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(value == other)


def _close(values: NDArray[Any], others: NDArray[Any]) -> bool:
    if values.shape != others.shape:
        return False
    return np.allclose(values, others, rtol=STORED_TOLERANCE, atol=STORED_TOLERANCE, equal_nan=True)
