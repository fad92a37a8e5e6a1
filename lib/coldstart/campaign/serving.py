"""What to serve next, and why: the heart of the app.

The choice and the reservation are one transaction, so two clicks never get the same image while another is free.
The order of resort: what the phase gives; an image that is not on the map yet; one that was skipped, least recently
served first; one that is also with another annotator, least recently served first.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from coldstart.campaign.inventory import SKIPPED
from coldstart.campaign.planning import current_map, current_plan
from coldstart.selection import acquire
from coldstart.settings import Settings
from coldstart.store import Image, ImageMap, Label, Model, Plan, PlanPick, Scoring, Serving, Store, bytes_to_vector
from coldstart.store.schema import POINT_DTYPE

StrategyName = Literal["coldstart_al", "cold_start", "entropy_diversity", "uniform_random"]
STRATEGIES: tuple[StrategyName, ...] = ("coldstart_al", "cold_start", "entropy_diversity", "uniform_random")

COLD_START, ACTIVE = "cold_start", "active"
PLAN_COMPLETE, UNIFORM_RANDOM, BEFORE_EMBEDDING = "plan_complete", "uniform_random", "before_embedding"
SKIPPED_BEFORE, SHARED = "skipped_before", "shared"


@dataclass(frozen=True)
class Sample:
    """An image to label next; `why` is what the answer carries under `coldstart`."""

    image_id: str
    why: dict[str, Any]


@dataclass
class _Pick:
    row: Image
    phase: str
    reason: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _State:
    """The campaign as one click sees it; all sets hold database rows' ids."""

    settings: Settings
    pool: dict[int, Image]
    labelled: set[int]
    reserved: set[int]
    skipped: set[int]
    last_served: dict[int, float]
    map: ImageMap | None
    plan: Plan | None
    scoring: Scoring | None
    model_version: str | None
    n_active_picks: int

    @property
    def unlabelled(self) -> list[Image]:
        return [row for row in self.pool.values() if row.id not in self.labelled]

    @property
    def free(self) -> list[Image]:
        return [row for row in self.unlabelled if row.id not in self.reserved and row.id not in self.skipped]

    def on_map(self, rows: list[Image]) -> list[Image]:
        return [row for row in rows if self.map is not None and row.map_id == self.map.id]

    @property
    def budget_is_labelled(self) -> bool:
        return len(self.labelled) >= self.settings.budget


def next_sample(
    store: Store, settings: Settings, strategy: StrategyName, *, annotator: str | None, alpha: float
) -> Sample | None:
    """Choose an image by `strategy`, reserve it for the annotator, and say why.

    Parameters
    ----------
    annotator : str or None
        Who asks; None is anonymous. A named annotator who asks again without having saved skips the image before.
    alpha : float
        Weight of distance against entropy for this click, in [0, 1] (equation 10 of Levy et al., 2026).

    Returns
    -------
    Sample or None
        None when every usable image is labelled.
    """
    now = time.time()
    with store.writing() as session:
        if annotator is not None:
            _skip_open_servings(session, annotator, now)
        state = _read_state(session, settings, now)
        pick = _choose(session, state, strategy, alpha) or _last_resort(state)
        if pick is None:
            return None
        why = _why(state, pick)
        session.add(
            Serving(
                image_row=pick.row.id,
                annotator=annotator,
                strategy=strategy,
                phase=pick.phase,
                why=why,
                scoring_id=state.scoring.id if state.scoring is not None and pick.phase == ACTIVE else None,
                served_at=now,
            )
        )
        return Sample(pick.row.image_id, why)


def _skip_open_servings(session: Session, annotator: str, now: float) -> None:
    mine = update(Serving).where(Serving.annotator == annotator, Serving.outcome.is_(None))
    session.execute(mine.values(outcome=SKIPPED, ended_at=now))


def _read_state(session: Session, settings: Settings, now: float) -> _State:
    usable = select(Image).where(Image.present, ~Image.held_out, Image.problem.is_(None)).order_by(Image.image_id)
    pool = {row.id: row for row in session.scalars(usable)}
    newest = select(func.max(Serving.id)).group_by(Serving.image_row)
    last_served: dict[int, float] = {}
    skipped = set()
    for row, served_at, outcome in session.execute(
        select(Serving.image_row, Serving.served_at, Serving.outcome).where(Serving.id.in_(newest))
    ):
        last_served[row] = served_at
        if outcome == SKIPPED:
            skipped.add(row)
    kept_since = now - 60 * settings.reserve_minutes
    reserved = session.scalars(
        select(Serving.image_row).where(Serving.outcome.is_(None), Serving.served_at > kept_since)
    )
    scoring = session.scalar(select(Scoring).order_by(Scoring.id.desc()).limit(1))
    n_active = select(func.count()).where(Serving.scoring_id == (scoring.id if scoring else None))
    return _State(
        settings=settings,
        pool=pool,
        labelled=set(session.scalars(select(Label.image))) & pool.keys(),
        reserved=set(reserved),
        skipped=skipped,
        last_served=last_served,
        map=current_map(session),
        plan=current_plan(session),
        scoring=scoring,
        model_version=session.scalar(select(Model.version).order_by(Model.id.desc()).limit(1)),
        n_active_picks=session.scalar(n_active) or 0,
    )


def _choose(session: Session, state: _State, strategy: StrategyName, alpha: float) -> _Pick | None:
    if strategy == "uniform_random":
        return _random_pick(state, state.free, UNIFORM_RANDOM, "drawn at random from the images that are free")
    if state.map is None or state.plan is None:
        return _random_pick(
            state, state.free, BEFORE_EMBEDDING, "drawn at random: the images have not been embedded yet"
        )
    wants_active = strategy == "entropy_diversity" or (strategy == "coldstart_al" and state.budget_is_labelled)
    if wants_active and (pick := _active_pick(state, alpha)) is not None:
        return pick
    if (pick := _planned_pick(session, state)) is not None:
        if strategy == "entropy_diversity":
            pick.reason += "; no model has been scored yet"
        return pick
    if strategy == "coldstart_al" and (pick := _active_pick(state, alpha)) is not None:
        return pick
    return _farthest_pick(state, strategy) or _random_pick(
        state, state.free, BEFORE_EMBEDDING, "drawn at random from the new images, which have not been embedded yet"
    )


def _planned_pick(session: Session, state: _State) -> _Pick | None:
    if state.plan is None:
        return None
    free = {row.id: row for row in state.free}
    picks = session.scalars(select(PlanPick).where(PlanPick.plan_id == state.plan.id).order_by(PlanPick.rank)).all()
    pick = next((pick for pick in picks if pick.image_row in free), None)
    if pick is None:
        return None
    role = "medoid" if pick.role == "medoid" else "farthest point"
    reason = (
        f"cold start: {role} of cluster {pick.cluster + 1} of {state.plan.n_clusters} "
        f"({pick.cluster_size} images), pick {pick.rank + 1} of {len(picks)}"
    )
    if state.plan.budget > state.plan.size:
        reason += f"; the budget of {state.plan.budget} is more than the pool holds, so all of it is planned"
    details = {"rank": pick.rank + 1, "cluster": pick.cluster, "distance": pick.distance}
    return _Pick(free[pick.image_row], COLD_START, reason, details)


def _active_pick(state: _State, alpha: float) -> _Pick | None:
    scoring = state.scoring
    candidates = state.on_map(state.free)
    if scoring is None or not candidates:
        return None
    # Skipped images are neither candidates nor selected: they stay out of the distances on both sides.
    selected = state.on_map([row for row in state.pool.values() if row.id in state.labelled | state.reserved])
    rows = candidates + selected
    entropy = np.array([row.entropy if row.scoring_id == scoring.id else scoring.mean for row in rows], dtype=float)
    first = state.n_active_picks == 0
    acquisition = acquire(
        _points(rows),
        entropy,
        np.arange(len(candidates), len(rows)),
        1,
        alpha=alpha,
        first_by_entropy=first,
        entropy_range=(scoring.minimum, scoring.maximum),
    )
    row = rows[int(acquisition.indices[0])]
    criterion = "highest entropy, first after a new scoring" if first else f"highest score with alpha {alpha:g}"
    mixed = f"entropy {acquisition.entropy[0]:.2f}, distance {acquisition.distance[0]:.2f}"
    nats = float(entropy[int(acquisition.indices[0])])
    details = {
        "rank": state.n_active_picks + 1,
        "cluster": row.cluster,
        "distance": float(acquisition.distance[0]),
        "entropy": float(acquisition.entropy[0]),
        "entropy_nats": nats,
        "entropy_relative": max(0.0, nats) / float(np.log(len(state.settings.labels) + 1)),
        "score": float(acquisition.score[0]),
        "alpha": alpha,
        "model_version": scoring.model_version,
    }
    reason = f"{criterion} ({mixed})" if len(candidates) > 1 else "the only candidate left"
    return _Pick(row, ACTIVE, f"active learning: {reason}", details)


def _farthest_pick(state: _State, strategy: StrategyName) -> _Pick | None:
    candidates = state.on_map(state.free)
    if not candidates:
        return None
    selected = state.on_map([row for row in state.pool.values() if row.id in state.labelled | state.reserved])
    if selected:
        gaps, _ = KDTree(_points(selected)).query(_points(candidates))
        index = int(np.argmax(gaps))
        distance: float | None = float(gaps[index])
    else:
        index, distance = 0, None
    reason = "plan complete"
    if strategy != "cold_start":
        reason += ", first model not trained yet" if state.model_version is None else ", first model not scored yet"
    details = {"cluster": candidates[index].cluster, "distance": distance}
    return _Pick(candidates[index], PLAN_COMPLETE, f"{reason}: farthest point of the whole map", details)


def _random_pick(state: _State, rows: list[Image], phase: str, reason: str) -> _Pick | None:
    """First of a shuffle that depends on the seed and the ids alone: clicks at once draw what clicks in turn draw."""

    def shuffled(row: Image) -> bytes:
        return hashlib.blake2b(f"{state.settings.random_state} {row.image_id}".encode()).digest()

    return _Pick(min(rows, key=shuffled), phase, reason) if rows else None


def _last_resort(state: _State) -> _Pick | None:
    waiting = sorted(state.unlabelled, key=lambda row: (state.last_served.get(row.id, 0.0), row.image_id))
    for row in waiting:
        if row.id not in state.reserved:
            return _Pick(row, SKIPPED_BEFORE, "skipped before: nothing else is left")
    if not waiting:
        return None
    return _Pick(waiting[0], SHARED, "also with another annotator: every image that is left is reserved")


def _points(rows: list[Image]) -> NDArray[Any]:
    return np.stack([bytes_to_vector(row.point, POINT_DTYPE) for row in rows if row.point is not None])


def _why(state: _State, pick: _Pick) -> dict[str, Any]:
    why: dict[str, Any] = {
        "reason": pick.reason,
        "phase": pick.phase,
        "rank": None,
        "cluster": pick.row.cluster,
        "distance": None,
        "entropy": None,
        "score": None,
        "alpha": None,
        "encoder": state.map.encoder if state.map is not None else f"{state.settings.encoder} (not embedded yet)",
        "model_version": state.model_version,
    }
    return why | pick.details
