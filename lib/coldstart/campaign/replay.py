"""Re-create every decision of a campaign from its selection log, and say of each whether it comes out the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from coldstart.store import Decision, Store


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
    """Decide everything again that the log holds, oldest first."""
    yield from ()


def decision_rows(store: Store) -> Iterator[dict[str, Any]]:
    """Lines of the log, oldest first: `id`, `at`, `kind`, `who`, `image_id` and `details`, in plain JSON types."""
    with store.reading() as session:
        lines = select(Decision.id, Decision.at, Decision.kind, Decision.who, Decision.image_id, Decision.details)
        rows = session.execute(lines.order_by(Decision.id)).mappings().all()
    yield from (dict(row) for row in rows)
