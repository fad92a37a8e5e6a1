"""Images and labels as files that other tools read: PNG or NIfTI, the two on one grid."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from PIL import Image as Picture

from coldstart.campaign.exporting.cases import Case
from coldstart.exceptions import ColdStartError, ImageError, LabelError
from coldstart.images import Geometry, Image, read_image, read_label
from coldstart.images.geometry import to_file
from coldstart.images.nifti import write_sform
from coldstart.segmentation import check_label
from coldstart.segmentation.samples import to_classes
from coldstart.settings import Settings

PNG, NIFTI = ".png", ".nii.gz"
GREY_BITS, COLOUR_BITS = 16, 8
"""Of a value in PNG, as far as every reader gives it back as it was written."""
_INTEGERS = (np.uint8, np.int16, np.uint16, np.int32)


class ExportError(ColdStartError):
    """A dataset cannot be exported."""


@dataclass(frozen=True)
class Style:
    """How all images of a dataset are stored: nnU-Net wants one suffix, and as many channels in each.

    Attributes
    ----------
    suffix : str
        `.png` or `.nii.gz`.
    n_channels : int
        1, or 3 where at least one image is coloured.
    """

    suffix: str
    n_channels: int

    @property
    def n_files(self) -> int:
        """Files of one image: PNG holds the colours in one."""
        return 1 if self.suffix == PNG else self.n_channels


@dataclass(frozen=True)
class Needs:
    """What one image needs: `n_bits` is 8 or 16 for whole numbers from 0 on, 32 for any other values."""

    n_channels: int
    n_bits: int


def needs_of(image: Image) -> Needs:
    """Find what an image needs, so that no value changes."""
    low, high = float(image.pixels.min()), float(image.pixels.max())
    if low < 0 or high > np.iinfo(np.uint16).max or not _is_whole(image.pixels):
        return Needs(len(image.pixels), 32)
    return Needs(len(image.pixels), 8 if high <= np.iinfo(np.uint8).max else 16)


def style_for(needs: Sequence[Needs]) -> Style:
    """Choose how 2D images are stored: as PNG, unless that could not hold one of them."""
    n_channels = max(need.n_channels for need in needs)
    n_bits = max(need.n_bits for need in needs)
    return Style(PNG if n_bits <= (GREY_BITS if n_channels == 1 else COLOUR_BITS) else NIFTI, n_channels)


def read_case(case: Case, settings: Settings) -> tuple[Image, NDArray[np.int16] | None]:
    """Read an image and its label as classes, 0 the background and then in the order of `settings.labels`.

    Raises
    ------
    ImageError, LabelError
        If one of them cannot be used, or they do not lie on each other.
    """
    if case.problem is not None:
        raise LabelError(case.problem)
    image = read_image(case.image)
    if image.spatial_dims != settings.spatial_dims:
        raise ImageError(
            f"Image {case.image} is {image.spatial_dims}D, while the preset '{settings.preset}' is for "
            f"{settings.spatial_dims}D images."
        )
    if case.label is None:
        return image, None
    label = read_label(case.label)
    class_of_value = check_label(label, image.geometry, case.label_info, settings.labels)
    return image, to_classes(label.values, class_of_value, case.label.name)


def write_image(image: Image, paths: Sequence[Path], style: Style) -> list[str]:
    """Write an image to one file, or to one for each channel; return a digest of what each should give back."""
    pixels = np.repeat(image.pixels, style.n_channels, axis=0) if len(image.pixels) < style.n_channels else image.pixels
    if style.suffix == PNG:
        dtype = np.uint8 if pixels.max() <= np.iinfo(np.uint8).max else np.uint16
        whole = pixels.astype(dtype)
        return [_write_picture(whole[0] if len(whole) == 1 else np.moveaxis(whole, 0, -1), paths[0])]
    return [_write_nifti(_smallest(channel), image.geometry, path) for channel, path in zip(pixels, paths, strict=True)]


def write_classes(classes: NDArray[np.int16], geometry: Geometry, path: Path, style: Style) -> str:
    """Write a label on the grid of its image; return a digest of what it should give back."""
    whole = classes.astype(np.uint8 if classes.max() <= np.iinfo(np.uint8).max else np.uint16)
    return _write_picture(whole, path) if style.suffix == PNG else _write_nifti(whole, geometry, path)


@dataclass(frozen=True, eq=False)
class Stored:
    """A file as another program finds it: `grid` is all of its geometry, `values` its pixels as stored."""

    grid: tuple[float, ...]
    values: NDArray[Any]

    def digest(self) -> str:
        """Depends on shape and values alone, not on how they are stored."""
        return _digest(self.values)


def load_back(path: Path) -> Stored:
    """Read a file of the dataset by Pillow or SimpleITK, which the tools that use it read with.

    Raises
    ------
    ExportError
        If it cannot be read.
    """
    try:
        if path.name.endswith(PNG):
            with Picture.open(path) as picture:
                values = np.asarray(picture)
            return Stored(tuple(map(float, values.shape[:2])), values)
        volume = sitk.ReadImage(str(path))
        grid = (*volume.GetSize(), *volume.GetSpacing(), *volume.GetOrigin(), *volume.GetDirection())
        return Stored(tuple(map(float, grid)), sitk.GetArrayFromImage(volume))
    except (OSError, RuntimeError, SyntaxError) as error:
        raise ExportError(f"{path} was written, but cannot be read back: {error}. Check the disk.") from None


def _write_picture(values: NDArray[Any], path: Path) -> str:
    Picture.fromarray(values).save(path)
    return _digest(values)


def _write_nifti(values: NDArray[Any], geometry: Geometry, path: Path) -> str:
    """Write a volume as it lies in its own file; a 2D image as rows and columns, with its spacing."""
    if geometry.spatial_dims == 2:
        picture = sitk.GetImageFromArray(np.ascontiguousarray(values))
        picture.SetSpacing(geometry.spacing_mm[::-1])
    else:
        picture = sitk.GetImageFromArray(np.ascontiguousarray(to_file(values, geometry).T))
        picture.SetSpacing(geometry.spacing)
        picture.SetOrigin(geometry.origin)
        picture.SetDirection(geometry.direction)
    sitk.WriteImage(picture, str(path), useCompression=True)
    if geometry.spatial_dims == 3 and geometry.nifti_sform is not None:
        write_sform(path, geometry.nifti_sform)
    return _digest(sitk.GetArrayViewFromImage(picture))


def _smallest(values: NDArray[np.float32]) -> NDArray[Any]:
    """The same values in the smallest type that holds all of them."""
    if not _is_whole(values):
        return values
    low, high = values.min(), values.max()
    for dtype in _INTEGERS:
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return values.astype(dtype)
    return values


def _is_whole(values: NDArray[np.float32]) -> bool:
    return bool(np.array_equal(values, np.rint(values)))


def _digest(values: NDArray[Any]) -> str:
    exact = np.ascontiguousarray(values, dtype=np.float64)
    return hashlib.sha256(str(exact.shape).encode() + exact.tobytes()).hexdigest()
