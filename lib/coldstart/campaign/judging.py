"""How well the model had predicted an image, by the label that was saved for it: the prequential Dice.

Every saved label is judged once, by the model in use, if that has not learned from the image. A label that is saved
again, before a model has learned from it, takes the place of the one before. Held-out images are judged apart, after
every training. What waits is told from the database, so nothing is lost when the server is killed in between; it is
judged at the next start, while the model in use still has not learned from the image.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from coldstart.campaign import inventory
from coldstart.campaign.campaign import Campaign
from coldstart.campaign.learning import newest_model
from coldstart.exceptions import ImageError, LabelError, ModelError
from coldstart.memory import enough_memory, give_back
from coldstart.segmentation import Model, Sample, class_names, load_published, segment
from coldstart.segmentation.metrics import image_dice
from coldstart.segmentation.samples import read_sample
from coldstart.store import Image, Judgement, Label
from coldstart.store import Model as PublishedModel

RETRY_AFTER_S = 60.0
"""How long labels wait when memory ran out, most often because a training runs on the same device."""
REMEDY = "It is tried again by itself."

JUDGE_FOR_S = 300.0
"""How long one step judges; what is left is judged by the next ones, which others see go on."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Waiting:
    row: int
    sample: Sample
    signature: str
    annotator: str | None


class Judge:
    """Judges the labels that wait for it; in one thread, beside those that save them.

    The model is in memory only while there are labels to judge.

    Parameters
    ----------
    campaign : Campaign
        Whose labels are judged, by its published model.
    """

    def __init__(self, campaign: Campaign):
        self._campaign = campaign
        self._seen: tuple[object, ...] | None = None
        self._not_before = 0.0
        self._ended = threading.Event()

    def end(self) -> None:
        """Judge no further image."""
        self._ended.set()

    def judge_waiting(self) -> int:
        """Judge labels that wait, for `JUDGE_FOR_S`, unless another server does; return how many were judged.

        It costs next to nothing while nothing has changed.

        Raises
        ------
        ModelError
            If the model cannot be read, or the memory is not enough: the labels go on waiting.
        StoreError
            If the database cannot be used for now: the same.
        """
        if time.monotonic() < self._not_before:
            return 0
        seen = self._state()
        if seen == self._seen:
            return 0
        until = time.monotonic() + JUDGE_FOR_S
        try:
            with FileLock(self._campaign.folder / "judging.lock", timeout=0):
                count = self._judge_waiting(until)
        except Timeout:
            return 0
        if time.monotonic() < until:
            self._seen = seen
        return count

    def _state(self) -> tuple[object, ...]:
        """What changes whenever labels may wait that did not before, or another model judges."""
        store = self._campaign.store
        with store.reading() as session:
            version = session.scalar(select(PublishedModel.version).order_by(PublishedModel.id.desc()).limit(1))
        return store.identity, inventory.revision(store), version

    def _judge_waiting(self, until: float) -> int:
        campaign = self._campaign
        with campaign.store.reading() as session:
            published = newest_model(session)
            if published is None or not campaign.model_path.is_file():
                return 0
            waiting = _waiting(session, published.details.get("training_images", ()))
        if not waiting:
            return 0
        try:
            return self._judge(waiting, published.version, until)
        except ModelError:
            self._not_before = time.monotonic() + RETRY_AFTER_S
            raise
        finally:
            give_back()

    def _judge(self, waiting: Sequence[_Waiting], version: str, until: float) -> int:
        with enough_memory(what="Loading the model that judges labels", remedy=REMEDY, error=ModelError):
            model = load_published(self._campaign.model_path, self._campaign.settings.device)
        if model.version != version:
            return 0  # another one is being published just now; it judges
        names = class_names(self._campaign.settings.labels)
        count, failure = 0, None
        for one in waiting:
            if self._ended.is_set() or time.monotonic() >= until:
                break
            self._campaign.fetch([one.sample.image_id], lambda _done, _total: None)
            if not one.sample.image.is_file() or not one.sample.label.is_file():
                continue  # a share that is away: the labels are judged when it is there again
            try:
                class_dice = _class_dice(model, one.sample, names)
            except ModelError as error:
                failure = error  # too large for the memory that is free now; the others may not be
                continue
            self._keep(one, model, class_dice)
            count += 1
        if failure is not None:
            raise failure
        return count

    def _keep(self, one: _Waiting, model: Model, class_dice: Mapping[str, float]) -> None:
        with self._campaign.store.writing() as session:
            label = session.get(Label, one.row)
            if label is None or label.signature != one.signature:
                return  # saved again or removed meanwhile
            session.merge(
                Judgement(
                    image=one.row,
                    model_version=model.version,
                    label_signature=one.signature,
                    judged_at=time.time(),
                    n_labels=int(model.metadata["n_images"]),
                    annotator=one.annotator,
                    dice=float(np.mean([*class_dice.values()])) if class_dice else None,
                    class_dice=dict(class_dice),
                )
            )
        logger.info(
            "Model %s had predicted image '%s' with a Dice of %s.", model.version, one.sample.image_id, class_dice
        )


def _waiting(session: Session, learned: Collection[str]) -> list[_Waiting]:
    """Usable labels that were never judged as they are now, oldest first, of images that were not learned from."""
    judged = and_(Judgement.image == Label.image, Judgement.label_signature == Label.signature)
    usable = and_(Image.present, ~Image.held_out, Image.problem.is_(None), Label.problem.is_(None))
    found = select(Image, Label).join(Label, Label.image == Image.id).outerjoin(Judgement, judged)
    rows = session.execute(
        found.where(usable, Judgement.image.is_(None)).order_by(Label.saved_at, Label.image)
    ).tuples()
    known = frozenset(learned)
    return [
        _Waiting(image.id, _sample(image, label), label.signature, label.annotator)
        for image, label in rows
        if image.image_id not in known
    ]


def _sample(image: Image, label: Label) -> Sample:
    classes = {int(value): int(index) for value, index in (label.class_of_value or {}).items()}
    return Sample(image.image_id, Path(image.path), Path(label.path), classes)


def _class_dice(model: Model, sample: Sample, names: Sequence[str]) -> dict[str, float]:
    """Dice of each structure that the model knows and the label may hold; 1 where it is in neither.

    Empty where there is none, or the files cannot be used: there is nothing to try again.
    """
    with enough_memory(what=f"Judging the label of image '{sample.image_id}'", remedy=REMEDY, error=ModelError):
        try:
            image, label = read_sample(sample)
            prediction = segment(model, image)
        except (ImageError, LabelError) as error:
            if isinstance(error.__cause__, MemoryError):
                raise error.__cause__ from None
            logger.warning("The label of image '%s' cannot be compared with a prediction: %s", sample.image_id, error)
            return {}
        return {
            name: image_dice(prediction == model.label_names.index(name) + 1, label == names.index(name) + 1)
            for name in names
            if name in model.label_names
        }
