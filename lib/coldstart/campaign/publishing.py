"""A trained model's way into use: kept, read back, compared with the model in use, and put in its place or not.

The file of the model in use says which one that is; the database follows it. Every step can be killed: the next one to
come here, the server's watch or the next training, finds in the kept models (`coldstart.campaign.versions`) what is
left to do.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import select

from coldstart.campaign import learning
from coldstart.campaign.progress import reporter
from coldstart.campaign.retraining import Comparison, compare, nothing_to_compare
from coldstart.campaign.vectors import ProgressCallback
from coldstart.campaign.versions import Versions
from coldstart.exceptions import InvalidInputError, ModelError
from coldstart.memory import enough_memory, give_back
from coldstart.segmentation import (
    Evaluation,
    Model,
    Sample,
    evaluate,
    keep_last_good,
    load_model,
    load_published,
    save_model,
)
from coldstart.settings import Settings
from coldstart.store import Model as PublishedModel
from coldstart.store import Store

TURN_LIMIT_S = 60.0
"""How long somebody who chooses a model waits for one that is being put into use."""

logger = logging.getLogger(__name__)

_OF_ITS_WAY = ("chosen_by", "comes_back", "refused")
"""What a record says beside what the database keeps of a model."""
_IN_USE = select(PublishedModel.version).order_by(PublishedModel.id.desc()).limit(1)


class Publisher:
    """Brings models into use, and says which one is.

    Parameters
    ----------
    store : Store
        The campaign's database.
    path : Path
        The file of the model in use.
    """

    def __init__(self, store: Store, path: Path):
        self._store = store
        self._path = path
        self._turn = FileLock(path.parent / "publishing.lock")
        self._seen: tuple[Any, ...] | None = None
        self.versions = Versions(path.parent / "versions")
        self.problem: str | None = None

    def in_use(self) -> str | None:
        """Version of the model in use, as the database knows it."""
        with self._store.reading() as session:
            return session.scalar(_IN_USE)

    @enough_memory(
        what="The check of the trained model",
        remedy="The model in use stays, and it is tried again by itself. Free memory on the device.",
        error=ModelError,
    )
    def check(self, version: str, settings: Settings) -> tuple[Model, Evaluation | None, Comparison]:
        """Read a kept model back, compare it with the model in use, and put it in its place unless it is worse.

        Returns
        -------
        model, evaluation, comparison : Model, Evaluation or None, Comparison
            What was read back, how it does on the held-out images that have labels, and whether it is used.

        Raises
        ------
        ModelError
            If it cannot be read back, finds a structure that the campaign does not have, or the memory is not enough:
            the model in use stays.
        """
        record = self.versions.read(version)
        try:
            model = self.versions.load(version, settings.device)
        except ModelError as error:
            self._refuse(record, f"It is not used, because it cannot be read back: {error}")
            raise
        if unknown := _unknown(model, settings.labels):
            reason = f"It is not used, because it also finds {unknown}, which the campaign does not have now."
            self._refuse(record, reason)
            raise ModelError(f"Model {version}: {reason}")
        labelled = learning.labelled_images(self._store)
        report = reporter(self._store, "evaluation", f"model {version}")
        evaluation = _evaluated(model, labelled.held_out, report)
        record = {
            **record,
            "problems": labelled.problems,
            "heldout": evaluation.to_dict() if evaluation is not None else None,
            "heldout_labels": labelled.held_out_signatures,
        }
        while True:
            in_file = _version_at(self._path)
            comparison = self._compare(model, evaluation, labelled, settings)
            with self._turn:  # nobody chooses a model meanwhile that is about to be removed
                if _version_at(self._path) == in_file:  # else somebody has chosen one since
                    self._decide({**record, "comparison": comparison.to_dict()}, comparison)
                    self.versions.prune(settings.keep_models, self.in_use())
                    break
        logger.info("Model %s: %s", version, comparison.sentence)
        return model, evaluation, comparison

    def choose(self, version: str, who: str | None, labels: Collection[str]) -> None:
        """Put a kept model in the place of the one in use, however well either does.

        Parameters
        ----------
        version : str
            The model.
        who : str or None
            Who chooses it.
        labels : collection of str
            Structures that the campaign has now.

        Raises
        ------
        InvalidInputError
            If there is no such model, it is in use, or it finds a structure that the campaign does not have.
        ModelError
            If its file cannot be used: nothing has changed.
        """
        try:
            with self._turn.acquire(timeout=TURN_LIMIT_S):
                self._finish()  # of one that was killed; the choice comes after it
                record = self.versions.read(version)
                if version == self.in_use() == _version_at(self._path):  # else its file is damaged, and comes back
                    raise InvalidInputError(
                        f"`version` must be another model than the one in use; {version} is in use."
                    )
                model = self.versions.load(version, "cpu")
                if unknown := _unknown(model, labels):
                    raise InvalidInputError(
                        f"`version` must be a model for structures among {', '.join(labels)}, which the campaign has "
                        f"now; {version} also finds {unknown}."
                    )
                is_done = self.versions.states()[version] == "done"  # else it is the end of its training too
                self.versions.write(version, {**record, "chosen_by": who, "comes_back": is_done}, "chosen")
                self._finish()
        except Timeout:
            raise ModelError("Another model is being put into use just now. Try again in a minute.") from None

    def settle(self) -> None:
        """Finish what was killed on its way, and note a model that came by other ways; unless it is somebody's turn."""
        if "chosen" not in self.versions.states().values() and self._state() in (None, self._seen):
            return
        try:
            with self._turn.acquire(timeout=0):
                self._finish()
                self._adopt()
        except Timeout:
            return

    def _compare(
        self, model: Model, evaluation: Evaluation | None, labelled: learning.LabelledImages, settings: Settings
    ) -> Comparison:
        try:
            old = load_published(self._path, settings.device)
        except ModelError as error:
            why = "there is no other one" if not self._path.is_file() else f"the one before is of no use ({error})"
            return nothing_to_compare(None, why)
        if old.version == model.version:
            return nothing_to_compare(old.version, "it is in use already")
        if old.label_names != model.label_names:
            return nothing_to_compare(old.version, "the one before was trained for other structures")
        seen, learned = _learned(old), _learned(model)
        new_dice = _dice(evaluation)
        held_out = [one for one in labelled.held_out if one.image_id not in seen | learned and one.image_id in new_dice]
        others = [one for one in labelled.training if one.image_id not in seen]
        samples = held_out or others
        if not samples:
            return nothing_to_compare(old.version, "no image has a label that the one before did not learn from")
        if not held_out:
            new_dice = _dice(_evaluated(model, samples))
        n_learned = 0 if held_out else sum(one.image_id in learned for one in samples)
        try:
            return compare(
                old.version,
                _dice(_evaluated(old, samples)),
                new_dice,
                basis="heldout" if held_out else "prequential",
                n_learned=n_learned,
                margin=settings.publish_margin,
            )
        finally:
            del old
            give_back()

    def _decide(self, record: Mapping[str, Any], comparison: Comparison) -> None:
        if comparison.fit:
            self.versions.write(str(record["version"]), record, "chosen")
            self._store.patiently(self._finish)
        else:
            self._refuse(record, comparison.sentence)

    def _refuse(self, record: Mapping[str, Any], reason: str) -> None:
        """Note in the log that a training ended without a model for use, then that nothing is left to do."""
        refused = partial(learning.record_refused, self._store, record, reason)
        self._store.patiently(refused)
        self.versions.write(str(record["version"]), {**record, "refused": reason}, "done")

    def _finish(self) -> None:
        """Put models into use that are to be, of several the newest for good."""
        for version in [version for version, state in self.versions.states().items() if state == "chosen"]:
            record = self.versions.read(version)
            try:
                model = self.versions.load(version, "cpu")
            except ModelError as error:
                logger.error("The model %s was to be used and cannot be: %s", version, error)
            else:
                if _version_at(self._path) != version:
                    save_model(model, self._path)
                who, comes_back = record.get("chosen_by"), bool(record.get("comes_back"))
                learning.put_in_use(self._store, version, _details(record), who=who, comes_back=comes_back)
            self.versions.write(version, record, "done")

    def _adopt(self) -> None:
        """Note the model at the path where the database does not know that it is in use.

        It was uploaded, or the database was made anew since.
        """
        seen = self._state()
        if seen is None or seen == self._seen:
            return
        try:
            model = load_model(self._path, "cpu")
        except ModelError as error:
            in_use = self.in_use()
            remedy = f" `coldstart models rollback STUDIES {in_use}` puts its copy back."
            self.problem = f"{error}{remedy if in_use in self.versions.states() else ''}"
            logger.warning("%s", self.problem)
        else:
            self.problem = None
            keep_last_good(model, self._path)
            kept = model.version in self.versions.states()
            details = _details(self.versions.read(model.version)) if kept else dict(model.metadata)
            learning.put_in_use(self._store, model.version, details)
            if not kept:
                self._keep_adopted(model)
        self._seen = seen

    def _state(self) -> tuple[Any, ...] | None:
        """What changes with the file of the model in use, and with the database; None where there is no model."""
        try:
            return self._path.stat().st_mtime_ns, *self._store.identity
        except FileNotFoundError:
            return None

    def _keep_adopted(self, model: Model) -> None:
        with self._store.reading() as session:
            newest = learning.newest_model(session)
        known = newest.details if newest is not None else {}
        try:
            self.versions.keep(model, {**model.metadata, "heldout": known.get("heldout")}, "done")
        except ModelError as error:
            logger.warning("%s", error)


def _unknown(model: Model, labels: Collection[str]) -> str:
    """Structures that a model finds and the campaign does not have."""
    return ", ".join(name for name in model.label_names if name not in labels)


def _details(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the database keeps of a record."""
    return {key: value for key, value in record.items() if key not in _OF_ITS_WAY}


def _version_at(path: Path) -> str | None:
    try:
        return load_model(path, "cpu").version
    except ModelError:
        return None


def _learned(model: Model) -> frozenset[str]:
    return frozenset(model.metadata.get("training_images", ()))


def _evaluated(model: Model, samples: list[Sample], report: ProgressCallback | None = None) -> Evaluation | None:
    """How a model does on images; None where there is none, or none that can be read just now."""
    if not samples:
        return None
    try:
        return evaluate(model, samples, report)
    except InvalidInputError as error:
        logger.warning("%s", error)
        return None


def _dice(evaluation: Evaluation | None) -> dict[str, float]:
    return {} if evaluation is None else {image.image_id: image.dice for image in evaluation.images}
