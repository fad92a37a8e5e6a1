"""The chain that the server's process drives: train, check, publish, score, pre-label.

What is due is decided from the store (`Trainings.due`, `Campaign.tasks_to_do`) at every look of the watch, so a
link that was killed is begun again, here or in the next server. MONAI Label runs trainings one after the other, in a
queue that a restart forgets: here one waits at most, and what waits is in the store too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import tasks

from coldstart.campaign import Campaign
from coldstart.campaign.triggers import ask, asked_request
from coldstart.exceptions import ColdStartError

TRIGGER = "trigger"
"""Key of a training's request: which trigger the server began it for. A viewer's has none."""
QUEUED_AT = "queued_at"
TIMES = "%Y-%m-%d %H:%M:%S"
"""How MONAI Label writes the times of its tasks."""
OPEN = ("SUBMITTED", "RUNNING")
"""States in which MONAI Label has a task that has not ended."""

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

    Attributes
    ----------
    reason : str or None
        Why a training was due at the last look.
    """

    def __init__(self, campaign: Campaign, model: str, is_plain: Callable[[Mapping[str, Any]], bool]):
        self._campaign = campaign
        self._model = model
        self._is_plain = is_plain
        self.reason: str | None = None
        AsyncTask.run = staticmethod(self._run)

    def due(self) -> dict[str, str]:
        """Return the training that is due, as `Tasks.begin` takes it, with a fingerprint of what makes it due."""
        due = self._campaign.trainings.due()
        self.reason = due.sentence if due is not None else None
        if due is None:
            return {}
        situation = self._campaign.trainings.triggers.situation(self._campaign.settings)
        return {"train": f"{due.trigger} {situation.trained_at} {situation.asked_at} {len(situation.new_labels)}"}

    def begin(self) -> None:
        """Begin the training that is due."""
        due = self._campaign.trainings.due()
        if due is None:
            return
        asked = asked_request(self._campaign.store) if due.trigger == "asked" else {}
        logger.info("A training begins by itself: %s.", due.sentence)
        own = {"model": self._model, TRIGGER: due.trigger, QUEUED_AT: time.time()}
        _run("train", request={**asked, **own}, enqueue=True)

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
        if situation.asked_at is not None and situation.asked_at >= _queued_at(open_[0]):
            return True
        return self._is_plain(open_[0]["request"]) and not self._has_news(open_[0])

    def is_running(self) -> bool:
        """Whether a training of this server runs."""
        return any(task["status"] == "RUNNING" for task in self._open())

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
        open_ = self._open() if method == "train" and not force_sync else []
        if not open_:
            result: tuple[Any, str | None] = _run(method, request, params, force_sync, enqueue)
            return result
        asked = {**(request or {}), **(params or {})}
        if len(open_) > 1:
            open_[-1]["request"].update(asked)
            return open_[-1], None
        if TRIGGER in open_[0]["request"] and self._is_plain(asked) and not self._has_news(open_[0]):
            return open_[0], None
        try:
            ask(self._campaign.store, None, asked)  # so that a restart does not forget it
        except ColdStartError as error:
            logger.warning("The training that waits is forgotten at a restart: %s", error)
        result = _run(method, request, params, force_sync, True)
        return result

    def _has_news(self, task: Mapping[str, Any]) -> bool:
        """Whether a label was saved since a training was queued: it may not learn from that."""
        situation = self._campaign.trainings.triggers.situation(self._campaign.settings)
        return any(at >= _queued_at(task) for at in situation.new_labels)


def _queued_at(task: Mapping[str, Any]) -> float:
    """When a training was queued, or for one that a viewer asked for, the whole second in which it was."""
    noted = task["request"].get(QUEUED_AT)
    return float(noted) if noted is not None else datetime.strptime(task["start_ts"], TIMES).timestamp()
