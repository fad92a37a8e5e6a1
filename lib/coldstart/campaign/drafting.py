"""The cold-start plan as a function of what it is made from, without a database.

The plan in force is made by it, and so is what another budget would give, which nobody follows yet.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.selection import Clustering, ColdStartPlan, Pick, choose_n_clusters, plan_cold_start
from coldstart.settings import Settings
from coldstart.store import Plan, PlanPick

Cluster = Callable[..., Clustering]
"""Does what `choose_n_clusters` does, perhaps with what it remembers."""


@dataclass(frozen=True, eq=False)
class Ground:
    """What a plan is made from, and what it takes the place of.

    Attributes
    ----------
    map_id : int
        The map in force.
    rows : list of int
        Database rows of the images on the map that may be served, by image id.
    points : ndarray of shape (n_images, n_dims), float
        Positions of these images on the map.
    taken : set of int
        Database rows of the images that were labelled or ever served.
    plan : Plan or None
        The plan in force; `picks` are its picks in serving order, without their rank.
    """

    map_id: int
    rows: list[int]
    points: NDArray[Any]
    taken: set[int]
    plan: Plan | None
    picks: list[dict[str, Any]]


def is_outdated(plan: Plan | None, map_id: int, n_images: int, settings: Settings) -> bool:
    """Tell whether this plan is another one than the settings ask for, on a map with so many images to serve."""
    if plan is None or plan.map_id != map_id or plan.budget != settings.budget:
        return n_images > 0
    return plan.size < plan.budget and plan.size < n_images


def propose(ground: Ground, settings: Settings, cluster: Cluster = choose_n_clusters) -> ColdStartPlan | None:
    """Plan what is not taken; None where the budget lets the plan in force only be cut."""
    size = min(settings.budget, len(ground.rows))
    if ground.plan is not None and ground.plan.map_id == ground.map_id and size <= ground.plan.size:
        return None
    selected = [index for index, row in enumerate(ground.rows) if row in ground.taken]
    budget, k_max, seed = max(size, len(selected)), settings.k_max, settings.random_state
    clustering = cluster(ground.points, budget, k_max=k_max, random_state=seed)
    return plan_cold_start(
        ground.points, budget, selected=selected, k_max=k_max, random_state=seed, clustering=clustering
    )


def settle(ground: Ground, made: ColdStartPlan | None, settings: Settings) -> tuple[Plan, list[dict[str, Any]]]:
    """The plan that takes the place of the one in force, and its picks in serving order.

    They are all that are taken and, while the budget lasts, the first others.
    """
    size, picks = min(settings.budget, len(ground.rows)), ground.picks
    plan = Plan(map_id=ground.map_id, budget=settings.budget, size=size)
    if made is not None:
        plan.created_at = time.time()
        plan.n_clusters = int(made.n_clusters)
        plan.silhouettes = {str(k): float(value) for k, value in made.silhouettes.items()}
        plan.silhouette_sample_size = made.silhouette_sample_size
        picks = _carried_on(ground, made)
    elif ground.plan is not None:
        for name in ("created_at", "n_clusters", "silhouettes", "silhouette_sample_size"):
            setattr(plan, name, getattr(ground.plan, name))
    free = set(ground.rows) - ground.taken
    waiting = [pick["image_row"] for pick in picks if pick["image_row"] in free]
    n_taken = len(ground.rows) - len(free)
    kept = ground.taken.union(waiting[: max(0, size - n_taken)])
    return plan, [pick for pick in picks if pick["image_row"] in kept]


def _carried_on(ground: Ground, made: ColdStartPlan) -> list[dict[str, Any]]:
    kept = [dict(pick) for pick in ground.picks if pick["image_row"] in ground.taken]
    clusters, sizes = dict(zip(ground.rows, made.labels.tolist(), strict=True)), np.bincount(made.labels)
    for pick in kept:
        if (cluster := clusters.get(pick["image_row"])) is not None:
            pick.update(cluster=cluster, cluster_size=int(sizes[cluster]))
    known = {pick["image_row"] for pick in kept}
    return kept + [_new_pick(row, pick) for pick in made.picks if (row := ground.rows[pick.index]) not in known]


def pick_values(pick: PlanPick) -> dict[str, Any]:
    """A pick of the plan in force as `Ground.picks` holds it."""
    return {name: getattr(pick, name) for name in ("image_row", "cluster", "cluster_size", "role", "distance")}


def _new_pick(row: int, pick: Pick) -> dict[str, Any]:
    return {
        "image_row": row,
        "cluster": pick.cluster,
        "cluster_size": pick.cluster_size,
        "role": pick.role,
        "distance": None if math.isnan(pick.distance) else pick.distance,
    }
