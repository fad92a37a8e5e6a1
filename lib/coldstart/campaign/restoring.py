"""Put a campaign back from its archive: all of it is unpacked and checked before anything gets its place."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from coldstart.campaign.backup import ABOUT, FORMAT, LABELS, MODELS, NAMED, RECORDS, STATE, STUDIES, members
from coldstart.campaign.configured import SETTINGS_FILE, has_server
from coldstart.exceptions import InvalidInputError
from coldstart.images import image_suffix
from coldstart.store import FILE_NAME, Store

COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Restored:
    """What was put back.

    Attributes
    ----------
    about : dict
        What the archive says of itself.
    n_files : int
        Files put back.
    n_images, n_absent : int
        Images of the campaign, and those of them that are not in the folder.
    aside : list of Path
        Where what was there before lies now.
    """

    about: dict[str, Any]
    n_files: int
    n_images: int
    n_absent: int
    aside: list[Path]


def restore_backup(archive: Path, state: Path, studies: Path, *, replace: bool, folder: bool) -> Restored:
    """Restore an archive; where something is wrong with it, nothing has changed.

    Parameters
    ----------
    archive : Path
        Of `write_backup`.
    state : Path
        Folder that the database goes into.
    studies : Path
        Folder that labels, record and images go into.
    replace : bool
        Whether a campaign that is there is moved aside; else it is left alone.
    folder : bool
        Whether the studies are a folder of images, so that images can be missing from it.

    Notes
    -----
    `state`, its models and `studies` may be mounted volumes: they stay, and what is in them is moved.

    Raises
    ------
    InvalidInputError
        If the archive is not whole, a server runs the campaign, or one is there and is not to be replaced.
    StoreError
        If the database was written by a newer version of this app.
    """
    if has_server(state):
        raise InvalidInputError(f"A server is running the campaign in {state}. End it first.")
    there = [path for path in _campaign_files(state, studies) if _holds(path)]
    if there and not replace:
        raise InvalidInputError(
            f"{there[0]} is there already, so nothing was restored. Name another folder, or have it moved aside with "
            "--replace."
        )
    with ExitStack() as stack:
        near_state = Path(stack.enter_context(_staging(state)))
        near_studies = Path(stack.enter_context(_staging(studies)))
        roots = {STATE: near_state / STATE, STUDIES: near_studies / STUDIES, NAMED: near_state / STATE / NAMED}
        for root in roots.values():
            root.mkdir(parents=True)
        about, n_files = _unpack(archive, roots)
        _rename_settings(roots[STATE], state, about)
        Store(roots[STATE]).close()  # brings it to the newest schema, or refuses it
        wanted = _images(roots[STATE] / FILE_NAME)
        # The database goes first and comes last: a server that is started between finds labels without a database,
        # which it reads in again, and never a database without its labels, which it would take for removed.
        aside = _move_aside(there, state, studies)
        _place(roots[STUDIES], studies)
        database = roots[STATE] / FILE_NAME
        kept = database.rename(near_state / FILE_NAME)
        _place(roots[STATE], state)
        kept.rename(state / FILE_NAME)
        os.sync()
    absent = [name for name in wanted if not (studies / name).is_file()] if folder else []
    return Restored(about, n_files, len(wanted), len(absent), aside)


def _campaign_files(state: Path, studies: Path) -> list[Path]:
    """What a campaign consists of, its database first."""
    database = [state / f"{FILE_NAME}{suffix}" for suffix in ("", "-wal", "-shm", "-journal")]
    return [*database, state / SETTINGS_FILE, state / MODELS, studies / LABELS, *(studies / name for name in RECORDS)]


def _holds(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


@contextmanager
def _staging(parent: Path) -> Iterator[str]:
    """A folder in `parent`; where that was made for it and nothing came into it, it goes too."""
    made = not parent.exists()
    parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".coldstart-restore-", dir=parent) as staging:
            yield staging
    finally:
        if made and not any(parent.iterdir()):
            parent.rmdir()


def _unpack(archive: Path, roots: dict[str, Path]) -> tuple[dict[str, Any], int]:
    about: dict[str, Any] = {}
    n_files = 0
    with archive.open("rb") as file:
        for name, content, time_ns in members(file, archive):
            if name == ABOUT:
                about = _about(content, archive)
                continue
            first, _, rest = name.partition("/")
            _write(content, roots[first] / rest, time_ns)
            n_files += 1
    if not about or not (roots[STATE] / FILE_NAME).is_file():
        raise InvalidInputError(f"{archive} is no backup of a campaign: it holds no database. Use another one.")
    return about, n_files


def _about(content: IO[bytes], archive: Path) -> dict[str, Any]:
    try:
        about = json.loads(content.read())
        if about["format"] == FORMAT and isinstance(about["named"], dict):
            return dict(about)
    except (ValueError, TypeError, KeyError):
        pass
    raise InvalidInputError(
        f"{archive} must be a backup in the form '{FORMAT}'; it is in another. Restore it with the version of the app "
        "that wrote it."
    )


def _write(content: IO[bytes], path: Path, time_ns: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as target:
        shutil.copyfileobj(content, target, COPY_BYTES)
    os.utime(path, ns=(time_ns, time_ns))


def _rename_settings(staged: Path, state: Path, about: dict[str, Any]) -> None:
    """Have the settings name the copies of files that are not where they were: on another machine they are not."""
    path = staged / SETTINGS_FILE
    if not path.is_file():
        return
    noted = json.loads(path.read_text(encoding="utf-8"))
    for key, named in about["named"].items():
        copy = f"{key}{Path(named).suffix}"
        if noted.get(key) == named and not Path(named).is_file() and (staged / NAMED / copy).is_file():
            noted[key] = str(state / NAMED / copy)
    path.write_text(json.dumps(noted, indent=2) + "\n", encoding="utf-8")


def _images(database: Path) -> list[str]:
    """Names of the files of the images that were there."""
    with closing(sqlite3.connect(database)) as connection:
        paths: Iterator[tuple[str]] = connection.execute("SELECT path FROM images WHERE present")
        return [Path(path).name for (path,) in paths if image_suffix(Path(path))]


def _move_aside(paths: list[Path], state: Path, studies: Path) -> list[Path]:
    stamp = time.strftime("before-restore-%Y%m%dT%H%M%S")
    aside = []
    for path in paths:
        home = state if path.is_relative_to(state) else studies
        target = _free(home / stamp / path.name)
        target.parent.mkdir(exist_ok=True)
        if path.is_dir():
            target.mkdir()
            for inside in list(path.iterdir()):
                shutil.move(inside, target)
        else:
            path.rename(target)
        aside.append(target)
    return aside


def _place(staged: Path, target: Path) -> None:
    """Move all files below one folder to another, where folders may be volumes of their own."""
    for path in sorted(path for path in staged.rglob("*") if path.is_file()):
        place = target / path.relative_to(staged)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.parent == staged and image_suffix(path) and place.exists():
            continue  # an image that is there is the user's
        shutil.move(path, place)


def _free(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free
