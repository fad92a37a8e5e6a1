"""An uploaded archive, looked at before MONAI Label unpacks it: that has no bound, and knows few ways to fail."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import IO, Any

from coldstart.adapters.errors import AppError
from coldstart.adapters.values import MAX_NAME_LENGTH

MAX_BYTES = 2**30
"""Of all files of an archive together, unpacked: 2,000 slices of 512 x 512 pixels."""
MAX_MEMBERS = 10_000
MAX_PATH_BYTES = 1024
"""With the slashes in between."""
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

_MAX_HEADER_BYTES = 2**26
"""Of what a tar file says of its members; the rest is skipped, not read into memory."""
_UNREADABLE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError),
    *(RuntimeError, NotImplementedError),  # a password, and a way of packing that Python does not know
)


def check_archive(name: str, content: IO[bytes]) -> None:
    """Refuse an archive that cannot be unpacked as a whole, or that unpacks to more than it may.

    Sizes are those of the archive's directory, and are added up before anything is unpacked: what is written later is
    no more than they say. `content` is at its beginning again afterwards.

    Parameters
    ----------
    name : str
        Name of the file; its suffix says how it is packed.
    content : file object, binary
        The archive.

    Raises
    ------
    AppError
        400 for what is no whole archive of files and folders, 413 for more than `MAX_BYTES` or `MAX_MEMBERS`.
    """
    if not name.endswith(SUFFIXES):
        raise AppError(f"An archive must be a file with one of the suffixes {', '.join(SUFFIXES)}.")
    content.seek(0)
    try:
        (_check_zip if name.endswith(".zip") else _check_tar)(content)
    except _UNREADABLE as error:
        if isinstance(error, AppError):
            raise
        raise AppError(
            "The archive cannot be unpacked: it is damaged, needs a password, or is no zip or tar file. "
            "Send a zip or tar file of images."
        ) from error
    finally:
        content.seek(0)


def _check_zip(content: IO[bytes]) -> None:
    with zipfile.ZipFile(content) as archive:
        # By its name, as it will be unpacked: of several members with one name the last one.
        named = (archive.getinfo(name) for name in archive.namelist())
        _check_members((member.filename, member.is_dir(), member.file_size) for member in named)
        if archive.testzip() is not None:
            raise zipfile.BadZipFile


def _check_tar(content: IO[bytes]) -> None:
    with tarfile.TarFile(fileobj=_Headers(_unpacked(content))) as archive:
        _check_members((member.name, _is_folder(member), member.size) for member in archive)


def _check_members(members: Iterable[tuple[str, bool, int]]) -> None:
    """Look at name, kind and size of each member, and at no more of them than is needed to refuse."""
    n_members = n_bytes = 0
    files, folders = set(), {PurePosixPath("."), PurePosixPath("/")}
    for name, is_folder, size in members:
        n_members += 1
        n_bytes += size
        if n_members > MAX_MEMBERS or n_bytes > MAX_BYTES:
            raise AppError(
                f"The archive must unpack to at most {MAX_BYTES // 2**20} MiB and {MAX_MEMBERS} files and folders. "
                "Send less at once.",
                413,
            )
        path = PurePosixPath(name)
        lengths = [len(part.encode(errors="surrogateescape")) for part in path.parts]
        if size < 0 or sum(lengths) + len(lengths) > MAX_PATH_BYTES or max(lengths, default=0) > MAX_NAME_LENGTH:
            raise ValueError("a member has no size or name that a file can have")
        if not is_folder:
            files.add(path)
            path = path.parent
        while path not in folders:
            folders.add(path)
            path = path.parent
    if files & folders:
        raise ValueError("a member is a file and a folder")


def _is_folder(member: tarfile.TarInfo) -> bool:
    if not (member.isfile() or member.isdir()):
        raise ValueError("a member is a link or a device")
    return member.isdir()


def _unpacked(content: IO[bytes]) -> IO[bytes]:
    """The tar file in a file that may be packed; tried in the order of `tarfile.open`, so that both read the same."""
    openers: tuple[Any, ...] = (gzip.open, bz2.open, lzma.open)
    for open_packed in openers:
        try:
            file: IO[bytes] = open_packed(content)
            tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
        except (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError):
            content.seek(0)
            continue
        file.seek(0)
        return file
    return content


class _Headers(io.RawIOBase):
    """A tar file of which only the headers are read: `tarfile` reads as much at once as the file tells it to."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._left = _MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        self._left -= size
        if size < 0 or self._left < 0:
            raise ValueError("the headers have no end")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
