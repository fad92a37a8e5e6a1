"""Plans to look at: the campaign's own, and what any other method would pick now.

What another method would pick is only computed here. The strategy of that name, which a viewer lists, keeps a plan of
its own; see `coldstart.campaign.baselines`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import undefer

from coldstart.campaign import fetching
from coldstart.campaign.campaign import Campaign
from coldstart.campaign.planning import current_map, current_plan, pool_rows, taken_rows
from coldstart.campaign.pool import PoolMemory
from coldstart.campaign.progress import reporter
from coldstart.exceptions import InvalidInputError, ModelError
from coldstart.images import read_image
from coldstart.scoring import score_uncertainty
from coldstart.segmentation import faster, load_published, predict_prepared, predict_with_dropout, prepare_image
from coldstart.selection import METHODS, Method
from coldstart.store import Image, Plan, PlanPick, bytes_to_vector
from coldstart.store.schema import POINT_DTYPE

OURS = "cold_start"
"""The method of the plan that the campaign follows."""
COMPARISON = "comparison"
"""The task that says how far another method's uncertainties are."""


@dataclass(frozen=True)
class PlannedImage:
    """One image of a plan; `rank` and `cluster` count from 1."""

    rank: int
    image_id: str
    cluster: int | None
    reason: str
    distance: float | None


@dataclass(frozen=True)
class PlanView:
    """A plan as it is shown.

    Attributes
    ----------
    method : Method
        What made it.
    budget : int
        What it was made for, counted in labelled images.
    n_taken : int
        How many of the budget the plan does not hold, because they are labelled or were served already.
    silhouettes : dict of str to float
        Of each number of clusters that was tried, for our plan.
    random_state : int
        Seed of the map that our plan was made on, or of another method's picks.
    """

    method: Method
    budget: int
    n_taken: int
    images: list[PlannedImage]
    silhouettes: dict[str, float]
    random_state: int


def find_method(name: str) -> Method:
    """Return a method by its name.

    Raises
    ------
    InvalidInputError
        If there is none.
    """
    if name not in METHODS:
        nearest = get_close_matches(name.lower(), METHODS, n=1, cutoff=0.5)
        hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
        raise InvalidInputError(f"--method must be one of {', '.join(METHODS)}; got '{name}'.{hint}")
    return METHODS[name]


def read_plan(campaign: Campaign) -> PlanView:
    """Return the plan that the campaign follows.

    Raises
    ------
    InvalidInputError
        If there is none yet.
    """
    with campaign.store.reading() as session:
        plan = current_plan(session)
        if plan is None:
            raise InvalidInputError("There is no plan yet: the images have not been embedded. Run `coldstart plan`.")
        picks = select(PlanPick, Image.image_id).join(Image, Image.id == PlanPick.image_row).order_by(PlanPick.rank)
        rows = session.execute(picks.where(Image.present)).tuples().all()
        images = [_own(plan, pick, image_id) for pick, image_id in rows]
        current = current_map(session)
        pool = pool_rows(session, current) if current is not None else []
        others = taken_rows(session) - {pick.image_row for pick, _ in rows}
        seed = current.random_state if current is not None else campaign.settings.random_state
    n_taken = sum(row.id in others for row in pool)
    return PlanView(METHODS[OURS], plan.budget, n_taken, images, dict(plan.silhouettes), seed)


def plan_by(campaign: Campaign, method: Method, budget: int) -> PlanView:
    """Return what a method would pick now from the campaign's pool; nothing is kept.

    Parameters
    ----------
    budget : int
        Counted in images that are labelled or were served, as the budget of a campaign.

    Raises
    ------
    InvalidInputError
        If the images are not embedded, the budget is used up, or the method cannot plan this pool.
    ModelError
        If the method needs a trained model, or what such a model has yet to compute.
    """
    with campaign.store.reading() as session:
        current = current_map(session)
        if current is None:
            raise InvalidInputError("The images have not been embedded yet. Run `coldstart embed` first.")
        usable = select(Image).where(Image.present, ~Image.held_out, Image.problem.is_(None))
        usable = usable.where(Image.map_id == current.id, Image.vector.is_not(None), Image.encoder == current.encoder)
        rows = list(session.scalars(usable.order_by(Image.image_id).options(undefer(Image.vector))))
        taken = taken_rows(session)
    labelled = [index for index, row in enumerate(rows) if row.id in taken]
    size = min(budget, len(rows))
    if size <= len(labelled):
        raise InvalidInputError(
            f"--budget must be more than the {len(labelled)} images that are labelled or were served already, of "
            f"{len(rows)}; got {budget}. Name a larger one."
        )
    uncertainty = _uncertainty(campaign, method, rows, labelled)
    options = {"k_max": campaign.settings.k_max} if method.name == OURS else method.options
    made = method.select(
        [bytes_to_vector(row.vector) for row in rows if row.vector is not None],
        [bytes_to_vector(row.point, POINT_DTYPE) for row in rows if row.point is not None],
        size - len(labelled),
        labelled=labelled,
        uncertainty=uncertainty,
        random_state=campaign.settings.random_state,
        **options,
    )
    images = [
        PlannedImage(rank, rows[index].image_id, _from_1(rows[index].cluster), reason, None)
        for rank, (index, reason) in enumerate(zip(made.indices, made.reasons, strict=True), start=1)
    ]
    return PlanView(method, budget, len(labelled), images, {}, campaign.settings.random_state)


def _own(plan: Plan, pick: PlanPick, image_id: str) -> PlannedImage:
    role = "medoid" if pick.role == "medoid" else "farthest point"
    reason = f"{role} of cluster {pick.cluster + 1} of {plan.n_clusters} ({pick.cluster_size} images)"
    return PlannedImage(pick.rank + 1, image_id, pick.cluster + 1, reason, pick.distance)


def _from_1(cluster: int | None) -> int | None:
    return None if cluster is None else cluster + 1


def _uncertainty(
    campaign: Campaign, method: Method, rows: Sequence[Image], labelled: Sequence[int]
) -> NDArray[np.float64] | None:
    """Of each image, of the kind that the method asks for; 0 for labelled ones, at which no method looks."""
    kind = method.uncertainty
    if kind is None:
        return None
    with campaign.store.reading() as session:
        pool, _ = PoolMemory(campaign.settings.random_state).read(session)
    if pool.model_version is None:
        cold = ", ".join(name for name, other in METHODS.items() if "cold_start" in other.stages)
        raise ModelError(
            f"The method '{method.name}' needs a trained model, and this campaign has none yet. Label images and train "
            f"one from a viewer or by POST /train/ of the server, or choose a method of the cold start: {cold}."
        )
    if kind == "entropy":
        if pool.scoring is None:
            raise ModelError(
                f"The method '{method.name}' needs the entropies of model {pool.model_version}, which has not scored "
                "the images yet. The server does that by itself after a training: start it, or wait."
            )
        return np.array([pool.entropy[pool.index_of_row[row.id]] for row in rows])
    model, seed = load_published(campaign.model_path, campaign.settings.device), campaign.settings.random_state
    fetching.fetch_for_scoring(campaign.store, campaign.fetch)
    predictor = faster(model)

    def prepared(paths: Sequence[Path]) -> list[Any]:
        return [prepare_image(read_image(path), model.config) for path in paths]

    candidates = np.setdiff1d(np.arange(len(rows)), labelled)
    scores = score_uncertainty(
        lambda paths: predict_prepared(predictor, prepared(paths)),
        [Path(rows[index].path) for index in candidates],
        [kind],
        draw=lambda paths: predict_with_dropout(model, prepared(paths), random_state=seed),
        batch_size=campaign.settings.score_batch_size,
        progress=reporter(campaign.store, COMPARISON, f"{kind} by model {model.version}"),
    )
    found = np.zeros(len(rows))
    found[candidates] = scores[kind]
    return found
