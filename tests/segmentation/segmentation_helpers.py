from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
import torch

from coldstart.images import Geometry, Image


def write(array: np.ndarray, path: Path) -> Path:
    """Write an array whose axes are (rows, columns) or (x, y, z) towards left, posterior, superior."""
    sitk.WriteImage(sitk.GetImageFromArray(array.T if array.ndim == 3 else array), str(path))
    return path


def set_spacing(path: Path, spacing: tuple[float, ...]) -> None:
    picture = sitk.ReadImage(str(path))
    picture.SetSpacing(spacing)
    sitk.WriteImage(picture, str(path))


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def image_of(pixels: np.ndarray, spacing: tuple[float, ...] | None = None) -> Image:
    """An image in memory; `pixels` is (channels, *spatial)."""
    n = pixels.ndim - 1
    spacing = spacing or (1.0,) * n
    geometry = Geometry(
        size=pixels.shape[1:],
        spacing=spacing,
        origin=(0.0,) * n,
        direction=tuple(np.eye(n).ravel()),
        axes=tuple(range(n)),
        flipped=(False,) * n,
    )
    return Image(pixels=pixels.astype(np.float32), spacing_mm=spacing, geometry=geometry)
