"""What a training learns from, what is judged on, and what its entropies change."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from coldstart.campaign.decisions import record, software
from coldstart.campaign.vectors import ProgressCallback, require_files
from coldstart.exceptions import ImageError, ModelError
from coldstart.images import Image as PixelImage
from coldstart.memory import halved, in_smaller_batches
from coldstart.scoring import decoding_threads, score_entropy
from coldstart.segmentation import Sample, TrainingConfig, class_names
from coldstart.settings import Settings
from coldstart.store import Image, Label, Model, Scoring, Store

TRAINED, REFUSED, ROLLED_BACK = "training", "training_refused", "rollback"
"""Kinds of lines in the log: a model came into use, a training gave none, an earlier model came back."""
_OF_AN_ATTEMPT = ("began_at", "taken_at", "learned", "trigger", "config", "comparison")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledImages:
    """Images with a usable label: those to learn from and, apart, the held-out ones to be judged on.

    `held_out_signatures` tells by image id whether two models were judged on the same label.
    """

    training: list[Sample]
    held_out: list[Sample]
    problems: list[str]
    held_out_signatures: dict[str, str]


def labelled_images(store: Store) -> LabelledImages:
    """Labelled images, by id; a label with a problem is left out, and its sentence is among `problems`."""
    usable = select(Image, Label).join(Label).where(Image.present, Image.problem.is_(None)).order_by(Image.image_id)
    found = LabelledImages([], [], [], {})
    with store.reading() as session:
        for image, label in session.execute(usable).tuples():
            if label.class_of_value is None:
                found.problems.append(str(label.problem))
                continue
            classes = {int(value): int(index) for value, index in label.class_of_value.items()}
            sample = Sample(image.image_id, Path(image.path), Path(label.path), classes)
            (found.held_out if image.held_out else found.training).append(sample)
            if image.held_out:
                found.held_out_signatures[image.image_id] = label.signature
    return found


def require_training_images(store: Store) -> LabelledImages:
    """Labelled images, of which at least one can be learned from.

    Raises
    ------
    ModelError
        If there is none; the sentence says why.
    """
    found = labelled_images(store)
    if not found.training:
        detail = (
            f" {len(found.problems)} label(s) cannot be used; the first: {found.problems[0]}" if found.problems else ""
        )
        raise ModelError(
            "A training needs at least 1 labelled image outside the held-out ones; got 0. "
            f"Label an image, save it, and train again.{detail}"
        )
    return found


def training_config(settings: Settings) -> TrainingConfig:
    """The part of the settings that a training needs."""
    return TrainingConfig(
        label_names=class_names(settings.labels),
        spatial_dims=settings.spatial_dims,
        spatial_size=settings.spatial_size,
        intensity_range=settings.intensity_range,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        dropout=settings.dropout,
        random_state=settings.random_state,
        device=settings.device,
        amp=settings.amp,
    )


def record_model(store: Store, version: str, details: dict[str, Any]) -> None:
    """Note that a model was published, or say more of it; `details` are plain JSON types."""
    with store.writing() as session:
        model = session.scalar(select(Model).where(Model.version == version))
        if model is None:
            session.add(Model(version=version, created_at=time.time(), details=details))
            record(session, "training", {"model_version": version, **details, "software": software()})
        else:
            model.details = {**model.details, **details}


def put_in_use(
    store: Store, version: str, details: dict[str, Any], *, who: str | None = None, comes_back: bool = False
) -> None:
    """Note which model is in use now; `details` are plain JSON types.

    One that was in use before becomes the newest again: it has to score and to segment anew. The same holds for one
    that `comes_back` without having been in use, because it was refused: its training is not the last one.
    """
    with store.writing() as session:
        newest = newest_model(session)
        if newest is not None and newest.version == version:
            newest.details = {**newest.details, **details}
            return
        known = session.scalar(select(Model).where(Model.version == version))
        if known is None and not comes_back:
            session.add(Model(version=version, created_at=time.time(), details=details))
            record(session, TRAINED, {"model_version": version, **details, "software": software()}, who=who)
            return
        created_at = details.get("began_at") or time.time()
        if known is not None:
            created_at = known.created_at
            session.delete(known)
            session.flush()
        session.add(Model(version=version, created_at=created_at, details=details))
        before = newest.version if newest is not None else None
        record(session, ROLLED_BACK, {"model_version": version, "before": before}, who=who)


def record_refused(store: Store, attempt: Mapping[str, Any], reason: str) -> None:
    """Note in the log that a training ended without a model for use; `attempt` is what is known of it."""
    details = {"reason": reason, **{key: attempt.get(key) for key in _OF_AN_ATTEMPT}}
    with store.writing() as session:
        record(session, REFUSED, {**details, "model_version": attempt.get("version"), "software": software()})


def newest_model(session: Session) -> Model | None:
    """The model put into use last."""
    return session.scalar(select(Model).order_by(Model.id.desc()).limit(1))


def needs_scoring(session: Session) -> bool:
    """Tell whether the newest model has not scored the pool yet."""
    model = newest_model(session)
    scoring = session.scalar(select(Scoring).order_by(Scoring.id.desc()).limit(1))
    return model is not None and (scoring is None or scoring.model_version != model.version)


def score_pool(
    store: Store,
    settings: Settings,
    version: str,
    *,
    prepare: Callable[[PixelImage], Any],
    predict: Callable[[Sequence[Any]], Any],
    progress: ProgressCallback | None = None,
) -> int:
    """Score every unlabelled image by the entropy of its prediction; return how many were scored.

    `prepare` and `predict` are as `coldstart.scoring.score_entropy` takes them.
    The entropies and their range become visible together, in one transaction, when the scoring is complete. When
    memory runs out, the scoring begins once more with half the batch.

    Raises
    ------
    ModelError
        If the memory is not enough, or the model's predictions are not finite.
    ImageError
        If files went away meanwhile.
    """
    unlabelled = select(Image).outerjoin(Label).where(Image.present, ~Image.held_out, Image.problem.is_(None))
    with store.reading() as session:
        rows = list(session.scalars(unlabelled.where(Label.image.is_(None)).order_by(Image.image_id)))
    paths = [Path(row.path) for row in rows]

    def run(batch_size: int) -> dict[int, float]:
        results = score_entropy(
            predict,
            paths,
            spatial_dims=settings.spatial_dims,
            prepare=prepare,
            batch_size=batch_size,
            n_threads=decoding_threads(settings.spatial_dims),
            progress=progress,
        )
        entropies: dict[int, float] = {}
        for index, result in results:
            if isinstance(result, ImageError):
                logger.warning("Not scored: %s", result)
            else:
                entropies[index] = result
        return entropies

    entropies = in_smaller_batches(
        run,
        halved(settings.score_batch_size),
        what=f"The entropy scoring with model {version}",
        remedy="The scoring before stays in use. Free memory on the device, or lower --conf score_batch_size.",
        error=ModelError,
    )
    require_files([path for index, path in enumerate(paths) if index not in entropies and not path.is_file()])
    store.patiently(partial(_write_entropies, store, version, {rows[index]: nats for index, nats in entropies.items()}))
    return len(entropies)


def _write_entropies(store: Store, version: str, entropies: Mapping[Image, float]) -> None:
    values = np.array(list(entropies.values()), dtype=float)
    with store.writing() as session:
        scoring = Scoring(
            model_version=version,
            finished_at=time.time(),
            n_images=len(entropies),
            minimum=float(values.min()) if values.size else 0.0,
            maximum=float(values.max()) if values.size else 0.0,
            mean=float(values.mean()) if values.size else 0.0,
        )
        session.add(scoring)
        session.flush()
        about = ("model_version", "n_images", "minimum", "maximum", "mean")
        details = {"scoring": scoring.id, **{name: getattr(scoring, name) for name in about}, "software": software()}
        record(session, "scoring", details)
        for row, entropy in entropies.items():
            unchanged = update(Image).where(Image.image_id == row.image_id, Image.signature == row.signature)
            session.execute(unchanged.values(entropy=entropy, scoring_id=scoring.id))
