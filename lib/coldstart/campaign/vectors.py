"""From files to vectors: embed what is new, and write it as it comes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import select, update

from coldstart.embedding import Encoder, embed_files
from coldstart.exceptions import EncoderError, ImageError
from coldstart.memory import halved, in_smaller_batches
from coldstart.settings import Settings
from coldstart.store import Image, Store, vector_to_bytes

logger = logging.getLogger(__name__)

COMMIT_EVERY = 32
"""Vectors are written in groups of this size: a run that is killed loses no more than one group."""

ProgressCallback = Callable[[int, int], None]


class _Pending(NamedTuple):
    id: int
    path: str
    signature: str


def encoder_key(encoder: Encoder) -> str:
    """What tells the vectors of one encoder, with its weights, from those of another."""
    return f"{encoder.name} {encoder.version}"


def embed_images(store: Store, settings: Settings, encoder: Encoder, progress: ProgressCallback | None = None) -> int:
    """Embed every image that has no vector of this encoder; return how many were embedded or set aside.

    When memory runs out, what is left is embedded with half the batch.

    Raises
    ------
    EncoderError
        If the memory is not enough; what was embedded is kept.
    ImageError
        If files went away meanwhile; what was embedded is kept.
    """
    n_pending = len(_pending(store, encoder))
    in_smaller_batches(
        lambda batch_size: _embed_pending(store, settings.spatial_dims, encoder, batch_size, progress),
        halved(settings.embed_batch_size),
        what=f"The embedding with {encoder.name}",
        remedy=(
            "What was embedded is kept. Free memory on the device, lower --conf embed_batch_size, or choose a smaller "
            "--conf encoder."
        ),
        error=EncoderError,
    )
    return n_pending


def _pending(store: Store, encoder: Encoder) -> list[_Pending]:
    with store.reading() as session:
        usable = select(Image.id, Image.path, Image.signature).where(Image.present, Image.problem.is_(None))
        wanted = Image.vector.is_(None) | (Image.encoder != encoder_key(encoder))
        rows = session.execute(usable.where(wanted).order_by(Image.image_id)).tuples()
        return [_Pending(*row) for row in rows]


def _embed_pending(
    store: Store, spatial_dims: int, encoder: Encoder, batch_size: int, progress: ProgressCallback | None
) -> None:
    pending = _pending(store, encoder)
    paths = [Path(row.path) for row in pending]
    results = embed_files(encoder, paths, spatial_dims=spatial_dims, batch_size=batch_size, progress=progress)
    group: list[tuple[_Pending, dict[str, Any]]] = []
    away: list[Path] = []
    for index, result in results:
        if isinstance(result, ImageError) and not paths[index].is_file():
            away.append(paths[index])
            continue
        if isinstance(result, ImageError):
            logger.warning("Set aside: %s", result)
            values: dict[str, Any] = {"problem": str(result)}
        else:
            values = {"vector": vector_to_bytes(result), "encoder": encoder_key(encoder)}
        group.append((pending[index], values))
        if len(group) == COMMIT_EVERY:
            _write_vectors(store, group)
            group = []
    _write_vectors(store, group)
    require_files(away)


def require_files(away: Sequence[Path]) -> None:
    """Refuse to end a task as if it were complete when files went away under it: their share may come back.

    Raises
    ------
    ImageError
        If `away` is not empty.
    """
    if away:
        raise ImageError(
            f"{len(away)} image file(s) went away meanwhile, the first is {away[0]}. If they are on a share, see that "
            "it is mounted; the task is tried again by itself, with the images that are there then."
        )


def _write_vectors(store: Store, group: Sequence[tuple[_Pending, dict[str, Any]]]) -> None:
    """Write what was computed, but not over an image that was replaced meanwhile, nor into a row that is another's."""
    with store.writing() as session:
        for row, values in group:
            unchanged = update(Image).where(Image.id == row.id, Image.path == row.path)
            session.execute(unchanged.where(Image.signature == row.signature).values(**values))
