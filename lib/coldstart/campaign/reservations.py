"""Who holds what, and what was skipped: the part of the state that changes with every click.

An image is reserved while a serving of it has no outcome and is younger than `reserve_minutes`; it is skipped while
its newest serving ended so. It can be both: served to one, shared with another who then skipped it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session

from coldstart.campaign.inventory import SKIPPED
from coldstart.store.schema import Base

# Built once, and on the tables: a click takes longer to build a statement by mapped classes than to execute it.
_SERVINGS, _REVISIONS = Base.metadata.tables["servings"], Base.metadata.tables["revisions"]
_COLUMNS = _SERVINGS.c
_LATER = _SERVINGS.alias()
_IS_OPEN = _COLUMNS.outcome.is_(None)
_SUPERSEDED = select(_LATER.c.id).where(_LATER.c.image_row == _COLUMNS.image_row, _LATER.c.id > _COLUMNS.id).exists()

_READ_HELD = select(_COLUMNS.id, _COLUMNS.image_row, _COLUMNS.annotator, _COLUMNS.served_at).where(_IS_OPEN)
_READ_SKIPPED = select(_COLUMNS.image_row, _COLUMNS.id).where(_COLUMNS.outcome == SKIPPED, ~_SUPERSEDED)
_COUNT_ACTIVE = select(_COLUMNS.scoring_id, func.count()).where(_COLUMNS.scoring_id.is_not(None))
_COUNT_ACTIVE = _COUNT_ACTIVE.group_by(_COLUMNS.scoring_id)
_SKIP = update(_SERVINGS).where(_COLUMNS.annotator == bindparam("who"), _IS_OPEN)
_SKIP = _SKIP.values(outcome=SKIPPED, ended_at=bindparam("now"))
_READ_REVISION = select(_REVISIONS.c.number).where(_REVISIONS.c.topic == "servings")


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
    n_active : mapping of int to int
        How many servings came from the entropies of each scoring.
    """

    def __init__(self, held: Iterable[Held], skipped: dict[int, int], n_active: Mapping[int, int]):
        self._held = sorted(held)
        self._skipped = skipped
        self._n_active = Counter(n_active)

    def reserved(self, since: float) -> dict[int, int]:
        """Rows of the images served after `since` and held still, with the order of the newest serving."""
        return {held.image_row: held.order for held in self._held if held.served_at > since}

    @property
    def skipped(self) -> dict[int, int]:
        """Rows of the images that were skipped, with the order of the newest serving."""
        return self._skipped

    def n_active_picks(self, scoring_id: int | None) -> int:
        """How many servings came from this scoring's entropies."""
        return self._n_active[scoring_id] if scoring_id is not None else 0

    def skip(self, annotator: str) -> bool:
        """End what this annotator holds; return whether there was anything."""
        mine = [held for held in self._held if held.annotator == annotator]
        if mine:
            self._held = [held for held in self._held if held.annotator != annotator]
            newest = self.reserved(0.0)
            for held in mine:
                if held.order > newest.get(held.image_row, 0):
                    self._skipped[held.image_row] = max(held.order, self._skipped.get(held.image_row, 0))
        return bool(mine)

    def serve(self, held: Held, scoring_id: int | None) -> None:
        """Hand an image out, after all that came before."""
        self._held.append(held)
        self._skipped.pop(held.image_row, None)
        if scoring_id is not None:
            self._n_active[scoring_id] += 1

    def next_order(self) -> int:
        """An order after all others."""
        return max([0, *(held.order for held in self._held[-1:]), *self._skipped.values()]) + 1


class ReservationMemory:
    """Reservations between the clicks of this process, read anew when anybody else changed a serving.

    The database raises the servings' revision by triggers; a click notes the one that it leaves behind. Used by one
    thread at a time.
    """

    def __init__(self) -> None:
        self._kept: tuple[int, Reservations] | None = None

    def take(self, session: Session) -> Reservations:
        """Hand over the reservations as this session's transaction sees them, to be changed together with it."""
        kept, self._kept = self._kept, None  # kept again only when that transaction has succeeded
        return kept[1] if kept is not None and kept[0] == read_revision(session) else read_reservations(session)

    def keep(self, revision: int, reservations: Reservations) -> None:
        """Take back what a transaction that was committed at this revision left."""
        self._kept = revision, reservations


def read_revision(session: Session) -> int:
    """Return the number that changes whenever a serving does."""
    return int(session.execute(_READ_REVISION).scalar_one())


def read_reservations(session: Session) -> Reservations:
    """Read the servings that have no outcome, all skipped images, and the number of active picks."""
    held = session.execute(_READ_HELD).tuples()
    skipped, n_active = session.execute(_READ_SKIPPED).tuples(), session.execute(_COUNT_ACTIVE).tuples()
    return Reservations((Held(*row) for row in held), dict(skipped.all()), dict(n_active.all()))


def skip_open_servings(session: Session, annotator: str, now: float) -> None:
    """Write that this annotator let go of what came before."""
    session.execute(_SKIP, {"who": annotator, "now": now})
