"""The chain that the server's process drives: train, check, publish, score, pre-label.

What is due is decided from the store (`Trainings.due`, `Campaign.tasks_to_do`) at every look of the watch, so a
link that was killed is begun again, here or in the next server. MONAI Label runs trainings one after the other, in a
queue that a restart forgets: here one waits at most, and what a viewer asked for is in the store too, until its
training has ended or somebody has stopped it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from filelock import FileLock, Timeout
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import tasks

from coldstart.campaign import Campaign
from coldstart.campaign.triggers import ask, asked_request
from coldstart.exceptions import ColdStartError

TRIGGER = "trigger"
"""Key of a training's request: which trigger the server began it for. A viewer's has none."""
QUEUED_AT = "queued_at"
"""Key of a training's request: when it was made, in seconds since 1970; what is asked later is asked of another one."""
TIMES = "%Y-%m-%d %H:%M:%S"
"""How MONAI Label writes the times of its tasks."""
OPEN = ("SUBMITTED", "RUNNING")
"""States in which MONAI Label has a task that has not ended."""
TRAINING_LOCK = "training.lock"
"""File in the campaign's folder of which a training has the lock, of whichever server."""
STOP_LIMIT_S = 5.0
"""How long whoever stops a training waits at most until its process has ended."""

logger = logging.getLogger(__name__)
_run = AsyncTask.run


class Chain:
    """Begins trainings that are due, and lets a viewer's request join the one that runs.

    Parameters
    ----------
    campaign : Campaign
        It says what is due.
    model : str
        Name of the trainer.
    is_plain : callable
        Tells whether a request asks for nothing else than what the campaign's settings say.
    is_training : callable
        Tells whether a training runs, of whichever server on the campaign.

    Attributes
    ----------
    reason : str or None
        Why a training was due at the last look.
    """

    def __init__(
        self,
        campaign: Campaign,
        model: str,
        is_plain: Callable[[Mapping[str, Any]], bool],
        is_training: Callable[[], bool],
    ):
        self._campaign = campaign
        self._model = model
        self._is_plain = is_plain
        self._is_training = is_training
        self._queueing = threading.Lock()  # from the look at what is queued until that has changed
        self.reason: str | None = None
        AsyncTask.run = staticmethod(self._run)

    def due(self, failure: str | None = None) -> dict[str, str]:
        """Return the training that is due, as `Tasks.begin` takes it, with a fingerprint of what makes it due.

        `failure` says why the last training failed. One that a viewer had asked for is not tried again by itself while
        the server lives: whoever asked sees that it failed.
        """
        due = self._campaign.trainings.due()
        if failure is not None and due is not None and due.trigger == "asked" and self._has_failed_for_a_viewer():
            self._campaign.trainings.note_ended(failure, _queued_at(tasks("train")[-1]))
            due = self._campaign.trainings.due()
        self.reason = due.sentence if due is not None else None
        if due is None or (not self._open() and self._is_training()):  # what another server does need not be done here
            return {}
        situation = self._campaign.trainings.triggers.situation(self._campaign.settings)
        return {"train": f"{due.trigger} {situation.trained_at} {situation.asked_at} {len(situation.new_labels)}"}

    def begin(self) -> None:
        """Begin the training that is due, unless a viewer has begun one since that was found, or seen one fail."""
        with self._queueing:
            queued_at = time.time()
            due = self._campaign.trainings.due()
            if due is None or self._open() or (due.trigger == "asked" and self._has_failed_for_a_viewer()):
                return
            asked = asked_request(self._campaign.store) if due.trigger == "asked" else {}
            logger.info("A training begins by itself: %s.", due.sentence)
            own = {"model": self._model, TRIGGER: due.trigger, QUEUED_AT: queued_at}
            _run("train", request={**asked, **own}, enqueue=True)

    def give_up(self, failure: str | None) -> bool:
        """Leave the training that failed, until there is a new reason for one; tell whether that is noted.

        A model that waits for its comparison is not left: it is trained already.
        """
        due = self._campaign.trainings.due()
        if failure is None or due is None or due.trigger == "check":
            return False
        self._campaign.trainings.note_ended(failure, _queued_at(tasks("train")[-1]))
        return True

    def ask(self, who: str | None) -> bool:
        """Have the server train as soon as it can; tell whether that takes another training than those on their way.

        Raises
        ------
        ModelError
            If there is no label to learn from.
        """
        self._campaign.trainings.require_images()
        if wanted := not self.is_on_its_way():
            self._campaign.trainings.ask(who)
        return wanted

    def is_on_its_way(self) -> bool:
        """Whether a training waits, or runs, that learns from every label that there is."""
        open_ = self._open()
        if not open_:  # one that failed may be tried again by itself, but not as soon as somebody may want it
            failed = [task["status"] for task in tasks("train")[-1:]] == ["ERROR"]
            return self._campaign.trainings.due() is not None and not failed
        if len(open_) > 1 or open_[0]["status"] != "RUNNING":
            return True
        situation = self._campaign.trainings.triggers.situation(self._campaign.settings)
        if situation.asked_at is not None and situation.asked_at > _queued_at(open_[0]):
            return True
        return self._is_plain(open_[0]["request"]) and not self._has_news(open_[0])

    def is_running(self) -> bool:
        """Whether a training of this server runs."""
        return any(task["status"] == "RUNNING" for task in self._open())

    def note_stopped(self, task: Mapping[str, Any]) -> None:
        """Note that somebody stopped a training; one that was asked for since it was queued is still to come."""
        trainings, reason = self._campaign.trainings, "It was stopped."
        trainings.note_ended(reason, _queued_at(task))
        # With this lock its process has ended, and what waits to be checked is no model of another server's training.
        with suppress(Timeout), FileLock(self._campaign.folder / TRAINING_LOCK, timeout=STOP_LIMIT_S):
            trainings.give_up_unchecked(reason)

    def _remember(self, task: Mapping[str, Any]) -> None:
        """Keep in the store what a viewer asked for, so that the next server does it if this one is killed."""
        try:
            ask(self._campaign.store, None, task["request"], at=_queued_at(task))
        except ColdStartError as error:
            logger.warning("The training is forgotten if the server is killed: %s", error)

    def _has_failed_for_a_viewer(self) -> bool:
        """Whether the newest training has failed, and is what a viewer asked for last."""
        asked_at = self._campaign.trainings.triggers.situation(self._campaign.settings).asked_at
        return any(
            task["status"] == "ERROR"
            and TRIGGER not in task["request"]
            and asked_at is not None
            and asked_at <= _queued_at(task)
            for task in tasks("train")[-1:]
        )

    def is_ending(self) -> bool:
        """Whether the training that runs has come to its result, and only its process has not ended yet."""
        with self._campaign.store.reading() as session:
            last = self._campaign.trainings.triggers.last_attempt(session)
        began_at = [_queued_at(task) for task in self._open() if task["status"] == "RUNNING"]
        return last is not None and bool(began_at) and last.began_at >= min(began_at)

    def _open(self) -> list[dict[str, Any]]:
        return [task for task in tasks("train") if task["status"] in OPEN]

    def _run(
        self,
        method: str,
        request: dict[str, Any] | None = None,
        params: dict[str, Any] | None = None,
        force_sync: bool = False,
        enqueue: bool = False,
    ) -> tuple[Any, str | None]:
        """Do as MONAI Label's `AsyncTask.run`; a training beside another one joins it, or waits, once.

        It joins one that the server began by itself and that learns from all that there is. Else it waits: the last
        one who asks says with which settings.
        """
        if method != "train" or force_sync:
            result: tuple[Any, str | None] = _run(method, request, params, force_sync, enqueue)
            return result
        with self._queueing:
            params = {**(params or {}), QUEUED_AT: time.time()}
            asked = {**(request or {}), **params}
            open_ = self._open()
            if len(open_) > 1:
                open_[-1]["request"].update(asked)
                self._remember(open_[-1])
                return open_[-1], None
            if open_ and TRIGGER in open_[0]["request"] and self._is_plain(asked) and not self._has_news(open_[0]):
                return open_[0], None
            task, said = _run(method, request, params, False, True)
            self._remember(task)
            return task, said

    def _has_news(self, task: Mapping[str, Any]) -> bool:
        """Whether a label was saved since a training was queued: it may not learn from that."""
        situation = self._campaign.trainings.triggers.situation(self._campaign.settings)
        return any(at >= _queued_at(task) for at in situation.new_labels)


def _queued_at(task: Mapping[str, Any]) -> float:
    return float(task["request"][QUEUED_AT])
