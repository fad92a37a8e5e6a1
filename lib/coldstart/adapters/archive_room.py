"""How much disk the fetched series may take: what was not used for longest goes first, and nothing that is being read.

A series is used when it is fetched, or found to be here already. A task has all its series here before it reads the
first, and leaves a mark beside them for as long as it lives: what was used since the oldest mark stays.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import time
from collections.abc import Collection
from pathlib import Path

import psutil

from coldstart.web.picture_cache import GIB, pictures_bound

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 60.0
KEPT_FOR_S = 600.0
"""How long a series stays at least: a viewer may be downloading it, or the server segmenting it."""
_MARK = ".coldstart-reading-"


def series_bound(cache_gb: float) -> int:
    """Bytes that the series may take of what `--conf cache_gb` gives: what the pictures do not."""
    return int(cache_gb * GIB) - pictures_bound(cache_gb)


def mark_as_reading(folder: Path) -> None:
    """Keep every series that this process uses from now on, until it ends."""
    mark = folder / f"{_MARK}{os.getpid()}"
    if not mark.exists():
        mark.touch()
        atexit.register(mark.unlink, missing_ok=True)


class SeriesRoom:
    """Keeps the series of a cache within a bound.

    Parameters
    ----------
    folder : Path
        Of the images, each `ID + suffix` beside the folder `ID` of its instances.
    suffix : str
        Of the images.
    max_bytes : int
        What all series together may take.
    """

    def __init__(self, folder: Path, suffix: str, max_bytes: int):
        self._folder = folder
        self._suffix = suffix
        self._max_bytes = max_bytes
        self._sizes: dict[str, tuple[tuple[int, ...], int]] = {}
        self._looked_at = -LOOK_EVERY_S
        self._said = False
        self.taken = 0

    def keep_within(self, needed: Collection[str]) -> None:
        """Remove series as far as that is due, but none that is `needed`; at most every `LOOK_EVERY_S`."""
        if time.monotonic() - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = time.monotonic()
        used_at = self._look()
        since = min([time.time() - KEPT_FOR_S, *self._marks()])
        for uid in sorted(used_at, key=used_at.__getitem__):
            if self.taken <= self._max_bytes:
                break
            if used_at[uid] < since and uid not in needed:
                self._remove(uid)
        self._say(self.taken > self._max_bytes)

    def _look(self) -> dict[str, float]:
        """When each series was used last; `taken` and the sizes are what is on the disk now."""
        used_at, sizes = {}, {}
        for entry in os.scandir(self._folder):
            if not entry.name.endswith(self._suffix):
                continue
            uid = entry.name.removesuffix(self._suffix)
            try:
                image, instances = entry.stat(), (self._folder / uid).stat()
                state = image.st_size, instances.st_ino, instances.st_mtime_ns
                known = self._sizes.get(uid)
                if known is None or known[0] != state:
                    known = state, image.st_size + sum(one.stat().st_size for one in os.scandir(self._folder / uid))
            except FileNotFoundError:  # another process is replacing it
                continue
            used_at[uid], sizes[uid] = image.st_mtime, known
        self._sizes = sizes
        self.taken = sum(size for _, size in sizes.values())
        return used_at

    def _remove(self, uid: str) -> None:
        """Take the image away first: where it is, its instances are."""
        (self._folder / (uid + self._suffix)).unlink(missing_ok=True)
        shutil.rmtree(self._folder / uid, ignore_errors=True)
        self.taken -= self._sizes.pop(uid)[1]

    def _marks(self) -> list[float]:
        """Since when each process that lives has been reading."""
        found = []
        for mark in self._folder.glob(f"{_MARK}*"):
            try:
                since, began = mark.stat().st_mtime, psutil.Process(int(mark.name.removeprefix(_MARK))).create_time()
            except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
                mark.unlink(missing_ok=True)
                continue
            if began <= since + 1:
                found.append(since)
            else:  # of a process before, which was killed and whose number is another's now
                mark.unlink(missing_ok=True)
        return found

    def _say(self, too_much: bool) -> None:
        if too_much and not self._said:
            logger.warning(
                "The series in %s take %.1f GiB, which is more than --conf cache_gb gives them: all that are left are "
                "labelled, or being used. Raise it, if the disk has room.",
                self._folder,
                self.taken / GIB,
            )
        self._said = too_much
