"""From pixels as read to what every encoder starts from: intensities in [0, 1], slices of volumes, resizing.

The percentiles make the result independent of the file's bit depth and robust to a few extreme pixels (markers,
implants, dead detector cells).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Array = NDArray[np.float32]

LOW_PERCENTILE, HIGH_PERCENTILE = 1, 99
SLICES_PER_AXIS = 8
# The outer tenth at either end of an axis is mostly air.
FIRST_SLICE, LAST_SLICE = 0.1, 0.9
# A slice is stretched to isotropic pixels at most to this length (thick slices of a large field of view).
MAX_SLICE_LENGTH = 1024


def intensity_range(pixels: NDArray[Any]) -> tuple[float, float]:
    """Give the 1st and 99th percentile of a whole image, over all channels.

    Where they coincide (a small bright object on a constant ground), minimum and maximum take their place.
    """
    low, high = np.percentile(pixels, [LOW_PERCENTILE, HIGH_PERCENTILE])
    return (float(low), float(high)) if high > low else (float(pixels.min()), float(pixels.max()))


def scale_intensities(pixels: NDArray[Any], limits: tuple[float, float] | None = None) -> Array:
    """Clip to the 1st and 99th percentile and scale to [0, 1].

    Parameters
    ----------
    pixels : ndarray of shape (channels, *spatial), float
        Intensities of any range; channels are scaled together, so that colours stay.
    limits : (low, high), optional
        What becomes 0 and 1; by default `intensity_range(pixels)`. For a slice, that of its volume.

    Returns
    -------
    ndarray of the same shape, float32
        In [0, 1]; a constant image becomes zero.
    """
    low, high = intensity_range(pixels) if limits is None else limits
    if high <= low:
        return np.zeros(pixels.shape, dtype=np.float32)
    scaled = (pixels.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(scaled, 0, 1, out=scaled)


def to_grey(image: Array) -> Array:
    """Average the channels of (channels, *spatial) to one."""
    return image if len(image) == 1 else image.mean(axis=0, keepdims=True, dtype=np.float32)


def to_rgb(image: Array) -> Array:
    """Give three channels: red, green, blue stay as they are, anything else is averaged to grey and repeated."""
    return image if len(image) == 3 else np.repeat(to_grey(image), 3, axis=0)


def resize(image: Array, size: Sequence[int], mode: str = "linear") -> Array:
    """Resize (channels, *spatial) to (channels, *size).

    Parameters
    ----------
    image : ndarray of shape (channels, rows, columns) or (channels, x, y, z), float32
        Any channels.
    size : sequence of int
        Pixels along each spatial axis.
    mode : {"linear", "cubic", "nearest", "area"}, default "linear"
        In 2D, "linear" and "cubic" are antialiased; in 3D, "linear" averages where it shrinks and interpolates
        linearly where it enlarges, "cubic" is not there.

    Returns
    -------
    ndarray of shape (channels, *size), float32
        Within the range of `image`: what cubic interpolation overshoots is clipped.
    """
    if image.shape[1:] == tuple(size):
        return image
    tensor = torch.from_numpy(np.ascontiguousarray(image))[None]
    if image.ndim == 4:
        resized = _resize_volume(tensor, size)
    elif mode in ("linear", "cubic"):
        kind = {"linear": "bilinear", "cubic": "bicubic"}[mode]
        resized = functional.interpolate(tensor, size=tuple(size), mode=kind, antialias=True, align_corners=False)
        resized = resized.clamp(float(image.min()), float(image.max()))
    else:
        resized = functional.interpolate(tensor, size=tuple(size), mode={"nearest": "nearest-exact"}.get(mode, mode))
    return resized[0].numpy()


def take_slices(volume: Array, spacing_mm: Sequence[float]) -> list[Array]:
    """Cut a volume into 8 slices along each axis, evenly spaced in the central 80 %.

    Parameters
    ----------
    volume : ndarray of shape (channels, x, y, z), float32
        Axes increasing towards Right, Anterior, Superior (RAS).
    spacing_mm : sequence of 3 floats
        Distance of voxels along x, y, z in mm.

    Returns
    -------
    list of 24 ndarrays of shape (channels, rows, columns), float32
        First the 8 sagittal ones (along x), then the coronal, then the axial ones, with square pixels, seen as on a
        light box: the head or the front of the patient up, the patient's right on the viewer's left.
    """
    slices = []
    for axis in range(3):
        length = volume.shape[axis + 1]
        first, last = FIRST_SLICE * (length - 1), LAST_SLICE * (length - 1)
        row_axis, column_axis = (1 if axis == 2 else 2), (1 if axis == 0 else 0)
        for position in np.rint(np.linspace(first, last, SLICES_PER_AXIS)).astype(int):
            plane = np.take(volume, position, axis=axis + 1)
            # What is left of (x, y, z) is in ascending order: columns first, then rows. Both run the other way on
            # screen: rows go down (inferior, posterior), columns to the patient's left, or back in a sagittal view.
            plane = plane.transpose(0, 2, 1)[:, ::-1, ::-1]
            slices.append(_to_square_pixels(plane, spacing_mm[row_axis], spacing_mm[column_axis]))
    return slices


def _to_square_pixels(plane: Array, row_mm: float, column_mm: float) -> Array:
    finer = min(row_mm, column_mm)
    if not np.isfinite(row_mm + column_mm) or finer <= 0 or np.isclose(row_mm, column_mm, rtol=1e-2):
        return np.ascontiguousarray(plane)
    rows, columns = plane.shape[1] * row_mm / finer, plane.shape[2] * column_mm / finer
    shrink = min(1.0, MAX_SLICE_LENGTH / max(rows, columns))
    return resize(plane, (max(1, round(rows * shrink)), max(1, round(columns * shrink))))


def _resize_volume(tensor: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    shrunk = [min(new, old) for new, old in zip(size, tensor.shape[2:], strict=True)]
    tensor = functional.adaptive_avg_pool3d(tensor, (shrunk[0], shrunk[1], shrunk[2]))
    return functional.interpolate(tensor, size=tuple(size), mode="trilinear", align_corners=False)
