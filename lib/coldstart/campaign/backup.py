"""A campaign in one archive: its database, settings, models, labels and the record of the viewers.

It is a tar file, so it can be read without this app: `state/` is the folder of the database, `studies/` what lies
beside the images, `named/` the files that the settings name. `SHA256SUMS`, its last member, is in the form of
`sha256sum`; an archive without it is not whole.

The database is copied first. What is saved while the rest is copied is then in the files and not in the database, which
the server notices as it does after any start; the other way round a label would be missing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from coldstart.campaign.configured import SETTINGS_FILE, recall
from coldstart.exceptions import InvalidInputError
from coldstart.images import image_suffix
from coldstart.store import FILE_NAME, copy_database

FORMAT = "coldstart backup 1"
STATE, STUDIES, NAMED = "state", "studies", "named"
ABOUT, SUMS = "backup.json", "SHA256SUMS"
LABELS, MODELS = "labels", "models"
RECORDS = ("datastore_v2.json", "datastore_v2.json.bak")
NAMED_FILES = ("heldout", "preset")
"""Settings whose files are small and belong to the campaign; an encoder's weights do not."""

_LEFT_OVER = ".coldstart-backup-"
_LEFT_OVER_AFTER_S = 24 * 3600.0
"""Age from which what a killed backup left is removed; a younger one may be at work."""
_UNSPEAKABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
"""In names of files that the server does not know either."""


@dataclass
class BackedUp:
    """What is in an archive: sizes in bytes, by name."""

    path: Path
    schema: str
    sizes: dict[str, int] = field(default_factory=dict)


def write_backup(archive: Path, state: Path, studies: Path | None, *, source: str, images: bool) -> BackedUp:
    """Write the campaign of a folder, also while a server runs it; the archive is whole and checked, or not there.

    Parameters
    ----------
    archive : Path
        Is put there when all of it is written and read back; one that is there is replaced.
    state : Path
        Folder of the database.
    studies : Path or None
        Folder of the labels and of the record, if there is one.
    source : str
        What was backed up, as it is noted in the archive.
    images : bool
        Whether the images are to be in it too.

    Raises
    ------
    StoreError
        If the database is damaged or cannot be read.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_overs(archive.parent)
    with tempfile.TemporaryDirectory(prefix=_LEFT_OVER, dir=archive.parent) as work:  # nobody else's, by its mode
        copy, partial = Path(work) / FILE_NAME, Path(work) / "archive"
        backed_up = BackedUp(archive, copy_database(state / FILE_NAME, copy))
        named = _named(state)
        about: dict[str, Any] = {
            **{"format": FORMAT, "version": version("coldstart-al"), "schema": backed_up.schema},
            **{"source": source, "at": time.time(), "images": images, "named": named},
        }
        with open(os.open(partial, os.O_CREAT | os.O_RDWR, 0o600), "w+b") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                writer = _Writer(tar, backed_up.sizes)
                writer.file(f"{STATE}/{FILE_NAME}", copy)
                for name, path in _files(state, studies, images):
                    writer.file(name, path)
                for key, file_name in named.items():
                    writer.file(f"{NAMED}/{key}{Path(file_name).suffix}", Path(file_name))
                writer.end(about)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            for _ in members(file, archive):
                pass
        partial.replace(archive)
        _sync(archive.parent)
    return backed_up


def members(file: IO[bytes], archive: Path) -> Iterator[tuple[str, IO[bytes], int]]:
    """Give name, content and time (ns) of each file of an archive; whoever takes them all knows that it is whole.

    Raises
    ------
    InvalidInputError
        If it is no backup, or not the one that was written. What was given until then is not to be relied on.
    """
    found: dict[str, str] = {}
    sums = None
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() and sums is None else None
                if content is None or not _is_ours(member.name) or member.name in found:
                    raise tarfile.ReadError(f"'{member.name}' does not belong in it")
                if member.name == SUMS:
                    sums = dict(line.split("  ", 1)[::-1] for line in content.read().decode().splitlines())
                    continue
                counted = _Content(content, archive)
                yield member.name, counted, _time_ns(member)  # type: ignore[misc]
                counted.drain()
                found[member.name] = counted.sum.hexdigest()
    except (tarfile.TarError, EOFError, ValueError, TypeError) as error:
        raise _not_whole(archive, error) from error
    if sums is None:
        raise _not_whole(archive, "its end is missing")
    if wrong := sorted(name for name in sums.keys() | found.keys() if sums.get(name) != found.get(name)):
        raise InvalidInputError(
            f"{archive} is damaged: {wrong[0]} is not what was backed up ({len(wrong)} of {len(sums)} files). Use "
            "another backup."
        )


class _Counted(io.RawIOBase):
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.sum = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self.sum.update(content)
        return content

    def drain(self) -> None:
        """Read what nobody has read."""
        while self.read(1 << 20):
            pass


class _Content(_Counted):
    """A file in an archive that may be cut off: whoever reads it is told in a sentence."""

    def __init__(self, file: IO[bytes], archive: Path):
        super().__init__(file)
        self._archive = archive

    def read(self, size: int = -1) -> bytes:
        try:
            return super().read(size)
        except tarfile.TarError as error:
            raise _not_whole(self._archive, error) from error


class _Writer:
    """Puts files into an archive, with their checksums at its end."""

    def __init__(self, tar: tarfile.TarFile, sizes: dict[str, int]):
        self._tar = tar
        self._sizes = sizes
        self._sums: dict[str, str] = {}

    def file(self, name: str, path: Path) -> None:
        """Add a file; one that was removed meanwhile is left out, as it would be a moment later."""
        with suppress(FileNotFoundError), path.open("rb") as content:
            status = os.fstat(content.fileno())
            seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
            # By its time a file is known to be the one that it was: a float does not hold all of it.
            self._add(name, content, status.st_size, f"{seconds}.{nanoseconds:09d}")

    def end(self, about: dict[str, Any]) -> None:
        """Add what the archive says of itself, and the checksums."""
        self._text(ABOUT, json.dumps(about, indent=2) + "\n", about["at"])
        self._text(SUMS, "".join(f"{value}  {name}\n" for name, value in self._sums.items()), about["at"])

    def _text(self, name: str, text: str, at: float) -> None:
        content = text.encode()
        self._add(name, io.BytesIO(content), len(content), str(int(at)))

    def _add(self, name: str, content: IO[bytes], size: int, modified: str) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.pax_headers = size, 0o600, {"mtime": modified}
        counted = _Counted(content)
        self._tar.addfile(member, counted)
        self._sums[name] = counted.sum.hexdigest()
        self._sizes[name] = size


def _files(state: Path, studies: Path | None, images: bool) -> Iterator[tuple[str, Path]]:
    """Name in the archive and path of each file, apart from the database."""
    yield f"{STATE}/{SETTINGS_FILE}", state / SETTINGS_FILE
    yield from _below(state / MODELS, f"{STATE}/{MODELS}")
    if studies is not None:
        for name in RECORDS:
            yield f"{STUDIES}/{name}", studies / name
        yield from _below(studies / LABELS, f"{STUDIES}/{LABELS}")
        if images:
            for path in sorted(studies.iterdir()):
                known = path.name[0] != "." and not _UNSPEAKABLE.search(path.name)
                if known and image_suffix(path) and path.is_file():
                    yield f"{STUDIES}/{path.name}", path


def _below(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    """Files in a folder and below; hidden ones are being written, and a lock belongs to a process."""
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(parent) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(os.path.realpath(parent))
        folders.sort()
        for file in sorted(files):
            path = Path(parent) / file
            inside = path.relative_to(folder).as_posix()
            if file[0] != "." and path.suffix != ".lock" and not _UNSPEAKABLE.search(inside) and path.is_file():
                yield f"{name}/{inside}", path


def _named(state: Path) -> dict[str, str]:
    """The files that the settings name, by setting."""
    noted = recall(state) or {}
    return {key: noted[key] for key in NAMED_FILES if os.sep in noted.get(key, "") and Path(noted[key]).is_file()}


def _remove_left_overs(folder: Path) -> None:
    for left in folder.glob(f"{_LEFT_OVER}*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _LEFT_OVER_AFTER_S:
                shutil.rmtree(left, ignore_errors=True)


def _not_whole(archive: Path, reason: object) -> InvalidInputError:
    return InvalidInputError(f"{archive} is no whole backup of a campaign: {reason}. Use another one.")


def _is_ours(name: str) -> bool:
    parts = name.split("/")
    inside = parts[0] in (STATE, STUDIES, NAMED) and len(parts) > 1 and not {"", ".", ".."} & set(parts)
    return name in (ABOUT, SUMS) or (inside and "\0" not in name)


def _time_ns(member: tarfile.TarInfo) -> int:
    seconds, _, fraction = member.pax_headers.get("mtime", str(member.mtime)).partition(".")
    return int(seconds) * 10**9 + int(f"{fraction:0<9}"[:9])


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a file system that cannot do this has its own ways
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
