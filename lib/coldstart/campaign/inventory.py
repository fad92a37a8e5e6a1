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
from coldstart.store import Image, Label, Serving, Store, file_signature

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


def sync_images(store: Store, files: Mapping[str, Path], held_out: Collection[str]) -> bool:
    """Take over the datastore's images; return whether anything changed.

    A new or replaced file starts without vector, point and entropy; an image whose file is away keeps its row.
    """
    signatures: dict[str, str] = {}
    for image_id, path in files.items():
        try:
            signatures[image_id] = file_signature(path)
        except OSError:
            logger.debug("The file of image '%s' went away: %s", image_id, path)
    with store.reading() as session:
        if not _differing(session, signatures, held_out):
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
                image.forget_content()
            image.signature, image.path = signature, str(files[image_id])
            image.held_out = image_id in held_out
    return True


def _differing(session: Session, signatures: Mapping[str, str], held_out: Collection[str]) -> bool:
    rows = session.execute(select(Image.image_id, Image.signature, Image.present, Image.held_out))
    known = {image_id: (signature, present, out) for image_id, signature, present, out in rows}
    wanted = {image_id: (signature, True, image_id in held_out) for image_id, signature in signatures.items()}
    return any(known.get(image_id) != state for image_id, state in wanted.items()) or any(
        present and image_id not in wanted for image_id, (_, present, _) in known.items()
    )


def sync_labels(store: Store, files: Mapping[str, LabelFile], preset_labels: Mapping[str, int]) -> None:
    """Take over the datastore's final labels: those that it no longer has are dropped, new ones are checked."""
    with store.reading() as session:
        known = dict(session.execute(select(Image.image_id, Label.signature).join(Label)).tuples().all())
    for image_id, file in files.items():
        try:
            if known.get(image_id) != _label_signature(file.path, preset_labels):
                save_label(store, image_id, file, preset_labels)
        except OSError:
            logger.debug("The label of image '%s' went away: %s", image_id, file.path)
    for image_id in known.keys() - files.keys():
        remove_label(store, image_id)


def save_label(store: Store, image_id: str, file: LabelFile, preset_labels: Mapping[str, int]) -> str | None:
    """Record a saved label, check it, and end the reservations of its image.

    Returns
    -------
    str or None
        Why the label stays out of training until it is put right; None when it is fine.
    """
    signature = _label_signature(file.path, preset_labels)
    class_of_value, problem = _check(store, image_id, file, preset_labels)
    if problem is not None:
        logger.warning("%s", problem)
    now = time.time()
    with store.writing() as session:
        image = session.scalar(select(Image).where(Image.image_id == image_id))
        if image is None:
            return problem
        before = session.get(Label, image.id)
        session.merge(
            Label(
                image=image.id,
                path=str(file.path),
                signature=signature,
                saved_at=now,
                annotator=file.annotator or (before.annotator if before else None),
                label_info=file.label_info if file.label_info is not None else before and before.label_info,
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


def _label_signature(path: Path, preset_labels: Mapping[str, int]) -> str:
    """A label is checked anew when its file or the configured structures change."""
    structures = hashlib.sha256(json.dumps(preset_labels).encode()).hexdigest()[:8]
    return f"{file_signature(path)}-{structures}"


def _check(
    store: Store, image_id: str, file: LabelFile, preset_labels: Mapping[str, int]
) -> tuple[dict[str, Any] | None, str | None]:
    with store.reading() as session:
        path = session.scalar(select(Image.path).where(Image.image_id == image_id))
        label_info = file.label_info
        if label_info is None:
            label_info = session.scalar(select(Label.label_info).join(Image).where(Image.image_id == image_id))
    if path is None:
        return None, f"The label {file.path} belongs to no image that the server knows; got image '{image_id}'."
    try:
        geometry = read_image(path).geometry
        classes = check_label_file(file.path, geometry, label_info, preset_labels)
    except (ImageError, LabelError) as error:
        return None, f"The label of image '{image_id}' is kept, but stays out of training: {error}"
    return {str(value): index for value, index in classes.items()}, None
