"""MONAI Label's datastore of a DICOMweb archive, as the campaign sees it.

What is in the archive is known from an index, so that neither clicks nor info wait for the archive; pixels are fetched
where they are needed, and kept. A label is on this machine's disk and counts before it is sent to the archive as DICOM
SEG; while the archive is away it waits. Of several segmentations of a series the newest counts.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel.config import settings as monailabel_settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import DataModel
from monailabel.utils.others.generic import md5_digest

from coldstart.adapters.archive_cache import SUFFIX, SeriesCache
from coldstart.adapters.archive_client import ArchiveClient
from coldstart.adapters.archive_index import ArchiveIndex
from coldstart.adapters.archive_labels import (
    OHIF_SUFFIX,
    label_of_segmentation,
    label_of_voxels,
    segmentation_of_label,
)
from coldstart.adapters.datastore import FINAL, CampaignDatastore
from coldstart.adapters.datastore_file import Objects
from coldstart.adapters.durable import cannot_write, remove_left_overs
from coldstart.adapters.errors import AppError, answered
from coldstart.campaign import Campaign, ImageFile, LabelFile
from coldstart.exceptions import ArchiveError, ArchiveRefusedError, ColdStartError, ImageError, LabelError

logger = logging.getLogger(__name__)

SEND_AGAIN_AFTER_S = 20.0
"""How long a label waits to be sent again."""
READ_FOR_S = 5.0
"""How long one step of the watch reads labels, before it hands over what it has."""

_NOTE = "coldstart"
"""What we note in the info of a label, a key that no request can write: `segmentation` is the UID in the archive."""
_NOT_READ = "Its segmentation has not been read from the archive yet; that is done by itself."


def cache_folder(url: str) -> Path:
    """Where MONAI Label keeps the cache of an archive."""
    configured = (monailabel_settings.MONAI_LABEL_DICOMWEB_CACHE_PATH or "").strip()
    root = Path(configured).expanduser() if configured else Path.home() / ".cache" / "monailabel" / "dicom"
    return root / str(md5_digest(url))


class ArchiveDatastore(CampaignDatastore):
    """The series of some modalities in an archive, and the segmentations of them."""

    def __init__(self, url: str, campaign: Campaign):
        self._campaign = campaign
        folder = cache_folder(url)
        folder.mkdir(parents=True, exist_ok=True)
        self._client = ArchiveClient(url)
        self._index = ArchiveIndex(self._client, campaign.settings.modalities, folder)
        self._cache = SeriesCache(self._client, folder)
        self._index_seen = -1
        self._sending = threading.Lock()
        self._unsent: dict[str, str] = {}
        self._unsendable: dict[str, int] = {}
        self._send_at = 0.0
        campaign.fetch = self._fetch_all
        logger.info(
            "Serving the %s series of %s; what is fetched is kept in %s.",
            ", ".join(campaign.settings.modalities),
            *(url, folder),
        )
        super().__init__(str(folder))
        remove_left_overs(folder)

    def name(self) -> str:
        """Address of the archive."""
        return self._client.url

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

    def instances(self, image_id: str) -> Path:
        """Folder of the instances of a series."""
        return self._cache.instances(image_id)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Refused: the archive takes DICOM only, and not from here."""
        raise AppError("Images come from the archive. Send the DICOM files there; they are noticed within a minute.")

    def remove_image(self, image_id: str) -> None:
        """Refused: what the archive has is the archive's."""
        raise AppError("Images come from the archive. Remove the series there; that is noticed within a minute.")

    # Labels

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label; one with the tag `final` counts, and is sent to the archive, before this returns.

        Where the archive does not take it, it waits here and `label_warning` says so.
        """
        self._require_image(image_id)
        image = self._fetched(image_id)
        with tempfile.TemporaryDirectory() as folder:
            label, info = Path(label_filename), dict(label_info or {})
            if label.suffix == OHIF_SUFFIX:
                with answered():
                    label_of_voxels(label, image, whole := Path(folder) / f"label{SUFFIX}")
                label = whole
            elif label.suffix.lower() == ".dcm":
                whole = Path(folder) / f"label{SUFFIX}"
                with answered():
                    named = label_of_segmentation(label, self.instances(image_id), image, whole)
                label, info = whole, {"label_info": named, **info}
            super().save_label(image_id, str(label), label_tag, info)
        if label_tag == FINAL:
            self._send(image_id)
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label here; a segmentation of it stays in the archive, but counts on this server no more."""
        super().remove_label(label_id, label_tag)
        if label_tag == FINAL:
            self._unsent.pop(label_id, None)
            if label_id in self._index.newest_labels():
                self._index.dismiss_labels(label_id)
                logger.warning("The label of %s is removed here; its segmentation stays in the archive.", label_id)

    def label_warning(self, image_id: str) -> str | None:
        """Why the label of an image does not count, or is not in the archive; None where all is well."""
        return super().label_warning(image_id) or self._unsent.get(image_id)

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
                self._send_waiting()
                if self._read_labels():
                    super().sync()
        except ArchiveError as error:
            away = error
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
        """Labels here, and for those in the archive that were not read yet that they are there."""
        labels = super()._label_files(objects)
        waiting = {
            image_id: LabelFile(self._labels / FINAL / uid, problem=_NOT_READ, signature=uid)
            for image_id, uid in self._index.newest_labels().items()
            if image_id not in labels and image_id in objects
        }
        return labels | waiting

    def _label_file(self, image_id: str, label: DataModel) -> LabelFile:
        file = super()._label_file(image_id, label)
        problem = label.info.get(_NOTE, {}).get("problem")
        return LabelFile(file.path, file.annotator, file.label_info, problem)

    # Fetching

    def _fetched(self, image_id: str) -> Path:
        try:
            with answered(503):
                return self._cache.fetch(image_id, self._index.series[image_id])
        except OSError as error:
            raise cannot_write(f"Image '{image_id}'", error) from error

    def _fetch_all(self, image_ids: Sequence[str], progress: Callable[[int, int], None]) -> Mapping[str, str]:
        series = self._index.series
        return self._cache.fetch_all({uid: series[uid] for uid in image_ids if uid in series}, progress)

    # Segmentations

    def _send_waiting(self) -> None:
        if time.monotonic() < self._send_at:
            return
        self._send_at = time.monotonic() + SEND_AGAIN_AFTER_S
        for image_id, entry in self._datastore.objects.items():
            if (label := entry.labels.get(FINAL)) is not None and self._is_to_be_sent(image_id, label):
                self._send(image_id)

    def _is_to_be_sent(self, image_id: str, label: DataModel) -> bool:
        note = label.info.get(_NOTE, {})
        done = "segmentation" in note or self._unsendable.get(image_id) == label.info["ts"]
        return not done and image_id in self._index.series

    def _send(self, image_id: str) -> None:
        """Store a label in the archive, or note why it is not there yet."""
        with self._sending, tempfile.TemporaryDirectory() as folder:
            label = self._datastore.label(image_id, FINAL)
            if label is None or not self._is_to_be_sent(image_id, label):
                return
            series, saved_at = self._index.series[image_id], label.info["ts"]
            segmentation = Path(folder) / "label.dcm"
            try:
                image = self._cache.fetch(image_id, series)
                uid = segmentation_of_label(
                    self._labels / FINAL / (image_id + label.ext),
                    self.instances(image_id),
                    image,
                    segmentation,
                    label_info=label.info.get("label_info"),
                    preset_labels=self._campaign.settings.labels,
                    identity=(image_id, str(saved_at)),
                )
                self._client.store(segmentation)
            except (ImageError, LabelError) as error:
                self._unsendable[image_id] = saved_at
                self._unsent[image_id] = f"The label is kept here, and is not in the archive: {error}"
            except ArchiveError as error:
                self._unsent[image_id] = f"The label is saved and counts, but is not in the archive yet: {error}"
            except OSError as error:
                self._unsent[image_id] = f"The label is saved, but is not in the archive yet: {error.strerror or error}"
            else:
                self._unsent.pop(image_id, None)
                self._index.note_label(uid, series.study, image_id)
                self._note(image_id, saved_at, uid)
                return
        logger.warning("%s", self._unsent[image_id])

    def _note(self, image_id: str, saved_at: int, uid: str) -> None:
        def note(info: dict[str, Any]) -> dict[str, Any]:
            return {_NOTE: {"segmentation": uid}} if info.get("ts") == saved_at else {}

        self._file.update_info(image_id, FINAL, note)
        self.flush()

    def _read_labels(self) -> bool:
        """Take over segmentations that appeared or went away; return whether there was any."""
        changed = False
        until = time.monotonic() + READ_FOR_S
        newest = self._index.newest_labels()
        for image_id, entry in self._datastore.objects.items():
            label, uid = entry.labels.get(FINAL), newest.get(image_id)
            known = None if label is None else label.info.get(_NOTE, {}).get("segmentation")
            waits = label is not None and known is None and self._unsendable.get(image_id) != label.info["ts"]
            if waits or known == uid or (uid is None and known is None):
                continue
            if uid is None:
                logger.info("The segmentation of %s is not in the archive any more.", image_id)
                super().remove_label(image_id, FINAL)
            elif not self._read_label(image_id, uid):
                continue
            changed = True
            if time.monotonic() > until:
                break
        return changed

    def _read_label(self, image_id: str, uid: str) -> bool:
        """Take over one segmentation; one that cannot be read is kept as it came, with the reason."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                downloaded = self._cache.download_label(self._index.labels[uid].study, uid, Path(folder))
                image = self._cache.fetch(image_id, self._index.series[image_id])
            except (ArchiveRefusedError, ImageError) as error:
                logger.warning("The segmentation of %s is not read yet: %s", image_id, error)
                return False
            label, note, names = Path(folder) / f"label{SUFFIX}", {"segmentation": uid}, []
            try:
                names = label_of_segmentation(downloaded, self.instances(image_id), image, label)
            except LabelError as error:
                logger.warning("The segmentation of %s cannot be used: %s", image_id, error)
                label, note = downloaded, {**note, "problem": str(error)}
            self._unsent.pop(image_id, None)
            self._keep_label(image_id, label, FINAL, {"label_info": names or None, _NOTE: note})
        return True


DICOMWebDatastore.register(ArchiveDatastore)  # what MONAI Label asks of an archive's, and nothing of its stale caches
