"""How the folder of a dataset is laid out, for nnU-Net v2 and for MONAI, and how these tools find its files again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from monai.data import load_decathlon_datalist

from coldstart.campaign.exporting.cases import Case
from coldstart.campaign.exporting.files import PNG, ExportError, Style
from coldstart.exceptions import InvalidInputError

Format = Literal["nnunet", "monai"]
INDEX = "dataset.json"
DEFAULT_NUMBER = 500
"""Of a nnU-Net dataset: 1 to 10 are the Medical Segmentation Decathlon's, and the first hundreds are often taken."""
_NNUNET_FOLDER = re.compile(r"Dataset(\d{3})_(\w+)", re.ASCII)
_DESCRIPTION = "Exported by coldstart_al; selection.csv says which image was chosen when, why and for whom."


@dataclass(frozen=True)
class Pair:
    """An image, in one file or in one for each channel, and its label where it has one; as a tool finds them."""

    images: tuple[Path, ...]
    label: Path | None


@dataclass(frozen=True)
class Contents:
    """What a dataset holds.

    Attributes
    ----------
    name : str
    style : Style
    channel : str
        Of grey images.
    labels : tuple of str
        Structures; the first has the value 1.
    cases : tuple of Case
        In the order of their ids.
    spatial_dims : {2, 3}
    """

    name: str
    style: Style
    channel: str
    labels: tuple[str, ...]
    cases: tuple[Case, ...]
    spatial_dims: int

    @property
    def channels(self) -> dict[str, str]:
        """Name of each channel, by its number as text."""
        names = ("R", "G", "B") if self.style.n_channels > 1 else (self.channel,)
        return {str(number): name for number, name in enumerate(names)}

    @property
    def training(self) -> list[Case]:
        """What is learned from."""
        return [case for case in self.cases if not case.held_out]

    @property
    def held_out(self) -> list[Case]:
        """What is never learned from; some may have no label."""
        return [case for case in self.cases if case.held_out]


class Layout(Protocol):
    """One format: where its files are, what its index says, and what a tool finds by it."""

    format: Format

    def image_files(self, case: Case, style: Style) -> list[str]:
        """Paths of an image in the dataset's folder."""

    def label_file(self, case: Case, style: Style) -> str:
        """Path of a label in the dataset's folder."""

    def index(self, contents: Contents) -> Mapping[str, Any]:
        """What `dataset.json` says."""

    def find(self, folder: Path) -> list[Pair]:
        """All images and labels as a tool finds them, by the index and the names of the files."""


class NnunetLayout:
    """nnU-Net v2: `imagesTr`, `labelsTr`; the held-out images are `imagesTs`, those with a label also `labelsTs`."""

    format: Format = "nnunet"

    def image_files(self, case: Case, style: Style) -> list[str]:
        """One file for each channel, but one for all colours in PNG, as nnU-Net's reader of natural images wants it."""
        part = "Ts" if case.held_out else "Tr"
        return [f"images{part}/{case.name}_{number:04d}{style.suffix}" for number in range(style.n_files)]

    def label_file(self, case: Case, style: Style) -> str:
        """The case's name and nothing else."""
        return f"labels{'Ts' if case.held_out else 'Tr'}/{case.name}{style.suffix}"

    def index(self, contents: Contents) -> Mapping[str, Any]:
        """Names by their values, the background first."""
        return {
            "name": contents.name,
            "description": f"{_DESCRIPTION} Held-out images are in imagesTs, those with a label also in labelsTs.",
            "channel_names": contents.channels,
            "labels": {"background": 0, **{name: value for value, name in enumerate(contents.labels, start=1)}},
            "numTraining": len(contents.training),
            "file_ending": contents.style.suffix,
        }

    def find(self, folder: Path) -> list[Pair]:
        """By the files in the folders, as nnU-Net does; the number of labels has to be `numTraining`."""
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        suffix = index["file_ending"]
        n_files = 1 if suffix == PNG else len(index["channel_names"])
        pairs = []
        for part in ("Tr", "Ts"):
            images = sorted((folder / f"images{part}").glob(f"*_0000{suffix}"))
            names = [path.name.removesuffix(f"_0000{suffix}") for path in images]
            labels = sorted((folder / f"labels{part}").glob(f"*{suffix}"))
            if part == "Tr" and not len(names) == len(labels) == index["numTraining"]:
                raise ExportError(
                    f"{folder} must hold {index['numTraining']} images and labels for training; it holds {len(names)} "
                    f"and {len(labels)}. Check the disk, and export again."
                )
            for name in names:
                channels = tuple(folder / f"images{part}" / f"{name}_{n:04d}{suffix}" for n in range(n_files))
                label = folder / f"labels{part}" / f"{name}{suffix}"
                pairs.append(Pair(channels, label if label in labels else None))
        return pairs


class MonaiLayout:
    """A datalist as the Medical Segmentation Decathlon's: held-out images with a label are `validation`.

    All held-out images are also listed under `test`, there as images alone.
    """

    format: Format = "monai"

    def image_files(self, case: Case, style: Style) -> list[str]:
        """One file, or one for each channel."""
        if style.n_files == 1:
            return [f"images/{case.name}{style.suffix}"]
        return [f"images/{case.name}_{number:04d}{style.suffix}" for number in range(style.n_files)]

    def label_file(self, case: Case, style: Style) -> str:
        """The same name as its image's."""
        return f"labels/{case.name}{style.suffix}"

    def index(self, contents: Contents) -> Mapping[str, Any]:
        """The datalist; paths are relative to it."""

        def item(case: Case) -> dict[str, str | list[str]]:
            files = self.image_files(case, contents.style)
            return {"image": files[0] if len(files) == 1 else files, "label": self.label_file(case, contents.style)}

        return {
            "name": contents.name,
            "description": f"{_DESCRIPTION} Held-out images with a label are under validation, all of them under test.",
            "labels": {str(value): name for value, name in enumerate(("background", *contents.labels))},
            "modality": contents.channels,
            "tensorImageSize": f"{contents.spatial_dims}D",
            "numTraining": len(contents.training),
            "numTest": len(contents.held_out),
            "training": [item(case) for case in contents.training],
            "validation": [item(case) for case in contents.held_out if case.label is not None],
            "test": [{"image": item(case)["image"]} for case in contents.held_out],
        }

    def find(self, folder: Path) -> list[Pair]:
        """By MONAI's own function, which fails for an empty `test`."""
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        found: dict[tuple[Path, ...], Path | None] = {}
        for key in ("test", "validation", "training"):
            for item in load_decathlon_datalist(folder / INDEX, True, key) if index[key] else ():
                files = item["image"] if isinstance(item["image"], list) else [item["image"]]
                found[tuple(map(Path, files))] = Path(item["label"]) if "label" in item else None
        return [Pair(images, label) for images, label in found.items()]


LAYOUTS: dict[Format, Layout] = {"nnunet": NnunetLayout(), "monai": MonaiLayout()}


def dataset_folder(output: Path, form: Format, name: str | None, number: int | None, studies: str) -> tuple[Path, str]:
    """Where a dataset goes and what it is called.

    For MONAI that is `output` itself; for nnU-Net `DatasetNNN_Name` in it, unless `output` is called like that.

    Raises
    ------
    InvalidInputError
        If nnU-Net could not tell the dataset from another one in the same folder.
    """
    plain = name if name is not None else studies.rstrip("/").rpartition("/")[2].title()
    called = re.sub(r"\W", "", plain, flags=re.ASCII) or "Coldstart"
    if form == "monai":
        if number is not None:
            raise InvalidInputError("--number is the number of a nnU-Net dataset; a MONAI datalist has none.")
        return output, called
    if match := _NNUNET_FOLDER.fullmatch(output.name):
        number, called, root = int(match[1]), match[2], output.parent
    else:
        number, root = number if number is not None else DEFAULT_NUMBER, output
    folder = root / f"Dataset{number:03d}_{called}"
    twin = next((path for path in root.glob(f"Dataset{number:03d}_*") if path.name != folder.name), None)
    if twin is not None:
        raise InvalidInputError(
            f"The number of a nnU-Net dataset must be its own; {twin} has {number:03d} as well. Choose another with "
            "--number."
        )
    return folder, called
