"""Labelled images of a benchmark: pairs of files from two folders, checked, and split into pool and test set.

An image and its label have the same name but for the suffix. What cannot be used is left out with its reason.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coldstart.exceptions import ImageError, InvalidInputError, LabelError
from coldstart.images import describe_mismatch, image_suffix, read_image, read_label
from coldstart.segmentation import Sample
from coldstart.segmentation.samples import parallel_map

MAX_STRUCTURES = 100
"""More values than that are grey levels, not structures."""
N_NAMED = 3
"""Images that a sentence names before it says how many more there are."""


@dataclass(frozen=True)
class Dataset:
    """Labelled images that a network can be trained on.

    Attributes
    ----------
    name : str
    samples : tuple of Sample
        In the order of their ids; their classes count from 1 in the order of `label_names`.
    groups : tuple of str
        Of each sample; where there are no groups, each is its own.
    label_names : tuple of str
        The structures.
    spatial_dims : {2, 3}
    median_shape : tuple of int
        Of the images, for each axis.
    left_out : dict of str to str
        Why an image or label is not among the samples.
    digest : str
        Of the content of all files, the groups and the structures.
    """

    name: str
    samples: tuple[Sample, ...]
    groups: tuple[str, ...]
    label_names: tuple[str, ...]
    spatial_dims: int
    median_shape: tuple[int, ...]
    left_out: dict[str, str]
    digest: str


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of a dataset's samples, ascending."""

    pool: NDArray[np.intp]
    test: NDArray[np.intp]


@dataclass(frozen=True)
class _Checked:
    spatial_dims: int
    shape: tuple[int, ...]
    values: tuple[int, ...]
    digest: str


def read_dataset(
    name: str,
    images: Path,
    labels: Path,
    *,
    structures: Mapping[str, int] | None = None,
    spatial_dims: int | None = None,
    groups: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Pair the images of one folder with the labels of another, and read all of them once.

    Parameters
    ----------
    name : str
        What rows call it.
    images, labels : Path
        Two folders. Files with an unknown suffix and hidden ones are not looked at.
    structures : mapping of str to int, optional
        Name and value of each; without it every value that occurs is a structure called "label <value>".
    spatial_dims : {2, 3}, optional
        Of the images wanted; without it, what most images are.
    groups : mapping of str to str, optional
        Group of each image id; without it each image is its own.
    progress : callable, optional
        Called with (images read, images in all).

    Raises
    ------
    InvalidInputError
        If a folder is not there or no pair can be used, two files have one name, a structure is in no label, or the
        labels hold too many values.
    """
    image_files, label_files = _files(images, "images"), _files(labels, "labels")
    left_out = {image_id: "it has no label" for image_id in image_files if image_id not in label_files}
    left_out |= {label_id: "the label has no image" for label_id in label_files if label_id not in image_files}
    paired = sorted(image_files.keys() & label_files.keys())
    if not paired:
        raise InvalidInputError(
            f"An image and its label must have the same name but for the suffix; none of the {len(image_files)} "
            f"images in {images} has one among the {len(label_files)} files in {labels} (for example "
            f"{next(iter(image_files.values())).name} and {next(iter(label_files.values())).name}). Rename them."
        )
    checked: dict[str, _Checked] = {}
    reads = parallel_map(lambda image_id: _check(image_files[image_id], label_files[image_id]), paired)
    for done, (image_id, result) in enumerate(zip(paired, reads, strict=True), start=1):
        if isinstance(result, str):
            left_out[image_id] = result
        else:
            checked[image_id] = result
        if progress is not None:
            progress(done, len(paired))
    _leave_out(checked, left_out, spatial_dims, structures, groups)
    if not checked:
        image_id = next(image_id for image_id in paired if image_id in left_out)
        raise InvalidInputError(
            f"None of the {len(paired)} images in {images} can be used. {image_id}: {left_out[image_id]}"
        )
    meanings = dict(structures) if structures is not None else _found_structures(list(checked.values()), labels)
    _check_present(meanings, list(checked.values()), labels)
    class_of_value = {value: index for index, value in enumerate(meanings.values(), start=1)}
    group_of = {image_id: image_id if groups is None else groups[image_id] for image_id in checked}
    content = [f"{image_id} {item.digest} {group_of[image_id]}" for image_id, item in checked.items()]
    return Dataset(
        name=name,
        samples=tuple(
            Sample(image_id, image_files[image_id], label_files[image_id], class_of_value) for image_id in checked
        ),
        groups=tuple(group_of.values()),
        label_names=tuple(meanings),
        spatial_dims=next(iter(checked.values())).spatial_dims,
        median_shape=tuple(int(side) for side in np.median([item.shape for item in checked.values()], axis=0)),
        left_out=left_out,
        digest=_digest("\n".join([*content, str(meanings)]).encode()),
    )


def read_groups(manifest: Path, column: str) -> dict[str, str]:
    """Read the group of each image from a CSV file whose first column is its name without suffix; a blank names none.

    Raises
    ------
    InvalidInputError
        If the file cannot be read, has no such column, or names two groups for one image.
    """
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(
            f"`group_by` needs {manifest}, a CSV file with the group of each image; it cannot be read ({error})."
        ) from None
    if column not in names:
        raise InvalidInputError(
            f"`group_by` must be a column of {manifest}, with {', '.join(names) or 'none'}; got '{column}'."
        )
    groups: dict[str, str] = {}
    for row in rows:
        image_id, group = row[names[0]], row[column] or ""  # None where the row ends early
        if group.strip() and groups.setdefault(image_id, group) != group:
            raise InvalidInputError(
                f"{manifest} must name one group for {image_id}; got '{groups[image_id]}' and '{group}'. Correct it."
            )
    return groups


def split(dataset: Dataset, seed: int, test_fraction: float) -> Split:
    """Draw the test set of a run: a fraction of the images, or of the groups where there are some, rounded.

    Raises
    ------
    InvalidInputError
        If nothing is left for the pool.

    Notes
    -----
    Of 138, 131 and 300 images a fifth is 28, 26 and 60, as in table 1 of Levy et al. (2026).
    """
    names = sorted(set(dataset.groups))
    n_test = max(1, round(test_fraction * len(names)))
    if n_test >= len(names):
        raise InvalidInputError(
            f"A test set of {n_test} of {len(names)} {'groups' if len(names) < len(dataset.samples) else 'images'} "
            f"leaves none for the pool (dataset {dataset.name}). Add images, or lower `test_fraction`."
        )
    drawn = np.random.default_rng(seed).permutation(len(names))[:n_test]
    chosen = {names[index] for index in drawn}
    in_test = np.array([group in chosen for group in dataset.groups])
    return Split(np.flatnonzero(~in_test), np.flatnonzero(in_test))


def list_left_out(left_out: Mapping[str, str]) -> list[str]:
    """Write why images were left out, a sentence for each reason."""
    by_reason: dict[str, list[str]] = {}
    for image_id, reason in sorted(left_out.items()):
        by_reason.setdefault(reason, []).append(image_id)
    return [f"{_named(names)}: {reason}" for reason, names in by_reason.items()]


def _files(folder: Path, what: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise InvalidInputError(f"The {what} must be in a folder that is there; got {folder}. Name it with --{what}.")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = image_suffix(path)
        if not suffix or path.name.startswith(".") or not path.is_file():
            continue
        image_id = path.name[: -len(suffix)]
        if image_id in files:
            raise InvalidInputError(
                f"The {what} must have names that differ without their suffix; {folder} holds {files[image_id].name} "
                f"and {path.name}. Move one of them away."
            )
        files[image_id] = path
    if not files:
        raise InvalidInputError(f"{folder} must hold {what}; it holds none that can be read. Name another folder.")
    return files


def _check(image_file: Path, label_file: Path) -> _Checked | str:
    try:
        image, label = read_image(image_file), read_label(label_file)
        mismatch = describe_mismatch(image.geometry, label.geometry)
        if mismatch is not None:
            return mismatch
        digest = _digest(image_file.read_bytes()) + _digest(label_file.read_bytes())
    except (ImageError, LabelError, OSError) as error:
        return str(error)
    values = tuple(int(value) for value in np.unique(label.values) if value != 0)
    return _Checked(image.spatial_dims, image.pixels.shape[1:], values, digest)


def _leave_out(
    checked: dict[str, _Checked],
    left_out: dict[str, str],
    spatial_dims: int | None,
    structures: Mapping[str, int] | None,
    groups: Mapping[str, str] | None,
) -> None:
    """Move what does not fit the others from `checked` to `left_out`."""
    if not checked:
        return
    wanted = spatial_dims or Counter(item.spatial_dims for item in checked.values()).most_common(1)[0][0]
    for image_id, item in list(checked.items()):
        unknown = [] if structures is None else [value for value in item.values if value not in structures.values()]
        if item.spatial_dims != wanted:
            left_out[image_id] = f"it is {item.spatial_dims}D, and the network is for {wanted}D images"
        elif unknown:
            left_out[image_id] = f"its label holds the value {unknown[0]}, which `structures` does not name"
        elif groups is not None and image_id not in groups:
            left_out[image_id] = "the manifest does not name its group"
        else:
            continue
        del checked[image_id]


def _found_structures(checked: Sequence[_Checked], labels: Path) -> dict[str, int]:
    values = sorted({value for item in checked for value in item.values})
    if not 1 <= len(values) <= MAX_STRUCTURES:
        raise InvalidInputError(
            f"The labels must hold 1 to {MAX_STRUCTURES} values besides 0, one for each structure; those in {labels} "
            f"hold {len(values)}. Name the folder of the label maps."
        )
    return {f"label {value}": value for value in values}


def _check_present(structures: Mapping[str, int], checked: Sequence[_Checked], labels: Path) -> None:
    present = {value for item in checked for value in item.values}
    for name, value in structures.items():
        if value not in present:
            raise InvalidInputError(
                f"Each structure must be in at least one label; '{name}' (value {value}) is in none of those in "
                f"{labels}, whose values are {', '.join(map(str, sorted(present))) or 'only 0'}. Correct `structures`."
            )


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:N_NAMED])
    return shown if len(names) <= N_NAMED else f"{shown} and {len(names) - N_NAMED} more"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
