"""The pixels of archived series on this machine's disk: the instances as they came, and the image that they make.

Of a series there is a folder with its name, and beside it its image as NIfTI, as MONAI Label keeps them. The image is
put there last and taken away first, so where it is, it is whole and that of the folder.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

import pydicom

from coldstart.adapters.archive_client import ArchiveClient, made_at
from coldstart.adapters.archive_index import ArchivedSeries
from coldstart.adapters.durable import LEFT_OVER_AFTER_S, put, staged
from coldstart.exceptions import ArchiveRefusedError, ImageError
from coldstart.images import read_series, write_series_image

logger = logging.getLogger(__name__)

SUFFIX = ".nii.gz"
AT_ONCE = 4
"""Series that are downloaded at a time."""

_BEING_FETCHED = ".coldstart-fetching-"


class SeriesCache:
    """Fetches series, each whole or not at all, also beside other processes that fetch the same."""

    def __init__(self, client: ArchiveClient, folder: Path):
        self._client = client
        self._folder = folder

    def tidy(self) -> None:
        """Remove what a process that was killed while it fetched left behind long ago."""
        for left in self._folder.glob(f"{_BEING_FETCHED}*"):
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > LEFT_OVER_AFTER_S:
                    shutil.rmtree(left, ignore_errors=True)

    def path(self, uid: str) -> Path:
        """Where the image of a series is, or will be."""
        return self._folder / (uid + SUFFIX)

    def instances(self, uid: str) -> Path:
        """Folder of the instances of a series."""
        return self._folder / uid

    def has(self, uid: str, series: ArchivedSeries) -> bool:
        """Whether the image is here, of as many instances as the archive has."""
        if not self.path(uid).is_file():
            return False
        try:
            return series.n_instances in (0, len(os.listdir(self.instances(uid))))
        except OSError:
            return False

    def fetch(self, uid: str, series: ArchivedSeries) -> Path:
        """Path of the image of a series, which is downloaded where it is not here.

        Raises
        ------
        ArchiveError
            If the archive does not answer.
        ImageError
            If it has not what it lists, or it is no image.
        OSError
            If the disk takes no more.
        """
        if self._use(uid, series):
            return self.path(uid)
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_BEING_FETCHED, dir=self._folder) as temporary:
            downloaded = Path(temporary) / uid
            downloaded.mkdir()
            try:
                n_came = self._client.download(series.study, uid, downloaded)
            except ArchiveRefusedError as error:
                raise ImageError(f"The series {uid} cannot be had: {error}") from error
            if series.n_instances not in (0, n_came):
                raise ImageError(
                    f"The archive lists {series.n_instances} instances of the series {uid}, and gave {n_came}. Send it "
                    "again; it is looked at again when it changes."
                )
            image = Path(temporary) / f"image{SUFFIX}"
            write_series_image(read_series(downloaded), image)
            self._replace(uid, downloaded, Path(temporary) / "before")
            with staged(image, self._folder) as file:
                put(file, self.path(uid))
        return self.path(uid)

    def fetch_all(self, wanted: Mapping[str, ArchivedSeries], progress: Callable[[int, int], None]) -> dict[str, str]:
        """Fetch several series at a time; give a sentence for each that is no image.

        Raises
        ------
        ArchiveError
            If the archive does not answer; what came is kept.
        OSError
            If the disk takes no more.
        """
        missing = {uid: series for uid, series in wanted.items() if not self._use(uid, series)}
        problems: dict[str, str] = {}
        if not missing:
            return problems
        pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="download")
        try:
            futures = {pool.submit(self.fetch, uid, series): uid for uid, series in missing.items()}
            for done, future in enumerate(as_completed(futures), start=1):
                try:
                    future.result()
                except ImageError as error:
                    problems[futures[future]] = str(error)
                progress(done, len(missing))
        finally:
            pool.shutdown(cancel_futures=True)
        return problems

    def download_label(self, study: str, uid: str, folder: Path) -> Path:
        """Download a segmentation; path of its file.

        Raises
        ------
        ArchiveError
            If the archive does not answer, or not with the segmentation.
        """
        if not self._client.download(study, uid, folder):
            raise ArchiveRefusedError(f"The archive gave no instance of the segmentation {uid}. Send it again.")
        return max(folder.glob("*.dcm"), key=lambda file: made_at(pydicom.dcmread(file, stop_before_pixels=True)))

    def _use(self, uid: str, series: ArchivedSeries) -> bool:
        """Whether the image is here; if so it is the last to be removed by `SeriesRoom`."""
        if not self.has(uid, series):
            return False
        try:
            os.utime(self.path(uid))
        except FileNotFoundError:  # it was removed just now
            return False
        return True

    def _replace(self, uid: str, downloaded: Path, aside: Path) -> None:
        """Put the instances in the place of those before, which are removed with the temporary folder."""
        self.path(uid).unlink(missing_ok=True)
        try:
            os.rename(self.instances(uid), aside)
        except FileNotFoundError:
            logger.debug("The series %s was not here before.", uid)
        try:
            os.rename(downloaded, self.instances(uid))
        except OSError:  # another process was faster
            if not self.instances(uid).is_dir():
                raise
