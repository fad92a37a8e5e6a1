"""Labels between the viewers, which send voxels, and the archive, which keeps DICOM SEG."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coldstart.exceptions import LabelError
from coldstart.images import (
    describe_mismatch,
    read_dicom_seg,
    read_image,
    read_label,
    read_series,
    write_dicom_seg,
    write_label,
)
from coldstart.images.geometry import to_pixels

OHIF_SUFFIX = ".bin"
"""How OHIF sends a label: the bare voxels, 8 bits each, in the order of the image's file."""

_NAMELESS = re.compile(r"(segment|label|value|region|structure|unknown)?[\s_-]*\d*", re.IGNORECASE)
"""What viewers call a segment that nobody named: its number says what it is."""


def label_of_voxels(voxels: Path, image: Path, label: Path) -> None:
    """Write a label file from what OHIF sends.

    Raises
    ------
    LabelError
        If the number of voxels is not that of the image.
    """
    geometry = read_image(image).geometry
    values = np.fromfile(voxels, dtype=np.uint8)
    n_voxels = int(np.prod(geometry.size))
    if values.size != n_voxels:
        raise LabelError(
            f"The label must have the {n_voxels} voxels of its image, one byte each; got {values.size} bytes. Save it "
            "on its own image."
        )
    write_label(to_pixels(values.reshape(geometry.size, order="F"), geometry), geometry, label)


def label_of_segmentation(segmentation: Path, instances: Path, image: Path, label: Path) -> list[dict[str, Any]]:
    """Write a label file from a DICOM SEG; return its `label_info`, which names the values that have a name.

    Raises
    ------
    LabelError
        If it cannot be read onto the image.
    """
    geometry = read_image(image).geometry
    read = read_dicom_seg(segmentation, geometry, read_series(instances))
    write_label(read.values, geometry, label)
    return [{"name": name, "idx": value} for value, name in read.names.items() if not _NAMELESS.fullmatch(name)]


def segmentation_of_label(
    label: Path,
    instances: Path,
    image: Path,
    segmentation: Path,
    *,
    label_info: object,
    preset_labels: Mapping[str, int],
    identity: Sequence[str] = (),
) -> str:
    """Write a DICOM SEG from a label file; return the UID of its series.

    Parameters
    ----------
    label : Path
        What a viewer saved, on the grid of the image.
    instances, image : Path
        Folder of the series, and its image.
    segmentation : Path
        Where to write.
    label_info : object
        What the viewer said of the values, if anything: a list of `{"name": ..., "idx": ...}`.
    preset_labels : mapping of str to int
        Names of the values of which the viewer said nothing.
    identity : sequence of str
        With the content of the label, what makes its UIDs; the same label is the same object, however often it is sent.

    Raises
    ------
    ImageError, LabelError
        If the image is none, or the label does not lie on it.
    """
    geometry, read = read_image(image).geometry, read_label(label)
    if (mismatch := describe_mismatch(geometry, read.geometry)) is not None:
        raise LabelError(mismatch)
    names = {value: name for name, value in preset_labels.items()} | _said(label_info)
    present = {int(value) for value in np.unique(read.values)} - {0}
    named = {value: names[value] for value in present & names.keys()} if present else names
    words = [*identity, hashlib.sha256(label.read_bytes()).hexdigest()] if identity else None
    return write_dicom_seg(read.values, geometry, read_series(instances), named, segmentation, words)


def _said(label_info: object) -> dict[int, str]:
    """Names by value; what is no list of names and numbers is judged elsewhere, where the label is checked."""
    names: dict[int, str] = {}
    for entry in label_info if isinstance(label_info, list) else ():
        if isinstance(entry, dict) and isinstance(name := entry.get("name"), str):
            number = entry.get("idx", entry.get("id"))
            if isinstance(number, int | str) and str(number).isdecimal() and int(number) > 0:
                names[int(number)] = name
    return names
