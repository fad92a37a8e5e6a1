"""The hand-made descriptor, worked out by hand on simple images, and what it has to be blind to."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import cdist

from coldstart.embedding import create_encoder
from coldstart.embedding.descriptor import (
    describe,
    intensity_statistics,
    oriented_gradients,
    split_cells,
    texture_histograms,
)
from coldstart.embedding.preprocessing import scale_intensities


def half_bright() -> np.ndarray:
    grey = np.zeros((128, 128))
    grey[:, 64:] = 1
    return grey


def radiograph_like(rng: np.random.Generator, *, shift: int = 0, size: int = 200) -> np.ndarray:
    rows, columns = np.indices((size, size))
    lungs = np.hypot((columns - size * 0.3 - shift) / 0.7, rows - size / 2) < size * 0.25
    return np.where(lungs, 60, 180) + rng.integers(0, 20, (size, size))


def test_cells_are_cut_row_by_row() -> None:
    cells = split_cells(np.arange(16).reshape(4, 4), 2)

    assert cells.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_intensity_statistics_of_a_half_bright_image() -> None:
    statistics = intensity_statistics(half_bright())

    # Quantiles, then level by level means and standard deviations, divided by the cells along a side.
    assert statistics[:5].tolist() == [0, 0, 0.5, 1, 1]
    assert statistics[5:7].tolist() == [0.5, 0.5]
    assert statistics[7:15].tolist() == [0, 0.5, 0, 0.5, 0, 0, 0, 0]
    assert len(statistics) == 5 + 2 * (1 + 4 + 16 + 64)


def test_gradients_of_a_vertical_edge_are_in_one_direction_and_place() -> None:
    features = oriented_gradients(half_bright()).reshape(7, 7, 2, 2, 8)

    present = np.flatnonzero(features.sum(axis=(0, 1, 2, 3)))
    assert present.tolist() == [0]
    # The edge lies between cell columns 3 and 4: blocks 2, 3 and 4 contain one of them.
    assert np.flatnonzero(features.sum(axis=(0, 2, 3, 4))).tolist() == [2, 3, 4]


def test_texture_of_a_flat_image_is_one_pattern() -> None:
    histograms = texture_histograms(np.full((128, 128), 0.5))
    small, large = histograms[: 16 * 10].reshape(16, 10), histograms[16 * 10 :].reshape(16, 18)

    # Every neighbour is at least as bright as the centre: the pattern of 8, of 16 ones; at the border of the image
    # the circle leaves it, which makes other patterns.
    assert small[5].tolist() == [0] * 8 + [1, 0]
    assert large[5].tolist() == [0] * 16 + [1, 0]
    assert np.allclose((small**2).sum(axis=1), 1)


def test_blocks_have_the_weights_stated() -> None:
    grey = np.rint(np.random.default_rng(0).random((128, 128)) * 255) / 255
    vector = describe(grey)

    assert np.allclose(vector[:175], intensity_statistics(grey) / 0.3)
    assert np.allclose(vector[175 : 175 + 1568], oriented_gradients(grey) / 3.0)
    assert np.allclose(vector[175 + 1568 :], texture_histograms(grey) / 1.0)


def test_encoder_says_what_it_is() -> None:
    encoder = create_encoder("descriptor")

    assert (encoder.name, encoder.version, encoder.spatial_dims, encoder.n_features) == ("descriptor", "1", 2, 2191)


@pytest.mark.parametrize("factor", [257, 16, 1 / 255])
def test_bit_depth_does_not_matter(factor: float) -> None:
    image, other = (radiograph_like(np.random.default_rng(seed)).astype(np.float32)[None] for seed in (0, 1))

    same, scaled, different = create_encoder("descriptor").embed(
        [scale_intensities(pixels) for pixels in (image, image * np.float32(factor), other)]
    )

    # Rounding can move a pixel to the next of the 256 levels, no more.
    assert np.linalg.norm(same - scaled) < 0.01 * np.linalg.norm(same - different)


def test_colour_of_a_grey_image_does_not_matter() -> None:
    image = scale_intensities(radiograph_like(np.random.default_rng(0)).astype(np.float32)[None])
    encoder = create_encoder("descriptor")

    assert np.array_equal(encoder.embed(image[None]), encoder.embed(image.repeat(3, axis=0)[None]))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_image_gives_finite_numbers(value: float) -> None:
    assert np.isfinite(create_encoder("descriptor").embed(np.full((1, 1, 9, 300), value, dtype=np.float32))).all()


def test_rows_do_not_depend_on_the_batch() -> None:
    batch = np.random.default_rng(0).random((5, 1, 50, 40), dtype=np.float32)
    encoder = create_encoder("descriptor")

    assert np.array_equal(encoder.embed(batch), np.concatenate([encoder.embed(row[None]) for row in batch]))
    assert encoder.embed(batch[:0]).shape == (0, encoder.n_features)


def test_images_alike_are_nearer_than_others() -> None:
    rng = np.random.default_rng(0)
    images = [radiograph_like(rng, shift=shift) for shift in (0, 0, 0, 80, 80, 80)]
    batch = np.stack([scale_intensities(image.astype(np.float32)[None]) for image in images])

    distances = cdist(*[create_encoder("descriptor").embed(batch)] * 2)

    same = np.add.outer(np.arange(6) // 3, -(np.arange(6) // 3)) == 0
    assert distances[same].max() < 0.5 * distances[~same].min()


def test_neighbours_of_radiographs_have_similar_lungs(shared_data: Path) -> None:
    paths = sorted((shared_data / "montgomery" / "images").glob("*.png"))[::3]
    lungs = [np.asarray(Image.open(path.parents[1] / "labels" / path.name).resize((64, 64), 0)) > 0 for path in paths]
    masks = np.stack(lungs).reshape(len(paths), -1).astype(float)
    dice = 2 * masks @ masks.T / (masks.sum(axis=1)[:, None] + masks.sum(axis=1)[None])
    images = [scale_intensities(np.asarray(Image.open(path).convert("L"), dtype=np.float32)[None]) for path in paths]
    vectors = create_encoder("descriptor").embed(images)
    distances = cdist(vectors, vectors)
    np.fill_diagonal(distances, np.inf)

    nearest = dice[np.arange(len(paths)), distances.argmin(axis=1)].mean()

    # Chance is the mean over all pairs, about 0.66; the nearest of all 138 reach 0.83.
    chance = dice[~np.eye(len(paths), dtype=bool)].mean()
    assert nearest > chance + 0.09
