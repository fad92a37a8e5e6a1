"""Which image comes next, and the sentence that says why: a function of the campaign's state, without a database.

The order of resort: what the phase gives; an image that is not on the map yet; one that was skipped, least recently
served first; one that is also with another annotator, least recently served first.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.campaign.pool import Mask, Pool
from coldstart.selection import METHODS, acquire_next, score_candidates
from coldstart.settings import Settings
from coldstart.store import MethodPlan, Plan

StrategyName = str
"""One of `STRATEGIES`, or of `coldstart.campaign.baselines.BASELINES`."""
STRATEGIES: tuple[StrategyName, ...] = ("coldstart_al", "cold_start", "entropy_diversity", "uniform_random")

COLD_START, ACTIVE = "cold_start", "active"
PLAN_COMPLETE, UNIFORM_RANDOM, BEFORE_EMBEDDING = "plan_complete", "uniform_random", "before_embedding"
SKIPPED_BEFORE, SHARED = "skipped_before", "shared"


@dataclass
class Pick:
    """The image chosen, by its index in the pool, and what the answer says of it.

    `candidates` holds by name what was compared, one value for each image of the pool, NaN for those that were no
    candidates; it is empty where nothing was measured.
    """

    index: int
    phase: str
    reason: str
    details: dict[str, Any] = field(default_factory=dict)
    candidates: dict[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class State:
    """The campaign as one click sees it.

    Attributes
    ----------
    labelled : ndarray of shape (n_images,), bool
        Which images of the pool have a final label.
    reserved, skipped : dict of int to int
        Database rows of the images that are with somebody, and of those skipped; the value grows with the time of
        the newest serving.
    n_active_picks : int
        How many were served since the newest scoring.
    method_plan : MethodPlan, optional
        Of the method that this click asks for by its strategy.
    """

    settings: Settings
    pool: Pool
    labelled: Mask
    reserved: dict[int, int]
    skipped: dict[int, int]
    n_active_picks: int
    method_plan: MethodPlan | None = None

    @cached_property
    def taken(self) -> Mask:
        """Labelled or reserved."""
        return self.labelled | self.pool.mask(self.reserved)

    @cached_property
    def free(self) -> Mask:
        """Neither labelled, nor reserved, nor skipped."""
        return ~(self.taken | self.pool.mask(self.skipped))

    def after(self, pick: Pick) -> State:
        """The campaign as the click after the one that got this pick sees it."""
        row = self.pool.rows[pick.index]
        order = 1 + max([0, *self.reserved.values(), *self.skipped.values()])
        return replace(
            self,
            reserved={**self.reserved, row: order},
            skipped={known: order for known, order in self.skipped.items() if known != row},
            n_active_picks=self.n_active_picks + (pick.phase == ACTIVE),
        )

    @property
    def budget_is_labelled(self) -> bool:
        """Whether as many images are labelled as the cold start was to give."""
        return int(self.labelled.sum()) >= self.settings.budget


def choose(state: State, strategy: StrategyName, alpha: float) -> Pick | None:
    """Choose the next image; None when every usable image is labelled."""
    return _free_pick(state, strategy, alpha) or _last_resort(state)


def look_ahead(state: State, n: int, strategy: StrategyName, alpha: float) -> list[Pick]:
    """What the next `n` clicks would be served; what is with somebody already is not among it."""
    picks: list[Pick] = []
    while len(picks) < n and (pick := choose(state, strategy, alpha)) is not None and pick.phase != SHARED:
        picks.append(pick)
        state = state.after(pick)
    return picks


def explain(state: State, pick: Pick) -> dict[str, Any]:
    """What the answer carries under `coldstart`; plain JSON types."""
    pool = state.pool
    why: dict[str, Any] = {
        "reason": pick.reason,
        "phase": pick.phase,
        "rank": None,
        "cluster": pool.clusters[pick.index],
        "distance": None,
        "entropy": None,
        "score": None,
        "alpha": None,
        "encoder": pool.map.encoder if pool.map is not None else f"{state.settings.encoder} (not embedded yet)",
        "model_version": pool.model_version,
    }
    return why | pick.details


def _free_pick(state: State, strategy: StrategyName, alpha: float) -> Pick | None:
    if strategy == "uniform_random":
        return _random_pick(state, UNIFORM_RANDOM, "drawn at random from the images that are free")
    without_plan = strategy not in STRATEGIES and state.method_plan is None
    if state.pool.map is None or state.pool.plan is None or without_plan:
        return _random_pick(state, BEFORE_EMBEDDING, "drawn at random: the images have not been embedded yet")
    if state.method_plan is not None:
        return _method_pick(state, state.method_plan) or _pick_after_plans(state, strategy)
    wants_active = strategy == "entropy_diversity" or (strategy == "coldstart_al" and state.budget_is_labelled)
    if wants_active and (pick := _active_pick(state, alpha)) is not None:
        return pick
    if (pick := _planned_pick(state, state.pool.plan)) is not None:
        if strategy == "entropy_diversity":
            pick.reason += "; no model has been scored yet"
        return pick
    if strategy == "coldstart_al" and (pick := _active_pick(state, alpha)) is not None:
        return pick
    return _pick_after_plans(state, strategy)


def _planned_pick(state: State, plan: Plan) -> Pick | None:
    pool = state.pool
    # -1 reads the last of an extended mask: what may not be served is not free.
    waiting = np.flatnonzero(np.append(state.free, False)[pool.planned])
    if len(waiting) == 0:
        return None
    pick = pool.picks[waiting[0]]
    role = "medoid" if pick.role == "medoid" else "farthest point"
    reason = (
        f"cold start: {role} of cluster {pick.cluster + 1} of {plan.n_clusters} "
        f"({pick.cluster_size} images), pick {pick.rank + 1} of {len(pool.picks)}"
    )
    if plan.budget > plan.size:
        reason += f"; the budget of {plan.budget} is more than the pool holds, so all of it is planned"
    details = {"rank": pick.rank + 1, "cluster": pick.cluster, "distance": pick.distance}
    return Pick(int(pool.planned[waiting[0]]), COLD_START, reason, details)


def _method_pick(state: State, plan: MethodPlan) -> Pick | None:
    pool = state.pool
    for rank, (image_id, reason) in enumerate(plan.picks.items(), start=1):
        index = pool.index_of_id.get(image_id)
        if index is not None and state.free[index]:
            reason = f"{METHODS[plan.method].title}: {reason}; pick {rank} of {len(plan.picks)}"
            if plan.budget > plan.size:
                reason += f"; the budget of {plan.budget} is more than the pool held, so all of it is planned"
            return Pick(index, plan.method, reason, {"rank": rank})
    return None


def _active_pick(state: State, alpha: float) -> Pick | None:
    pool, scoring = state.pool, state.pool.scoring
    candidates = pool.on_map & state.free
    if scoring is None or not candidates.any():
        return None
    # Skipped images are neither candidates nor selected: they stay out of the distances on both sides.
    pool.spread.follow(pool.on_map & state.taken, candidates)
    first, entropy_range = state.n_active_picks == 0, (scoring.minimum, scoring.maximum)
    acquisition = acquire_next(
        pool.spread, pool.entropy, alpha=alpha, first_by_entropy=first, entropy_range=entropy_range
    )
    compared = score_candidates(pool.spread, pool.entropy, alpha=alpha, entropy_range=entropy_range)
    index = int(acquisition.indices[0])
    criterion = "highest entropy, first after a new scoring" if first else f"highest score with alpha {alpha:g}"
    mixed = f"entropy {acquisition.entropy[0]:.2f}, distance {acquisition.distance[0]:.2f}"
    nats = float(pool.entropy[index])
    details = {
        "rank": state.n_active_picks + 1,
        "cluster": pool.clusters[index],
        "distance": float(acquisition.distance[0]),
        "entropy": float(acquisition.entropy[0]),
        "entropy_nats": nats,
        "entropy_relative": max(0.0, nats) / float(np.log(len(state.settings.labels) + 1)),
        "score": float(acquisition.score[0]),
        "alpha": alpha,
        "model_version": scoring.model_version,
    }
    reason = f"{criterion} ({mixed})" if candidates.sum() > 1 else "the only candidate left"
    return Pick(index, ACTIVE, f"active learning: {reason}", details, compared._asdict())


def _pick_after_plans(state: State, strategy: StrategyName) -> Pick | None:
    return _farthest_pick(state, strategy) or _random_pick(
        state, BEFORE_EMBEDDING, "drawn at random from the new images, which have not been embedded yet"
    )


def _farthest_pick(state: State, strategy: StrategyName) -> Pick | None:
    pool = state.pool
    candidates = np.flatnonzero(pool.on_map & state.free)
    if len(candidates) == 0:
        return None
    index, distance, compared = int(candidates[0]), None, {}
    selected = pool.on_map & state.taken
    if selected.any():
        pool.spread.follow(selected, pool.on_map & state.free)
        index = int(candidates[pool.spread.nearest[candidates].argmax()])
        distance = float(pool.spread.nearest[index])
        compared = {"distance": np.where(pool.spread.candidates, pool.spread.nearest, np.nan)}
    reason = "plan complete"
    if strategy in ("coldstart_al", "entropy_diversity"):  # the others never come to a model
        reason += ", first model not trained yet" if pool.model_version is None else ", first model not scored yet"
    details = {"cluster": pool.clusters[index], "distance": distance}
    return Pick(index, PLAN_COMPLETE, f"{reason}: farthest point of the whole map", details, compared)


def _random_pick(state: State, phase: str, reason: str) -> Pick | None:
    order = state.pool.random_order
    waiting = order[state.free[order]]
    return Pick(int(waiting[0]), phase, reason) if len(waiting) else None


def _last_resort(state: State) -> Pick | None:
    """Nothing is free: what is not labelled was skipped or is reserved. Least recently served comes first."""
    pool = state.pool
    skipped = {row: order for row, order in state.skipped.items() if row not in state.reserved}
    shared = {row: max(order, state.skipped.get(row, 0)) for row, order in state.reserved.items()}
    for served, phase, reason in (
        (skipped, SKIPPED_BEFORE, "skipped before: nothing else is left"),
        (shared, SHARED, "also with another annotator: every image that is left is reserved"),
    ):
        for row in sorted(served, key=served.__getitem__):
            index = pool.index_of_row.get(row)
            if index is not None and not state.labelled[index]:
                return Pick(index, phase, reason)
    return None
