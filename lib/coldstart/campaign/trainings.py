"""The trainings of a campaign: when one is due, how it runs, and what became of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from coldstart.campaign import learning
from coldstart.campaign.learning import LabelledImages
from coldstart.campaign.publishing import Publisher
from coldstart.campaign.retraining import Due
from coldstart.campaign.triggers import Triggers, ask, is_learned, labels_to_learn_from
from coldstart.exceptions import ModelError, StoreError
from coldstart.segmentation import EpochReport, Evaluation, Model, resolve_device, train
from coldstart.segmentation.card import Card, capped, least_bytes
from coldstart.segmentation.training_set import read_once
from coldstart.settings import Settings
from coldstart.store import Store

logger = logging.getLogger(__name__)


class Trainings:
    """Trains on the labels of a campaign, and hands the models to its publisher.

    Parameters
    ----------
    store : Store
        The campaign's database.
    settings : callable
        Returns the settings in force.
    publisher : Publisher
        Decides which model is used.
    """

    def __init__(self, store: Store, settings: Callable[[], Settings], publisher: Publisher):
        self._store = store
        self._settings = settings
        self._publisher = publisher
        self.triggers = Triggers(store)

    def require_images(self) -> LabelledImages:
        """Labelled images to learn from; ModelError when there is none."""
        return learning.require_training_images(self._store)

    def train(
        self,
        settings: Settings,
        on_epoch: Callable[[EpochReport], None],
        *,
        on_wait: Callable[[str | None], object] | None = None,
        rank: int = 0,
        world_size: int = 1,
        trigger: str | None = None,
        taken_at: float | None = None,
    ) -> tuple[Model, Evaluation | None]:
        """Train on every usable label from scratch, judge the model on the held-out images, and put it into use.

        A model that is worse than the one in use is kept, and the one in use stays: `coldstart.campaign.retraining`
        has the rule, and the record of the new one (`publisher.versions`) why.

        Parameters
        ----------
        settings : Settings
            The campaign's, with what the request for this training overrides.
        on_epoch : callable
            Called after every epoch.
        on_wait : callable, optional
            Called with a sentence when the training begins to wait for a GPU that others use, and with None when it
            goes on.
        rank, world_size : int
            Of this process in a training on several GPUs; the first one publishes.
        trigger : str, optional
            Why there is a training, for the log.
        taken_at : float, optional
            When it was decided on, in seconds since 1970: what was asked later is asked of another one. By default
            when it begins.

        Raises
        ------
        ModelError
            If there is no label to learn from, the training diverged, or the model cannot be read back; the model
            before stays in use.
        """
        config = learning.training_config(settings)
        device = resolve_device(settings.device, rank)
        # Processes on several GPUs wait for each other: none of them could wait for its card, or leave it, alone.
        card = Card(device, settings.when_gpu_is_taken if world_size == 1 else None, on_wait)
        with capped(device, settings.gpu_memory_fraction):
            if card.is_shared:
                card.find_room(least_bytes(config, device))
            attempt = self._begin_attempt(trigger, taken_at)
            labelled = read_once(self.require_images, rank, world_size)  # else some may know one more label than others
            try:
                model = train(
                    labelled.training,
                    config,
                    validation=labelled.held_out,
                    on_epoch=on_epoch,
                    card=card,
                    rank=rank,
                    world_size=world_size,
                )
            except ModelError as error:
                if rank == 0:
                    attempt["config"] = config.to_dict()
                    self._store.patiently(partial(learning.record_refused, self._store, attempt, str(error)))
                raise
            if rank != 0:
                return model, None
            self._publisher.versions.keep(model, {**model.metadata, **attempt}, "unchecked")
            where = settings.override({"device": str(card.device)})  # on the CPU, where the training left the card
            model, evaluation, _ = self._publisher.check(model.version, where)
            return model, evaluation

    def _begin_attempt(
        self, trigger: str | None, taken_at: float | None, *, forget_newer: bool = False
    ) -> dict[str, Any]:
        """What is known of a training when it begins: a label that is saved from now on is new to the next one.

        With `forget_newer` one from after `taken_at` is new too, unless the training before this one learned from it;
        a time that is still to come is that of a clock that has been put back since.
        """
        with self._store.reading() as session:
            labels, last = labels_to_learn_from(session), self.triggers.last_attempt(session)
        now = time.time()
        taken_at = now if taken_at is None else taken_at
        before = last.learned if last is not None else {}
        return {
            "began_at": now,
            "taken_at": taken_at,
            "learned": {
                image_id: signature
                for image_id, signature, at in labels
                if not (forget_newer and taken_at < at <= now) or is_learned(before, image_id, signature)
            },
            "trigger": trigger,
        }

    def note_ended(self, reason: str, taken_at: float | None = None) -> None:
        """Note that a training was stopped, or failed: it does not begin again before there is a new reason.

        What was asked, or labelled, after `taken_at`, by default now, is such a reason.
        """
        try:
            attempt = self._begin_attempt(None, taken_at, forget_newer=True)
            learning.record_refused(self._store, attempt, reason)
        except StoreError as error:
            logger.warning("The training that has ended may begin again by itself: %s", error)

    def give_up_unchecked(self, reason: str) -> None:
        """Leave unused the models that wait to be compared with the one in use."""
        versions = self._publisher.versions
        for version in self._unchecked():
            try:
                versions.write(version, {**versions.read(version), "refused": reason}, "done")
            except ModelError as error:
                logger.warning("A model that nobody wants any more may be used: %s", error)

    def check_waiting(self) -> int:
        """Check the models whose training was killed before it could; return how many there were."""
        waiting = self._unchecked()
        for version in waiting:
            try:
                self._publisher.check(version, self._settings())
            except ModelError as error:
                if version in self._unchecked():
                    raise
                logger.warning("%s", error)  # it is refused; what comes after it can go on
        return len(waiting)

    def due(self) -> Due | None:
        """Tell whether the server is to train now, and why."""
        if self._unchecked():
            return Due("check", "a trained model waits to be compared with the one in use")
        return self.triggers.due(self._settings())

    def _unchecked(self) -> list[str]:
        return [version for version, state in self._publisher.versions.states().items() if state == "unchecked"]

    def ask(self, who: str | None) -> None:
        """Have the server train as soon as it can: now, or once after the training that runs.

        Raises
        ------
        ModelError
            If there is no label to learn from.
        """
        ask(self._store, who)

    def status(self) -> dict[str, Any]:
        """What `GET /info/` says of trainings: how the last one ended, and which models are kept; plain JSON types."""
        with self._store.reading() as session:
            last = self.triggers.last_attempt(session)
        return {
            "last_began_at": last.began_at if last is not None else None,
            "last_trigger": last.trigger if last is not None else None,
            "last_refused": last.refused if last is not None else None,
            "kept_models": list(self._publisher.versions.states()),
        }
