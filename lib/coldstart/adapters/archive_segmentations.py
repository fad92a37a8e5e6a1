"""Labels of archived series: here as files, which are trained on, and in the archive as DICOM SEG.

A label is on this machine's disk and counts before it is sent; while the archive is away it waits. Of several
segmentations of a series the newest counts.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel

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
from coldstart.adapters.durable import cannot_write, put, staged
from coldstart.adapters.errors import answered
from coldstart.adapters.inference import result_values
from coldstart.campaign import Campaign, LabelFile
from coldstart.exceptions import ArchiveError, ArchiveRefusedError, ImageError, LabelError

logger = logging.getLogger(__name__)

SEND_AGAIN_AFTER_S = 20.0
"""How long a label waits to be sent again."""
SEND_WITHIN_S = 3.0
"""How long whoever saves a label waits for the archive, and everybody else's requests with them."""
READ_FOR_S = 5.0
"""How long one step of the watch reads labels, before it hands over what it has."""

_BEING_SENT = "The label is saved and counts, but is not in the archive yet: it is being sent."
_NOTE = "coldstart"
"""What we note in the info of a label, a key that no request can write: `segmentation` is the UID in the archive."""


class SegmentationDatastore(CampaignDatastore):
    """A cache of archived series, whose labels are exchanged with the archive."""

    def __init__(self, url: str, campaign: Campaign, folder: Path):
        self._campaign = campaign
        self._client = ArchiveClient(url)
        self._index = ArchiveIndex(self._client, campaign.settings.modalities, folder)
        self._cache = SeriesCache(self._client, folder)
        self._sending = threading.Lock()
        self._unsent: dict[str, str] = {}
        self._unsendable: dict[str, DataModel] = {}
        self._no_image: dict[str, str] = {}
        self._send_at = 0.0
        super().__init__(str(folder))

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label; one with the tag `final` counts before this returns, and is sent to the archive.

        Where the archive does not take it, or not at once, it waits here and `label_warning` says so.
        """
        self._save_here(image_id, label_filename, label_tag, label_info)
        self._begin_to_send(image_id, label_tag)
        return image_id

    def save_prediction(self, image_id: str, file: str, label_tag: str, info: dict[str, Any]) -> str:
        """Save what a model segmented as `CampaignDatastore` does, and send it once others can save again."""
        with self.alone():
            self.require_no_final(image_id, label_tag)
            self._save_here(image_id, file, label_tag, info)
        self._begin_to_send(image_id, label_tag)
        return image_id

    def _save_here(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> None:
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

    def _begin_to_send(self, image_id: str, label_tag: str) -> None:
        if label_tag == FINAL:
            self._unsent[image_id] = _BEING_SENT
            waits = self._sending.locked()  # somebody else for an archive that keeps silent
            sender = threading.Thread(target=self._send, args=(image_id,), name="send-label", daemon=True)
            sender.start()
            sender.join(0 if waits else SEND_WITHIN_S)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label here; a segmentation of it stays in the archive, but counts on this server no more."""
        final = label_tag == FINAL and self._datastore.label(label_id, FINAL) is not None
        if final and label_id in self._index.newest_labels():
            self._index.dismiss_labels(label_id)
            logger.warning("The label of %s is removed here; its segmentation stays in the archive.", label_id)
        super().remove_label(label_id, label_tag)
        if final:
            self._unsent.pop(label_id, None)

    def label_warning(self, image_id: str) -> str | None:
        """Why the label of an image does not count, or is not in the archive; None where all is well."""
        return super().label_warning(image_id) or self._unsent.get(image_id)

    @property
    def n_unsent(self) -> int:
        """How many labels are not in the archive, of those that it was asked to store."""
        return len(self._unsent)

    def segmentation_of_result(self, instances: str, result: str, label_info: object, **_how: object) -> str:
        """Write the result of an inference as DICOM SEG, in the place of MONAI Label's function of these arguments.

        Returns
        -------
        str
            Path of the file; the next one of the same image takes its place.
        """
        image_id = Path(instances).name
        folder = self._images / "results"
        with answered(), tempfile.TemporaryDirectory() as temporary:
            written = Path(temporary) / f"{image_id}.dcm"
            segmentation_of_label(
                Path(result),
                self.instances(image_id),
                self._fetched(image_id),
                written,
                label_info=label_info,
                preset_labels=result_values(self._campaign.settings.labels),
            )
            folder.mkdir(exist_ok=True)
            with staged(written, folder) as file:
                put(file, folder / written.name)
        return str(folder / written.name)

    def instances(self, image_id: str) -> Path:
        """Folder of the instances of a series."""
        return self._cache.instances(image_id)

    def _fetched(self, image_id: str) -> Path:
        try:
            with answered():
                return self._cache.fetch(image_id, self._index.series[image_id])
        except OSError as error:
            raise cannot_write(f"Image '{image_id}'", error) from error

    def _label_file(self, image_id: str, label: DataModel) -> LabelFile:
        file = super()._label_file(image_id, label)
        problem = label.info.get(_NOTE, {}).get("problem")
        return replace(file, problem=problem)

    def send_labels(self) -> None:
        """Send what waits to be stored in the archive."""
        if time.monotonic() < self._send_at:
            return
        self._send_at = time.monotonic() + SEND_AGAIN_AFTER_S
        for image_id, entry in self._datastore.objects.items():
            if (label := entry.labels.get(FINAL)) is not None and self._is_to_be_sent(image_id, label):
                self._send(image_id)

    def _is_to_be_sent(self, image_id: str, label: DataModel) -> bool:
        note = label.info.get(_NOTE, {})
        done = "segmentation" in note or self._unsendable.get(image_id) is label
        return not done and image_id in self._index.series

    def _send(self, image_id: str) -> None:
        """Store a label in the archive, or note why it is not there yet."""
        with self._sending, tempfile.TemporaryDirectory() as folder:
            label = self._datastore.label(image_id, FINAL)
            if label is None or not self._is_to_be_sent(image_id, label):
                if self._unsent.get(image_id) == _BEING_SENT:
                    del self._unsent[image_id]
                return
            series = self._index.series[image_id]
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
                    identity=(image_id, str(label.info["ts"])),
                )
                self._client.store(segmentation)
            except (ImageError, LabelError) as error:
                self._unsendable[image_id] = label
                self._unsent[image_id] = f"The label is kept here, and is not in the archive: {error}"
            except ArchiveError as error:
                self._unsent[image_id] = f"The label is saved and counts, but is not in the archive yet: {error}"
            except OSError as error:
                self._unsent[image_id] = f"The label is saved, but is not in the archive yet: {error.strerror or error}"
            else:
                self._unsent.pop(image_id, None)
                self._index.note_label(uid, series.study, image_id)
                self._note(image_id, label, uid)
                return
        logger.warning("%s", self._unsent[image_id])

    def _note(self, image_id: str, label: DataModel, uid: str) -> None:
        def note(_info: dict[str, Any]) -> dict[str, Any]:  # not of one that was saved since
            return {_NOTE: {"segmentation": uid}} if self._datastore.label(image_id, FINAL) is label else {}

        self._file.update_info(image_id, FINAL, note)
        self.flush()

    def read_labels(self) -> bool:
        """Take over segmentations that appeared or went away; return whether the campaign has to hear of anything.

        Raises
        ------
        ArchiveError
            If the archive is away.
        """
        until = time.monotonic() + READ_FOR_S
        changed = self._fetch_images(until)
        newest = self._index.newest_labels()
        for image_id, entry in self._datastore.objects.items():
            label, uid = entry.labels.get(FINAL), newest.get(image_id)
            known = None if label is None else label.info.get(_NOTE, {}).get("segmentation")
            waits = label is not None and known is None and self._unsendable.get(image_id) is not label
            if waits or known == uid or (uid is None and known is None):
                continue
            if uid is None:
                with self.alone():
                    if self._datastore.label(image_id, FINAL) is not label:
                        continue  # somebody has saved another one since
                    super().remove_label(image_id, FINAL)
                logger.info("The segmentation of %s is not in the archive any more.", image_id)
            elif not self._read_label(image_id, uid, label):
                continue
            changed = True
            if time.monotonic() > until:
                break
        return changed

    def _without_image(self, image_ids: Iterable[str]) -> list[str]:
        """Ids of images that are not here as they are in the archive."""
        series = self._index.series
        return [uid for uid in image_ids if uid in series and not self._cache.has(uid, series[uid])]

    def _fetch_images(self, until: float) -> bool:
        """Fetch images of labels, which cannot be checked without; return whether one came."""
        labelled = [image_id for image_id, entry in self._datastore.objects.items() if FINAL in entry.labels]
        changed = False
        for image_id in self._without_image(labelled):
            if time.monotonic() < until and image_id not in self._no_image:
                try:
                    self._cache.fetch(image_id, self._index.series[image_id])
                except ImageError as error:
                    self._no_image[image_id] = str(error)
                self._version += 1
                changed = True
        return changed

    def _read_label(self, image_id: str, uid: str, before: DataModel | None) -> bool:
        """Take over one segmentation in the place of a label; one that cannot be read is kept, with the reason."""
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
            with self.alone():
                if self._datastore.label(image_id, FINAL) is not before:
                    return False  # somebody has saved another one since, which is newer
                self._unsent.pop(image_id, None)
                self._keep_label(image_id, label, FINAL, {"label_info": names or None, _NOTE: note})
        return True
