"""Intensity scaling, resizing and slices, worked out by hand."""

import numpy as np
import pytest

from coldstart.embedding.preprocessing import resize, scale_intensities, take_slices, to_grey, to_rgb


def test_intensities_are_clipped_to_the_percentiles() -> None:
    # 0, 1, ..., 100: the 1st percentile is 1, the 99th is 99.
    pixels = np.arange(101, dtype=np.float32).reshape(1, 1, 101)

    scaled = scale_intensities(pixels)

    assert scaled.dtype == np.float32
    assert scaled[0, 0, [0, 1, 50, 99, 100]] == pytest.approx([0, 0, 0.5, 1, 1])


def test_channels_are_scaled_together() -> None:
    pixels = np.stack([np.zeros((10, 10)), np.full((10, 10), 50), np.full((10, 10), 100)]).astype(np.float32)

    assert scale_intensities(pixels)[:, 0, 0] == pytest.approx([0, 0.5, 1])


@pytest.mark.parametrize("value", [0, -7, 1e6])
def test_constant_image_becomes_zero(value: float) -> None:
    assert not scale_intensities(np.full((1, 5, 5), value, dtype=np.float32)).any()


def test_one_bright_pixel_on_constant_ground_is_kept() -> None:
    pixels = np.full((1, 20, 20), 3, dtype=np.float32)
    pixels[0, 4, 5] = 9

    scaled = scale_intensities(pixels)

    assert scaled[0, 4, 5] == 1 and scaled.sum() == 1


@pytest.mark.parametrize(("factor", "offset"), [(257, 0), (1, -1024), (0.001, 5)])
def test_bit_depth_and_units_do_not_matter(factor: float, offset: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 30, 30)).astype(np.float32)

    assert np.allclose(scale_intensities(pixels), scale_intensities(pixels * factor + offset), atol=1e-5)


def test_grey_is_the_mean_of_the_channels() -> None:
    image = np.stack([np.zeros((2, 2)), np.ones((2, 2))]).astype(np.float32)

    assert to_grey(image).tolist() == [[[0.5, 0.5], [0.5, 0.5]]]
    assert to_rgb(image).shape == (3, 2, 2)
    assert to_rgb(np.zeros((3, 2, 2), np.float32) + np.arange(3, dtype=np.float32)[:, None, None])[2, 0, 0] == 2


def test_resize_averages_what_it_shrinks() -> None:
    # A checkerboard of single pixels is even grey at a quarter of the size; without antialiasing it would stay 0 or 1.
    board = (np.indices((64, 64)).sum(axis=0) % 2).astype(np.float32)[None]

    small = resize(board, (16, 16))

    assert np.abs(small[0, 2:-2, 2:-2] - 0.5).max() < 0.02


@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest", "area"])
def test_resize_stays_within_the_range(mode: str) -> None:
    image = (np.random.default_rng(0).random((1, 20, 30)) > 0.5).astype(np.float32)

    resized = resize(image, (47, 41), mode)

    assert resized.shape == (1, 47, 41) and resized.min() >= 0 and resized.max() <= 1


def test_resize_volume_averages_and_interpolates() -> None:
    volume = np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1).repeat(2, axis=2)

    resized = resize(volume, (4, 2, 3))

    assert resized.shape == (1, 4, 2, 3)
    assert resized[0, :, 0, 0].tolist() == [0.5, 2.5, 4.5, 6.5]


def test_slices_are_evenly_spaced_in_the_central_part() -> None:
    # 71 slices: 10 % and 90 % of 0..70 are 7 and 63, so 7, 15, ..., 63.
    volume = np.zeros((1, 71, 71, 71), dtype=np.float32)
    positions = np.arange(71, dtype=np.float32)

    for axis in range(3):
        shape = [1, 1, 1, 1]
        shape[axis + 1] = 71
        slices = take_slices(volume + positions.reshape(shape), (1, 1, 1))
        assert len(slices) == 24
        constant = slices[8 * axis : 8 * axis + 8]
        assert [float(plane[0, 0, 0]) for plane in constant] == [7, 15, 23, 31, 39, 47, 55, 63]
        assert all(np.ptp(plane) == 0 for plane in constant)


def test_slices_are_seen_as_on_a_light_box() -> None:
    # A marker at the patient's right (x), front (y) and head (z).
    volume = np.zeros((1, 4, 5, 6), dtype=np.float32)
    volume[0, 3], volume[0, :, 4], volume[0, :, :, 5] = 1, 2, 4

    sagittal, coronal, axial = take_slices(volume, (1, 1, 1))[::8]

    assert sagittal.shape == (1, 6, 5) and coronal.shape == (1, 6, 4) and axial.shape == (1, 5, 4)
    assert sagittal[0, :, 2].tolist() == [4, 0, 0, 0, 0, 0]  # head up
    assert sagittal[0, 3].tolist() == [2, 0, 0, 0, 0]  # front on the left
    assert coronal[0, :, 2].tolist() == [4, 0, 0, 0, 0, 0]
    assert coronal[0, 3].tolist() == [1, 0, 0, 0]  # the patient's right on the left
    assert axial[0, :, 2].tolist() == [2, 0, 0, 0, 0]  # front up
    assert axial[0, 3].tolist() == [1, 0, 0, 0]


def test_slices_have_square_pixels() -> None:
    slices = take_slices(np.zeros((1, 10, 20, 4), dtype=np.float32), (2.0, 1.0, 5.0))

    # Millimetres: 20 x 20 x 20. Sagittal at 1 mm, coronal (x 2 mm, z 5 mm) at 2 mm, axial at 1 mm.
    assert [slices[index].shape for index in (0, 8, 16)] == [(1, 20, 20), (1, 10, 10), (1, 20, 20)]


def test_thin_volume_repeats_its_slices() -> None:
    assert len(take_slices(np.zeros((1, 2, 3, 1), dtype=np.float32), (1, 1, 1))) == 24
