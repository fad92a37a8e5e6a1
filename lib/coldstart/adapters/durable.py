"""Files that are there whole or not at all, also after a kill or a power cut."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coldstart.adapters.errors import AppError

LEFT_OVER = ".coldstart-*.part"
"""What a killed process leaves behind; hidden, so nobody takes it for an image or a label."""
LEFT_OVER_AFTER_S = 3600.0
"""Age from which such a file is removed; a younger one may belong to another server that is writing it."""

_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMEDIES: dict[int | None, str] = {
    errno.EROFS: "Mount it writable",
    errno.ENAMETOOLONG: "Give the image a shorter name",
}


@contextmanager
def staged(content: Path | bytes, folder: Path) -> Iterator[Path]:
    """Write `content`, or a copy of the file that it names, to a hidden file in `folder`, through to the disk.

    The name is short and made of nothing that was received. The file is gone after the block unless `put` gave it
    its place.
    """
    path = folder / LEFT_OVER.replace("*", uuid.uuid4().hex)
    try:
        with path.open("xb") as target:
            if isinstance(content, bytes):
                target.write(content)
            else:
                with content.open("rb") as source:
                    shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())
        yield path
    finally:
        path.unlink(missing_ok=True)


def put(staged_file: Path, target: Path) -> None:
    """Give a staged file its place, whatever is there; a link there is replaced, and what it points to is not touched.

    It returns when the name is on the disk too.
    """
    os.replace(staged_file, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def remove_left_overs(folder: Path) -> None:
    """Remove what a process that was killed left in `folder` long ago."""
    for path in folder.glob(LEFT_OVER):
        try:
            if time.time() - path.stat().st_mtime > LEFT_OVER_AFTER_S:
                path.unlink()
        except FileNotFoundError:
            continue


def cannot_write(what: Path | str, error: OSError) -> AppError:
    """Say in a sentence why a file cannot be written."""
    no_room = error.errno in _NO_ROOM
    remedy = "Make room on its disk" if no_room else _REMEDIES.get(error.errno, "Let the server write there")
    return AppError(
        f"{what} cannot be written: {error.strerror or error}. What was there before is unchanged. {remedy}, then try "
        "again.",
        status_code=507 if no_room else 503,
    )
