"""Reads from the store what the triggers of a training look at: labels, clicks, and the trainings in the log."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import String, func, select, type_coerce
from sqlalchemy.orm import Session

from coldstart.campaign import inventory
from coldstart.campaign.decisions import record
from coldstart.campaign.learning import REFUSED, TRAINED, newest_model, require_training_images
from coldstart.campaign.retraining import CLOCK_SLACK_S, Due, Situation, training_due
from coldstart.settings import Settings
from coldstart.store import Image, Label, Plan, Serving, Store
from coldstart.store.schema import Base

ASKED = "training_asked"
"""Kind of the line in the log that somebody asked for a training."""
TO_LEARN_FROM = (Image.present, ~Image.held_out, Image.problem.is_(None), Label.problem.is_(None))
"""Which labels a training learns from."""
_ENDS = (TRAINED, REFUSED)
_LINES = Base.metadata.tables["decisions"]


class Attempt(NamedTuple):
    """The last training that ended, with a model for use or without.

    `line` is its number in the log. What was asked after `taken_at` was asked of another one. `learned` has the
    signature of each label that it learned from, or None where only the image is known; `refused` is why no model of it
    is used.
    """

    line: int
    began_at: float
    taken_at: float
    ended_at: float
    learned: Mapping[str, str | None]
    refused: str | None
    trigger: str | None


class Triggers:
    """Says whether a training is due; costs next to nothing while nothing has changed.

    Parameters
    ----------
    store : Store
        The campaign's database.
    """

    def __init__(self, store: Store):
        self._store = store
        self._attempt: tuple[tuple[Any, ...], Attempt | None] = (), None
        self._labels: tuple[tuple[Any, ...], list[tuple[str, str, float]], int] = (), [], 0

    def due(self, settings: Settings) -> Due | None:
        """Tell whether a training is due now, and why."""
        return training_due(self.situation(settings), settings, time.time())

    def situation(self, settings: Settings) -> Situation:
        """Return what the triggers look at."""
        revision = (self._store.identity, inventory.revision(self._store))
        with self._store.reading() as session:
            attempt = self.last_attempt(session)
            if self._labels[0] != revision:
                self._labels = revision, labels_to_learn_from(session), _count_labelled(session)
            _, usable, n_labelled = self._labels
            learned = attempt.learned if attempt is not None else {}
            new = [at for image_id, signature, at in usable if not is_learned(learned, image_id, signature)]
            size = session.scalar(select(Plan.size).order_by(Plan.id.desc()).limit(1))
            return Situation(
                new_labels=new,
                n_labelled=n_labelled,
                n_planned=settings.budget if size is None else min(settings.budget, size),
                n_learned=len(learned) + n_labelled - len(usable),
                has_model=newest_model(session) is not None,
                trained_at=attempt.began_at if attempt is not None else None,
                asked_at=_asked_at(session, attempt),
                active_at=_active_at(session, time.time()),
            )

    def last_attempt(self, session: Session) -> Attempt | None:
        """Return the last training that ended; None before the first."""
        # Kind by kind, which the index answers; of both at once SQLite would read back through all clicks since.
        newest = [session.scalar(select(func.max(_LINES.c.id)).where(_LINES.c.kind == kind)) for kind in _ENDS]
        last = max((line for line in newest if line is not None), default=None)
        seen = (self._store.identity, last)
        if self._attempt[0] != seen:
            self._attempt = seen, None if last is None else _read_attempt(session, last)
        return self._attempt[1]


def ask(store: Store, who: str | None, request: Mapping[str, Any] | None = None, *, at: float | None = None) -> None:
    """Have the server train as soon as it can: now, or once after the training that runs; `at` is by default now.

    Raises
    ------
    ModelError
        If there is no label to learn from.
    """
    require_training_images(store)
    with store.writing() as session:
        record(session, ASKED, {"request": dict(request or {})}, who=who, at=at)


def asked_request(store: Store) -> dict[str, Any]:
    """What was asked of the training that somebody asked for last."""
    lines = select(type_coerce(_LINES.c.details, String)).where(_LINES.c.kind == ASKED)
    with store.reading() as session:
        text = session.scalar(lines.order_by(_LINES.c.id.desc()).limit(1))
    found = json.loads(text)["request"] if text is not None else {}
    return found if isinstance(found, dict) else {}


def labels_to_learn_from(session: Session) -> list[tuple[str, str, float]]:
    """Image id, signature and time of noticing of each label that a training beginning now would learn from."""
    found = select(Image.image_id, Label.signature, inventory.NOTICED_AT).join(Label).where(*TO_LEARN_FROM)
    return list(session.execute(found.order_by(Image.image_id)).tuples())


def _count_labelled(session: Session) -> int:
    pool = (Image.present, ~Image.held_out, Image.problem.is_(None))
    return session.scalar(select(func.count()).select_from(Image).join(Label).where(*pool)) or 0


def _asked_at(session: Session, attempt: Attempt | None) -> float | None:
    """When somebody last asked, unless a training has taken that up.

    After the end of a training the order in the log tells, whatever became of the clock; before it the time.
    """
    last = select(_LINES.c.id, _LINES.c.at).where(_LINES.c.kind == ASKED).order_by(_LINES.c.id.desc()).limit(1)
    asked = session.execute(last).first()
    if asked is None:
        return None
    line, at = asked.tuple()
    if attempt is None or line > attempt.line or attempt.taken_at < at <= attempt.ended_at:
        return float(at)
    return None


def _active_at(session: Session, now: float) -> float | None:
    """The newest click or label; that of an image that is away counts too."""
    clicked = session.scalar(select(Serving.served_at).order_by(Serving.id.desc()).limit(1))
    latest = select(func.max(inventory.NOTICED_AT)).where(inventory.NOTICED_AT <= now + CLOCK_SLACK_S)
    saved = session.scalar(latest)
    return max((at for at in (clicked, saved) if at is not None), default=None)


def is_learned(learned: Mapping[str, str | None], image_id: str, signature: str) -> bool:
    """Tell whether a label is among those that a training learned from, as it is now."""
    return image_id in learned and learned[image_id] in (None, signature)


def _read_attempt(session: Session, line: int) -> Attempt:
    columns = (_LINES.c.at, type_coerce(_LINES.c.details, String))
    at, text = session.execute(select(*columns).where(_LINES.c.id == line)).one()
    details = json.loads(text)
    learned = details.get("learned")
    if learned is None:  # a model from elsewhere, or of an earlier version of this app
        learned = dict.fromkeys(details.get("training_images") or ())
    began_at = details.get("began_at") or at
    taken_at = details.get("taken_at") or began_at
    return Attempt(line, began_at, taken_at, at, learned, details.get("reason"), details.get("trigger"))
