"""Images: pixels in the axis convention of this package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.exceptions import ImageError
from coldstart.images.files import NO_MEMORY, load
from coldstart.images.geometry import Geometry, place, to_pixels
from coldstart.images.stored import UnusableError

COLOUR_CHANNELS = 3

MIN_CONTRAST, MAX_CONTRAST = 1e-30, 1e30
"""Between them lies the span of an image's values: 32-bit floats end at 1e-38 and 1e38, and sums need room."""


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
        is too large for this machine, holds NaN or infinite values, or one single value throughout.
    """
    path = Path(path)
    try:
        stored = load(path)
        geometry = place(stored)
        channels = _channels(stored.array, geometry)
        pixels = np.empty((channels.shape[-1], *geometry.shape), dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for channel, values in enumerate(pixels):
                values[...] = to_pixels(channels[..., channel], geometry)
        n_bad = pixels.size - int(np.isfinite(pixels).sum())
        if n_bad:
            raise UnusableError(
                f"{n_bad} of its {pixels.size} values are NaN, infinite or beyond float32; replace them"
            )
        low, high = float(pixels.min()), float(pixels.max())
        if low == high:
            raise UnusableError(f"it is empty, every pixel has the value {low:g}; export it again or remove it")
        if not MIN_CONTRAST <= high - low <= MAX_CONTRAST:
            raise UnusableError(
                f"its values lie between {low:g} and {high:g}, and 32-bit floats cannot scale that; rescale them"
            )
    except UnusableError as problem:
        raise ImageError(f"Image {path} cannot be used: {problem}.") from problem
    except MemoryError as problem:
        raise ImageError(f"Image {path} cannot be used: {NO_MEMORY}.") from problem
    return Image(pixels=pixels, spacing_mm=geometry.spacing_mm, geometry=geometry)


def _channels(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Drop alpha, and refuse what is neither grey nor a colour picture; (*file axes, 1 or 3)."""
    if np.iscomplexobj(array):
        raise UnusableError("its values are complex numbers; export the magnitude instead")
    n_components = array.shape[-1]
    if n_components not in (1, 2, 3, 4):
        raise UnusableError(f"it has {n_components} values for each pixel; grey, RGB and RGBA can be used")
    channels = array[..., : COLOUR_CHANNELS if n_components >= COLOUR_CHANNELS else 1]
    if geometry.spatial_dims == 3 and n_components > 1:
        if n_components == 2 or np.any(channels != channels[..., :1]):
            raise UnusableError(f"it is a volume of {n_components} values for each voxel; export it as a grey volume")
        channels = channels[..., :1]
    return channels
