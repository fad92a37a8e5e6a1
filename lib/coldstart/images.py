"""Read medical images and labels into one axis convention, and write labels back as the image lies in its file.

Axis convention of every array here, written (channels, *spatial) for images and (*spatial) for labels:

- 2D: (rows, columns), the top row and the leftmost column first, as a radiograph is looked at. A volume of one slice,
  whichever axis is the single one, is 2D; where its file knows the patient's orientation, axial slices have columns
  increasing to the Left and rows to Posterior, coronal ones Left and Inferior, sagittal ones Posterior and Inferior.
- 3D: (x, y, z), increasing to the Right, Anterior and Superior (RAS), by permuting and flipping axes only:
  nothing is ever resampled.

Positions and directions are in mm and in LPS, as in ITK and DICOM. All functions can be called from several threads.

Importing this module sets `ITK_NIFTI_SFORM_PERMISSIVE` (where it is not set) and switches ITK's warnings off: scanners
write NIfTI headers whose sform is not quite orthonormal, which ITK otherwise refuses. The sform itself is kept in
`Geometry.nifti_sform` and written back into labels unchanged.
"""

from __future__ import annotations

import gzip
import itertools
import os
import re
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
from numpy.typing import NDArray
from PIL import Image as PillowImage

from coldstart.exceptions import ColdStartError, ImageError, LabelError

os.environ.setdefault("ITK_NIFTI_SFORM_PERMISSIVE", "1")
sitk.ProcessObject.SetGlobalWarningDisplay(False)

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm")
"""Suffixes of the files that can be read, in lower case; `image_suffix` compares without regard to case."""

IMAGE_PATTERNS: tuple[str, ...] = tuple(f"*{s}" for s in SUFFIXES) + tuple(f"*{s.upper()}" for s in SUFFIXES)
"""File patterns of the images we serve, in lower and in upper case; a mixed case such as `*.Png` is not served."""

SPACING_TOLERANCE = 1e-3
"""Largest relative difference of two spacings that count as equal: float32 headers and printed decimals stay below."""

ORIGIN_TOLERANCE = 0.1
"""Largest distance of two first-pixel positions that count as equal, as a fraction of the smallest spacing."""

DIRECTION_TOLERANCE = 1e-3
"""Largest difference of two direction cosines that count as equal, about 0.06 degrees."""

INTEGER_TOLERANCE = 1e-4
"""Largest distance from a whole number at which a label value read from a floating point file is that number."""

MAX_LABEL_VALUE = 65535
_CHUNK_BYTES = 1 << 20
_RGB_CHANNELS = 3
_LPS_OF_RAS = np.array([-1.0, -1.0, 1.0])
_RAS_TARGET = ((0, -1), (1, -1), (2, 1))
# For each normal of a slice (0 Left, 1 Posterior, 2 Superior): where (rows, columns) have to increase to.
_SLICE_TARGETS = {0: ((2, -1), (1, 1)), 1: ((2, -1), (0, 1)), 2: ((1, 1), (0, 1))}
_LETTERS = "xyz"


class _UnusableError(ColdStartError):
    """The reason why a file cannot be used, before it is known whether it is an image or a label."""


@dataclass(frozen=True)
class Geometry:
    """How an image lies in its file, and how the pixels handed out lie against that.

    Attributes
    ----------
    size : tuple of int
        Pixels along each axis of the file, fastest axis first (ITK order); 2 or 3 entries.
    spacing : tuple of float
        Distance of pixel centres along each axis of the file, in mm where `physical`.
    origin : tuple of float
        Position of the file's first pixel in LPS, mm.
    direction : tuple of float
        Direction cosines in LPS, row-major, column i belonging to axis i of the file (ITK's convention).
    axes : tuple of int
        For each spatial axis of the pixels, the file axis it is.
    flipped : tuple of bool
        For each spatial axis of the pixels, whether it runs against the file axis.
    physical : bool
        Whether the file gives position and size in mm. PNG, JPEG and TIFF do not, nor DICOM without a pixel spacing.
    nifti_sform : tuple of float or None
        sform code and the 12 entries of the sform (RAS, row-major), where ITK's geometry does not express it.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    axes: tuple[int, ...]
    flipped: tuple[bool, ...]
    physical: bool = True
    nifti_sform: tuple[float, ...] | None = None

    @property
    def file_dims(self) -> int:
        """Number of axes in the file: 3 also for a volume of one slice."""
        return len(self.size)

    @property
    def spatial_dims(self) -> int:
        """Number of spatial axes of the pixels, 2 or 3."""
        return len(self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape of the pixels: (rows, columns) or (x, y, z)."""
        return tuple(self.size[axis] for axis in self.axes)

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Spacing along each spatial axis of the pixels; 1.0 where the file gives none in mm."""
        return tuple(self.spacing[axis] if self.physical else 1.0 for axis in self.axes)


@dataclass(frozen=True)
class Image:
    """An image in the axis convention of this module.

    Attributes
    ----------
    pixels : ndarray of shape (channels, *spatial), float32
        Stored values (after the file's own rescaling); channels is 1 for grey, 3 for colour (2D only).
    spacing_mm : tuple of float
        Spacing along each spatial axis, in the order of `pixels`; 1.0 where the file has none.
    geometry : Geometry
        What `write_label` needs to put a label where the image is.
    """

    pixels: NDArray[np.float32]
    spacing_mm: tuple[float, ...]
    geometry: Geometry

    @property
    def spatial_dims(self) -> int:
        """2 or 3; a volume of one slice is 2D."""
        return self.pixels.ndim - 1


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


@dataclass(frozen=True)
class _Stored:
    """A file as it is stored: `array` is (*file axes, components)."""

    array: NDArray[Any]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    physical: bool
    nifti_sform: tuple[float, ...] | None
    metadata: Mapping[str, str]


def image_suffix(path: str | Path) -> str:
    """Give the suffix of a file that can be read, in lower case (`.nii.gz` as one); empty for any other file."""
    name = Path(path).name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix) and name != suffix), "")


def result_suffix(path: str | Path) -> str:
    """Give the suffix of the lossless format that a label for this image is written in."""
    suffix = image_suffix(path)
    return {".jpg": ".png", ".jpeg": ".png", ".dcm": ".nrrd", "": ".nrrd"}.get(suffix, suffix)


def read_image(path: str | Path) -> Image:
    """Read one image file: NIfTI, NRRD, PNG, JPEG, TIFF or single-file DICOM.

    Parameters
    ----------
    path : str or Path
        The file. Multi-frame DICOM and multi-page TIFF give a volume.

    Returns
    -------
    image : Image
        Pixels as float32 in the axis convention of this module. Alpha is dropped; MONOCHROME1 is inverted, so that
        bright means dense everywhere.

    Raises
    ------
    ImageError
        If the file is absent, damaged, incomplete, has no pixels, has more than three dimensions, is a colour volume,
        holds NaN or infinite values, or one single value throughout.
    """
    path = Path(path)
    try:
        stored = _load(path)
        geometry = _place(stored)
        with np.errstate(over="ignore"):
            channels = _channels(stored.array, geometry).astype(np.float32, copy=False)
        pixels = np.ascontiguousarray(
            np.stack([_to_pixels(channels[..., c], geometry) for c in range(channels.shape[-1])])
        )
        n_bad = pixels.size - int(np.isfinite(pixels).sum())
        if n_bad:
            raise _UnusableError(
                f"{n_bad} of its {pixels.size} values are NaN, infinite or beyond float32; replace them"
            )
        if pixels.min() == pixels.max():
            raise _UnusableError(
                f"it is empty, every pixel has the value {pixels.flat[0]:g}; export it again or remove it"
            )
    except _UnusableError as problem:
        raise ImageError(f"Image {path} cannot be used: {problem}.") from problem
    return Image(pixels=pixels, spacing_mm=geometry.spacing_mm, geometry=geometry)


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
            raise _UnusableError("JPEG changes label values when it compresses; save it as PNG, NRRD or NIfTI")
        stored = _load(path, indices=True)
        geometry = _place(stored)
        values = _to_pixels(_whole_numbers(_single_layer(stored)), geometry)
    except _UnusableError as problem:
        raise LabelError(f"Label {path} cannot be used: {problem}.") from problem
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
        picture = sitk.GetImageFromArray(np.ascontiguousarray(_to_file(whole, geometry).T))
        picture.SetSpacing(geometry.spacing)
        picture.SetOrigin(geometry.origin)
        picture.SetDirection(geometry.direction)
    try:
        sitk.WriteImage(picture, str(path), useCompression=suffix not in (".tif", ".tiff"))
        if geometry.nifti_sform is not None and suffix in (".nii", ".nii.gz"):
            _write_sform(path, geometry.nifti_sform)
    except (RuntimeError, OSError) as error:
        raise LabelError(f"Label {path} cannot be written: {_itk_reason(error)}.") from error


def describe_mismatch(image_geometry: Geometry, label_geometry: Geometry) -> str | None:
    """Say in one sentence how a label fails to lie on its image, or None where it lies on it.

    Both are compared in the axis convention of this module, so a label stored in another axis order fits as long as its
    pixels are in the same places. Size is always compared; spacing, position and direction only where both files give
    them; a 2D file and a volume of one slice are compared in the slice's plane. Tolerances: `SPACING_TOLERANCE`,
    `ORIGIN_TOLERANCE`, `DIRECTION_TOLERANCE`.
    """
    image, label = image_geometry, label_geometry
    if image.spatial_dims != label.spatial_dims:
        return (
            f"The label is {label.spatial_dims}D, while its image is {image.spatial_dims}D; save it on its own image."
        )
    if image.shape != label.shape:
        axes = "rows x columns" if image.spatial_dims == 2 else "x, y, z towards right, anterior, superior"
        return (
            f"The label has {_times(label.shape)} pixels ({axes}), while its image has {_times(image.shape)}; "
            "save it on its own image."
        )
    if not (image.physical and label.physical):
        return None
    ours, theirs = np.array(image.spacing_mm), np.array(label.spacing_mm)
    if np.any(np.abs(ours - theirs) > SPACING_TOLERANCE * ours):
        return (
            f"The label's spacing is {_times(label.spacing_mm)} mm, that of its image {_times(image.spacing_mm)} mm; "
            "save it on its own image."
        )
    placed = _comparable(image, label)
    if placed is None:
        return None
    (origin, direction), (label_origin, label_direction) = placed
    offset = float(np.linalg.norm(label_origin - origin))
    if offset > ORIGIN_TOLERANCE * ours.min():
        return f"The label's first pixel lies {offset:.3g} mm away from that of its image; save it on its own image."
    turned = float(np.abs(label_direction - direction).max())
    if turned > DIRECTION_TOLERANCE:
        return (
            f"The label's axes point elsewhere than those of its image (direction cosines differ by {turned:.3g}); "
            "save it on its own image."
        )
    return None


def _times(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


# ---- geometry


def _matrix(geometry: Geometry) -> NDArray[np.float64]:
    """Direction cosines as a matrix, one column for each file axis."""
    return np.array(geometry.direction, dtype=np.float64).reshape(geometry.file_dims, geometry.file_dims)


def _place(stored: _Stored) -> Geometry:
    """Find how the pixels handed out lie in the file: which file axis each of their axes is, and in which sense."""
    size = stored.array.shape[:-1]
    n_dims = len(size)
    single = [axis for axis in range(n_dims) if size[axis] == 1]
    if n_dims - len(single) < 2:
        raise _UnusableError(f"its {_times(size)} pixels are no picture; at least two axes must be longer than 1")
    directions = np.array(stored.direction, dtype=np.float64).reshape(n_dims, n_dims)
    closeness = np.abs(directions)
    # The anatomical axis of each file axis: the assignment with the largest sum of cosines, first in order on a tie.
    anatomical = max(
        itertools.permutations(range(n_dims)),
        key=lambda order: round(sum(closeness[order[i], i] for i in range(n_dims)), 9),
    )
    target: tuple[tuple[int, int], ...] = _RAS_TARGET
    if single or n_dims == 2:
        target = _SLICE_TARGETS[anatomical[single[0]] if n_dims == 3 else 2]
    axes = tuple(anatomical.index(anatomy) for anatomy, _ in target)
    flipped = tuple(
        bool(directions[anatomy, axis] * sign < 0) for (anatomy, sign), axis in zip(target, axes, strict=True)
    )
    return Geometry(
        size=tuple(int(n) for n in size),
        spacing=stored.spacing,
        origin=stored.origin,
        direction=stored.direction,
        axes=axes,
        flipped=flipped,
        physical=stored.physical,
        nifti_sform=stored.nifti_sform,
    )


def _flip(geometry: Geometry) -> tuple[slice, ...]:
    return tuple(slice(None, None, -1 if flipped else 1) for flipped in geometry.flipped)


def _single_axes(geometry: Geometry) -> tuple[int, ...]:
    return tuple(axis for axis in range(geometry.file_dims) if axis not in geometry.axes)


def _to_pixels(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Bring an array of the file's axes into the axis convention."""
    return np.transpose(array, geometry.axes + _single_axes(geometry)).reshape(geometry.shape)[_flip(geometry)]


def _to_file(values: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Bring an array in the axis convention back to the file's axes: the inverse of `_to_pixels`."""
    single = _single_axes(geometry)
    whole = values[_flip(geometry)].reshape(geometry.shape + (1,) * len(single))
    return np.transpose(whole, np.argsort(geometry.axes + single))


def _comparable(image: Geometry, label: Geometry) -> Any:
    """Position of the first pixel and directions of the spatial axes of both, in the dimensions both files have."""
    n_dims = min(image.file_dims, label.file_dims)
    if any(axis >= n_dims for geometry in (image, label) for axis in geometry.axes):
        return None  # a 2D file beside a slice that is not axial: nothing says how they lie to each other
    placed = []
    for geometry in (image, label):
        columns = _matrix(geometry)[:n_dims, list(geometry.axes)]
        signs = np.where(geometry.flipped, -1.0, 1.0)
        extent = (np.array(geometry.shape) - 1) * np.array([geometry.spacing[axis] for axis in geometry.axes])
        first = np.array(geometry.origin[:n_dims]) + columns @ np.where(geometry.flipped, extent, 0.0)
        placed.append((first, columns * signs))
    return placed


# ---- values


def _channels(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Drop alpha, and refuse what is neither grey nor a colour picture; (*file axes, 1 or 3)."""
    if np.iscomplexobj(array):
        raise _UnusableError("its values are complex numbers; export the magnitude instead")
    n_components = array.shape[-1]
    if n_components not in (1, 2, 3, 4):
        raise _UnusableError(f"it has {n_components} values for each pixel; grey, RGB and RGBA can be used")
    channels = array[..., : _RGB_CHANNELS if n_components >= _RGB_CHANNELS else 1]
    if geometry.spatial_dims == 3 and n_components > 1:
        if n_components == 2 or np.any(channels != channels[..., :1]):
            raise _UnusableError(f"it is a volume of {n_components} values for each voxel; export it as a grey volume")
        channels = channels[..., :1]
    return channels


def _single_layer(stored: _Stored) -> NDArray[Any]:
    """Bring the components of a label file down to one value for each pixel; (*file axes)."""
    array, n_components = stored.array, stored.array.shape[-1]
    if n_components == 1:
        return array[..., 0]
    if any("Segment" in key for key in stored.metadata) or stored.array.ndim == 4:
        if np.any(np.count_nonzero(array, axis=-1) > 1):
            raise _UnusableError("its layers overlap; make the segments disjoint in the viewer and save it again")
        layers_of: dict[int, set[int]] = {}
        for layer in range(n_components):
            for value in np.unique(array[..., layer][array[..., layer] != 0]):
                layers_of.setdefault(int(value), set()).add(layer)
        twice = sorted(value for value, layers in layers_of.items() if len(layers) > 1)
        if twice:
            raise _UnusableError(
                f"the value {twice[0]} stands for different segments on different layers; save it as one layer "
                "(export it as a label map)"
            )
        return np.asarray(array.sum(axis=-1, dtype=np.float64))
    grey = array[..., : _RGB_CHANNELS if n_components >= _RGB_CHANNELS else 1]
    if np.any(grey != grey[..., :1]):
        raise _UnusableError(
            "its colour channels differ; a label map needs one number for each pixel, so save it as grey"
        )
    return grey[..., 0]


def _whole_numbers(array: NDArray[Any]) -> NDArray[np.int32]:
    if np.iscomplexobj(array):
        raise _UnusableError("its values are complex numbers; label values must be whole numbers")
    if np.issubdtype(array.dtype, np.floating):
        if not np.all(np.isfinite(array)):
            raise _UnusableError("it holds NaN or infinite values; label values must be whole numbers")
        rounded = np.rint(array)
        away = np.abs(array - rounded)
        if away.max(initial=0.0) > INTEGER_TOLERANCE:
            raise _UnusableError(
                f"label values must be whole numbers; got {array.flat[int(away.argmax())]:g}. Save it without "
                "interpolation (nearest neighbour)"
            )
        array = rounded
    low, high = array.min(), array.max()
    if low < 0 or high > MAX_LABEL_VALUE:
        raise _UnusableError(f"label values must lie between 0 and {MAX_LABEL_VALUE}; got {low:g} to {high:g}")
    return array.astype(np.int32)


# ---- files


def _load(path: Path, *, indices: bool = False) -> _Stored:
    """Read a file as it is stored; `indices` asks for the numbers in a PNG instead of the grey levels they mean."""
    try:
        n_bytes = path.stat().st_size
    except OSError as error:
        raise _UnusableError(
            f"it cannot be opened ({error.strerror or error}); check the path and its permissions"
        ) from error
    if not path.is_file():
        raise _UnusableError("it is not a file")
    suffix = image_suffix(path)
    if not suffix:
        raise _UnusableError(f"its format is not known; the suffix must be one of {', '.join(SUFFIXES)}")
    if n_bytes == 0:
        raise _UnusableError("the file has 0 bytes; copy it again")
    try:
        if suffix in (".png", ".jpg", ".jpeg"):
            picture = _load_picture(path, indices)
            return picture if picture is not None else _load_itk(path, physical=False)
        if suffix in (".nii", ".nii.gz"):
            return _load_nifti(path)
        if suffix == ".dcm":
            return _load_dicom(path)
        return _load_itk(path, physical=suffix == ".nrrd")
    except _UnusableError:
        raise
    # Three libraries and their codecs raise whatever they like on a damaged file; all of it means the same here.
    except Exception as error:
        raise _UnusableError(
            f"the file is damaged, incomplete or not {_format_name(suffix)} ({_itk_reason(error)}); "
            "export or copy it again"
        ) from error


def _format_name(suffix: str) -> str:
    names = {".nii": "NIfTI", ".nii.gz": "NIfTI", ".jpg": "JPEG", ".tif": "TIFF", ".dcm": "DICOM"}
    return names.get(suffix, names.get(suffix[:4], suffix[1:].upper()))


def _itk_reason(error: BaseException) -> str:
    """Take the one line that says something out of ITK's multi-line messages."""
    text = str(error)
    for marker in ("sitk::ERROR:", "ITK ERROR:"):
        text = text.rpartition(marker)[2]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Exception thrown in")]
    line = re.sub(r"^\w+\(0x[0-9a-f]+\):\s*", "", lines[-1] if lines else type(error).__name__)
    return "its content is not recognised" if "Unable to determine ImageIO" in line else line.rstrip(".")


def _load_picture(path: Path, indices: bool) -> _Stored | None:
    """Read PNG and JPEG with Pillow, which knows palettes, grey with alpha, and truncated files; ITK does not.

    Returns None for 16-bit colour, which Pillow would cut to 8 bits.
    """
    with path.open("rb") as file:
        head = file.read(26)
    depth, colour_type = (head[24], head[25]) if head.startswith(b"\x89PNG") and len(head) == 26 else (8, -1)
    if depth == 16 and colour_type in (2, 6):
        with PillowImage.open(path) as picture:
            picture.load()
        return None
    with PillowImage.open(path) as picture:
        picture.load()
        kept = ("1", "L", "LA", "I", "I;16", "F", "RGB", "RGBA", *(("P",) if indices else ()))
        array = np.asarray(picture if picture.mode in kept else picture.convert("RGB"))
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) if indices else array.astype(np.uint8) * 255
    elif indices and colour_type == 0 and depth in (2, 4):
        array = array // (255 // (2**depth - 1))  # Pillow stretches them to 0..255
    array = array if array.ndim == 3 else array[..., None]
    return _Stored(array.transpose(1, 0, 2), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0), False, None, {})


def _load_itk(path: Path, *, physical: bool) -> _Stored:
    picture = sitk.ReadImage(str(path))
    while picture.GetDimension() > 3 and picture.GetSize()[-1] == 1:
        picture = sitk.Extract(picture, (*picture.GetSize()[:-1], 0))
    if picture.GetDimension() > 3:
        raise _UnusableError(
            f"it has {picture.GetDimension()} dimensions ({_times(picture.GetSize())}), such as a time series; "
            "export one volume"
        )
    array = sitk.GetArrayFromImage(picture)
    if picture.GetNumberOfComponentsPerPixel() == 1 and array.ndim == picture.GetDimension():
        array = array[..., None]
    n_dims = array.ndim - 1
    return _Stored(
        array=array.transpose(*range(n_dims - 1, -1, -1), n_dims),
        spacing=tuple(float(x) for x in picture.GetSpacing()),
        origin=tuple(float(x) for x in picture.GetOrigin()),
        direction=tuple(float(x) for x in picture.GetDirection()),
        physical=physical,
        nifti_sform=None,
        metadata={key: picture.GetMetaData(key) for key in picture.GetMetaDataKeys() if "Segment" in key},
    )


def _load_dicom(path: Path) -> _Stored:
    """Read one DICOM file, MONOCHROME1 inverted by us.

    GDCM inverts MONOCHROME1 itself, but not with every codec, and it fails on signed values: it is therefore given the
    same file declared as MONOCHROME2.
    """
    tags = ["Rows", "PhotometricInterpretation", "PixelSpacing", "ImagerPixelSpacing", "SharedFunctionalGroupsSequence"]
    head = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*tags, "Modality", "SOPClassUID"], force=True)
    if "SOPClassUID" in head and "Rows" not in head:
        raise _UnusableError(f"this DICOM file holds no pixels (modality {head.get('Modality', 'unknown')}); remove it")
    physical = any(tag in head for tag in tags[2:])
    if str(head.get("PhotometricInterpretation", "")).strip() != "MONOCHROME1":
        return _load_itk(path, physical=physical)
    dataset = pydicom.dcmread(path, force=True)
    dataset.PhotometricInterpretation = "MONOCHROME2"
    with tempfile.TemporaryDirectory() as folder:
        twin = Path(folder) / "twin.dcm"
        dataset.save_as(twin)
        stored = _load_itk(twin, physical=physical)
    # Raw values mirror at their middle: 0 <-> 2^bits - 1, or -2^(bits-1) <-> 2^(bits-1) - 1 where they are signed.
    mirror = -1.0 if dataset.PixelRepresentation else 2.0 ** int(dataset.BitsStored) - 1.0
    slope, intercept = float(dataset.get("RescaleSlope", 1.0)), float(dataset.get("RescaleIntercept", 0.0))
    inverted = slope * mirror + 2.0 * intercept - stored.array.astype(np.float64)
    return _Stored(inverted, stored.spacing, stored.origin, stored.direction, physical, None, {})


def _load_nifti(path: Path) -> _Stored:
    """Read NIfTI with ITK, after checking that it is whole: ITK fills what is missing with zeros and says nothing."""
    head, n_present = _nifti_head(path)
    order = _byte_order(head)
    if order is not None:
        dims = struct.unpack_from(f"{order}8h", head, 40)
        bits, offset = struct.unpack_from(f"{order}h", head, 72)[0], struct.unpack_from(f"{order}f", head, 108)[0]
        n_values = int(np.prod([max(n, 1) for n in dims[1 : 1 + max(0, min(dims[0], 7))]], dtype=np.int64))
        n_required = int(offset) + n_values * bits // 8
        if head[344:347] == b"n+1" and n_present < n_required:
            raise _UnusableError(f"the file is cut off: {n_present} of {n_required} bytes are there; copy it again")
    stored = _load_itk(path, physical=True)
    sform = _sform(head, order)
    if sform is None or _expresses(stored, sform):
        return stored
    return _Stored(stored.array, stored.spacing, stored.origin, stored.direction, True, sform, stored.metadata)


def _nifti_head(path: Path) -> tuple[bytes, int]:
    """Give the first 348 bytes and the number of bytes in all, uncompressed; a broken stream raises."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if not packed:
        with path.open("rb") as file:
            return file.read(348), path.stat().st_size
    with gzip.open(path, "rb") as stream:
        head = stream.read(348)
        n_bytes = len(head)
        while chunk := stream.read(_CHUNK_BYTES):
            n_bytes += len(chunk)
    return head, n_bytes


def _byte_order(head: bytes) -> Literal["<", ">"] | None:
    """Byte order of a NIfTI-1 header; None for anything else (ITK judges NIfTI-2 on its own)."""
    if len(head) == 348:
        if struct.unpack_from("<i", head)[0] == 348:
            return "<"
        if struct.unpack_from(">i", head)[0] == 348:
            return ">"
    return None


def _sform(head: bytes, order: Literal["<", ">"] | None) -> tuple[float, ...] | None:
    if order is None:
        return None
    code = struct.unpack_from(f"{order}h", head, 254)[0]
    return (float(code), *struct.unpack_from(f"{order}12f", head, 280)) if code > 0 else None


def _expresses(stored: _Stored, sform: tuple[float, ...]) -> bool:
    """Whether ITK's spacing, origin and direction give the sform, to a thousandth of a voxel at the farthest corner."""
    n_dims = len(stored.spacing)
    ours = np.zeros((3, 4))
    ours[:n_dims, :n_dims] = np.reshape(stored.direction, (n_dims, n_dims)) * np.array(stored.spacing)
    ours[:n_dims, 3] = stored.origin
    ours *= _LPS_OF_RAS[:, None]
    theirs = np.reshape(sform[1:], (3, 4))
    size = np.array([*stored.array.shape[:-1], 1][:3], dtype=np.float64)
    reach = np.abs(ours - theirs) @ np.append(size if n_dims == 3 else [*size[:2], 0.0], 1.0)
    return bool(reach.max() <= 1e-3 * min(stored.spacing))


def _write_sform(path: Path, sform: tuple[float, ...]) -> None:
    packed = image_suffix(path) == ".nii.gz"
    content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    order = _byte_order(bytes(content[:348]))
    if order is None:
        raise OSError("the header just written is not NIfTI-1")
    struct.pack_into(f"{order}h", content, 254, int(sform[0]))
    struct.pack_into(f"{order}12f", content, 280, *sform[1:])
    path.write_bytes(gzip.compress(bytes(content), mtime=0) if packed else bytes(content))
