"""From an image to the network's input and back: one definition for training, inference and scoring.

Grey, clipped to the intensity range, resized to the network's grid, then z-scored (equation 11 of Levy et al. 2026,
arXiv:2601.18532, which resizes first as well, so that what the network sees has mean 0 and deviation 1).

All resampling treats a pixel as a square around its centre ("half-pixel centres": output pixel i lies at
(i + 0.5) * n_in / n_out - 0.5 of the input). Images, labels and probabilities use this one convention, so nothing
shifts between the image, its label and the way back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from coldstart.exceptions import ImageError
from coldstart.images import Image
from coldstart.segmentation.config import TrainingConfig

EPSILON = 1e-8
"""Equation 11's epsilon, in units of the image's intensities."""
FLAT = 1e-6
"""An image whose deviation is below this part of its largest intensity is flat: rounding is not contrast."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601, as Pillow's and OpenCV's grey)."""


def prepare_image(image: Image, config: TrainingConfig) -> torch.Tensor:
    """Turn an image into the network's input.

    Parameters
    ----------
    image : Image
        2D or 3D as `config.spatial_dims`; one channel, red-green-blue, or several of which the mean is taken.
    config : TrainingConfig
        `spatial_dims`, `spatial_size` and `intensity_range` are used.

    Returns
    -------
    input : Tensor of shape (1, *spatial_size), float32
        Mean 0 and standard deviation 1; all zeros for an image without contrast.

    Raises
    ------
    ImageError
        If the image's number of dimensions is not the network's.
    """
    if image.spatial_dims != config.spatial_dims:
        raise ImageError(
            f"The model segments {config.spatial_dims}D images; this one is {image.spatial_dims}D, of size "
            f"{tuple(image.pixels.shape[1:])}. Choose the preset that fits, or take the image out of the studies."
        )
    grey = torch.from_numpy(np.ascontiguousarray(_to_grey(image.pixels), dtype=np.float32))
    if config.intensity_range is not None:
        grey = grey.clamp(*config.intensity_range)
    return _z_score(resize(grey[None], config.spatial_size))


def prepare_label(classes: NDArray[Any], spatial_size: Sequence[int]) -> torch.Tensor:
    """Bring a class map to the network's grid: each pixel takes the class with the largest share in it.

    Parameters
    ----------
    classes : ndarray of shape (*spatial), int
        Class indices on the image's grid.
    spatial_size : sequence of int
        The network's grid.

    Returns
    -------
    label : Tensor of shape (1, *spatial_size), uint8 (int16 above 256 classes)

    Notes
    -----
    The shares come from the filter that the image goes through, so label and image stay on each other. Nearest
    neighbour would not do: where an axis shrinks by an even factor, its sample point lies between two pixels, and
    always taking the same one shifts every label by half a pixel of the image (measured on chest radiographs).
    """
    spatial = tuple(spatial_size)
    if classes.shape == spatial:
        winners = classes
    else:
        present = np.unique(classes)
        shares = (
            resize(torch.from_numpy((classes == index).astype(np.float32))[None], spatial)[0] for index in present
        )
        winners = present[_largest(shares, spatial)]
    return torch.from_numpy(winners.astype(np.uint8 if winners.max(initial=0) < 256 else np.int16))[None]


def resize(channels: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resample linearly, with anti-aliasing where an axis shrinks.

    Parameters
    ----------
    channels : Tensor of shape (n_channels, *spatial), float32
        2D or 3D.
    size : sequence of int
        The new spatial shape.

    Returns
    -------
    resized : Tensor of shape (n_channels, *size), float32
    """
    spatial = tuple(channels.shape[1:])
    if spatial == tuple(size):
        return channels
    if len(spatial) == 2:
        return _resize_2d(channels, size)
    # torch anti-aliases in 2D only; the filter is separable, so two passes do the same: first x and y, then z. There
    # all of x and y is the width: on a GPU torch leaves all rows of a result unwritten that are beyond 8 * 65,535
    x, y, z = size
    n_channels = len(channels)
    plane = _resize_2d(channels.movedim(3, 1).flatten(0, 1), (x, y)).reshape(n_channels, spatial[2], x * y)
    return _resize_2d(plane, (z, x * y)).movedim(1, 2).reshape(n_channels, x, y, z).contiguous()


def classes_on_grid(probabilities: torch.Tensor, size: Sequence[int]) -> NDArray[Any]:
    """Resample probabilities to a grid and take the most probable class of each pixel.

    Parameters
    ----------
    probabilities : Tensor of shape (n_classes, *grid), float32
        On the network's own grid.
    size : sequence of int
        Spatial shape of the image.

    Returns
    -------
    classes : ndarray of shape (*size), uint8 or uint16
        Ties go to the lower class.

    Notes
    -----
    Class after class, so that a large volume never lies in memory once for each class.
    """
    resampled = (resize(probabilities[index : index + 1], size)[0] for index in range(len(probabilities)))
    return _largest(resampled, size).astype(np.uint8 if len(probabilities) <= 256 else np.uint16, copy=False)


def _largest(maps: Iterator[torch.Tensor], size: Sequence[int]) -> NDArray[np.uint16]:
    """Position of the map with the largest value at each pixel, the lower one in ties; the maps come one by one."""
    best = next(maps)
    positions = torch.zeros(tuple(size), dtype=torch.uint8, device=best.device)
    for position, candidate in enumerate(maps, start=1):
        if position == 256:
            positions = positions.to(torch.int16)
        better = candidate > best
        best = torch.where(better, candidate, best)
        positions[better] = position
    return np.asarray(positions.cpu().numpy(), dtype=np.uint16)


def _to_grey(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    if len(pixels) == len(LUMA):
        return np.asarray(np.tensordot(np.asarray(LUMA, dtype=np.float32), pixels, axes=1))
    return np.asarray(pixels[0] if len(pixels) == 1 else pixels.mean(axis=0))


def _z_score(grey: torch.Tensor) -> torch.Tensor:
    exact = grey.double()
    mean, deviation = exact.mean(), exact.std(correction=0)
    if deviation <= FLAT * exact.abs().max():
        return torch.zeros_like(grey)
    return ((exact - mean) / (deviation + EPSILON)).float()


def _resize_2d(channels: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return interpolate(channels[None], size=tuple(size), mode="bilinear", align_corners=False, antialias=True)[0]
