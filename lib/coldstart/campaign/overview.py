"""The campaign at a glance: what the map page and `coldstart status` show of it, in plain JSON types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from coldstart.campaign.campaign import Campaign
from coldstart.campaign.curve import annotator_counts, day_counts, learning_curve
from coldstart.campaign.map_table import reserved_since
from coldstart.campaign.pool import MAX_SET_ASIDE
from coldstart.campaign.shown import without_folders
from coldstart.store import Image, Label, Plan, Progress, Revision, Serving

NOTHING_USABLE = "nothing_usable"
"""The phase of a campaign without an image that could be labelled."""
MAX_PROBLEMS = 100
"""How many labels that cannot be learned from are named with what is wrong."""


def overview(campaign: Campaign) -> dict[str, Any]:
    """The numbers, the phase and who did what."""
    status, settings = campaign.status(), campaign.settings
    with campaign.store.reading() as session:
        silhouettes = session.scalar(select(Plan.silhouettes).order_by(Plan.id.desc()).limit(1))
        set_aside = (Image.present, Image.problem.is_not(None))
        n_set_aside = session.scalar(select(func.count()).select_from(Image).where(*set_aside)) or 0
        aside = select(Image.image_id, Image.problem, Image.path).where(*set_aside).order_by(Image.image_id)
        problems = select(Label.problem, Image.path, Label.path).join(Image).where(Label.problem.is_not(None))
        reasons = [
            {"image_id": image_id, "reason": without_folders(why or "", path)}
            for image_id, why, path in session.execute(aside.limit(MAX_SET_ASIDE)).tuples()
        ]
        found = {
            "silhouettes": silhouettes or {},
            "served_now": _served_now(session, reserved_since(settings)),
            "n_set_aside": n_set_aside,
            "set_aside": reasons,
            "label_problems": [
                without_folders(why or "", *paths) for why, *paths in session.execute(problems.limit(MAX_PROBLEMS))
            ],
            "chosen": campaign.chosen_settings(),
        }
        n_present = session.scalar(select(func.count()).select_from(Image).where(Image.present)) or 0
    phase, sentence = NOTHING_USABLE, _nothing_usable(n_present, n_set_aside, reasons)
    if status["images"]:
        phase, sentence = _phase(status)
    return {
        **{name: status[name] for name in _OF_THE_STATUS},
        "spatial_dims": settings.spatial_dims,
        "labels": dict(settings.labels),
        "alpha": settings.alpha,
        "phase": phase,
        "phase_sentence": sentence,
        "annotators": [asdict(one) for one in annotator_counts(campaign.store)],
        "days": [asdict(day) for day in day_counts(campaign.store)],
        "curve": asdict(learning_curve(campaign.store)),
        **found,
    }


_OF_THE_STATUS = (
    *("preset", "encoder", "projection", "images", "held_out", "labelled", "budget", "planned", "n_clusters"),
    *("model_version", "scored_model_version"),
)


def read_progress(session: Session) -> dict[str, dict[str, Any]]:
    """How far each long task said it is, by its name."""
    return {
        row.task: {"done": row.done, "total": row.total, "message": row.message, "updated_at": row.updated_at}
        for row in session.scalars(select(Progress))
    }


def revisions(session: Session) -> Sequence[Any]:
    """What changes when anything that the store holds of the campaign does."""
    topics = session.execute(select(Revision.topic, Revision.number).order_by(Revision.topic)).tuples().all()
    progress = session.execute(select(Progress.task, Progress.updated_at).order_by(Progress.task)).tuples().all()
    return [*topics, *progress]


def _phase(status: dict[str, Any]) -> tuple[str, str]:
    labelled, budget, images = status["labelled"], status["budget"], status["images"]
    if labelled >= images:
        return "done", f"All {images} images are labelled."
    if status["planned"] is None:
        return "before_embedding", "The images are being embedded; until then, Next Sample draws at random."
    planned = min(budget, status["planned"])
    if labelled < planned:
        left = planned - labelled
        return "cold_start", f"Cold start: {left} of the {planned} planned images {_are(left)} still to be labelled."
    if status["scored_model_version"] is not None:
        return "active", (
            f"Active learning with model {status['scored_model_version']}: uncertain images, far from those labelled."
        )
    missing = "scored the pool" if status["model_version"] is not None else "been trained"
    return "plan_complete", (
        f"The plan is labelled; until the first model has {missing}, the farthest points of the map come next."
    )


def _nothing_usable(n_present: int, n_set_aside: int, set_aside: Sequence[dict[str, str]]) -> str:
    if not n_present:
        return "There are no images. If they are in an archive, --conf modalities names the series to use."
    if not n_set_aside:
        return f"All {n_present} images are held out; there is none to be labelled."
    held_out = f": {n_set_aside} cannot be read, the others are held out" if n_set_aside < n_present else ""
    return f"None of the {n_present} images can be used{held_out}. The first: {set_aside[0]['reason']}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _served_now(session: Session, since: float) -> list[dict[str, Any]]:
    """Images that are with somebody, the newest serving of each, oldest first."""
    open_servings = select(Image.image_id, Serving.annotator, Serving.served_at).join(Serving)
    open_servings = open_servings.where(Serving.outcome.is_(None), Serving.served_at > since).order_by(Serving.id)
    return [
        {"image_id": image_id, "annotator": annotator, "since": at}
        for image_id, annotator, at in session.execute(open_servings).tuples()
    ]
