"""Keep the store in step with the datastore: images and labels that appear, change, or go away."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from coldstart.campaign.decisions import record_taken_over
from coldstart.exceptions import ImageError, LabelError
from coldstart.images import read_image
from coldstart.segmentation import check_label_file
from coldstart.store import FormerPoint, Image, Label, Revision, Serving, Store, file_signature

logger = logging.getLogger(__name__)

LABELLED = "labelled"
SKIPPED = "skipped"

NOTICED_AT = func.coalesce(Label.noticed_at, Label.saved_at)
"""What the campaign reacts to: an old label that is put into the folder now is news now."""

_State = tuple[str, str, bool, bool]
"""Signature, path, whether the file is there, and whether the image is held out."""
_BATCH = 500
"""Ids in one question to the database, which takes no longer lists everywhere."""


@dataclass(frozen=True)
class ImageFile:
    """An image whose file may have to be fetched first; `signature` changes when its pixels do."""

    path: Path
    signature: str


@dataclass(frozen=True)
class LabelFile:
    """A label with the tag `final`, as the datastore knows it.

    `label_info` is the viewers' list of `{"name": ..., "idx": ...}`, or None. `problem` is why the datastore could not
    make a label file of what it has, or None; the file may not be there then, and `signature` stands for it. `noted_at`
    is when the datastore took the label into its record, in seconds since 1970.
    """

    path: Path
    annotator: str | None = None
    label_info: Any | None = None
    problem: str | None = None
    signature: str | None = None
    noted_at: float | None = None

    def current_signature(self) -> str:
        """What changes when the label does; OSError where its file is away."""
        return self.signature or file_signature(self.path)


def path_of(file: Path | ImageFile) -> Path:
    """Where the file of an image is, or will be."""
    return file.path if isinstance(file, ImageFile) else file


def revision(store: Store) -> tuple[tuple[str, int], ...]:
    """Numbers that change when images or labels change in the database, or when it is another one."""
    with store.reading() as session:
        numbers = select(Revision.topic, Revision.number).where(Revision.topic.in_(("pool", "labels")))
        rows = session.execute(numbers.order_by(Revision.topic))
        return tuple((topic, number) for topic, number in rows)


def sync_images(
    store: Store, files: Mapping[str, Path | ImageFile], held_out: Collection[str], spatial_dims: int
) -> bool:
    """Take over the datastore's images; return whether anything changed.

    A new or replaced file starts without vector, point and entropy, and so does every file when the images are to be
    of another dimension than before; an image whose file is away keeps its row. What made the map goes on placing.
    A file that the datastore lists and that is not there any more stays as it was until the datastore has looked again:
    it knows a folder that went away from images that were taken out.
    """
    wanted: dict[str, _State] = {}
    for image_id, file in files.items():
        path = path_of(file)
        try:
            content = file.signature if isinstance(file, ImageFile) else file_signature(path)
            signature = f"{content}-{spatial_dims}d"
        except OSError:
            logger.debug("The file of image '%s' went away: %s", image_id, path)
        else:
            wanted[image_id] = signature, str(path), True, image_id in held_out
    with store.reading() as session:
        if not _differing(session, wanted, files.keys()):
            return False
    with store.writing() as session:
        differing = _differing(session, wanted, files.keys())
        rows: dict[str, Image] = {}
        for ids in _batched(differing):
            rows |= {row.image_id: row for row in session.scalars(select(Image).where(Image.image_id.in_(ids)))}
        for image_id in differing:
            if image_id not in wanted:
                rows[image_id].present = False
                continue
            image = rows.get(image_id)
            if image is None:
                image = Image(image_id=image_id, added_at=time.time())
                session.add(image)
            signature, path_now, image.present, image.held_out = wanted[image_id]
            if image.signature != signature:
                if image.map_id is not None and image.vector is not None and image.point is not None:
                    former = {"map_id": image.map_id, "vector": image.vector, "point": image.point}
                    session.add(FormerPoint(**former, fitted=image.fitted))
                image.forget_content()
            image.signature, image.path = signature, path_now
    return True


def _differing(session: Session, wanted: Mapping[str, _State], listed: Collection[str]) -> list[str]:
    """Ids of the images whose rows are not as wanted; an image that is not listed is to be away."""
    rows = session.execute(select(Image.image_id, Image.signature, Image.path, Image.present, Image.held_out))
    known = {image_id: (signature, path, present, held_out) for image_id, signature, path, present, held_out in rows}
    differing = [image_id for image_id, state in wanted.items() if known.get(image_id) != state]
    return differing + [image_id for image_id, state in known.items() if state[2] and image_id not in listed]


def sync_labels(store: Store, files: Mapping[str, LabelFile], preset_labels: Mapping[str, int]) -> None:
    """Take over the datastore's final labels: those whose file is gone are dropped, new ones are checked.

    A label that `files` does not list although its file is there was saved while the datastore was being read.
    """
    with store.reading() as session:
        rows = session.execute(
            select(Image.image_id, Label.path, Label.signature).join(Label, Label.image == Image.id)
        ).tuples()
        known = {image_id: (path, signature) for image_id, path, signature in rows}
        signatures: dict[str, str] = {}
        for ids in _batched(list(files)):
            found = select(Image.image_id, Image.signature).where(Image.image_id.in_(ids))
            signatures.update(session.execute(found).tuples().all())
    for image_id, image_signature in signatures.items():
        file = files[image_id]
        try:
            current = str(file.path), label_signature(file, image_signature, preset_labels)
        except OSError:
            logger.debug("The label of image '%s' went away: %s", image_id, file.path)
            continue
        if current != known.get(image_id):
            save_label(store, image_id, file, preset_labels)
    for image_id in known.keys() - files.keys():
        if not Path(known[image_id][0]).exists():
            remove_label(store, image_id)


def save_label(store: Store, image_id: str, file: LabelFile, preset_labels: Mapping[str, int]) -> str | None:
    """Record a saved label, check it, and end the reservations of its image.

    A file that was recorded before is only checked again: it was not saved now, and ends no reservation.

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
    signature = label_signature(file, image.signature, preset_labels)
    is_recorded = before is not None and before.signature.startswith(f"{file.current_signature()}-")
    recorded = before if is_recorded else None
    now = time.time()
    if recorded is not None:
        saved_at, noticed_at = recorded.saved_at, recorded.noticed_at
    else:
        saved_at, noticed_at = _saved_at(file, now, is_new=before is None), now
    label_info = file.label_info
    if label_info is None and recorded is not None:
        label_info = recorded.label_info  # the datastore lost what the viewer said of it
    class_of_value, problem = _check(image, file, label_info, preset_labels)
    if problem is not None:
        logger.warning("%s", problem)
    with store.writing() as session:
        session.merge(
            Label(
                image=image.id,
                path=str(file.path),
                signature=signature,
                saved_at=saved_at,
                noticed_at=noticed_at,
                annotator=file.annotator or (before.annotator if before else None),
                label_info=label_info,
                class_of_value=class_of_value,
                problem=problem,
            )
        )
        if recorded is None:
            open_servings = update(Serving).where(Serving.image_row == image.id, Serving.outcome.is_(None))
            session.execute(open_servings.values(outcome=LABELLED, ended_at=now))
    return problem


def take_over_servings(store: Store, served_at: Mapping[str, float]) -> None:
    """Reserve unlabelled images for nobody in particular, from the time given; only in a database without servings."""
    with store.reading() as session:
        if not served_at or session.scalar(select(Serving.id).limit(1)) is not None:
            return
    with store.writing() as session:
        unlabelled = select(Image.image_id, Image.id).outerjoin(Label).where(Label.image.is_(None))
        noted = {
            image_id: Serving(image_row=row, strategy="unknown", phase="unknown", why={}, served_at=served_at[image_id])
            for image_id, row in session.execute(unlabelled).tuples().all()
            if image_id in served_at
        }
        record_taken_over(session, noted, "noted by the datastore, in a database without servings")


def remove_label(store: Store, image_id: str) -> None:
    """Forget the final label of an image: it is a candidate again."""
    with store.writing() as session:
        row = session.scalar(select(Label).join(Image).where(Image.image_id == image_id))
        if row is not None:
            session.delete(row)


def label_signature(file: LabelFile, image_signature: str, preset_labels: Mapping[str, int]) -> str:
    """A label is checked anew when its file, its image or the configured structures change."""
    checked_against = json.dumps([image_signature, preset_labels, *([file.problem] if file.problem else [])])
    return f"{file.current_signature()}-{hashlib.sha256(checked_against.encode()).hexdigest()[:8]}"


def _saved_at(file: LabelFile, now: float, *, is_new: bool) -> float:
    """When a label was saved: a file found later was noted later, and a copied one may have lost its own time.

    The record keeps the time of the first of several files of one name, so it tells nothing of one drawn over another.
    """
    times = [now] if file.noted_at is None or not is_new else [now, file.noted_at]
    try:
        times.append(file.path.stat().st_mtime)
    except OSError:
        logger.debug("The time of the label %s is not known.", file.path)
    return min(times)


def _batched(ids: list[str]) -> Iterator[list[str]]:
    return (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))


def _check(
    image: Image, file: LabelFile, label_info: Any, preset_labels: Mapping[str, int]
) -> tuple[dict[str, Any] | None, str | None]:
    try:
        if file.problem is not None:
            raise LabelError(file.problem)
        if not isinstance(label_info, list | None):
            raise LabelError(f"`label_info` must be a list of names and numbers; got {label_info!r}.")
        classes = check_label_file(file.path, read_image(image.path).geometry, label_info, preset_labels)
    except (ImageError, LabelError) as error:
        return None, f"The label of image '{image.image_id}' is kept, but stays out of training: {error}"
    return {str(value): index for value, index in classes.items()}, None
