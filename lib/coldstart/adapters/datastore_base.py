"""A folder of images and labels with its record, for MONAI Label: what changes in it is noticed, whoever changes it."""

from __future__ import annotations

import copy
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore

from coldstart.adapters.datastore_file import DatastoreFile, Objects
from coldstart.adapters.datastore_folder import MAX_LEFT_OUT, WatchedFolder, is_file_name, split_name
from coldstart.adapters.durable import remove_left_overs
from coldstart.adapters.errors import AppError, answered
from coldstart.exceptions import ImageError, SettingsError
from coldstart.images import IMAGE_PATTERNS

logger = logging.getLogger(__name__)

WRITE_EVERY_S = 10.0
"""How long what is no label waits for the record to be written: the most that a power cut loses of clicks and info."""
FLUSH_LIMIT_S = 2.0
"""How long the end of the server waits for that."""


class WatchedDatastore(LocalDatastore):  # type: ignore[misc]
    """`LocalDatastore` on a `DatastoreFile` and on `WatchedFolder`s, read anew by `look` and by nothing else.

    Nothing is written before the first `look`: a child process, which never looks, cannot undo what the server wrote.
    """

    _home: tuple[int, int]

    def __init__(self, datastore_path: str, **_options: Any):
        self._label_folders: dict[str, WatchedFolder] = {}
        self._image_folder: WatchedFolder | None = None
        self._changed = False  # outlives a look that a folder out of reach cut short
        self._version = 0
        self._tried_at = -WRITE_EVERY_S
        self._status: tuple[Objects | None, dict[str, Any]] = (None, {})
        try:
            super().__init__(datastore_path, extensions=IMAGE_PATTERNS, auto_reload=False, read_only=True)
        except OSError as error:
            raise SettingsError(
                f"The folder {datastore_path} must be one that the server can write to, for the labels are saved "
                f"there; got: {error.strerror or error}. Give the server the permission, or mount it writable."
            ) from error

    def look(self) -> None:
        """Take over what other programs changed, in the folder and in the record, and write what waited long enough.

        Raises
        ------
        ImageError
            If all images went away at once, as on a share that is not mounted any more: nothing is changed then.
        OSError
            If a folder of labels cannot be read.
        """
        with self._file.threads:
            self._require_images()
            self._changed |= self._file.refresh()
            self._changed |= self._look_at_images()
            tags = self._tags()
            for gone in self._label_folders.keys() - tags:
                del self._label_folders[gone]
                self._changed = True
            for tag in tags:
                self._changed |= self._label_folder(tag).look()
            if self._changed:
                self._version += 1
                with self._file.editing() as objects:
                    self._reconcile(objects)
                self._changed = False
        if self._file.unsaved and time.monotonic() - self._tried_at >= WRITE_EVERY_S:
            self.flush()

    def refresh(self) -> None:
        """Read the folder again; stock's name for `look`."""
        self.look()

    def flush(self) -> None:
        """Write what waits to be written; where that fails the log says so, and the next `look` tries again."""
        if not self._file.unsaved:
            return
        self._tried_at = time.monotonic()
        try:
            self._file.save()
        except (OSError, AppError) as error:
            logger.warning("%s cannot be written (%s); it is tried again. No label is lost.", self._file.path, error)

    def flushing_before(self, handler: Any) -> Callable[[int, FrameType | None], None]:
        """Write what waits when a signal comes, then do what `handler` does."""

        def handle(number: int, frame: FrameType | None) -> None:
            # In a thread: the signal may have come where this very thread holds a lock that the writing needs.
            writer = threading.Thread(target=self.flush, name="coldstart-flush")
            writer.start()
            writer.join(FLUSH_LIMIT_S)
            if callable(handler):
                handler(number, frame)

        return handle

    def require_folder(self) -> None:
        """Refuse, with 503, what needs the studies folder while it is not there: a label saved then would be lost."""
        with answered(503):
            self._require_images()

    def _require_images(self) -> None:
        """Tell a folder that was emptied or is gone, and an empty place where a share was mounted, from our images."""
        objects = self._datastore.objects
        try:
            status = os.stat(self._images)
            home = status.st_dev, status.st_ino
            if not objects or (home == self._home and self._image_folder is None):
                return
            with os.scandir(self._images) as entries:
                ids = (split_name(entry.name)[0] for entry in entries)
                if any(image_id and (home == self._home or image_id in objects) for image_id in ids):
                    self._home = home
                    return
            state = "has no image any more"
        except OSError as error:
            state = f"cannot be read ({error.strerror or error})"
        raise ImageError(
            f"The studies folder {self._images} {state}; {len(objects)} were in it. If it is on a share, mount that "
            "again; if the images were taken away on purpose, restart the server. Until then all that is known of them "
            "is kept, and no label can be saved."
        )

    @property
    def is_settled(self) -> bool:
        """Whether all files that the last look saw had arrived completely."""
        return not self._image_names()[1] and not any(folder.waiting for folder in self._label_folders.values())

    def _look_at_images(self) -> bool:
        """Find out which images there are; return whether they are others than before."""
        if self._image_folder is None:
            known = {image_id: image_id + entry.image.ext for image_id, entry in self._datastore.objects.items()}
            self._image_folder = WatchedFolder(self._images, known)
            remove_left_overs(self._images)
        return self._image_folder.look()

    def _image_names(self) -> tuple[Mapping[str, str], frozenset[str]]:
        """File name of each image, and ids of those whose file is being written."""
        folder = self._image_folder
        return (folder.files, folder.waiting) if folder is not None else ({}, frozenset())

    def _reconcile(self, objects: Objects) -> None:
        """Make entries for new images, and drop those that are gone."""
        names, waiting = self._image_names()
        for image_id in objects.keys() - names.keys() - waiting:
            del objects[image_id]
        labels_of: dict[str, dict[str, str]] = {}
        for tag, labelled in self._label_folders.items():
            for image_id, name in labelled.files.items():
                labels_of.setdefault(image_id, {})[tag] = name
        for image_id, name in names.items():
            before = objects.get(image_id)
            suffix = name[len(image_id) :]
            image = (
                before.image if before is not None and before.image.ext == suffix else new_data(image_id, suffix, {})
            )
            known = before.labels if before is not None else {}
            labels = {tag: data for tag, data in known.items() if self._is_waiting(image_id, tag)}
            for tag, label_name in labels_of.get(image_id, {}).items():
                ext = label_name[len(image_id) :]
                data = known.get(tag)
                labels[tag] = data if data is not None and data.ext == ext else new_data(image_id, ext, {})
            if before is None or image is not before.image or labels != known:
                objects[image_id] = ImageLabelModel(image=image, labels=labels)

    def _tags(self) -> set[str]:
        if not self._labels.is_dir():
            return set()
        return {tag for tag in os.listdir(self._labels) if is_file_name(tag) and (self._labels / tag).is_dir()}

    def _is_waiting(self, image_id: str, tag: str) -> bool:
        return tag in self._label_folders and image_id in self._label_folders[tag].waiting

    def _label_folder(self, tag: str) -> WatchedFolder:
        if tag not in self._label_folders:
            inside = (self._images, self._labels)
            self._label_folders[tag] = WatchedFolder(self._labels / tag, newest=True, within=inside)
            remove_left_overs(self._labels / tag)
        return self._label_folders[tag]

    def left_out(self) -> dict[str, str]:
        """Why a file in the folder is not used, by its name, or its path below the folder for a label."""
        reasons = self._image_folder.left_out() if self._image_folder is not None else {}
        for tag, folder in list(self._label_folders.items()):
            reasons |= {f"labels/{tag}/{name}": reason for name, reason in folder.left_out().items()}
        return dict(list(reasons.items())[:MAX_LEFT_OUT])

    def _has_file(self, image_id: str, suffix: str, tag: str | None) -> bool:
        name = image_id + suffix
        if not is_file_name(name) or split_name(name) != (image_id, suffix) or not is_file_name(tag or "image"):
            return False
        return ((self._images if tag is None else self._labels / tag) / name).is_file()

    def image_path(self, image_id: str) -> str:
        """Where the file of an image is, or will be, a link being left as it is; empty where there is no such image."""
        entry = self._datastore.objects.get(image_id)
        return str(self._images / (image_id + entry.image.ext)) if entry is not None else ""

    def get_image_uri(self, image_id: str) -> str:
        """Path of an image that is there to be read; empty where there is none."""
        return self.image_path(image_id)

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of a label; empty where there is none."""
        label = self._datastore.label(label_id, label_tag)
        return str(self._labels / label_tag / (label_id + label.ext)) if label is not None else ""

    def status(self) -> dict[str, Any]:
        """Numbers of images and labels; counted once for as long as nothing changes, for every click asks for them."""
        objects = self._datastore.objects
        if self._status[0] is not objects:
            self._status = objects, super().status()
        return copy.deepcopy(self._status[1])

    def _to_id(self, file: str) -> tuple[str, str]:
        image_id, suffix = split_name(file)
        return (image_id, suffix) if suffix else super()._to_id(file)

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        self._images = Path(os.path.realpath(self._datastore.image_path()))
        self._labels = Path(os.path.realpath(self._datastore.label_path(None)))
        status = os.stat(self._images)
        self._home = status.st_dev, status.st_ino
        self._file = DatastoreFile(
            Path(self._datastore_config_path), self._datastore, self._has_file, self.require_folder
        )

    def _update_datastore_file(self, lock: bool = True) -> None:
        self._file.save()


def new_data(image_id: str, suffix: str, info: dict[str, Any]) -> DataModel:
    """Entry of a file that is new in the record."""
    return DataModel(ext=suffix, info={**info, "ts": int(time.time()), "name": image_id + suffix})
