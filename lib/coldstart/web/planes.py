"""The planes of an image that a picture shows: the image itself, or three planes through the middle of a volume.

A plane is looked at as a radiologist does: the patient's right on the left, head up, anterior up or to the left. What
is drawn over it, such as a prediction on the network's own grid, covers the same extent, so it is cut at the same place
and brought to the same size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

GAP = 4
"""Pixels between two planes."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """Where each plane lies in the picture.

    Attributes
    ----------
    cuts : tuple of float
        Where a volume is cut, as a fraction of its extent along each axis.
    sizes : tuple of tuple of int
        Width and height of each plane.
    """

    cuts: tuple[float, ...]
    sizes: tuple[tuple[int, int], ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture."""
        widths, heights = zip(*self.sizes, strict=True)
        return sum(widths) + GAP * (len(widths) - 1), max(heights)


def lay_out(shape: Sequence[int], spacing: Sequence[float], side: int) -> Layout:
    """Lay an image out so that each of its planes fits into a square.

    Parameters
    ----------
    shape : sequence of int
        (rows, columns), or (x, y, z).
    spacing : sequence of float
        Along the same axes.
    side : int
        Of the square, in pixels; the planes of a volume have one scale.
    """
    extents = [n * step for n, step in zip(shape, spacing, strict=True)]
    lengths = [max(1, round(side * extent / max(extents))) for extent in extents]
    if len(lengths) == 2:
        return Layout((), ((lengths[1], lengths[0]),))
    x, y, z = lengths
    return Layout(tuple((n // 2 + 0.5) / n for n in shape), ((x, y), (x, z), (y, z)))


def cut(values: Array, layout: Layout) -> list[Array]:
    """Cut the planes out of an array, with the rows from the top.

    Parameters
    ----------
    values : ndarray of shape (n_channels, *grid), float
        On any grid over the image's extent; (rows, columns), or (x, y, z) towards right, anterior and superior.

    Returns
    -------
    planes : list of ndarray of shape (n_channels, rows, columns)
        The image; or the axial, the coronal and the sagittal plane, between two slices linearly interpolated.
    """
    if not layout.cuts:
        return [values]
    x, y, z = (_slice(values, axis, cut) for axis, cut in enumerate(layout.cuts, start=1))
    return [_turned(z), _turned(y), _turned(x)]


def _slice(values: Array, axis: int, cut: float) -> Array:
    n = values.shape[axis]
    position = min(max(cut * n - 0.5, 0.0), n - 1.0)
    below = int(position)
    part = position - below
    plane: Array = values.take(below, axis)
    if part < 1e-6:
        return plane
    mixed: Array = (1 - part) * plane + part * values.take(below + 1, axis)
    return mixed


def _turned(plane: Array) -> Array:
    """Make columns of the first axis and rows of the second, both against their direction."""
    turned: Array = plane[:, ::-1, ::-1].swapaxes(1, 2)
    return turned


def scaled(plane: Array, size: tuple[int, int]) -> Array:
    """Bring a plane to a width and height, each channel linearly; (n_channels, height, width), float32."""
    channels = [
        Picture.fromarray(np.ascontiguousarray(channel, dtype=np.float32)).resize(size, Picture.Resampling.BILINEAR)
        for channel in plane
    ]
    return np.stack([np.asarray(channel) for channel in channels])


def side_by_side(panels: Sequence[Array], layout: Layout) -> Picture.Image:
    """Put panels, (height, width, 3 or 4) as uint8, beside each other on black or on nothing."""
    mode = "RGBA" if panels[0].shape[2] == 4 else "RGB"
    picture = Picture.new(mode, layout.size)
    left = 0
    for panel in panels:
        picture.paste(Picture.fromarray(panel, mode), (left, (picture.height - panel.shape[0]) // 2))
        left += panel.shape[1] + GAP
    return picture
