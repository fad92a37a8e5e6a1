"""The commands `backup` and `restore`: a campaign in one file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coldstart.cli_output import AsJson, Conf, Document, answer, console, pairs
from coldstart.exceptions import ColdStartError, InvalidInputError


def backup(
    studies: Annotated[str, typer.Argument(help="Folder of images, or address of the archive, of a campaign.")],
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="The file to write; it is replaced.")],
    images: Annotated[bool, typer.Option("--images", help="Put the images of the folder in it too.")] = False,
    conf: Conf = None,
    as_json: AsJson = False,
) -> None:
    """Write database, settings, models and labels of a campaign into one file, also while its server runs.

    The file is a tar with checksums, which is read back before it gets its name.

    Example: coldstart backup /data/chest /backups/chest.tar
    """
    answer(lambda: _backup(studies, archive, pairs(conf), images=images), _show_backup, as_json=as_json)


def restore(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="A file that `coldstart backup` wrote.")],
    studies: Annotated[
        str, typer.Argument(help="Folder of the images, made where it is missing; or an archive's address.")
    ],
    replace: Annotated[bool, typer.Option("--replace", help="Move a campaign that is there aside.")] = False,
    conf: Conf = None,
    as_json: AsJson = False,
) -> None:
    """Put a campaign back; it is checked as a whole before anything gets its place.

    Images that are not in the backup are copied beside it with their times (cp -a, rsync -a); others count as new.

    Example: coldstart restore /backups/chest.tar /data/chest
    """
    answer(lambda: _restore(archive, studies, pairs(conf), replace=replace), _show_restore, as_json=as_json)


def _backup(studies: str, archive: Path, conf: dict[str, str], *, images: bool) -> Document:
    from coldstart.adapters.archive import cache_folder
    from coldstart.adapters.offline import find_state, require_studies
    from coldstart.campaign.backup import write_backup

    where = require_studies(studies)
    if archive.is_dir():
        raise InvalidInputError(f"ARCHIVE must be a file to be written; {archive} is a folder. Name a file in it.")
    if images and isinstance(where, str):
        raise InvalidInputError("--images is for a folder; the images of an archive are backed up with the archive.")
    state = find_state(where, conf)
    labels = cache_folder(where) if isinstance(where, str) else where
    written = write_backup(archive, state, None if labels == state else labels, source=str(where), images=images)
    return {
        "archive": str(archive.resolve()),
        "bytes": archive.stat().st_size,
        "files": len(written.sizes),
        "labels": sum(name.startswith("studies/labels/") for name in written.sizes),
        "models": sum(name.startswith("state/models/") for name in written.sizes),
        "schema": written.schema,
        "state_dir": str(state),
    }


def _show_backup(found: Document) -> None:
    console.print(
        f"Backed up {found['labels']} labels, {found['models']} model files and the database: {found['archive']} "
        f"({found['bytes'] / 1e6:.1f} MB, {found['files']} files), read back and whole.",
        soft_wrap=True,
        markup=False,
    )


def _restore(archive: Path, studies: str, conf: dict[str, str], *, replace: bool) -> Document:
    from coldstart.adapters.archive import cache_folder
    from coldstart.adapters.archive_client import require_archive_address
    from coldstart.adapters.server import is_archive
    from coldstart.campaign.restoring import restore_backup
    from coldstart.store import state_folder

    try:
        with archive.open("rb"):
            pass
    except (FileNotFoundError, IsADirectoryError) as error:
        found = f"{archive} is a folder" if archive.is_dir() else f"there is no {archive}"
        raise InvalidInputError(f"ARCHIVE must be a file that `coldstart backup` wrote; {found}.") from error
    except OSError as error:
        raise InvalidInputError(
            f"ARCHIVE must be a file that this user may read; {archive} cannot be read ({error.strerror}). Run the "
            f"command as its owner, or allow it: chmod a+r {archive}."
        ) from error
    named = conf.get("state_dir")
    where: Path | str
    made = False
    if is_archive(studies):
        where = require_archive_address(studies)
        folder = cache_folder(where)
    else:
        where = folder = Path(studies).expanduser().resolve()
        if folder.exists() and not folder.is_dir():
            raise InvalidInputError(f"STUDIES must be a folder; {folder} is a file. Name another.")
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    try:
        state = state_folder(where, None if named is None else Path(named))
        restored = restore_backup(archive, state, folder, replace=replace, folder=isinstance(where, Path))
    except ColdStartError:
        if made and not any(folder.iterdir()):
            folder.rmdir()
        raise
    return {
        "studies": str(where),
        "state_dir": str(state),
        "files": restored.n_files,
        "backed_up_from": restored.about["source"],
        "backed_up_at": restored.about["at"],
        "images": restored.n_images,
        "images_absent": restored.n_absent,
        "aside": [str(path) for path in restored.aside],
    }


def _show_restore(found: Document) -> None:
    console.print(
        f"Restored {found['files']} files; the campaign of {found['studies']} goes on where it was.   "
        f"Database: {found['state_dir']}",
        soft_wrap=True,
        markup=False,
    )
    if found["images_absent"]:
        console.print(
            f"{found['images_absent']} of its {found['images']} images are not there: copy them into "
            f"{found['studies']} with their times (rsync -a).",
            soft_wrap=True,
            markup=False,
        )
    for path in found["aside"]:
        console.print(f"Moved aside: {path}", soft_wrap=True, markup=False)
