"""The labelled images of a campaign as a dataset for other tools: nnU-Net v2's raw format, or a MONAI datalist.

Labels get the values 1, 2, ... in the order of the preset's structures, whatever their files held. Before a dataset is
there it is loaded back, the way these tools find it, and compared with what was to be written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from coldstart.campaign.exporting.cases import Case, collect
from coldstart.campaign.exporting.files import (
    NIFTI,
    ExportError,
    Needs,
    Style,
    load_back,
    needs_of,
    read_case,
    style_for,
    write_classes,
    write_image,
)
from coldstart.campaign.exporting.folder import replacing, require_replaceable, write_json
from coldstart.campaign.exporting.history import COLUMNS, selection_rows
from coldstart.campaign.exporting.layouts import INDEX, LAYOUTS, Contents, Format, Layout, dataset_folder
from coldstart.campaign.replay import decision_rows
from coldstart.campaign.spreadsheet import csv_text
from coldstart.exceptions import ImageError, LabelError
from coldstart.images import read_image
from coldstart.segmentation import class_names
from coldstart.segmentation.samples import parallel_map
from coldstart.settings import Settings
from coldstart.store import Store

__all__ = ["Case", "ExportError", "Exported", "Format", "collect", "dataset_folder", "export_dataset"]

HISTORY = "selection"
"""What led to each label, as CSV and as JSON."""
LOG = "decisions.jsonl"
"""The campaign's whole selection log, one line a decision."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes
    ----------
    folder : Path
    contents : Contents
    left_out : dict of str to str
        Why an image that has a label, or is held out, is not in the dataset.
    """

    folder: Path
    contents: Contents
    left_out: dict[str, str]


def export_dataset(
    cases: Sequence[Case],
    folder: Path,
    form: Format,
    settings: Settings,
    *,
    name: str,
    channel: str,
    store: Store | None,
    source: str,
    progress: Progress,
) -> Exported:
    """Write a dataset, load it back, and only then give it its place.

    Parameters
    ----------
    cases : sequence of Case
        From `collect`.
    folder : Path
        Where it goes; what an earlier export wrote there is replaced.
    form : {"nnunet", "monai"}
    settings : Settings
        `labels` gives the order of the structures.
    name : str
        What the dataset is called.
    channel : str
        What the channel of grey images is called; nnU-Net normalises "CT" in its own way.
    store : Store or None
        The campaign's database, for the history.
    source : str
        Where the images are from, for the manifest.
    progress : callable
        Called with what is done, and the numbers of images done and of all.

    Raises
    ------
    ExportError
        If there is no label to export, the folder is somebody else's, or the dataset is not what was to be written.
    """
    require_replaceable(folder)
    layout = LAYOUTS[form]
    style, left_out = _choose_style(cases, settings, progress)
    details = {
        "app": f"coldstart-al {version('coldstart-al')}",
        "format": form,
        "studies": source,
        "preset": settings.preset,
        "exported_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    with replacing(folder, details) as unfinished:
        for case in cases:
            for file in (*layout.image_files(case, style), layout.label_file(case, style)):
                (unfinished / file).parent.mkdir(exist_ok=True)
        kept = [case for case in cases if case.image_id not in left_out]
        write = partial(_write, folder=unfinished, layout=layout, style=style, settings=settings)
        digests: dict[Path, str] = {}
        written = []
        for case, result in zip(kept, _watched("written", kept, write, progress), strict=True):
            if isinstance(result, str):
                left_out[case.image_id] = result
            else:
                digests |= result
                written.append(case)
        _require_training(cases, left_out)
        names = class_names(settings.labels)
        contents = Contents(name, style, channel, names, tuple(written), settings.spatial_dims)
        write_json(unfinished / INDEX, layout.index(contents))
        _write_history(unfinished, store, cases, left_out)
        _check(unfinished, layout, contents, digests, progress)
    return Exported(folder, contents, left_out)


def _choose_style(cases: Sequence[Case], settings: Settings, progress: Progress) -> tuple[Style, dict[str, str]]:
    """How the images are stored, and why some cannot be used; volumes need no look, and are large."""
    left_out = {case.image_id: case.problem for case in cases if case.problem is not None}
    _require_training(cases, left_out)
    if settings.spatial_dims == 3:
        return Style(NIFTI, 1), left_out

    def look(case: Case) -> Needs | str:
        try:
            return case.problem or needs_of(read_image(case.image))
        except ImageError as error:
            return str(error)

    needs: list[Needs] = []
    for case, found in zip(cases, _watched("looked at", cases, look, progress), strict=True):
        if isinstance(found, Needs):
            needs.append(found)
        else:
            left_out[case.image_id] = found
    _require_training(cases, left_out)
    return style_for(needs), left_out


def _write(case: Case, folder: Path, layout: Layout, style: Style, settings: Settings) -> dict[Path, str] | str:
    """Write the files of a case; return what each should give back, or why it is left out."""
    try:
        image, classes = read_case(case, settings)
    except (ImageError, LabelError) as error:
        return str(error)
    files = [folder / file for file in layout.image_files(case, style)]
    try:
        digests = dict(zip(files, write_image(image, files, style), strict=True))
        if classes is not None:
            label = folder / layout.label_file(case, style)
            digests[label] = write_classes(classes, image.geometry, label, style)
    except RuntimeError as error:  # SimpleITK knows no other
        raise ExportError(f"Image '{case.image_id}' cannot be written to {files[0]}: {error}") from None
    return digests


def _require_training(cases: Sequence[Case], left_out: Mapping[str, str]) -> None:
    if any(case.image_id not in left_out for case in cases if not case.held_out):
        return
    first = next((f" {image_id}: {reason}" for image_id, reason in left_out.items()), "")
    raise ExportError(
        "An export needs at least 1 labelled image outside the held-out ones; got 0. Label an image and save it, or "
        f"correct what is wrong with its label.{first}"
    )


def _write_history(folder: Path, store: Store | None, cases: Sequence[Case], left_out: Mapping[str, str]) -> None:
    rows = selection_rows(store, cases, left_out)
    table = csv_text(COLUMNS, [[row[name] for name in COLUMNS] for row in rows])
    (folder / f"{HISTORY}.csv").write_text(table, encoding="utf-8", newline="")
    write_json(folder / f"{HISTORY}.json", rows)
    if store is not None:
        with (folder / LOG).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in decision_rows(store))


def _check(folder: Path, layout: Layout, contents: Contents, digests: Mapping[Path, str], progress: Progress) -> None:
    """Load the dataset back as a tool would, and compare it with what was to be written."""
    pairs = layout.find(folder)
    wanted = sum(len(layout.image_files(case, contents.style)) + (case.label is not None) for case in contents.cases)
    found = {path for pair in pairs for path in (*pair.images, pair.label) if path is not None}
    if len(pairs) != len(contents.cases) or len(found) != wanted or found != digests.keys():
        raise ExportError(
            f"The dataset must hold {wanted} files of {len(contents.cases)} images; loaded back, it holds {len(found)} "
            f"of {len(pairs)}. Check the disk, and export again."
        )

    def check(pair: Any) -> None:
        stored = {path: load_back(path) for path in (*pair.images, pair.label) if path is not None}
        for path, file in stored.items():
            if file.digest() != digests[path]:
                raise ExportError(f"{path.name} does not give back what was written. Check the disk, and export again.")
            if file.grid != stored[pair.images[0]].grid:
                raise ExportError(f"{path.name} does not lie on the grid of {pair.images[0].name}. This is a fault.")
        if pair.label is not None and int(np.max(stored[pair.label].values)) > len(contents.labels):
            raise ExportError(f"{pair.label.name} holds values that have no name. This is a fault.")

    for _ in _watched("loaded back", pairs, check, progress):
        pass


def _watched(what: str, items: Sequence[Any], function: Callable[[Any], Any], progress: Progress) -> Any:
    """Apply a function in threads, and tell how far it is."""
    for done, result in enumerate(parallel_map(function, items), start=1):
        progress(what, done, len(items))
        yield result
