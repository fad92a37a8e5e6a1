"""How an image lies in its file, and whether a label lies on its image."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.images.stored import Stored, UnusableError, times

SPACING_TOLERANCE = 1e-3
"""Largest relative difference of two spacings that count as equal: float32 headers and printed decimals stay below."""

ORIGIN_TOLERANCE = 0.1
"""Largest distance of two first-pixel positions that count as equal, as a fraction of the smallest spacing."""

DIRECTION_TOLERANCE = 1e-3
"""Largest difference of two direction cosines that count as equal, about 0.06 degrees."""

MIN_SPACING, MAX_SPACING = 1e-9, 1e6
"""Spacings in mm that a file may give; what lies outside is a damaged header."""

_RAS_TARGET = ((0, -1), (1, -1), (2, 1))
# For each normal of a slice (0 Left, 1 Posterior, 2 Superior): where (rows, columns) have to increase to.
_SLICE_TARGETS = {0: ((2, -1), (1, 1)), 1: ((2, -1), (0, 1)), 2: ((1, 1), (0, 1))}


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
            f"The label has {times(label.shape)} pixels ({axes}), while its image has {times(image.shape)}; "
            "save it on its own image."
        )
    if not (image.physical and label.physical):
        return None
    ours, theirs = np.array(image.spacing_mm), np.array(label.spacing_mm)
    if np.any(np.abs(ours - theirs) > SPACING_TOLERANCE * ours):
        return (
            f"The label's spacing is {times(label.spacing_mm)} mm, that of its image {times(image.spacing_mm)} mm; "
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


def _matrix(geometry: Geometry) -> NDArray[np.float64]:
    """Direction cosines as a matrix, one column for each file axis."""
    return np.array(geometry.direction, dtype=np.float64).reshape(geometry.file_dims, geometry.file_dims)


def place(stored: Stored) -> Geometry:
    """Find how the pixels handed out lie in the file: which file axis each of their axes is, and in which sense."""
    size = stored.array.shape[:-1]
    n_dims = len(size)
    single = [axis for axis in range(n_dims) if size[axis] == 1]
    if n_dims - len(single) < 2:
        raise UnusableError(f"its {times(size)} pixels are no picture; at least two axes must be longer than 1")
    if not (
        all(MIN_SPACING <= spacing <= MAX_SPACING for spacing in stored.spacing)
        and np.all(np.isfinite([*stored.origin, *stored.direction]))
    ):
        raise UnusableError(
            f"its geometry is none of a scan (spacing {times(stored.spacing)} mm, origin {times(stored.origin)}); "
            "export it again"
        )
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


def to_pixels(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Bring an array of the file's axes into the axis convention."""
    return np.transpose(array, geometry.axes + _single_axes(geometry)).reshape(geometry.shape)[_flip(geometry)]


def to_file(values: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Bring an array in the axis convention back to the file's axes: the inverse of `to_pixels`."""
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
