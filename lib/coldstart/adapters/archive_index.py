"""What is in the archive, kept in memory and beside the cache, so that clicks, info and child processes need not ask.

Segmentations count in the order in which they were seen, since the clocks of those who make them differ; those that
were there at the first look, in the order in which they say that they were made.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from coldstart.adapters.archive_client import ArchiveClient, FoundSeries
from coldstart.adapters.durable import put, staged
from coldstart.exceptions import ArchiveRefusedError, ImageError

logger = logging.getLogger(__name__)

FILE_NAME = "archive_index.json"
ASK_EVERY_S = 10.0
"""How often the archive is asked what it holds."""
APPEARS_WITHIN_S = 60.0
"""How long a segmentation that was just stored may take to be found."""


class ArchivedSeries(BaseModel):
    """A series that is served; `info` is what the viewers show of it."""

    model_config = ConfigDict(frozen=True)

    study: str
    n_instances: int
    info: dict[str, str]


class ArchivedLabel(BaseModel):
    """A segmentation; `image` is the series that it was drawn on.

    `dismissed` was removed on this server only, since DICOMweb archives need not delete.
    """

    model_config = ConfigDict(frozen=True)

    study: str
    image: str
    n_instances: int
    noted_at: float = 0.0
    dismissed: bool = False


class _Contents(BaseModel):
    series: dict[str, ArchivedSeries] = {}
    labels: dict[str, ArchivedLabel] = {}


class ArchiveIndex:
    """Series to serve, and segmentations of them.

    `series` and `labels` map UIDs to what is known, labels in the order in which they were seen. They are replaced, and
    never changed, so they are read without a lock.

    Parameters
    ----------
    client : ArchiveClient
        The archive.
    modalities : sequence of str
        Modalities of the series that are served.
    folder : Path
        Where the index is kept.
    """

    def __init__(self, client: ArchiveClient, modalities: Sequence[str], folder: Path):
        self._client = client
        self._modalities = modalities
        self._path = folder / FILE_NAME
        self._changing = threading.Lock()
        self._asked_at = float("-inf")
        self._counts: dict[str, int] | None = None
        self._said: set[str] = set()
        self.version = 0
        try:
            contents = _Contents.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            contents = _Contents()
        except (OSError, ValidationError) as error:
            logger.warning("%s cannot be read, the archive is asked anew: %s", self._path, str(error).splitlines()[0])
            contents = _Contents()
        self.series: Mapping[str, ArchivedSeries] = {
            uid: series for uid, series in contents.series.items() if series.info.get("Modality") in modalities
        }
        self.labels: Mapping[str, ArchivedLabel] = contents.labels

    def newest_labels(self) -> dict[str, str]:
        """UID of the segmentation that counts, of each series that has one."""
        return {
            label.image: uid for uid, label in self.labels.items() if label.image in self.series and not label.dismissed
        }

    def refresh(self) -> None:
        """Ask the archive what it holds, unless it was asked a moment ago.

        Raises
        ------
        ArchiveError
            If it does not answer; what is known stays.
        ImageError
            If all series went away at once; what is known stays.
        """
        if time.monotonic() - self._asked_at < ASK_EVERY_S:
            return
        self._asked_at = time.monotonic()
        began_at = time.time()
        series = self._arrived([found for modality in self._modalities for found in self._client.search(modality)])
        if self.series and not series:
            raise ImageError(
                f"The archive {self._client.url} has no series of {', '.join(self._modalities)} any more; "
                f"{len(self.series)} were in it. If they were removed on purpose, remove {self._path} and restart the "
                "server. Until then all that is known of them is kept."
            )
        found_labels = {found.uid: found for found in self._client.search("SEG")}
        new = self._read_new(found_labels)
        with self._changing:
            kept = {
                uid: label
                for uid, label in self.labels.items()
                if uid not in new and (uid in found_labels or began_at - label.noted_at < APPEARS_WITHIN_S)
            }
            self._keep(series, {**kept, **new})

    def note_label(self, uid: str, study: str, image: str) -> None:
        """Take over a segmentation that this server stores."""
        label = ArchivedLabel(study=study, image=image, n_instances=1, noted_at=time.time())
        with self._changing:
            others = {other: known for other, known in self.labels.items() if other != uid}
            self._keep(self.series, {**others, uid: label})

    def dismiss_labels(self, image: str) -> None:
        """Let no segmentation of an image count any more that is in the archive now."""
        with self._changing:
            labels = {
                uid: label.model_copy(update={"dismissed": True}) if label.image == image else label
                for uid, label in self.labels.items()
            }
            self._keep(self.series, labels)

    def _arrived(self, found: Sequence[FoundSeries]) -> dict[str, ArchivedSeries]:
        """What is found, without what is still being sent: two looks have to see as many instances of a series."""
        before, self._counts = self._counts, {one.uid: one.n_instances for one in found}
        series: dict[str, ArchivedSeries] = {}
        for one in found:
            known = self.series.get(one.uid)
            if before is None or one.n_instances in (before.get(one.uid), known.n_instances if known else None):
                series[one.uid] = ArchivedSeries(study=one.study, n_instances=one.n_instances, info=one.info)
            elif known is not None:
                series[one.uid] = known
        return series

    def _read_new(self, found: Mapping[str, FoundSeries]) -> dict[str, ArchivedLabel]:
        """Segmentations not seen before, the oldest first; what a segmentation was drawn on is asked for once."""
        new: list[tuple[str, str, ArchivedLabel]] = []
        for uid, one in found.items():
            known = self.labels.get(uid)
            if known is not None and known.n_instances == one.n_instances:
                continue
            try:
                referred = self._client.referred(one.study, uid)
            except ArchiveRefusedError as error:
                self._say(uid, str(error))
                continue
            if not referred.series:
                self._say(uid, f"The segmentation {uid} says of no series that it was drawn on it; it is left out.")
            label = ArchivedLabel(study=one.study, image=referred.series, n_instances=one.n_instances)
            new.append((referred.made_at, uid, label))
        return {uid: label for _, uid, label in sorted(new, key=lambda item: item[:2])}

    def _keep(self, series: Mapping[str, ArchivedSeries], labels: Mapping[str, ArchivedLabel]) -> None:
        if series == self.series and labels == self.labels:
            return
        self.series, self.labels = series, labels
        self.version += 1
        contents = _Contents(series=dict(series), labels=dict(labels)).model_dump_json().encode()
        try:
            with staged(contents, self._path.parent) as file:
                put(file, self._path)
        except OSError as error:
            logger.warning("%s cannot be written (%s); it is written when it changes again.", self._path, error)

    def _say(self, uid: str, sentence: str) -> None:
        if uid not in self._said:
            self._said.add(uid)
            logger.warning("%s", sentence)
