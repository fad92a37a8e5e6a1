"""What the server does every two seconds, as long as it lives."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from coldstart.exceptions import ColdStartError

logger = logging.getLogger(__name__)

END_LIMIT_S = 10.0
"""How long the end of the server waits for a step at most."""
LOOK_FOR_FILES = "look for new files"
"""Name of the step that reads the studies folder or the archive."""
STALLED_AFTER_S = 600.0
"""How long a step may take: an archive's first look fetches what was labelled before."""
WATCH_EVERY_S = 2.0
"""How often the server looks for new files and for work; nothing is spawned unless there is some."""


class Watch:
    """Repeats steps, each whatever becomes of the others: trouble is said when it begins and when it is over.

    Parameters
    ----------
    steps : mapping of str to callable
        What they are called, and what is called.
    """

    def __init__(self, steps: Mapping[str, Callable[[], object]]):
        self._steps = steps
        self._troubles: dict[str, Exception] = {}
        self._ended = threading.Event()
        self._taken_at = time.monotonic()
        self._taking = ""
        self._thread: threading.Thread | None = None

    @property
    def troubles(self) -> dict[str, str]:
        """Why a step fails at the moment, by its name."""
        return {name: str(error) for name, error in list(self._troubles.items())}

    @property
    def stalled(self) -> str | None:
        """Why no step is taken any more, or None."""
        if self._thread is not None and not self._thread.is_alive() and not self._ended.is_set():
            return "The server has stopped to look for work. Restart it."
        waited = time.monotonic() - self._taken_at
        if waited < STALLED_AFTER_S:
            return None
        return f"The {self._taking} has not come back for {waited / 60:.0f} minutes. Look whether a share hangs."

    def begin(self) -> None:
        """Take the steps once, and from then on in a thread."""
        self.step()
        self.begin_apart()

    def begin_apart(self) -> None:
        """Take the steps in a thread from the beginning: what they do may take long."""
        self._thread = threading.Thread(target=self._repeat, name="coldstart-watch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Take no further step, and wait a while for the one that is being taken."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(END_LIMIT_S)

    def step(self) -> None:
        """Take each step once."""
        for name, take in self._steps.items():
            self._taking, self._taken_at = name, time.monotonic()
            try:
                take()
            except Exception as error:
                if type(self._troubles.get(name)) is not type(error):
                    self._say(name, error)
                self._troubles[name] = error.with_traceback(None)
            else:
                if self._troubles.pop(name, None) is not None:
                    logger.info("The %s works again.", name)

    def _say(self, name: str, error: Exception) -> None:
        foreseen = isinstance(error, ColdStartError | OSError)
        logger.error(
            "The %s failed; it is tried again every %g s, and nothing is lost meanwhile: %s",
            name,
            WATCH_EVERY_S,
            error,
            exc_info=None if foreseen else error,
        )

    def _repeat(self) -> None:
        while not self._ended.wait(WATCH_EVERY_S):
            self.step()
