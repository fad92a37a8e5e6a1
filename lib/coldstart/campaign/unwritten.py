"""Servings that could not be written: they count for this process, and are written as soon as that is possible."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import exists, insert, select, update
from sqlalchemy.orm import Session

from coldstart.campaign.choices import Choice, SelectionLog
from coldstart.campaign.inventory import LABELLED, NOTICED_AT
from coldstart.campaign.reservations import Held, Reservations, skip_open_servings
from coldstart.store import Image, Label, Scoring, Serving
from coldstart.store.schema import Base

_INSERT = insert(Base.metadata.tables["servings"])


@dataclass(frozen=True)
class NewServing:
    """What was handed out, before it is written; `values` are the columns of its row, `choice` how it was chosen."""

    image_id: str
    values: dict[str, Any]
    choice: Choice

    def write(self, session: Session, log: SelectionLog) -> int:
        """Write the row and its line of the log, and return the row's number."""
        number = session.connection().execute(_INSERT, self.values).lastrowid
        log.write_choice(session, self.choice, serving=number)
        return number

    def reserve(self, reservations: Reservations, order: int) -> None:
        """Make it count for the clicks that follow."""
        values = self.values
        held = Held(order, values["image_row"], values["annotator"], values["served_at"])
        reservations.serve(held, values["scoring_id"])


class UnwrittenServings:
    """The servings that are remembered, oldest first, and what else waits; used by one thread at a time."""

    def __init__(self) -> None:
        self._servings: list[NewServing] = []
        self._others: list[Callable[[Session], None]] = []
        self._tried_at = self._next_try = 0.0

    def __len__(self) -> int:
        return len(self._servings) + len(self._others)

    def try_to_write(self) -> bool:
        """Tell whether to try now; `postpone` says that the try failed."""
        now = time.monotonic()
        if now < self._next_try:
            return False
        self._tried_at = now
        return True

    def postpone(self) -> None:
        """Spare the clicks that follow a try as long as the one that failed: no time when the disk is full, which is
        seen at once, and all the time that was waited when another program holds the database.
        """
        now = time.monotonic()
        self._next_try = now + (now - self._tried_at)

    def add(self, serving: NewServing) -> None:
        """Remember one."""
        self._servings.append(serving)

    def add_other(self, write: Callable[[Session], None]) -> None:
        """Remember to call this with a session that writes, before the servings are written."""
        self._others.append(write)

    def clear(self) -> None:
        """Forget them: they were written."""
        self._servings.clear()
        self._others.clear()

    def apply(self, reservations: Reservations) -> None:
        """Make them count as if they had been written."""
        for serving in self._servings:
            if serving.values["annotator"] is not None:
                reservations.skip(serving.values["annotator"])
            serving.reserve(reservations, reservations.next_order())

    def write(self, session: Session, log: SelectionLog) -> None:
        """Write them as their clicks would have, by the images' ids: the database may have been made anew meanwhile."""
        for write in self._others:
            write(session)
        for serving in self._servings:
            values = dict(serving.values)
            values["image_row"] = session.scalar(select(Image.id).where(Image.image_id == serving.image_id))
            values["scoring_id"] = session.scalar(select(Scoring.id).where(Scoring.id == values["scoring_id"]))
            if values["annotator"] is not None:
                skip_open_servings(session, values["annotator"], values["served_at"])
            if values["image_row"] is not None:
                replace(serving, values=values).write(session, log)
                _end_where_labelled(session, values["image_row"])
            else:
                log.write_choice(session, serving.choice, serving=None)


def _end_where_labelled(session: Session, image_row: int) -> None:
    """A label that was saved while its serving was not written could not end it."""
    saved = exists().where(Label.image == image_row, NOTICED_AT >= Serving.served_at)
    ended = update(Serving).where(Serving.image_row == image_row, Serving.outcome.is_(None), saved)
    session.execute(ended.values(outcome=LABELLED, ended_at=time.time()).execution_options(synchronize_session=False))
