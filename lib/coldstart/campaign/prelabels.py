"""Pre-labels: the newest model segments the images next in line, before anybody asks for them.

Once for each model, when it has scored: only then is it known which images come next. What was labelled meanwhile is
left out, and nothing here counts as labelled or is learned from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy import select
from sqlalchemy.orm import Session

from coldstart.campaign import learning
from coldstart.campaign.vectors import ProgressCallback
from coldstart.store import Image, Label, Model, Store

DONE = "prelabelled"
"""Key of a model's details: how many images next in line it was asked to segment."""

KeepPrelabel = Callable[[str, str], None]
"""Segments the image with this id by the model of this version, and keeps the result."""


def waiting_model(session: Session, n: int) -> Model | None:
    """The newest model, when it has scored the pool and has not segmented the `n` images next in line yet."""
    model = learning.newest_model(session)
    if model is None or learning.needs_scoring(session) or model.details.get(DONE, 0) >= n:
        return None
    return model


def prelabel(
    store: Store, version: str, image_ids: Sequence[str], n: int, keep: KeepPrelabel, progress: ProgressCallback
) -> None:
    """Have each of the `n` images next in line, or the fewer that are left, segmented unless it is labelled by then."""
    for done, image_id in enumerate(image_ids):
        progress(done, len(image_ids))
        with store.reading() as session:
            labelled = session.scalar(select(Label.image).join(Image).where(Image.image_id == image_id))
        if labelled is None:
            keep(image_id, version)
    progress(len(image_ids), len(image_ids))
    store.patiently(partial(learning.record_model, store, version, {DONE: n}))
