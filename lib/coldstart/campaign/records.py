"""The record of one image: all that the store knows of it, in plain JSON types."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from coldstart.campaign.campaign import Campaign
from coldstart.campaign.shown import file_version, without_folders
from coldstart.exceptions import InvalidInputError
from coldstart.store import Image, Judgement, Label, Model, PlanPick, Scoring, Serving


class UnknownImageError(InvalidInputError):
    """The campaign has no image with this id."""


def find_image(session: Session, image_id: str) -> Image:
    """The row of an image that is there.

    Raises
    ------
    UnknownImageError
        If there is none.
    """
    found = (
        session.scalar(select(Image).where(Image.image_id == image_id, Image.present)) if _storable(image_id) else None
    )
    if found is None:
        raise UnknownImageError(f"The server has no image {ascii(image_id)[:80]}. Choose one that is on the map.")
    return found


def _storable(image_id: str) -> bool:
    """Whether an id can be one: what is no text of Unicode cannot even be asked for."""
    return not any("\ud800" <= character <= "\udfff" for character in image_id)


def image_record(campaign: Campaign, image_id: str) -> dict[str, Any]:
    """All that is known of one image, but for its state on the map.

    Raises
    ------
    UnknownImageError
        If there is none with this id.
    """
    with campaign.store.reading() as session:
        image = find_image(session, image_id)
        pick = session.scalar(select(PlanPick).where(PlanPick.image_row == image.id))
        scoring = session.scalar(select(Scoring).order_by(Scoring.id.desc()).limit(1))
        servings = session.scalars(select(Serving).where(Serving.image_row == image.id).order_by(Serving.id)).all()
        label = session.get(Label, image.id)
        judged = session.scalar(
            select(Judgement).where(Judgement.image == image.id).order_by(Judgement.judged_at.desc()).limit(1)
        )
        model_version = session.scalar(select(Model.version).order_by(Model.id.desc()).limit(1))
    scored = scoring is not None and image.scoring_id == scoring.id and image.entropy is not None
    nats = image.entropy if scored and image.entropy is not None else None
    last = servings[-1].why if servings else {}
    return {
        "image_id": image.image_id,
        "path": Path(image.path).name,
        "file": image.path,
        "file_version": file_version(image.signature),
        "cluster": None if image.cluster is None else image.cluster + 1,
        "rank": None if pick is None else pick.rank + 1,
        "role": None if pick is None else pick.role,
        "distance": last.get("distance") if last.get("distance") is not None else pick and pick.distance,
        "entropy": None if nats is None else max(0.0, nats) / math.log(len(campaign.settings.labels) + 1),
        "entropy_nats": nats,
        "score": last.get("score"),
        "servings": [_serving(serving) for serving in servings],
        "label": None if label is None else _label(label, judged, image.path),
        "problem": None if image.problem is None else without_folders(image.problem, image.path),
        "model_version": model_version,
    }


def _serving(serving: Serving) -> dict[str, Any]:
    return {
        "at": serving.served_at,
        "ended_at": serving.ended_at,
        "annotator": serving.annotator,
        "strategy": serving.strategy,
        "phase": serving.phase,
        "outcome": serving.outcome,
        "reason": serving.why.get("reason"),
        "alpha": serving.why.get("alpha"),
    }


def _label(label: Label, judged: Judgement | None, image_path: str) -> dict[str, Any]:
    return {
        "saved_at": label.saved_at,
        "annotator": label.annotator,
        "problem": None if label.problem is None else without_folders(label.problem, image_path, label.path),
        "classes": label.class_of_value,
        "dice": judged.dice if judged is not None else None,
        "judged_by": judged.model_version if judged is not None else None,
    }
