"""MONAI Label's datastore of a DICOMweb archive, as the campaign sees it.

What is in the archive is known from an index, so that neither clicks nor info wait for the archive; pixels are fetched
where they are needed, and kept.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monailabel.config import settings as monailabel_settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.utils.others.generic import md5_digest

from coldstart.adapters.archive_cache import SUFFIX
from coldstart.adapters.archive_room import SeriesRoom, mark_as_reading, series_bound
from coldstart.adapters.archive_segmentations import SegmentationDatastore
from coldstart.adapters.datastore import FINAL
from coldstart.adapters.datastore_file import Objects
from coldstart.adapters.durable import remove_left_overs
from coldstart.adapters.errors import AppError
from coldstart.adapters.tasks import SERVER_PID
from coldstart.campaign import Campaign, ImageFile, LabelFile
from coldstart.exceptions import ArchiveError, ColdStartError, ImageError

logger = logging.getLogger(__name__)

_NOT_READ = "its segmentation has not been read from the archive yet; that is done by itself."
_NO_IMAGE = "its image has not been fetched from the archive yet; that is done by itself."


def cache_folder(url: str) -> Path:
    """Where MONAI Label keeps the cache of an archive."""
    configured = (monailabel_settings.MONAI_LABEL_DICOMWEB_CACHE_PATH or "").strip()
    root = Path(configured).expanduser() if configured else Path.home() / ".cache" / "monailabel" / "dicom"
    return root / str(md5_digest(url))


class ArchiveDatastore(SegmentationDatastore):
    """The series of some modalities in an archive, and the segmentations of them."""

    def __init__(self, url: str, campaign: Campaign):
        folder = cache_folder(url)
        folder.mkdir(parents=True, exist_ok=True)
        self._index_seen = -1
        campaign.fetch = self._fetch_all
        logger.info(
            "Serving the %s series of %s; what is fetched is kept in %s.",
            ", ".join(campaign.settings.modalities),
            *(url, folder),
        )
        super().__init__(url, campaign, folder)
        remove_left_overs(folder)
        self._cache.tidy()
        self.room = SeriesRoom(folder, SUFFIX, series_bound(campaign.settings.cache_gb))

    def name(self) -> str:
        """Address of the archive."""
        return self._client.url

    def status(self) -> dict[str, Any]:
        """Numbers of images and labels, and of the labels that wait to be stored in the archive."""
        return {**super().status(), "not_in_archive": self.n_unsent}

    # Images

    def get_image_uri(self, image_id: str) -> str:
        """Path of an image, which is fetched where it is not here; empty where there is no such series.

        Raises
        ------
        AppError
            503 if the archive is away, 400 if the series is no image.
        """
        if image_id not in self._index.series:
            return ""
        return str(self._fetched(image_id))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Info of an image: what was noted of it, and what the archive says of the series."""
        info = super().get_image_info(image_id)
        series = self._index.series.get(image_id)
        return {**info, **series.info} if series is not None else info

    def study_of(self, image_id: str) -> str | None:
        """UID of the study that a series belongs to."""
        series = self._index.series.get(image_id)
        return series.study if series is not None else None

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Refused: the archive takes DICOM only, and not from here."""
        raise AppError("Images come from the archive. Send the DICOM files there; they are noticed within a minute.")

    def remove_image(self, image_id: str) -> None:
        """Refused: what the archive has is the archive's."""
        raise AppError("Images come from the archive. Remove the series there; that is noticed within a minute.")

    # What the watch does

    def sync(self) -> None:
        """Bring the archive, this machine and the campaign together.

        Raises
        ------
        ArchiveError
            If the archive is away; the campaign has what is known of it.
        ImageError
            If all series went away at once.
        """
        away: ColdStartError | None = None
        try:
            self._index.refresh()
        except (ArchiveError, ImageError) as error:
            away = error
        super().sync()
        try:
            if away is None:
                self.send_labels()
                if self.read_labels():
                    super().sync()
        except ArchiveError as error:
            away = error
        # A label without its image could not be checked, so it would be fetched again at once.
        self.room.keep_within({image_id for image_id, entry in self._datastore.objects.items() if entry.labels})
        if away is not None:
            raise away

    def _look_at_images(self) -> bool:
        changed = self._index.version != self._index_seen
        self._index_seen = self._index.version
        return changed

    def _image_names(self) -> tuple[Mapping[str, str], frozenset[str]]:
        return {uid: uid + SUFFIX for uid in self._index.series}, frozenset()

    def _require_images(self) -> None:
        """The index has looked after that."""

    def _has_file(self, image_id: str, suffix: str, tag: str | None) -> bool:
        return image_id in self._index.series if tag is None else super()._has_file(image_id, suffix, tag)

    def _image_files(self, objects: Objects) -> Mapping[str, Path | ImageFile]:
        series = self._index.series
        return {
            uid: ImageFile(self._cache.path(uid), f"{series[uid].n_instances} instances")
            for uid in objects.keys() & series.keys()
        }

    def _label_files(self, objects: Objects) -> dict[str, LabelFile]:
        """Labels here, and those in the archive that were not read yet: an image counts as labelled all the same."""
        labels = super()._label_files(objects)
        for image_id in self._without_image(labels):
            labels[image_id] = replace(labels[image_id], problem=self._no_image.get(image_id, _NO_IMAGE))
        waiting = {
            image_id: LabelFile(self._labels / FINAL / uid, problem=_NOT_READ, signature=uid)
            for image_id, uid in self._index.newest_labels().items()
            if image_id not in labels and image_id in objects
        }
        return labels | waiting

    def _fetch_all(self, image_ids: Sequence[str], progress: Callable[[int, int], None]) -> Mapping[str, str]:
        series = self._index.series
        if os.environ.get(SERVER_PID) != str(os.getpid()):
            mark_as_reading(self._images)
        return self._cache.fetch_all({uid: series[uid] for uid in image_ids if uid in series}, progress)


DICOMWebDatastore.register(ArchiveDatastore)  # what MONAI Label asks of an archive's, and nothing of its stale caches
