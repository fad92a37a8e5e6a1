"""Pictures on the disk, within a bound: what was not looked at for longest goes first."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

GIB = 1 << 30
MAX_BYTES = GIB // 2
"""Some 100,000 thumbnails."""
SHARE = 0.1
"""Part of the disk for caches that the pictures may take: the rest is for series of an archive."""
_SUFFIX = ".picture"


def pictures_bound(cache_gb: float) -> int:
    """Bytes that the pictures may take of what `--conf cache_gb` gives."""
    return min(MAX_BYTES, int(cache_gb * GIB * SHARE))


class PictureCache:
    """Bytes by a key of any length; for any thread of one process. A disk that refuses costs time, never a picture.

    Parameters
    ----------
    folder : Path
        Where the files are; what an earlier process left there is known again.
    max_bytes : int
        Bound of what the files hold together.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES):
        self._folder = folder
        self._max_bytes = max_bytes
        self._turn = threading.Lock()
        self._sizes: OrderedDict[str, int] | None = None
        self._total = 0

    def get(self, key: str) -> bytes | None:
        """The bytes kept under a key, or None."""
        name = _file_name(key)
        try:
            content = (self._folder / name).read_bytes()
            os.utime(self._folder / name)  # by which the next process knows what was looked at last
        except OSError:
            return None
        with self._turn:
            if self._sizes is not None and name in self._sizes:
                self._sizes.move_to_end(name)
        return content

    def put(self, key: str, content: bytes) -> None:
        """Keep bytes under a key."""
        name = _file_name(key)
        with self._turn:
            try:
                sizes = self._known()
                temporary = self._folder / f"{name}.tmp"
                temporary.write_bytes(content)
                os.replace(temporary, self._folder / name)
            except OSError as error:
                logger.debug("A picture is not kept in %s: %s", self._folder, error)
                return
            self._total += len(content) - sizes.pop(name, 0)
            sizes[name] = len(content)
            while self._total > self._max_bytes and len(sizes) > 1:
                oldest, size = sizes.popitem(last=False)
                self._total -= size
                with suppress(OSError):
                    (self._folder / oldest).unlink()

    def _known(self) -> OrderedDict[str, int]:
        """Size of each file, the one looked at last at the end."""
        if self._sizes is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            found = [(entry, entry.stat()) for entry in os.scandir(self._folder) if entry.name.endswith(_SUFFIX)]
            found.sort(key=lambda one: one[1].st_mtime_ns)
            self._sizes = OrderedDict((entry.name, status.st_size) for entry, status in found)
            self._total = sum(self._sizes.values())
        return self._sizes


def _file_name(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:40] + _SUFFIX
