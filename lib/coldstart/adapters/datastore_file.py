"""`datastore_v2.json`: MONAI Label's record of a folder, written whole, shared with other processes, and recovered.

What is in memory and what is on the disk are brought together whenever the file is not the one that this process read
or wrote last (another server, a child process, a hand edit):

- an entry that both have: what the file says, and over it what this process changed since it last read or wrote;
- an entry that only one of them has: it stays as long as its image or label is on the disk. So what was added stays,
  and what was removed, for which the file is removed first, stays away.

Before each writing the copy of before gets another name (a second link, so it costs nothing): should the file be
damaged, it is kept aside and read from there. Whatever neither holds is found again by the files in the folder.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastoreModel

from coldstart.adapters.durable import cannot_write, put, staged
from coldstart.adapters.errors import AppError

logger = logging.getLogger(__name__)

LOCK_LIMIT_S = 20.0
"""How long one process waits while another writes, which takes well under a second."""

Objects = dict[str, ImageLabelModel]
_SURROGATE = re.compile("[\ud800-\udfff]")
_OWN_INFO = {"ts", "name"}


class DatastoreFile:
    """The record in memory, `model`, and its file.

    Whoever reads `model.objects` needs no lock: the dictionary and all that is in it are replaced, never changed.

    Parameters
    ----------
    path : Path
        The file.
    model : LocalDatastoreModel
        Is filled from the file, without touching anything on the disk.
    has_file : callable
        Whether the image with this id, or its label with this tag, is on the disk.
    require_folder : callable
        Raises an AppError while the folder is not the one that the record is of: nothing is written then.
    """

    def __init__(
        self,
        path: Path,
        model: LocalDatastoreModel,
        has_file: Callable[[str, str, str | None], bool],
        require_folder: Callable[[], None],
    ):
        self.path = path
        self.copy = path.with_name(f"{path.name}.bak")
        self.model = model
        self.threads = threading.RLock()
        self.unsaved = False
        self._has_file = has_file
        self._require_folder = require_folder
        self._lock = FileLock(path.with_name(".lock"), timeout=LOCK_LIMIT_S, thread_local=False)
        self._state = threading.Lock()
        self._changed: dict[tuple[str, str | None], set[str] | None] = {}
        self._seen: tuple[int, ...] | None = None
        for candidate in (self.path, self.copy):
            with suppress(OSError, ValueError, RecursionError):
                found, stamp = _read(candidate)
                self.model.name, self.model.description = found.name, found.description
                self.model.objects = found.objects
                self._seen = stamp if candidate == self.path else None
                return
        if not os.path.lexists(self.path) and not os.path.lexists(self.copy):
            self._seen = ()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Be alone, among the threads and processes that write in the folder."""
        with self.threads:
            self._require_folder()
            try:
                self._lock.acquire()
            except Timeout:
                raise AppError(
                    f"The datastore is busy: another program has held {self._lock.lock_file} for "
                    f"{LOCK_LIMIT_S:g} s. Nothing was changed; end that program, or try again.",
                    status_code=503,
                ) from None
            except OSError as error:
                raise cannot_write(self.path.parent, error) from error
            try:
                yield
            finally:
                self._lock.release()

    @contextmanager
    def editing(self) -> Iterator[Objects]:
        """A copy of the entries that takes their place when the block ends; what is in it must not be changed."""
        with self._state:
            objects = dict(self.model.objects)
            yield objects
            self.model.objects = objects
            self.unsaved = True

    def replaced(self, image_id: str, tag: str | None = None) -> None:
        """Say that an image's entry, or that of its label, was made anew here: it wins over what the file says."""
        self._changed[image_id, tag] = None

    def update_info(self, image_id: str, tag: str | None, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bool:
        """Change the info of an image, or of its label, in memory; return whether there is such an entry.

        `change` is given the info and returns what is to be written over it.
        """
        with self._state:
            entry = self.model.objects.get(image_id)
            data = entry and (entry.image if tag is None else entry.labels.get(tag))
            if data is None:
                return False
            update = change(data.info)
            data.info = {**data.info, **update}
            self._note_changed({(image_id, tag): set(update)})
            self.unsaved = True
            return True

    def refresh(self) -> bool:
        """Take over what another process wrote, or recover; return whether there was anything."""
        if _stamp(self.path) == self._seen:
            return False
        try:
            theirs, stamp = _read(self.path)
        except (OSError, ValueError, RecursionError):
            with self.exclusive():
                self._recover()
        else:
            self._merge(theirs)
            self._seen = stamp
        return True

    def save(self) -> None:
        """Bring the record to the disk.

        Raises
        ------
        AppError
            If another program holds the lock for too long.
        OSError
            If it cannot be written; the file is as it was, and what changed is written the next time.
        """
        with self.exclusive():
            self.refresh()
            with self._state:
                data = self.model.model_dump_json(exclude={"base_path"}, fallback=str).encode()
                changed, self._changed, self.unsaved = self._changed, {}, False
            try:
                with staged(data, self.path.parent) as file:
                    self._keep_last()
                    put(file, self.path)
            except BaseException:
                with self._state:
                    later, self._changed, self.unsaved = self._changed, changed, True
                    self._note_changed(later)
                raise
            self._seen = _stamp(self.path)

    def _note_changed(self, changes: Mapping[tuple[str, str | None], set[str] | None]) -> None:
        for key, names in changes.items():
            before = self._changed.get(key, set())
            self._changed[key] = None if before is None or names is None else before | names

    def _keep_last(self) -> None:
        """Give the file that is there, which was good when we last read or wrote it, its second name."""
        link = self.copy.with_name(f".{self.copy.name}.part")
        try:
            link.unlink(missing_ok=True)
            try:
                os.link(self.path, link)
            except FileNotFoundError:
                return  # there is none yet
            except OSError:  # a file system without hard links
                shutil.copyfile(self.path, link)
            os.replace(link, self.copy)
            link.unlink(missing_ok=True)  # renaming one link of a file to another of the same file does nothing
        except OSError as error:
            logger.warning("The last good copy of %s cannot be kept as %s: %s.", self.path, self.copy, error)

    def _recover(self) -> None:
        try:
            theirs, self._seen = _read(self.path)
        except FileNotFoundError:
            state, self._seen = "is missing", ()
        except (OSError, ValueError, RecursionError) as error:
            state = f"was damaged ({str(error).splitlines()[0]})"
            aside = self.path.with_name(f"{self.path.stem}.damaged-{time.strftime('%Y%m%d-%H%M%S')}{self.path.suffix}")
            try:
                os.rename(self.path, aside)
                state += f" and is kept as {aside.name}"
            except OSError as problem:
                state += f" and cannot be kept aside ({problem.strerror})"
            self._seen = _stamp(self.path)
        else:  # it was being written, and is complete now that we are alone
            self._merge(theirs)
            return
        source = f"{self.copy.name} and what the server knew"
        try:
            self._merge(_read(self.copy)[0])
        except (OSError, ValueError, RecursionError):
            source = f"what the server knew ({self.copy.name} is missing or damaged too)"
        self.unsaved = True
        entries = self.model.objects.values()
        labels = [label for entry in entries for label in entry.labels.values()]
        noted = sum(bool(data.info.keys() - _OWN_INFO) for data in [*labels, *(entry.image for entry in entries)])
        logger.warning(
            "%s %s. Recovered from %s: %d images, %d labels, and what was noted of %d of them. All others that are in "
            "the folder are found again by their files.",
            *(self.path, state, source, len(entries), len(labels), noted),
        )

    def _merge(self, theirs: LocalDatastoreModel) -> None:
        others = theirs.objects
        with self._state:
            self.model.name, self.model.description = theirs.name, theirs.description
            ours = self.model.objects
            merged: Objects = {}
            for image_id in ours.keys() | others.keys():
                mine, other = ours.get(image_id), others.get(image_id)
                if mine is not None and other is not None:
                    merged[image_id] = self._both(image_id, mine, other)
                elif (only := mine or other) is not None and self._has_file(image_id, only.image.ext, None):
                    merged[image_id] = only
            self.model.objects = {image_id: merged[image_id] for image_id in [*others, *ours] if image_id in merged}
            self.unsaved = self.unsaved or self.model.objects != others

    def _both(self, image_id: str, mine: ImageLabelModel, other: ImageLabelModel) -> ImageLabelModel:
        if mine == other:
            return mine
        labels = {}
        for tag in {**other.labels, **mine.labels}:
            ours, theirs = mine.labels.get(tag), other.labels.get(tag)
            if ours is not None and theirs is not None:
                labels[tag] = self._changed_here(image_id, tag, ours, theirs)
            elif (only := ours or theirs) is not None and self._has_file(image_id, only.ext, tag):
                labels[tag] = only
        return ImageLabelModel(image=self._changed_here(image_id, None, mine.image, other.image), labels=labels)

    def _changed_here(self, image_id: str, tag: str | None, ours: DataModel, theirs: DataModel) -> DataModel:
        names = self._changed.get((image_id, tag), set())
        if names is None:
            return ours
        return DataModel(
            ext=theirs.ext, info={**theirs.info, **{name: ours.info[name] for name in names & ours.info.keys()}}
        )


def plain(value: Any) -> Any:
    """What JSON can hold of a value: no NaN, no infinity, no half characters."""
    if isinstance(value, dict):
        return {_text(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _text(value)


def _text(value: Any) -> str:
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", str(value))


def _read(path: Path) -> tuple[LocalDatastoreModel, tuple[int, ...]]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe in the file's place must not stop us
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a file")
        data = file.read()
    try:
        model = LocalDatastoreModel.model_validate_json(data)
        if b"NaN" in data or b"Infinity" in data:
            model = LocalDatastoreModel.model_validate(plain(model.model_dump()))
    except ValueError:  # MONAI Label writes halves of characters, which pydantic does not read
        model = LocalDatastoreModel.model_validate(plain(json.loads(data)))
    return model, (status.st_ino, status.st_size, status.st_mtime_ns)


def _stamp(path: Path) -> tuple[int, ...]:
    """What tells one version of the file from another; empty where there is none, and (0,) where nobody can tell."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    except OSError:
        return (0,)
    return status.st_ino, status.st_size, status.st_mtime_ns
