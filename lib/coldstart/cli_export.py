"""The `coldstart export` command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from coldstart.cli_output import AsJson, Conf, Document, answer, console, pairs, progress_console
from coldstart.exceptions import InvalidInputError, SettingsError

if TYPE_CHECKING:
    from coldstart.campaign.exporting import Format
    from coldstart.settings import Settings

FORMATS: dict[str, Format] = {"nnunet": "nnunet", "monai": "monai"}
MAX_NAMED = 10
"""Images left out that are named with their reason on a terminal; the JSON document and `selection.csv` name all."""


def export(
    studies: Annotated[str, typer.Argument(help="Folder of images, or address of the archive, of a campaign.")],
    output: Annotated[
        Path,
        typer.Argument(help="For monai the dataset's folder; for nnunet the folder it goes into.", file_okay=False),
    ],
    form: Annotated[str, typer.Option("--format", metavar="nnunet|monai", help="Of the dataset.")],
    preset: Annotated[str | None, typer.Option(help="Name of a preset, or the path of a YAML file.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the dataset; default: that of the studies folder.")] = None,
    number: Annotated[int | None, typer.Option(min=1, max=999, help="Of a nnU-Net dataset; default: 500.")] = None,
    channel: Annotated[
        str | None, typer.Option(help="What grey images show; default: CT with a preset that cuts intensities.")
    ] = None,
    conf: Conf = None,
    as_json: AsJson = False,
) -> None:
    """Write the labelled images as a nnU-Net v2 dataset or as a MONAI datalist, and load it back to be sure.

    Held-out images go to imagesTs (nnunet), or under validation and test (monai), never into the training. The settings
    are those of the campaign's server, unless others are given. A dataset of an earlier export is replaced.

    Examples: coldstart export /data/chest $nnUNet_raw --format nnunet --number 501 --name Chest;
    coldstart export /data/chest chest-monai --format monai
    """
    answer(lambda: _export(studies, output, form, pairs(conf, preset), name, number, channel), _show, as_json=as_json)


def _export(
    studies: str,
    output: Path,
    form: str,
    given: dict[str, str],
    name: str | None,
    number: int | None,
    channel: str | None,
) -> Document:
    if form not in FORMATS:
        raise InvalidInputError(f"--format must be {' or '.join(FORMATS)}; got '{form}'.")
    where = _studies(studies)
    from coldstart.campaign import read_held_out
    from coldstart.campaign.exporting import collect, dataset_folder, export_dataset
    from coldstart.segmentation import class_names
    from coldstart.store import FILE_NAME, Store, require_whole

    chosen = FORMATS[form]
    settings, state = _settings(where, given)
    folder, called = dataset_folder(output, chosen, name, number, str(where))
    store = None
    if (state / FILE_NAME).is_file():
        require_whole(state / FILE_NAME)
        store = Store(state)
    elif isinstance(where, str):
        raise InvalidInputError(
            f"STUDIES must be an archive whose campaign is on this machine; {state} holds none of {where}. Export on "
            "the server's machine, or name its --conf state_dir."
        )
    images = where if isinstance(where, Path) and where != state else None
    cases = collect(images, store, settings, read_held_out(settings.heldout))
    with _progress() as progress:
        exported = export_dataset(
            cases,
            folder,
            chosen,
            settings,
            name=called,
            channel=channel or ("CT" if settings.intensity_range is not None else "image"),
            store=store,
            source=str(where),
            progress=progress,
        )
    contents = exported.contents
    return {
        "format": chosen,
        "folder": str(exported.folder.resolve()),
        "training": len(contents.training),
        "held_out": len(contents.held_out),
        "held_out_with_label": sum(case.label is not None for case in contents.held_out),
        "left_out": exported.left_out,
        "labels": {"background": 0, **{key: value for value, key in enumerate(class_names(settings.labels), start=1)}},
        "channels": contents.channels,
        "file_ending": contents.style.suffix,
        "loaded_back": True,
    }


def _studies(studies: str) -> Path | str:
    """The address of an archive, or the absolute path of a folder."""
    from coldstart.adapters.server import is_archive

    if is_archive(studies):
        from coldstart.adapters.archive_client import require_archive_address

        return require_archive_address(studies)
    folder = Path(studies).expanduser()
    if not folder.is_dir():
        raise InvalidInputError(f"STUDIES must be a folder of images, or the address of an archive; got '{studies}'.")
    return folder.resolve()


def _settings(where: Path | str, given: dict[str, str]) -> tuple[Settings, Path]:
    """The settings of the campaign's server, with those given over them, and the folder of its database."""
    from coldstart.adapters.server import APP_FOLDER
    from coldstart.campaign.configured import recall
    from coldstart.settings import load_settings
    from coldstart.store import FILE_NAME, state_folder

    if isinstance(where, Path) and (where / FILE_NAME).is_file():
        state = where
    else:
        state = state_folder(where, Path(given["state_dir"]) if "state_dir" in given else None)
    noted = recall(state)
    if noted is None and not given.keys() & {"preset", "labels"}:
        raise SettingsError(
            f"What the labels of {where} mean is not known: no server has noted its settings in {state}. Name the "
            "preset that they were drawn with: --preset NAME."
        )
    return load_settings({**(noted or {}), **given}, APP_FOLDER / "configs"), state


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=progress_console, transient=True) as shown:
        bars: dict[str, int] = {}

        def report(what: str, done: int, total: int) -> None:
            bar = bars[what] if what in bars else bars.setdefault(what, shown.add_task(what, total=total))
            shown.update(bar, completed=done)  # type: ignore[arg-type]

        yield report


def _show(document: Document) -> None:
    labels = ", ".join(f"{name} {value}" for name, value in document["labels"].items())
    channels = ", ".join(document["channels"].values())
    console.print(
        f"Wrote {document['training']} labelled images and {document['held_out']} held-out ones "
        f"({document['held_out_with_label']} of them with a label) as {document['file_ending']} files to "
        f"{document['folder']}, and loaded all of it back.\nLabels: {labels}. Channels: {channels}. "
        f"History of the selection: selection.csv and selection.json.",
        soft_wrap=True,
        markup=False,
    )
    left_out = document["left_out"]
    if left_out:
        console.print(f"Left out: {len(left_out)}.", markup=False)
    for image_id, reason in list(left_out.items())[:MAX_NAMED]:
        console.print(f"  {image_id}: {reason}", soft_wrap=True, markup=False)
    if len(left_out) > MAX_NAMED:
        console.print(f"  and {len(left_out) - MAX_NAMED} more; selection.csv names all.", markup=False)
