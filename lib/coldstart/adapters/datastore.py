"""MONAI Label's datastore of a folder, as the campaign sees it; nothing that was saved through it is lost."""

from __future__ import annotations

import copy
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel
from monailabel.interfaces.datastore import DefaultLabelTag

from coldstart.adapters.datastore_base import WatchedDatastore, new_data
from coldstart.adapters.datastore_checks import (
    checked_info,
    checked_new_id,
    checked_tag,
    checked_update,
    image_file_suffix,
    label_file_suffix,
    require_no_worse,
    shown,
)
from coldstart.adapters.datastore_file import Objects
from coldstart.adapters.datastore_folder import WatchedFolder, split_name
from coldstart.adapters.durable import cannot_write, put, staged, sync_folder
from coldstart.adapters.errors import AppError, answered
from coldstart.adapters.slicer_files import alone
from coldstart.adapters.users import annotator
from coldstart.campaign import Campaign, ImageFile, LabelFile
from coldstart.exceptions import StoreError
from coldstart.images import read_image

logger = logging.getLogger(__name__)

FINAL = str(DefaultLabelTag.FINAL.value)
HAND_OVER_EVERY_S = 60.0
"""How often the campaign is handed everything although nothing seems to have changed."""


class CampaignDatastore(WatchedDatastore):
    """What our datastores share, be they a folder or the local cache of an archive.

    `_campaign` is set before `__init__` is called.

    A label is on the disk, and counts in the campaign, when its saving returns. Clicks and info are only noted, and
    written with the next label, by the next `look` that is due, or by `flush`; a power cut loses at most
    `WRITE_EVERY_S` of them.
    """

    _campaign: Campaign

    def __init__(self, datastore_path: str, **options: Any):
        self._counting = threading.Lock()
        self._uncounted: dict[str, str] = {}
        self._handed: tuple[object, ...] = ()
        self._handed_at = 0.0
        super().__init__(datastore_path, **options)

    def sync(self) -> None:
        """Look, and hand the campaign what there is where either of them changed since the last time."""
        self.look()
        self._hand_over()

    def _hand_over(self) -> None:
        seen = self._version, self._campaign.revision()
        if seen == self._handed and time.monotonic() - self._handed_at < HAND_OVER_EVERY_S:
            return
        with self._file.threads:
            version, objects = self._version, self._datastore.objects
            images, labels = self._image_files(objects), self._label_files(objects)
        self._campaign.sync(images, labels)
        if not self._handed:
            self._campaign.take_over_servings(_served_at(objects))
        self._uncounted.clear()
        self._handed, self._handed_at = (version, self._campaign.revision()), time.monotonic()

    def _image_files(self, objects: Objects) -> Mapping[str, Path | ImageFile]:
        """What the campaign is told of the images."""
        away = self._image_names()[1]
        return {image_id: Path(self.image_path(image_id)) for image_id in objects if image_id not in away}

    def _label_files(self, objects: Objects) -> dict[str, LabelFile]:
        """What the campaign is told of the labels."""
        return {
            image_id: self._label_file(image_id, entry.labels[FINAL])
            for image_id, entry in objects.items()
            if FINAL in entry.labels and not self._is_waiting(image_id, FINAL)
        }

    # Labels

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label; one with the tag `final` counts for the campaign before this returns.

        Its file is on the disk then, or an `AppError` says why not and the label before is as it was. Should the record
        or the database be out of order, it is saved all the same and taken over later; see `label_warning`. A file that
        cannot be read is kept too, but never in the place of a label that can.
        """
        self._require_image(image_id)
        info = checked_info(label_info or {}, "params")
        if (name := annotator((label_info or {}).get("client_id"))) is not None:
            info["annotator"] = name
        tag = checked_tag(label_tag)
        for before in self.label_files(image_id, tag):
            require_no_worse(Path(label_filename), before)
        self._keep_label(image_id, Path(label_filename), tag, info)
        return image_id

    def save_prediction(self, image_id: str, file: str, label_tag: str, info: dict[str, Any]) -> str:
        """Save what a model segmented, unless with the tag `final` over a final label that was saved meanwhile."""
        with self.alone():
            self.require_no_final(image_id, label_tag)
            return self.save_label(image_id, file, label_tag, info)

    def _keep_label(self, image_id: str, label: Path, label_tag: str, info: dict[str, Any]) -> None:
        """Put a label in its place, with an info that is whole."""
        self.require_folder()
        folder = self._labels / label_tag
        suffix = label_file_suffix(label.name)
        with _sentence_for(f"The label of image '{image_id}'"):
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                sync_folder(self._labels)
            with staged(label, folder) as file, self._file.exclusive():
                target = folder / (image_id + suffix)
                put(file, target)
                watched = self._label_folder(label_tag)
                for twin in set(watched.of_id(image_id)) - {target.name}:
                    (folder / twin).unlink()
                watched.note(image_id, target.name)
                self._set_label(image_id, label_tag, new_data(image_id, suffix, info))
        self.flush()
        if label_tag == FINAL:
            self._count(image_id)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label; without its final label an image is a candidate again."""
        entry = self._require_image(label_id)
        folder = self._labels / checked_tag(label_tag)
        if label_tag not in entry.labels:
            raise AppError(f"Image {shown(label_id)} has no label with the tag {shown(label_tag)}.", status_code=404)
        with _sentence_for(f"The label of image '{label_id}'"), self._file.exclusive():
            for name in self._label_folder(label_tag).of_id(label_id):
                (folder / name).unlink(missing_ok=True)
            sync_folder(folder)
            self._set_label(label_id, label_tag, None)
        self.flush()
        if label_tag == FINAL:
            self._uncount(label_id)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep every other thread and process from changing anything here, and know what they did before."""
        with self._file.exclusive():
            self._file.refresh()
            yield

    def label_files(self, image_id: str, label_tag: str) -> list[Path]:
        """Files of an image's label, as they are on the disk now."""
        folder = self._labels / label_tag
        return [folder / name for name in self._label_folder(label_tag).of_id(image_id)] if folder.is_dir() else []

    def require_no_final(self, image_id: str, label_tag: object) -> None:
        """Refuse to save a prediction as `final` where there is a final label, which is somebody's work."""
        if label_tag == FINAL and self._datastore.label(image_id, FINAL) is not None:
            raise AppError(
                f"Image '{image_id}' has a final label, and a prediction does not take its place. Save it with "
                "another tag, or remove that label first.",
                status_code=409,
            )

    def label_warning(self, image_id: str) -> str | None:
        """Why the label of an image does not count yet, or stays out of training; None where all is well."""
        if (reason := self._uncounted.get(image_id)) is not None:
            return reason
        try:
            return self._campaign.label_problem(image_id)
        except StoreError as error:
            return f"The label is saved; whether it can be trained on is not known yet: {error}"

    def _set_label(self, image_id: str, tag: str, label: DataModel | None) -> None:
        self._version += 1
        with self._file.editing() as objects:
            if (entry := objects.get(image_id)) is not None:
                labels = {known: data for known, data in entry.labels.items() if known != tag}
                if label is not None:
                    labels[tag] = label
                    self._file.replaced(image_id, tag)
                objects[image_id] = ImageLabelModel(image=entry.image, labels=labels)

    def _count(self, image_id: str) -> None:
        with self._counting:  # two savings of one image count in the order in which they are in the record
            try:
                if (label := self._datastore.label(image_id, FINAL)) is not None:
                    self._campaign.save_label(image_id, self._label_file(image_id, label))
                self._uncounted.pop(image_id, None)
            except (StoreError, OSError) as error:
                self._version += 1
                self._uncounted[image_id] = f"The label is saved, and counts as soon as possible, not yet: {error}"
                logger.warning("The label of image '%s' is saved, but does not count yet: %s", image_id, error)

    def _uncount(self, image_id: str) -> None:
        with self._counting:
            self._uncounted.pop(image_id, None)
            try:
                self._campaign.remove_label(image_id)
            except StoreError as error:
                self._version += 1
                logger.warning("The label of image '%s' is removed, but still counts: %s", image_id, error)

    def _label_file(self, image_id: str, label: DataModel) -> LabelFile:
        info = label.info
        name = info.get("annotator") or annotator(info.get("client_id"))
        noted = info.get("ts")
        noted_at = noted if isinstance(noted, int | float) else None
        path = self._labels / FINAL / (image_id + label.ext)
        return LabelFile(path, name, info.get("label_info"), noted_at=noted_at)

    # Images

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add an image, or put it in the place of the one that has this very name."""
        suffix = image_file_suffix(image_filename)
        image_id = checked_new_id(image_id or split_name(Path(image_filename).name)[0], suffix)
        info = checked_info(image_info or {}, "params")
        self.require_folder()
        with _sentence_for(f"Image '{image_id}'"), staged(Path(image_filename), self._images) as file:
            with self._file.exclusive():
                folder = self._image_folder or WatchedFolder(self._images)
                if others := set(folder.of_id(image_id)) - {image_id + suffix}:
                    raise AppError(
                        f"Image '{image_id}' is there as {min(others)}, and {image_id}{suffix} would get the same id. "
                        "Choose another name, or remove that one first.",
                        status_code=409,
                    )
                put(file, self._images / (image_id + suffix))
                folder.note(image_id, image_id + suffix)
                self._version += 1
                with self._file.editing() as objects:
                    before = objects.get(image_id)
                    labels = before.labels if before is not None else {}
                    objects[image_id] = ImageLabelModel(image=new_data(image_id, suffix, info), labels=labels)
                    self._file.replaced(image_id)
        self.flush()
        return image_id

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels; of a link only the link is removed, never what it points to."""
        entry = self._require_image(image_id)
        with _sentence_for(f"Image '{image_id}'"), self._file.exclusive():
            for tag in entry.labels:
                for name in self._label_folder(tag).of_id(image_id):
                    (self._labels / tag / name).unlink(missing_ok=True)
            (self._images / (image_id + entry.image.ext)).unlink(missing_ok=True)
            sync_folder(self._images)
            self._version += 1
            with self._file.editing() as objects:
                objects.pop(image_id, None)
        self.flush()
        if FINAL in entry.labels:
            self._uncount(image_id)

    # Info

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Info of an image, without the keys that an answer of next sample keeps for itself."""
        entry = self._datastore.objects.get(image_id)
        if entry is None:
            return {}
        info = {key: value for key, value in entry.image.info.items() if key not in ("coldstart", "id")}
        if not isinstance(info.get("strategy", {}), dict):  # MONAI Label adds to it at every click
            del info["strategy"]
        return {**copy.deepcopy(info), "path": self.image_path(image_id)}

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """Info of a label; a copy, unlike stock's."""
        info: dict[str, Any] = copy.deepcopy(super().get_label_info(label_id, label_tag))
        return info

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Note something of an image; MONAI Label does at every click. It is written later."""
        self._require_image(image_id)
        self._file.update_info(image_id, None, partial(checked_update, update=checked_info(info, "info"), what="info"))

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Note something of a label. It is written later."""
        self._require_image(label_id)
        update = partial(checked_update, update=checked_info(info, "info"), what="info")
        if not self._file.update_info(label_id, label_tag, update):
            raise AppError(f"Image {shown(label_id)} has no label with the tag {shown(label_tag)}.", status_code=404)

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Zip all images that have a final label."""
        if not self.datalist():
            raise AppError("There is no image with a final label yet, so there is nothing to download.", 404)
        path: str = super().get_dataset_archive(limit_cases)
        return path

    def _require_image(self, image_id: str) -> ImageLabelModel:
        entry = self._datastore.objects.get(image_id)
        if entry is None:
            raise AppError(f"The server has no image {shown(image_id)}. Choose one that it lists.", status_code=404)
        return entry


class FolderDatastore(CampaignDatastore):
    """A folder of images."""

    def __init__(self, studies: str, campaign: Campaign):
        self._campaign = campaign
        super().__init__(studies)

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Info of an image; `path` and `name` are those by which 3D Slicer loads it and no other with it."""
        info = super().get_image_info(image_id)
        if info and self._campaign.settings.spatial_dims == 2:
            info |= alone(Path(info["path"]), image_id, self._campaign.folder)
        return info

    def get_image_uri(self, image_id: str) -> str:
        """Path of an image; a link may lead anywhere, so what it leads to is handed out only if it is an image."""
        path = super().get_image_uri(image_id)
        if path and os.path.islink(path):
            with answered(404):
                if not self._campaign.is_known_image(image_id):
                    read_image(path)
        return path

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label of an image that is there; see `CampaignDatastore.save_label`."""
        self.require_folder()
        if (path := self.image_path(image_id)) and not os.path.exists(path):
            raise AppError(
                f"The label of image '{image_id}' cannot be saved: {path} is not there. If it is on a share, mount "
                "that again, then save the label once more.",
                status_code=503,
            )
        return super().save_label(image_id, label_filename, label_tag, label_info)

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels; no click gets it any more."""
        super().remove_image(image_id)
        try:
            self.sync()
        except StoreError as error:
            logger.warning("Image '%s' is removed, but the database does not know it yet: %s", image_id, error)


def _served_at(objects: Objects) -> dict[str, float]:
    """When each image was served last, in seconds since 1970, by what MONAI Label notes of every click."""
    served: dict[str, float] = {}
    for image_id, entry in objects.items():
        clicks = entry.image.info.get("strategy")
        times = (
            [click.get("ts") for click in clicks.values() if isinstance(click, dict)]
            if isinstance(clicks, dict)
            else []
        )
        known = [float(time_s) for time_s in times if isinstance(time_s, int | float)]
        if known:
            served[image_id] = max(known)
    return served


@contextmanager
def _sentence_for(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(what, error) from error
