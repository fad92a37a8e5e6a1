"""MONAI Label's datastore of a folder, as the campaign sees it."""

from __future__ import annotations

import fnmatch
import glob
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag

from coldstart.adapters.errors import AppError
from coldstart.adapters.users import annotator
from coldstart.campaign import Campaign, LabelFile
from coldstart.images import IMAGE_PATTERNS

logger = logging.getLogger(__name__)

_TAG = re.compile(r"[\w-]+")

RESERVED_KEYS = ("coldstart", "id")
"""Keys of an answer that the info of an image must not overwrite."""


class FolderDatastore(LocalDatastore):  # type: ignore[misc]
    """A folder of images; labels saved and removed through it reach the campaign at once."""

    def __init__(self, studies: str, campaign: Campaign):
        self._campaign = campaign
        self._twins_said: set[str] = set()
        self._folder_times: list[int] = []
        # Only `sync` reads the folder and writes datastore_v2.json, and only the server calls it: a child process that
        # did could undo a label saved meanwhile.
        super().__init__(studies, extensions=IMAGE_PATTERNS, auto_reload=False, read_only=True)

    def sync(self) -> None:
        """Read the folder again where it changed, and hand the campaign what it holds."""
        labels_path = Path(self._datastore.label_path(None))
        folders = [Path(self._datastore.image_path()), labels_path, *labels_path.iterdir()]
        times = [folder.stat().st_mtime_ns for folder in folders]
        if times != self._folder_times:
            self.refresh()
            self._folder_times = times
        images = {image_id: Path(self.get_image_uri(image_id)) for image_id in self.list_images()}
        final = DefaultLabelTag.FINAL
        labels = {image_id: self._label_file(image_id, final) for image_id in self.get_labeled_images()}
        self._campaign.sync(images, labels)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label; one with the tag `final` counts for the campaign before this returns."""
        self._require_image(image_id)
        if not _TAG.fullmatch(label_tag):
            raise AppError(f"A label's tag must be of letters, digits, '_' and '-'; got '{label_tag}'.")
        if not isinstance(label_info, dict):
            raise AppError(f"`params` of a label must be a JSON object; got {label_info!r}.")
        label_id: str = super().save_label(image_id, label_filename, label_tag, label_info)
        for twin in self._label_files(image_id, label_tag) - {Path(self.get_label_uri(image_id, label_tag))}:
            twin.unlink()
        if label_tag == DefaultLabelTag.FINAL:
            self._campaign.save_label(image_id, self._label_file(image_id, label_tag))
        return label_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label; without its final label an image is a candidate again."""
        for file in self._label_files(label_id, label_tag):
            file.unlink()
        super().remove_label(label_id, label_tag)
        if label_tag == DefaultLabelTag.FINAL:
            self._campaign.remove_label(label_id)

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels."""
        self._require_image(image_id)
        super().remove_image(image_id)

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Info of an image, without the keys that an answer of next sample keeps for itself."""
        info: dict[str, Any] = super().get_image_info(image_id)
        return {key: value for key, value in info.items() if key not in RESERVED_KEYS}

    def _require_image(self, image_id: str) -> None:
        if image_id not in self._datastore.objects:
            raise AppError(f"The server has no image '{image_id}'. Choose one that it lists.", status_code=404)

    def _label_files(self, image_id: str, tag: str) -> set[Path]:
        """Label files of an image with a tag: more than one where it was saved in several formats."""
        folder = Path(os.path.realpath(self._datastore.label_path(tag)))
        if image_id not in self._datastore.objects or not _TAG.fullmatch(tag) or not folder.is_dir():
            return set()
        return {file for file in folder.glob(f"{glob.escape(image_id)}.*") if self._to_id(file.name)[0] == image_id}

    def _label_file(self, image_id: str, tag: str) -> LabelFile:
        info = self.get_label_info(image_id, tag)
        return LabelFile(
            Path(self.get_label_uri(image_id, tag)), annotator(info.get("client_id")), info.get("label_info")
        )

    def _list_files(self, path: str, patterns: Iterable[str]) -> dict[str, str]:
        """Files of a folder in the order of their names, hidden ones left out, the first of each id."""
        names = {name for pattern in patterns for name in fnmatch.filter(os.listdir(path), pattern)}
        first: dict[str, str] = {}
        for name in sorted(names):
            if name.startswith("."):
                continue
            image_id = self._to_id(name)[0]
            if image_id not in first:
                first[image_id] = name
            elif name not in self._twins_said:
                self._twins_said.add(name)
                logger.warning(
                    "%s and %s would both get the id '%s': the first is used. Rename one of them.",
                    first[image_id],
                    name,
                    image_id,
                )
        return {name: name for name in first.values()}

    def _to_id(self, file: str) -> tuple[str, str]:
        """Id and suffix of a file name: the longest pattern that fits gives the suffix."""
        suffixes = [pattern.lstrip("*") for pattern in IMAGE_PATTERNS if file.endswith(pattern.lstrip("*"))]
        if not suffixes:
            return super()._to_id(file)  # type: ignore[no-any-return]
        suffix = max(suffixes, key=len)
        return file.removesuffix(suffix), suffix
