"""How far a long task is: written to the database and to the log, for whoever waits for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta

from coldstart.exceptions import StoreBusyError, StoreDamagedError
from coldstart.store import Progress, Store

PROGRESS_EVERY_S = 1.0
"""How often a long task says how far it is."""
BAR_WIDTH = 20

logger = logging.getLogger(__name__)


def reporter(store: Store, task: str, message: str) -> Callable[[int, int], None]:
    """What a task calls with the number of images done and their total; it never fails the task.

    It says how long the rest takes at the speed so far, in what it writes down behind `message`.
    """
    began, last = time.monotonic(), 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        if done < total and time.monotonic() - last < PROGRESS_EVERY_S:
            return
        last = time.monotonic()
        said = f"{message}, {duration((last - began) / done * (total - done))} left" if 0 < done < total else message
        logger.info("%s %s %d of %d images, %s", task, _bar(done, total), done, total, said)
        try:
            with store.writing() as session:
                session.merge(Progress(task=task, done=done, total=total, updated_at=time.time(), message=said))
        except (StoreBusyError, StoreDamagedError) as error:
            logger.warning("How far '%s' is cannot be noted; it goes on. %s", task, error)

    return report


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as MONAI Label writes them in its stats."""
    return str(timedelta(seconds=int(seconds)))


def _bar(done: int, total: int) -> str:
    filled = BAR_WIDTH * done // max(total, 1)
    return f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}]"
