"""Decide everything again that the selection log holds, and say of each line whether it comes out the same.

Nothing but the log is asked, apart from the vectors of the images, which are too large for it: there it holds their
hashes, and says so where the vectors are others by now.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import String, func, select, text, type_coerce

from coldstart.campaign.decisions import Line, unpack
from coldstart.campaign.recreating import Recreator
from coldstart.campaign.recreating_maps import Recreated
from coldstart.campaign.snapshots import UNREADABLE
from coldstart.exceptions import InvalidInputError
from coldstart.store import Image, Serving, Store
from coldstart.store.schema import Base

_LINES = Base.metadata.tables["decisions"]
_LINE = select(
    *(_LINES.c.id, _LINES.c.at, _LINES.c.kind, _LINES.c.who, _LINES.c.image_id),
    *(type_coerce(_LINES.c.details, String), _LINES.c.arrays, _LINES.c.seal),
)
_GUARDS = {"keep_decisions_delete", "keep_decisions_insert", "keep_decisions_update"}
"""Triggers that refuse changes and removals, and lines in the place of others."""
_READ_GUARDS = text("SELECT name FROM sqlite_master WHERE type = 'trigger'")
_ROWS_AT_ONCE = 200


@dataclass(frozen=True)
class Replayed:
    """One line of the log, decided again.

    Attributes
    ----------
    id, at, kind, image_id
        Of the line; `id` is 0 for what concerns the log as a whole.
    same : bool or None
        Whether the decision comes out the same; None where that cannot be told, for the reason that `sentence` gives.
    sentence : str
        What was compared, or what differs.
    """

    id: int
    at: float
    kind: str
    image_id: str | None
    same: bool | None
    sentence: str


def replay(store: Store) -> Iterator[Replayed]:
    """Decide everything again that the log holds.

    Parameters
    ----------
    store : Store
        The campaign's database; it may be in use.

    Yields
    ------
    line : Replayed
        Every decision, oldest first: maps, images placed on them, plans and clicks. Of the other lines (the pool that
        clicks read, settings, trainings) those that are not as they were written. Then what is missing in the log.

    Notes
    -----
    A decision is the same where the same image comes out with the same reason, and every number within 1e-9, so that
    another processor may round differently. That a line is as it was written is told by its seal, to the last bit.
    """
    recreator, seal, number = Recreator(store), "", 0
    with store.reading() as session:
        last = session.scalar(select(func.max(_LINES.c.id))) or 0
    while number < last:
        with store.reading() as session:
            row = session.execute(_LINE.where(_LINES.c.id > number).order_by(_LINES.c.id).limit(1)).one()
        number_before, number, line, sealed = number, row[0], Line(*row[1:-1]), row[-1]
        found, follows = _recreated(recreator, number, line), number == number_before + 1
        if not follows:  # what was sealed before is gone, so that the seal tells nothing
            sentence = f"{_lines(number_before + 1, number - 1)} of the log: somebody removed what was here."
            yield Replayed(0, line.at, "log", None, False, sentence)
        if follows and sealed != line.seal(seal):
            sentence = "changed since it was written, or in another place: its seal does not fit"
            yield _replayed(number, line, False, f"{sentence}; {found[1]}" if found else sentence)
        elif found is not None:
            yield _replayed(number, line, *found)
        seal = sealed
    yield from _unlogged(store, recreator.servings)


def decision_rows(store: Store) -> Iterator[dict[str, Any]]:
    """Lines of the log, oldest first: `id`, `at`, `kind`, `who`, `image_id` and `details`, in plain JSON types.

    `details` are what was decided and from what; `candidates` gives the scores, which are too many for that.
    """
    with store.reading() as session:
        last = session.scalar(select(func.max(_LINES.c.id))) or 0
    columns = ("id", "at", "kind", "who", "image_id", "details")
    texts = select(*(_LINES.c[name] for name in columns[:-1]), type_coerce(_LINES.c.details, String))
    for start in range(0, last, _ROWS_AT_ONCE):
        some = _LINES.c.id.between(start + 1, start + _ROWS_AT_ONCE)
        with store.reading() as session:
            rows = session.execute(texts.where(some).order_by(_LINES.c.id)).tuples().all()
        for row in rows:
            yield {**dict(zip(columns, row, strict=True)), "details": _details(row[-1])}


def candidates(store: Store, line: int) -> dict[str, dict[str, float]]:
    """What a click compared: by image id the `score`, `distance` and `entropy` of each candidate, as it has them.

    Parameters
    ----------
    line : int
        Number of a click's line in the log.

    Returns
    -------
    candidates : dict of str to dict of str to float
        Normalised as in the answers; empty where nothing was measured, as while a plan is followed.

    Raises
    ------
    InvalidInputError
        If the line is no click's.
    """
    with store.reading() as session:
        row = session.execute(_LINE.where(_LINES.c.id == line, _LINES.c.kind == "click")).one_or_none()
    if row is None:
        raise InvalidInputError(f"`line` must be the number of a click's line in the log; got {line}.")
    return Recreator(store).candidates(json.loads(row[5]), unpack(row[6]))


def _details(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # somebody changed it: `replay` says so
        return text


def _recreated(recreator: Recreator, number: int, line: Line) -> Recreated | None:
    try:
        return recreator.recreate(number, line)
    except (*UNREADABLE, InvalidInputError) as error:
        return False, f"what it holds does not give a decision ({type(error).__name__}: {error})"


def _replayed(number: int, line: Line, same: bool | None, sentence: str) -> Replayed:
    return Replayed(number, line.at, line.kind, line.image_id, same, f"{sentence[0].upper()}{sentence[1:]}.")


def _unlogged(store: Store, logged: Mapping[int, str]) -> Iterator[Replayed]:
    """Servings that have no line or another one, and a log without its guards."""
    with store.reading() as session:
        servings = (
            session.execute(select(Serving.id, Serving.served_at, Image.image_id).join(Image).order_by(Serving.id))
            .tuples()
            .all()
        )
        missing = [row for row in servings if row[0] not in logged]
        guards = set(session.scalars(_READ_GUARDS))
    early = [row for row in missing if not logged or row[0] < min(logged)]
    if early:
        sentence = f"{len(early)} images were served before the campaign kept this log: that cannot be decided again."
        yield Replayed(0, early[-1][1], "log", None, None, sentence)
    for serving, at, image_id in missing[len(early) :]:
        sentence = f"Serving {serving} has no line in the log: somebody removed it, or wrote the serving by hand."
        yield Replayed(0, at, "log", image_id, False, sentence)
    for serving, at, image_id in servings:
        if logged.get(serving, image_id) != image_id:
            sentence = f"Serving {serving} is of image '{image_id}', and the log says '{logged[serving]}'."
            yield Replayed(0, at, "log", image_id, False, sentence)
    for name in sorted(_GUARDS - guards):
        sentence = f"The database does not refuse changes of the log any more: its trigger {name} is gone."
        yield Replayed(0, time.time(), "log", None, False, sentence)


def _lines(first: int, last: int) -> str:
    return f"Line {first}" if first == last else f"Lines {first} to {last}"
