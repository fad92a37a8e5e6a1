"""Which images are exported, from where, and what the values of their labels mean.

Nothing is changed by looking: neither the campaign's database nor the studies folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import select

from coldstart.campaign.inventory import LabelFile, label_signature
from coldstart.exceptions import SettingsError
from coldstart.images import image_suffix
from coldstart.settings import Settings
from coldstart.store import Image, Label, Store, file_signature

LABELS = Path("labels", "final")
RECORD = "datastore_v2.json"
"""MONAI Label's own record of a studies folder: who saved a label, and what its values were called."""


@dataclass(frozen=True)
class Case:
    """An image to export.

    Attributes
    ----------
    image_id : str
    name : str
        What its files are called in the dataset.
    image : Path
    label : Path or None
        None for a held-out image without a label.
    held_out : bool
    label_info : list or None
        Names and values as the viewer sent them.
    annotator : str or None
    saved_at : float or None
        Seconds since 1970.
    problem : str or None
        Why it cannot be exported, where that is known already.
    """

    image_id: str
    name: str
    image: Path
    label: Path | None
    held_out: bool
    label_info: Any | None = None
    annotator: str | None = None
    saved_at: float | None = None
    problem: str | None = None


def collect(studies: Path | None, store: Store | None, settings: Settings, held_out: frozenset[str]) -> list[Case]:
    """Find the labelled images and the held-out ones, by id.

    Parameters
    ----------
    studies : Path or None
        Folder of the images; None where they are in an archive, of which only the database knows.
    store : Store or None
        The campaign's database, where there is one.
    settings : Settings
        `labels` and `spatial_dims` have to be those of the campaign.
    held_out : frozenset of str
        Ids that `--conf heldout` lists; where it lists none, those that the database knows.

    Raises
    ------
    SettingsError
        If the settings are not those by which the campaign checked its labels.
    """
    cases = {} if studies is None else _in_folder(studies)
    for image, label in _rows(store):
        before = cases.get(image.image_id)
        if before is None and (studies is not None or not image.present):
            continue
        case = before or Case(image.image_id, image.image_id, Path(image.path), None, image.held_out)
        if studies is not None and (file := studies / Path(image.path).name).is_file():
            case = replace(case, image=file)  # of two files with one id the one that was labelled
        if studies is None and label is not None:
            case = replace(case, label=Path(label.path))
        if label is not None and case.label is not None:
            _require_same_settings(case.label, image, label, settings)
            case = _with_label(case, case.label, label)
        cases[image.image_id] = replace(case, held_out=image.held_out, problem=image.problem or case.problem)
    if held_out:
        cases = {name: replace(case, held_out=name in held_out) for name, case in cases.items()}
    return _with_names([case for _, case in sorted(cases.items()) if case.label is not None or case.held_out])


def _in_folder(studies: Path) -> dict[str, Case]:
    """Images of a folder, with the labels that lie in it."""
    labels = _files(studies / LABELS)
    recorded = _recorded(studies / RECORD)
    cases = {}
    for image_id, image in _files(studies).items():
        label = labels.get(image_id)
        said = recorded.get(image_id, {}) if label is not None else {}
        cases[image_id] = Case(
            *(image_id, image_id, image, label, False, said.get("label_info")),
            annotator=said.get("annotator"),
            saved_at=label.stat().st_mtime if label is not None else None,
        )
    return cases


def _files(folder: Path) -> dict[str, Path]:
    """Files of a folder by id; of two with one id the newest."""
    found = [path for path in folder.glob("*") if image_suffix(path) and path.name[0] != "." and path.is_file()]
    newest_last = sorted(found, key=lambda path: (path.stat().st_mtime, path.name))
    return {path.name[: -len(image_suffix(path))]: path for path in newest_last}


def _recorded(record: Path) -> dict[str, dict[str, Any]]:
    """What MONAI Label noted of the final labels; nothing where its record cannot be read."""
    try:
        objects = json.loads(record.read_text(encoding="utf-8"))["objects"]
        return {name: entry["labels"]["final"]["info"] for name, entry in objects.items() if "final" in entry["labels"]}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _rows(store: Store | None) -> Iterable[tuple[Image, Label | None]]:
    if store is None:
        return []
    with store.reading() as session:
        rows = session.execute(select(Image, Label).outerjoin(Label).order_by(Image.image_id))
        return [(image, label) for image, label in rows.tuples() if label is not None or image.held_out]


def _require_same_settings(file: Path, image: Image, label: Label, settings: Settings) -> None:
    """Refuse settings other than those by which the campaign gave the label's values their meaning."""
    if not image.signature.endswith(f"-{settings.spatial_dims}d"):
        raise SettingsError(
            f"The campaign is not of {settings.spatial_dims}D images, as the preset '{settings.preset}' says. Name the "
            "preset that its server was started with: --preset NAME."
        )
    if not _is_the_file(file, label) or label.class_of_value is None:
        return
    if label_signature(LabelFile(file), image.signature, settings.labels) != label.signature:
        structures = ", ".join(f"{name}:{value}" for name, value in settings.labels.items())
        raise SettingsError(
            f"`labels` must be the campaign's own; got {structures}, and the label of image '{image.image_id}' was "
            "checked against others. Name the preset and the --conf labels that its server was started with."
        )


def _is_the_file(file: Path, label: Label) -> bool:
    """Whether a file is the one that the database knows, wherever the folder has been moved since."""
    try:
        return label.signature.startswith(f"{file_signature(file)}-")
    except OSError:
        return False


def _with_label(case: Case, file: Path, label: Label) -> Case:
    """Add what the database knows of a label, if that is the label that is there."""
    if not file.is_file():
        return replace(case, problem=label.problem or f"Its label {file} is not on this machine.")
    if not _is_the_file(file, label):
        return case
    return replace(case, label_info=label.label_info, annotator=label.annotator, saved_at=label.saved_at)


def _with_names(cases: list[Case]) -> list[Case]:
    """Give every case a file name that no tool stumbles over."""
    named, taken = [], set[str]()
    for case in cases:
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", case.image_id)
        name, number = plain, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name.casefold())
        named.append(replace(case, name=name))
    return named
