"""Decide again what one line of the selection log holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.campaign import choices, map_lines, plan_lines, snapshots
from coldstart.campaign.choices import MEASURED, state_of
from coldstart.campaign.choosing import State, choose, explain
from coldstart.campaign.decisions import TAKEN_OVER, Arrays, Line, software, unpack, unpack_ids
from coldstart.campaign.pool import Pool
from coldstart.campaign.recreating_maps import (
    GoneError,
    Recreated,
    Vectors,
    alike,
    recreate_map,
    recreate_method_plan,
    recreate_placed,
    recreate_plan,
)
from coldstart.campaign.snapshots import Snapshot, read_snapshot
from coldstart.store import Store

STORED_TOLERANCE = 1e-6
"""How much the candidates' scores may differ, in relation to themselves: the log holds them as float32."""


class Recreator:
    """Decides lines again, best in their order: what one needs, the one before it often needed.

    Parameters
    ----------
    store : Store
        The campaign's database.

    Attributes
    ----------
    servings : dict of int to str
        Rows of the servings that the lines so far speak of, and the image of each.
    """

    def __init__(self, store: Store):
        self.servings: dict[int, str] = {}
        self._store = store
        self._snapshot: tuple[int, Snapshot] | None = None
        self._pool: tuple[int, Pool] | None = None
        self._map: tuple[int, dict[str, bytes]] | None = None
        self._picks: list[dict[str, Any]] | None = None
        self._vectors = Vectors(store)
        self._by_kind: Mapping[str, Callable[[dict[str, Any], Arrays], Recreated]] = {
            choices.KIND: self._click,
            map_lines.MAP: partial(recreate_map, vectors=self._vectors),
            map_lines.PLACED: partial(recreate_placed, vectors=self._vectors, store=store),
            plan_lines.PLAN: partial(recreate_plan, vectors=self._vectors),
            plan_lines.METHOD_PLAN: partial(recreate_method_plan, vectors=self._vectors),
        }

    def recreate(self, number: int, line: Line) -> Recreated | None:
        """Decide a line again; None where it holds no decision."""
        details, arrays = json.loads(line.text), unpack(line.arrays)
        if line.kind == TAKEN_OVER:
            self.servings.update((known["serving"], known["image_id"]) for known in details["servings"])
        if line.kind == snapshots.KIND:
            return self._read_pool(number)
        decide = self._by_kind.get(line.kind)
        if decide is None:
            return None
        self._note(line.kind, details, arrays)
        if line.kind == choices.KIND:
            if details["serving"] is not None:
                self.servings[details["serving"]] = details["image_id"]
            if line.image_id != details["image_id"]:
                return False, f"the line is about image '{line.image_id}', and '{details['image_id']}' was served"
        try:
            same, sentence = decide(details, arrays)
        except GoneError as error:
            return None, str(error)
        if same is False and details["software"] != software():
            sentence += f"; it was decided with {_words(details['software'])}, and this is {_words(software())}"
        return same, sentence

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

    def _note(self, kind: str, details: dict[str, Any], arrays: Arrays) -> None:
        """Keep what the pools after this line have to hold."""
        if kind in (map_lines.MAP, map_lines.PLACED):
            points = zip(unpack_ids(arrays["ids"]), (point.tobytes() for point in arrays["points"]), strict=True)
            if kind == map_lines.MAP:
                self._map = details["map"], dict(points)
            elif self._map is not None and self._map[0] == details["map"]:
                self._map[1].update(points)
        elif kind == plan_lines.PLAN:
            self._picks = details["picks"]

    def _read_pool(self, line: int) -> Recreated | None:
        """What clicks read is no decision; but it has to be what the maps and the plan before gave."""
        snapshot = self._snapshot_of(line)
        if self._map is not None and self._map[0] == (snapshot.details["map"] or {}).get("id"):
            columns = zip(snapshot.image_ids, snapshot.columns["on_map"], snapshot.columns["points"], strict=True)
            for image_id, on_map, point in columns:
                if on_map and self._map[1].get(image_id) != point.tobytes():
                    return False, f"image '{image_id}' is not where the map has it"
        if self._picks is not None and snapshot.planned_rows != [pick["image_row"] for pick in self._picks]:
            return False, "the plan that clicks read is not the one that was made"
        return None

    def _click(self, details: dict[str, Any], arrays: Arrays) -> Recreated:
        state, image_id = self._state(details, arrays), details["image_id"]
        pool = state.pool
        pick = choose(state, details["strategy"], details["alpha"])
        if pick is None:
            return False, f"every image is labelled, and image '{image_id}' was served"
        if pool.image_ids[pick.index] != image_id:
            return False, f"image '{pool.image_ids[pick.index]}' comes out, and '{image_id}' was served"
        why = explain(state, pick)
        for name in why.keys() | details["answer"].keys():
            if not alike(why.get(name), details["answer"].get(name)):
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
        known = self._pool
        if known is None or known[0] != line or known[1].random_state != random_state:
            known = self._pool = line, self._snapshot_of(line).pool(random_state, self._vectors.table)
        return known[1]

    def _snapshot_of(self, line: int) -> Snapshot:
        if self._snapshot is None or self._snapshot[0] != line:
            with self._store.reading() as session:
                self._snapshot = line, read_snapshot(session, line, self._snapshot)
        return self._snapshot[1]


def _words(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _close(values: NDArray[Any], others: NDArray[Any]) -> bool:
    if values.shape != others.shape:
        return False
    return np.allclose(values, others, rtol=STORED_TOLERANCE, atol=STORED_TOLERANCE, equal_nan=True)
