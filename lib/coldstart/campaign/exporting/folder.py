"""A folder that is there whole or not at all, and that replaces nothing but what an export wrote."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from coldstart.campaign.exporting.files import ExportError

MANIFEST = "coldstart-export.json"
"""Says what an export wrote, with the SHA-256 of each file; without it a folder is somebody else's."""

_LOCK = ".lock"
_READ_BYTES = 1 << 20


@contextmanager
def replacing(target: Path, details: Mapping[str, Any]) -> Iterator[Path]:
    """Give an empty folder to write into; when the block ends it takes the place of `target`, with a manifest in it.

    Until then it is hidden beside `target`; what a killed export left there is removed by the next.

    Parameters
    ----------
    target : Path
        The folder to make; one that an earlier export wrote is replaced.
    details : mapping
        What the manifest says besides its files.

    Raises
    ------
    ExportError
        If `target` holds anything that an export did not write, another export is writing it, or the disk refuses.
    """
    target = Path(os.path.abspath(target))
    unfinished = target.with_name(f".{target.name}.unfinished")
    before = target.with_name(f".{target.name}.before")
    try:
        require_replaceable(target)
        unfinished.mkdir(parents=True, exist_ok=True)
        with _alone(unfinished):
            if before.exists() and not target.exists():  # a kill between the last two lines below
                before.rename(target)
            _empty(unfinished)
            try:
                yield unfinished
                _write_manifest(unfinished, details)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
            shutil.rmtree(before, ignore_errors=True)
            (unfinished / _LOCK).unlink()
            if target.exists():
                target.rename(before)
            unfinished.rename(target)
            shutil.rmtree(before, ignore_errors=True)
    except OSError as error:
        raise ExportError(
            f"The dataset cannot be written to {target}: {error.strerror or error}. Nothing was changed there. Make "
            "room or get the permission, or name another OUTPUT."
        ) from error


def require_replaceable(target: Path) -> None:
    """Refuse a folder with anything in it that an export did not write, or that was changed since.

    Raises
    ------
    ExportError
        The sentence names the first such file.
    """
    if not os.path.lexists(target):
        return
    if not target.is_dir() or target.is_symlink():
        raise ExportError(f"OUTPUT must be a folder; {target} is none, and is left alone. Name another OUTPUT.")
    there = sorted(
        str(path.relative_to(target)) for path in target.rglob("*") if not path.is_dir() or path.is_symlink()
    )
    if not there:
        return
    try:
        written = json.loads((target / MANIFEST).read_text(encoding="utf-8"))["files"]
        foreign = next(
            (name for name in there if name != MANIFEST and written.get(name) != _sha256(target / name)), None
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise ExportError(
            f"{target} is not empty and was not written by an export (it holds {there[0]}), so it is left alone. Name "
            "another OUTPUT."
        ) from None
    if foreign is not None:
        raise ExportError(
            f"{target} was written by an export, but {foreign} was put there or changed since, so it is left alone. "
            "Move it away, or name another OUTPUT."
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        with FileLock(folder / _LOCK, timeout=0):
            yield
    except Timeout:
        raise ExportError(f"Another export is writing {folder}. Wait for it to end, or name another OUTPUT.") from None


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name == _LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write_manifest(folder: Path, details: Mapping[str, Any]) -> None:
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    files = {name: _sha256(folder / name) for name in names if name != _LOCK}
    write_json(folder / MANIFEST, {**details, "files": files})


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file for people to read as well."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
