"""Which part of the server is ill."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Literal

from pydantic import BaseModel, Field

from coldstart.exceptions import ColdStartError

logger = logging.getLogger(__name__)

State = Literal["well", "ill"]
PATIENCE_S = 3.0
"""How long a look waits for one that began before it: a share that hangs must not take one thread after the other."""
Check = Callable[[], str | None]
"""Says in a sentence why a part is ill, or gives None."""


class HealthAnswer(BaseModel):
    """Whether the server is well, and each part of it."""

    status: State = Field(description="ill where any part is")
    parts: dict[str, State]
    details: dict[str, str] | None = Field(
        description="why a part is ill, in a sentence; null for whoever does not have the role of a user"
    )


class Health:
    """Looks at the parts of a server.

    Parameters
    ----------
    checks : mapping of str to callable
        What the parts are called, and what looks at each.
    """

    def __init__(self, checks: Mapping[str, Check]):
        self._checks = checks
        self._turns = {part: threading.Lock() for part in checks}

    def complaints(self) -> dict[str, str | None]:
        """Why a part is ill, or None, for each part."""
        return {part: self._complaint(part) for part in self._checks}

    def ill(self) -> dict[str, bool]:
        """Whether each part is ill."""
        return {part: complaint is not None for part, complaint in self.complaints().items()}

    def look(self, *, with_details: bool) -> HealthAnswer:
        """Look at every part now."""
        complaints = self.complaints()
        details = {part: sentence for part, sentence in complaints.items() if sentence is not None}
        return HealthAnswer(
            status="ill" if details else "well",
            parts={part: "well" if sentence is None else "ill" for part, sentence in complaints.items()},
            details=details if with_details else None,
        )

    def _complaint(self, part: str) -> str | None:
        if not self._turns[part].acquire(timeout=PATIENCE_S):
            return "To look at it takes too long. If it is on a share, see whether that hangs."
        try:
            return _sentence(part, self._checks[part])
        finally:
            self._turns[part].release()


def _sentence(part: str, check: Check) -> str | None:
    try:
        return check()
    # A part is ill as well where looking at it fails, in whatever way: the others are still to be looked at.
    except Exception as error:
        if not isinstance(error, ColdStartError | OSError):
            logger.exception("Looking at the %s failed.", part)
        return str(error) or type(error).__name__
