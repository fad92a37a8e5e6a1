"""Who holds what, and what was skipped: the part of the state that changes with every click.

An image is reserved while a serving of it has no outcome and is younger than `reserve_minutes`; it is skipped while
its newest serving ended so. It can be both: served to one, shared with another who then skipped it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session, aliased

from coldstart.campaign.inventory import SKIPPED
from coldstart.store import Serving


class Held(NamedTuple):
    """A serving without an outcome; `order` tells which of two came first."""

    order: int
    image_row: int
    annotator: str | None
    served_at: float


class Reservations:
    """Servings that matter for the next click.

    Parameters
    ----------
    held : iterable of Held
        Servings without an outcome.
    skipped : dict of int to int
        Database row of each image whose newest serving was skipped, with that serving's order.
    """

    def __init__(self, held: Iterable[Held], skipped: dict[int, int]):
        self._held = list(held)
        self._skipped = skipped

    def reserved(self, since: float) -> dict[int, int]:
        """Rows of the images served after `since` and held still, with the order of the newest serving."""
        newest: dict[int, int] = {}
        for held in self._held:
            if held.served_at > since:
                newest[held.image_row] = max(held.order, newest.get(held.image_row, 0))
        return newest

    @property
    def skipped(self) -> dict[int, int]:
        """Rows of the images that were skipped, with the order of the newest serving."""
        return self._skipped

    def skip(self, annotator: str) -> None:
        """End what this annotator holds."""
        mine = [held for held in self._held if held.annotator == annotator]
        self._held = [held for held in self._held if held.annotator != annotator]
        newest = self.reserved(0.0)
        for held in mine:
            if held.order > newest.get(held.image_row, 0):
                self._skipped[held.image_row] = max(held.order, self._skipped.get(held.image_row, 0))

    def serve(self, image_row: int, annotator: str | None, served_at: float) -> None:
        """Hand an image out; a named annotator lets go of what came before."""
        if annotator is not None:
            self.skip(annotator)
        orders = [held.order for held in self._held] + list(self._skipped.values())
        self._held.append(Held(max(orders, default=0) + 1, image_row, annotator, served_at))
        self._skipped.pop(image_row, None)


def read_reservations(session: Session, since: float) -> Reservations:
    """Read the servings after `since` that have no outcome, and all skipped images."""
    held = select(Serving.id, Serving.image_row, Serving.annotator, Serving.served_at)
    held = held.where(Serving.outcome.is_(None), Serving.served_at > since)
    later = aliased(Serving)
    superseded = exists().where(later.image_row == Serving.image_row, later.id > Serving.id)
    skipped = select(Serving.image_row, Serving.id).where(Serving.outcome == SKIPPED, ~superseded)
    return Reservations(
        (Held(*row) for row in session.execute(held).tuples()), dict(session.execute(skipped).tuples().all())
    )


def skip_open_servings(session: Session, annotator: str, now: float) -> None:
    """Write that this annotator let go of what came before."""
    mine = update(Serving).where(Serving.annotator == annotator, Serving.outcome.is_(None))
    session.execute(mine.values(outcome=SKIPPED, ended_at=now).execution_options(synchronize_session=False))
