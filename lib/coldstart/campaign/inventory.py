"""Keep the store in step with the datastore: images and labels that appear, change, or go away."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from coldstart.exceptions import ImageError, LabelError
from coldstart.images import read_image
from coldstart.segmentation import check_label_file
from coldstart.store import FormerPoint, Image, Label, Serving, Store, file_signature

logger = logging.getLogger(__name__)

LABELLED = "labelled"
SKIPPED = "skipped"


@dataclass(frozen=True)
class LabelFile:
    """A label with the tag `final`, as the datastore knows it.

    `label_info` is the viewers' list of `{"name": ..., "idx": ...}`, or None.
    """

    path: Path
    annotator: str | None = None
    label_info: Any | None = None


def sync_images(store: Store, files: Mapping[str, Path], held_out: Collection[str], spatial_dims: int) -> bool:
    """Take over the datastore's images; return whether anything changed.

    A new or replaced file starts without vector, point and entropy, and so does every file when the images are to be
    of another dimension than before; an image whose file is away keeps its row. What made the map goes on placing.
    """
    signatures: dict[str, str] = {}
    for image_id, path in files.items():
        try:
            signatures[image_id] = f"{file_signature(path)}-{spatial_dims}d"
        except OSError:
            logger.debug("The file of image '%s' went away: %s", image_id, path)
    with store.reading() as session:
        if not _differing(session, files, signatures, held_out):
            return False
    with store.writing() as session:
        rows = {row.image_id: row for row in session.scalars(select(Image))}
        for image_id, row in rows.items():
            row.present = image_id in signatures
        for image_id, signature in signatures.items():
            image = rows.get(image_id)
            if image is None:
                image = Image(image_id=image_id, added_at=time.time())
                session.add(image)
            if image.signature != signature:
                if image.fitted and image.map_id is not None and image.vector is not None and image.point is not None:
                    session.add(FormerPoint(map_id=image.map_id, vector=image.vector, point=image.point))
                image.forget_content()
            image.signature, image.path = signature, str(files[image_id])
            image.held_out = image_id in held_out
    return True


def _differing(
    session: Session, files: Mapping[str, Path], signatures: Mapping[str, str], held_out: Collection[str]
) -> bool:
    rows = session.execute(select(Image.image_id, Image.signature, Image.path, Image.present, Image.held_out))
    known = {image_id: state for image_id, *state in rows}
    wanted = {
        image_id: [signature, str(files[image_id]), True, image_id in held_out]
        for image_id, signature in signatures.items()
    }
    return any(known.get(image_id) != state for image_id, state in wanted.items()) or any(
        present and image_id not in wanted for image_id, (_, _, present, _) in known.items()
    )


def sync_labels(store: Store, files: Mapping[str, LabelFile], preset_labels: Mapping[str, int]) -> None:
    """Take over the datastore's final labels: those whose file is gone are dropped, new ones are checked.

    A label that `files` does not list although its file is there was saved while the datastore was being read.
    """
    with store.reading() as session:
        rows = session.execute(select(Image, Label).outerjoin(Label)).tuples().all()
    images = {image.image_id: image for image, _ in rows}
    known = {image.image_id: label for image, label in rows if label is not None}
    for image_id, file in files.items():
        image, label = images.get(image_id), known.get(image_id)
        try:
            current = image and (str(file.path), _label_signature(file.path, image, preset_labels))
        except OSError:
            logger.debug("The label of image '%s' went away: %s", image_id, file.path)
            continue
        if current != (label and (label.path, label.signature)):
            save_label(store, image_id, file, preset_labels)
    for image_id in known.keys() - files.keys():
        if not Path(known[image_id].path).exists():
            remove_label(store, image_id)


def save_label(store: Store, image_id: str, file: LabelFile, preset_labels: Mapping[str, int]) -> str | None:
    """Record a saved label, check it, and end the reservations of its image.

    Returns
    -------
    str or None
        Why the label stays out of training until it is put right; None when it is fine.
    """
    with store.reading() as session:
        image = session.scalar(select(Image).where(Image.image_id == image_id))
        before = session.get(Label, image.id) if image is not None else None
    if image is None:
        stray = f"The label {file.path} belongs to no image that the server knows; got image '{image_id}'."
        logger.warning("%s", stray)
        return stray
    signature = _label_signature(file.path, image, preset_labels)
    label_info = file.label_info
    if label_info is None and before is not None and before.signature.startswith(f"{file_signature(file.path)}-"):
        label_info = before.label_info  # the same file as before; the datastore lost what the viewer said of it
    class_of_value, problem = _check(image, file.path, label_info, preset_labels)
    if problem is not None:
        logger.warning("%s", problem)
    now = time.time()
    with store.writing() as session:
        session.merge(
            Label(
                image=image.id,
                path=str(file.path),
                signature=signature,
                saved_at=now,
                annotator=file.annotator or (before.annotator if before else None),
                label_info=label_info,
                class_of_value=class_of_value,
                problem=problem,
            )
        )
        open_servings = update(Serving).where(Serving.image_row == image.id, Serving.outcome.is_(None))
        session.execute(open_servings.values(outcome=LABELLED, ended_at=now))
    return problem


def remove_label(store: Store, image_id: str) -> None:
    """Forget the final label of an image: it is a candidate again."""
    with store.writing() as session:
        row = session.scalar(select(Label).join(Image).where(Image.image_id == image_id))
        if row is not None:
            session.delete(row)


def _label_signature(path: Path, image: Image, preset_labels: Mapping[str, int]) -> str:
    """A label is checked anew when its file, its image or the configured structures change."""
    checked_against = json.dumps([image.signature, preset_labels])
    return f"{file_signature(path)}-{hashlib.sha256(checked_against.encode()).hexdigest()[:8]}"


def _check(
    image: Image, path: Path, label_info: Any, preset_labels: Mapping[str, int]
) -> tuple[dict[str, Any] | None, str | None]:
    try:
        if not isinstance(label_info, list | None):
            raise LabelError(f"`label_info` must be a list of names and numbers; got {label_info!r}.")
        classes = check_label_file(path, read_image(image.path).geometry, label_info, preset_labels)
    except (ImageError, LabelError) as error:
        return None, f"The label of image '{image.image_id}' is kept, but stays out of training: {error}"
    return {str(value): index for value, index in classes.items()}, None
