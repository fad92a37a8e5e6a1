"""Label maps: reading them, and writing them as their image lies in its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from coldstart.exceptions import LabelError
from coldstart.images.files import NO_MEMORY, load
from coldstart.images.formats import image_suffix
from coldstart.images.geometry import Geometry, place, to_file, to_pixels
from coldstart.images.itk import itk_reason
from coldstart.images.nifti import write_sform
from coldstart.images.stored import Stored, UnusableError

INTEGER_TOLERANCE = 1e-4
"""Largest distance from a whole number at which a label value read from a floating point file is that number."""

MAX_LABEL_VALUE = 65535


@dataclass(frozen=True)
class Label:
    """A label map in the axis convention of this module.

    Attributes
    ----------
    values : ndarray of shape (*spatial,), int32
        Label values, 0 being background.
    geometry : Geometry
        How the label lies in its own file.
    """

    values: NDArray[np.int32]
    geometry: Geometry


def read_label(path: str | Path) -> Label:
    """Read one label map: NIfTI, NRRD (also Slicer's .seg.nrrd), PNG, TIFF or DICOM.

    Parameters
    ----------
    path : str or Path
        The file. Colours of a palette PNG are ignored, its indices are the values. Layers of a .seg.nrrd are flattened
        where they do not overlap.

    Returns
    -------
    label : Label
        Values as int32 in the axis convention of this module. A label of nothing but background is valid.

    Raises
    ------
    LabelError
        If the file cannot be read, holds values that are not whole numbers from 0 to 65535, has different colour
        channels, overlapping layers or more than three dimensions.
    """
    path = Path(path)
    try:
        if image_suffix(path) in (".jpg", ".jpeg"):
            raise UnusableError("JPEG changes label values when it compresses; save it as PNG, NRRD or NIfTI")
        stored = load(path, indices=True)
        geometry = place(stored)
        values = to_pixels(_whole_numbers(_single_layer(stored)), geometry)
    except UnusableError as problem:
        raise LabelError(f"Label {path} cannot be used: {problem}.") from problem
    except MemoryError as problem:
        raise LabelError(f"Label {path} cannot be used: {NO_MEMORY}.") from problem
    return Label(values=np.ascontiguousarray(values), geometry=geometry)


def write_label(values: NDArray[Any], geometry: Geometry, path: str | Path) -> None:
    """Write a label map in the geometry of the file that `geometry` came from.

    Parameters
    ----------
    values : ndarray of shape (*spatial,), integer (or bool)
        Values from 0 to 65535, in the axis convention of this module; stored as uint8 where they fit, else as uint16.
    geometry : Geometry
        Of the image (or label) that the values belong to; a volume of one slice stays a volume of one slice.
    path : str or Path
        Where to write; the suffix gives the format. PNG holds 2D only and no position.

    Raises
    ------
    LabelError
        If shape or values do not fit, the format is lossy or unknown, or the file cannot be written.
    """
    path, suffix = Path(path), image_suffix(path)
    if suffix not in (".nii.gz", ".nii", ".nrrd", ".png", ".tif", ".tiff"):
        raise LabelError(f"Label {path} cannot be written: use .nii.gz, .nii, .nrrd, .png or .tif; got {path.name!r}.")
    values = np.asarray(values)
    if values.shape != geometry.shape:
        raise LabelError(f"Label {path} must have the shape {geometry.shape} of its image; got {values.shape}.")
    if values.dtype != np.bool_ and not np.issubdtype(values.dtype, np.integer):
        raise LabelError(f"Label {path} must hold integers; got {values.dtype}. Round or cast the values first.")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > MAX_LABEL_VALUE:
        raise LabelError(f"Label {path} must hold values from 0 to {MAX_LABEL_VALUE}; got {low} to {high}.")
    if suffix == ".png" and geometry.spatial_dims != 2:
        raise LabelError(f"Label {path} cannot be written: PNG holds no volumes. Use .nrrd or .nii.gz.")
    whole = values.astype(np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16)
    if suffix == ".png":
        picture = sitk.GetImageFromArray(np.ascontiguousarray(whole))
    else:
        picture = sitk.GetImageFromArray(np.ascontiguousarray(to_file(whole, geometry).T))
        picture.SetSpacing(geometry.spacing)
        picture.SetOrigin(geometry.origin)
        picture.SetDirection(geometry.direction)
    try:
        sitk.WriteImage(picture, str(path), useCompression=suffix not in (".tif", ".tiff"))
        if geometry.nifti_sform is not None and suffix in (".nii", ".nii.gz"):
            write_sform(path, geometry.nifti_sform)
    except (RuntimeError, OSError) as error:
        raise LabelError(f"Label {path} cannot be written: {itk_reason(error)}.") from error


def _single_layer(stored: Stored) -> NDArray[Any]:
    """Bring the components of a label file down to one value for each pixel; (*file axes)."""
    array, n_components = stored.array, stored.array.shape[-1]
    if n_components == 1:
        return array[..., 0]
    if any("Segment" in key for key in stored.metadata) or stored.array.ndim == 4:
        if np.any(np.count_nonzero(array, axis=-1) > 1):
            raise UnusableError("its layers overlap; make the segments disjoint in the viewer and save it again")
        layers_of: dict[int, set[int]] = {}
        for layer in range(n_components):
            for value in np.unique(array[..., layer][array[..., layer] != 0]):
                layers_of.setdefault(int(value), set()).add(layer)
        twice = sorted(value for value, layers in layers_of.items() if len(layers) > 1)
        if twice:
            raise UnusableError(
                f"the value {twice[0]} stands for different segments on different layers; save it as one layer "
                "(export it as a label map)"
            )
        return np.asarray(array.sum(axis=-1, dtype=np.float64))
    grey = array[..., : 3 if n_components >= 3 else 1]
    if np.any(grey != grey[..., :1]):
        raise UnusableError(
            "its colour channels differ; a label map needs one number for each pixel, so save it as grey"
        )
    return grey[..., 0]


def _whole_numbers(array: NDArray[Any]) -> NDArray[np.int32]:
    if np.iscomplexobj(array):
        raise UnusableError("its values are complex numbers; label values must be whole numbers")
    if np.issubdtype(array.dtype, np.floating):
        if not np.all(np.isfinite(array)):
            raise UnusableError("it holds NaN or infinite values; label values must be whole numbers")
        rounded = np.rint(array)
        away = np.abs(array - rounded)
        if away.max(initial=0.0) > INTEGER_TOLERANCE:
            raise UnusableError(
                f"label values must be whole numbers; got {array.flat[int(away.argmax())]:g}. Save it without "
                "interpolation (nearest neighbour)"
            )
        array = rounded
    low, high = array.min(), array.max()
    if low < 0 or high > MAX_LABEL_VALUE:
        raise UnusableError(f"label values must lie between 0 and {MAX_LABEL_VALUE}; got {low:g} to {high:g}")
    return array.astype(np.int32)
