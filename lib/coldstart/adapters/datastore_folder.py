"""One folder as it is: which files have an id, and which of them have arrived completely."""

from __future__ import annotations

import itertools
import logging
import os
import re
import stat
import time
from collections.abc import Mapping
from pathlib import Path

from coldstart.images import image_suffix

logger = logging.getLogger(__name__)

SETTLED_AFTER_S = 3.0
"""A file that was last written longer ago when it is first seen has arrived."""
LOOKS_APART_S = 1.5
"""Any other file has arrived when two looks this far apart see it unchanged: the clock of a share may differ."""

MAX_LEFT_OUT = 100
"""How many of the files that are left out are named with their reason."""

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, which make a log lie, and bytes that are no UTF-8, which neither JSON nor a database can hold."""


def split_name(name: str) -> tuple[str, str]:
    """Id and suffix of a file name; both empty where we read no such file."""
    suffix = name[len(name) - len(image_suffix(name)) :]
    return (name.removesuffix(suffix), suffix) if suffix else ("", "")


def is_file_name(name: str) -> bool:
    """Whether a name is one of a file that we serve or write: in its folder, not hidden, printable."""
    return bool(name) and name[0] != "." and os.sep not in name and not _UNPRINTABLE.search(name)


class WatchedFolder:
    """The files of a folder that have an id and are settled; each is looked up by `stat` alone.

    Parameters
    ----------
    path : Path
        The folder.
    known : Mapping of str to str
        Ids and file names used before: where two files have one id, the one used before stays.
    newest : bool
        Whether the newest file of an id is used instead; labels are.
    within : tuple of Path or None
        Folders that a link must not lead out of, or None where it may; their paths are without links.

    Attributes
    ----------
    files : dict of str to str
        Name of the file of each id, settled files only.
    waiting : frozenset of str
        Ids whose file is still being written; one that was there before is being replaced.
    """

    def __init__(
        self,
        path: Path,
        known: Mapping[str, str] | None = None,
        *,
        newest: bool = False,
        within: tuple[Path, ...] | None = None,
    ):
        self.path = path
        self.files: dict[str, str] = {}
        self.waiting: frozenset[str] = frozenset()
        self._newest = newest
        self._within = within
        self._chosen = dict(known or {})
        self._ids: dict[str, str] = {}
        self._stamps: dict[str, tuple[int, int]] = {}
        self._restless: dict[str, float] = {}
        self._left_out: dict[str, str] = {}

    def look(self) -> bool:
        """Look again; return whether anything is another than at the last look.

        Raises
        ------
        OSError
            If the folder cannot be read.
        """
        stamps = self._read()
        if stamps == self._stamps and not self._restless:
            return False
        now = time.monotonic()
        before, restless = self._stamps, {}
        for name, stamp in stamps.items():
            if name not in before:
                age_s = time.time() - stamp[1] / 1e9
                if age_s < SETTLED_AFTER_S:
                    restless[name] = now
            elif stamp != before[name]:
                restless[name] = now
            elif name in self._restless and now - self._restless[name] < LOOKS_APART_S:
                restless[name] = self._restless[name]
        changed = stamps != before or restless.keys() != self._restless.keys()
        self._stamps, self._restless = stamps, restless
        if changed:
            self._choose()
        return changed

    def note(self, image_id: str, name: str) -> None:
        """Take a file that we wrote ourselves for settled."""
        status = os.stat(self.path / name)
        self._ids[name] = image_id
        self._stamps[name] = status.st_size, status.st_mtime_ns
        self._restless.pop(name, None)
        self._chosen[image_id] = name
        self.files = {**self.files, image_id: name}
        self.waiting -= {image_id}

    def left_out(self) -> dict[str, str]:
        """Why a file that is there is not used, by its name with what cannot be printed escaped."""
        used = set(self._chosen.values())
        left_out = [(name, reason) for name, reason in list(self._left_out.items()) if name not in used]
        there = itertools.islice((item for item in left_out if os.path.lexists(self.path / item[0])), MAX_LEFT_OUT)
        return {repr(name)[1:-1]: reason for name, reason in there}

    def of_id(self, image_id: str) -> list[str]:
        """Names of all files with this id, settled or not, as they are now."""
        names = (name for name in os.listdir(self.path) if name.startswith(image_id))
        return sorted(name for name in names if split_name(name)[0] == image_id)

    def _read(self) -> dict[str, tuple[int, int]]:
        """Size and time of each file with an id. A pipe is only asked for its kind, never opened."""
        stamps = {}
        with os.scandir(self.path) as entries:
            for entry in entries:
                name = entry.name
                image_id = self._ids.get(name)
                if image_id is None:
                    image_id = self._ids[name] = self._identify(name)
                if not image_id:
                    continue
                try:
                    status = entry.stat()
                except OSError as error:
                    if entry.is_symlink():
                        self._leave_out(name, f"it is a link that leads nowhere ({error.strerror})")
                    continue  # anything else went away while we looked
                if entry.is_symlink() and self._leads_out(entry.path):
                    self._leave_out(name, "it is a link out of the studies folder; copy what it leads to")
                    continue
                if not stat.S_ISREG(status.st_mode):
                    self._leave_out(name, "it is not a file")
                    continue
                stamps[name] = status.st_size, status.st_mtime_ns
        return stamps

    def _leads_out(self, path: str) -> bool:
        target = Path(os.path.realpath(path))
        return self._within is not None and not any(target.is_relative_to(folder) for folder in self._within)

    def _identify(self, name: str) -> str:
        image_id = split_name(name)[0]
        if image_id and name[0] != "." and not is_file_name(name):
            self._leave_out(name, "its name holds control characters or is not UTF-8; rename it")
        return image_id if is_file_name(name) else ""

    def _choose(self) -> None:
        names: dict[str, list[str]] = {}
        for name in sorted(self._stamps):
            names.setdefault(self._ids[name], []).append(name)
        self._chosen = {image_id: self._one_of(image_id, twins) for image_id, twins in names.items()}
        self.files = {image_id: name for image_id, name in self._chosen.items() if name not in self._restless}
        self.waiting = frozenset(self._chosen.keys() - self.files.keys())
        self._ids = {name: image_id for name, image_id in self._ids.items() if name in self._stamps}

    def _one_of(self, image_id: str, names: list[str]) -> str:
        if len(names) == 1:
            return names[0]
        before = self._chosen.get(image_id)
        first = before if before in names else names[0]
        chosen = max(names, key=lambda name: self._stamps[name][1]) if self._newest else first
        for name in names:
            if name != chosen:
                self._leave_out(name, f"{chosen} would get the same id '{image_id}' and is used. Rename one of them")
        return chosen

    def _leave_out(self, name: str, reason: str) -> None:
        if name not in self._left_out:
            self._left_out[name] = reason
            logger.warning("%r in %s is left out: %s.", name, self.path, reason)
