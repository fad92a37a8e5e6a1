"""Have the image files that a task will read where it reads them: those of an archive may have to be fetched first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import Select, select, update

from coldstart.campaign.progress import reporter
from coldstart.store import Image, Label, Store

logger = logging.getLogger(__name__)

Fetch = Callable[[Sequence[str], Callable[[int, int], None]], Mapping[str, str]]
"""Fetches images by id, saying how many of how many are done; gives a sentence for each that cannot be used."""


def all_are_here(_image_ids: Sequence[str], _progress: Callable[[int, int], None]) -> Mapping[str, str]:
    """Fetch nothing, for the images of a folder."""
    return {}


_USABLE = select(Image.image_id, Image.signature).where(Image.present, Image.problem.is_(None)).order_by(Image.image_id)
_UNLABELLED = _USABLE.outerjoin(Label).where(Label.image.is_(None), ~Image.held_out)
_LABELLED = _USABLE.join(Label).where(Label.class_of_value.is_not(None))


def fetch_for_embedding(store: Store, fetch: Fetch, encoder: str) -> None:
    """Fetch the images that have no vector of this encoder."""
    _fetch(store, fetch, _USABLE.where(Image.vector.is_(None) | (Image.encoder != encoder)))


def fetch_for_scoring(store: Store, fetch: Fetch) -> None:
    """Fetch the unlabelled images."""
    _fetch(store, fetch, _UNLABELLED)


def fetch_for_training(store: Store, fetch: Fetch) -> None:
    """Fetch the images that have a usable label, those held out too."""
    _fetch(store, fetch, _LABELLED)


def _fetch(store: Store, fetch: Fetch, wanted: Select[str, str]) -> None:
    with store.reading() as session:
        signatures = dict(session.execute(wanted).tuples().all())
    problems = fetch(list(signatures), reporter(store, "download", "from the archive"))
    if not problems:
        return
    with store.writing() as session:
        for image_id, problem in problems.items():
            logger.warning("Set aside: %s", problem)
            unchanged = update(Image).where(Image.image_id == image_id, Image.signature == signatures[image_id])
            session.execute(unchanged.values(problem=problem))
