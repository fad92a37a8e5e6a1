"""A hand-made image descriptor that needs no weights: what a machine without internet uses on day one.

Three blocks from the image in grey, resized to 128 x 128: how bright and how varied each part is (statistics over a
pyramid of grids), which way its edges run (histograms of oriented gradients, Dalal & Triggs 2005) and how its texture
looks (uniform local binary patterns, Ojala et al. 2002). They see where the body lies in the frame, its shape, the
exposure, devices and opacities; they know nothing of diagnoses.
"""

import numpy as np
from numpy.typing import NDArray
from skimage.feature import hog, local_binary_pattern

from coldstart.embedding.encoder import Array, BaseEncoder
from coldstart.embedding.preprocessing import resize, to_grey

VERSION = "1"
SIZE = 128
# Cells along each side at which mean and standard deviation are taken.
PYRAMID = (1, 2, 4, 8)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
HOG_ORIENTATIONS = 8
HOG_CELL = 16
# (radius in pixels, neighbours on the circle) of each binary pattern, and its cells along each side.
LBP_CIRCLES = ((1, 8), (3, 16))
LBP_CELLS = 4
# Each block is divided by the spread that it has among images of one kind (root of the summed variances over
# `benchmarks/descriptor_quality.py`'s images), so that none outweighs the others in a distance.
INTENSITY_SPREAD, HOG_SPREAD, LBP_SPREAD = 0.3, 3.0, 1.0


class DescriptorEncoder(BaseEncoder):
    """See the module. It computes in `prepare`, which runs in the decoding threads; the same on every device."""

    name = "descriptor"
    version = VERSION
    spatial_dims = 2

    def __init__(self) -> None:
        self.n_features = len(describe(np.zeros((SIZE, SIZE))))

    def prepare(self, image: Array) -> Array:
        """Compute the vector of (channels, rows, columns) in [0, 1]."""
        grey = resize(to_grey(image), (SIZE, SIZE))[0]
        # 256 levels: rounding of the last bit must not decide which of two equal neighbours is the brighter one.
        return describe(np.rint(grey.astype(np.float64) * 255) / 255)

    def encode(self, inputs: Array) -> Array:
        """Hand on the vectors, which `prepare` has computed."""
        return np.asarray(inputs, dtype=np.float32)


def describe(grey: NDArray[np.float64]) -> Array:
    """Give the descriptor of an image of 128 x 128 grey levels k / 255: the three blocks, each at its weight."""
    blocks = (
        intensity_statistics(grey) / INTENSITY_SPREAD,
        oriented_gradients(grey) / HOG_SPREAD,
        texture_histograms(grey) / LBP_SPREAD,
    )
    return np.asarray(np.concatenate(blocks), dtype=np.float32)


def intensity_statistics(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean and standard deviation in 1, 4, 16 and 64 cells, each level at equal weight, and five quantiles."""
    parts = [np.quantile(grey, QUANTILES)]
    for n_cells in PYRAMID:
        cells = split_cells(grey, n_cells)
        for statistic in (cells.mean(axis=1), cells.std(axis=1)):
            parts.append(statistic / n_cells)
    return np.concatenate(parts)


def oriented_gradients(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Histograms of 8 edge directions in cells of 16 pixels, normalised over 2 x 2 cells."""
    features: NDArray[np.float64] = hog(
        grey,
        orientations=HOG_ORIENTATIONS,
        pixels_per_cell=(HOG_CELL, HOG_CELL),
        cells_per_block=(2, 2),
        block_norm="L2-Hys",
    )
    return features


def texture_histograms(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Square roots of the frequencies of uniform local binary patterns, in 4 x 4 cells at two radii."""
    levels = np.rint(grey * 255).astype(np.uint8)
    parts = []
    for radius, n_neighbours in LBP_CIRCLES:
        n_patterns = n_neighbours + 2
        patterns = local_binary_pattern(levels, n_neighbours, radius, method="uniform").astype(np.intp)
        for cell in split_cells(patterns, LBP_CELLS):
            parts.append(np.sqrt(np.bincount(cell, minlength=n_patterns) / len(cell)))
    return np.concatenate(parts)


def split_cells(image: NDArray[np.generic], n_cells: int) -> NDArray[np.generic]:
    """Cut a square image into n_cells x n_cells equal cells: (n_cells ** 2, pixels), row by row."""
    side = len(image) // n_cells
    cells = image.reshape(n_cells, side, n_cells, side).transpose(0, 2, 1, 3)
    return cells.reshape(n_cells * n_cells, side * side)
