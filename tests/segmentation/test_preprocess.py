from dataclasses import replace

import numpy as np
import pytest
import torch
from segmentation_helpers import image_of
from torch.nn.functional import interpolate

from coldstart.exceptions import ImageError
from coldstart.segmentation import Model, prepare_image, prepare_label, preprocess, segment
from coldstart.segmentation.metrics import image_dice
from coldstart.segmentation.preprocess import classes_on_grid, resize


def ellipse(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """An off-centre ellipsoid, so that a shift, a flip or exchanged axes show."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.mgrid[tuple(slice(n) for n in shape)])
    column = (-1,) + (1,) * len(shape)
    centre = (np.array(shape) * rng.uniform(0.36, 0.58, len(shape))).reshape(column)
    radius = (np.array(shape) * rng.uniform(0.17, 0.3, len(shape))).reshape(column)
    return (((grid - centre) / radius) ** 2).sum(axis=0) < 1


def in_plane(channels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return interpolate(channels[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


class Oracle(torch.nn.Module):
    """A perfect network for images that are their own label: above the middle of the intensities is class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(10.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        above = x - (x.amax() + x.amin()) / 2
        return torch.cat([-above, above], dim=1) * self.scale


class TestPrepareImage:
    def test_z_score_by_hand(self, small_config):
        # 512 zeros and 512 fours: mean 2, deviation 2 (of the population), so -1 and +1
        pixels = np.zeros((1, 32, 32))
        pixels[:, :, 16:] = 4
        result = prepare_image(image_of(pixels), small_config())
        assert result.shape == (1, 32, 32)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result[0, :, :16], torch.full((32, 16), -1.0))
        torch.testing.assert_close(result[0, :, 16:], torch.full((32, 16), 1.0))

    def test_result_has_mean_0_and_deviation_1_after_resizing(self, small_config):
        pixels = np.random.default_rng(0).gamma(2, 300, (1, 71, 90))
        result = prepare_image(image_of(pixels), small_config()).double()
        assert abs(float(result.mean())) < 1e-6
        assert abs(float(result.std(correction=0)) - 1) < 1e-6

    def test_scale_and_offset_of_the_intensities_do_not_matter(self, small_config):
        pixels = np.random.default_rng(0).normal(size=(1, 50, 40)).astype(np.float32)
        expected = prepare_image(image_of(pixels), small_config())
        torch.testing.assert_close(
            prepare_image(image_of(500 * pixels + 1000), small_config()), expected, atol=1e-3, rtol=0
        )

    def test_intensities_are_clipped_before_everything_else(self, small_config):
        pixels = np.zeros((1, 32, 32))
        pixels[:, :, 16:] = 100
        pixels[:, 0, 0], pixels[:, 0, 31] = -30000, 30000
        result = prepare_image(image_of(pixels), small_config(intensity_range=(0.0, 100.0)))
        torch.testing.assert_close(result.unique(), torch.tensor([-1.0, 1.0]))

    def test_colour_becomes_luma(self, small_config):
        rgb = np.random.default_rng(0).uniform(0, 255, (3, 32, 32))
        grey = 0.299 * rgb[:1] + 0.587 * rgb[1:2] + 0.114 * rgb[2:]
        torch.testing.assert_close(
            prepare_image(image_of(rgb), small_config()),
            prepare_image(image_of(grey), small_config()),
            atol=1e-5,
            rtol=0,
        )

    def test_image_without_contrast_becomes_zeros(self, small_config):
        result = prepare_image(image_of(np.full((1, 50, 40), 0.1)), small_config())
        assert torch.equal(result, torch.zeros(1, 32, 32))

    def test_same_pixels_give_the_same_input_in_any_memory_order(self, small_config):
        pixels = np.random.default_rng(0).normal(size=(1, 50, 40)).astype(np.float32)
        turned = np.asfortranarray(pixels[:, ::-1])[:, ::-1]
        config = small_config()
        assert torch.equal(prepare_image(image_of(pixels), config), prepare_image(image_of(turned), config))

    def test_image_of_other_dimensions_is_refused(self, small_config):
        with pytest.raises(ImageError, match=r"segments 2D images; this one is 3D, of size \(8, 8, 8\)"):
            prepare_image(image_of(np.ones((1, 8, 8, 8))), small_config())


class TestResize:
    def test_halving_by_hand(self):
        # the triangle filter of radius 2 pixels around the centre of each new pixel: 1, 3, 3, 1 over their sum
        row = torch.tensor([0.0, 8.0, 16.0, 0.0, 8.0, 8.0]).repeat(1, 4, 1)
        result = resize(row, (4, 3))[0, 0]
        expected = [(3 * 0 + 3 * 8 + 16) / 7, (8 + 3 * 16 + 0 + 8) / 8, (0 + 3 * 8 + 3 * 8) / 7]
        torch.testing.assert_close(result, torch.tensor(expected))

    def test_volume_is_resized_as_its_axes_one_after_the_other(self):
        volume = torch.rand(2, 40, 20, 10, generator=torch.Generator().manual_seed(0))
        expected = volume
        for axis, n in ((1, 16), (2, 30), (3, 6)):
            moved = expected.movedim(axis, -1)
            flat = moved.reshape(1, 1, -1, moved.shape[-1])
            flat = torch.nn.functional.interpolate(flat, size=(flat.shape[2], n), mode="bilinear", antialias=True)
            expected = flat.reshape(*moved.shape[:-1], n).movedim(-1, axis)
        torch.testing.assert_close(resize(volume, (16, 30, 6)), expected)

    def test_enlarged_volume_equals_torch(self):
        volume = torch.rand(2, 5, 7, 6, generator=torch.Generator().manual_seed(0))
        expected = torch.nn.functional.interpolate(volume[None], size=(11, 16, 9), mode="trilinear")[0]
        torch.testing.assert_close(resize(volume, (11, 16, 9)), expected)

    @pytest.mark.parametrize("size", [(48, 32, 16), (20, 70, 9), (17, 31, 33)])
    def test_volume_in_two_passes_lies_as_if_z_were_the_last_axis_of_both(self, size):
        volume = torch.randn(2, 17, 31, 5, generator=torch.Generator().manual_seed(0))
        planes = in_plane(volume.movedim(3, 1).flatten(0, 1), size[:2]).unflatten(0, (2, 5)).flatten(2)
        expected = in_plane(planes.movedim(1, 2), (size[0] * size[1], size[2])).reshape(2, *size)
        resized = resize(volume, size)
        assert torch.equal(resized, expected)
        assert resized.is_contiguous()  # what is summed over it next is summed in this order

    def test_no_pass_has_more_rows_than_a_gpu_writes(self, monkeypatch):
        heights = []

        def look(channels, size, **options):
            heights.append(size[0])
            return interpolate(channels, size=size, **options)

        monkeypatch.setattr(preprocess, "interpolate", look)
        assert resize(torch.zeros(2, 800, 800, 4), (800, 800, 8)).shape == (2, 800, 800, 8)
        assert len(heights) == 2
        assert max(heights) <= 8 * 65535  # blocks of 8 rows, of which a grid of CUDA has at most so many


class TestPrepareLabel:
    def test_class_with_the_larger_share_wins(self):
        classes = np.zeros((64, 64), dtype=np.int16)
        classes[:, 20:] = 5
        classes[10, 10] = 3  # one pixel in four cannot win
        result = prepare_label(classes, (32, 32))
        assert result.shape == (1, 32, 32)
        assert sorted(result.unique().tolist()) == [0, 5]
        assert torch.equal(result[0] == 5, torch.arange(32).expand(32, 32) >= 10)

    @pytest.mark.parametrize("factor", [2, 3, 4])
    def test_mirrored_label_gives_the_mirrored_result(self, factor):
        # what nearest neighbour fails at for even factors: it always takes the pixel on the same side
        classes = ellipse((32 * factor, 32 * factor)).astype(np.int16)
        mirrored = prepare_label(np.ascontiguousarray(classes[::-1, ::-1]), (32, 32))
        assert torch.equal(mirrored.flip(1, 2), prepare_label(classes, (32, 32)))

    def test_many_classes_keep_their_numbers(self):
        classes = np.repeat(np.repeat(np.arange(1024).reshape(32, 32), 2, 0), 2, 1).astype(np.int16)
        result = prepare_label(classes, (32, 32))
        assert result.dtype == torch.int16
        assert np.array_equal(result[0].numpy(), np.arange(1024).reshape(32, 32))

    def test_label_on_the_grid_stays_as_it_is(self):
        classes = np.random.default_rng(0).integers(0, 4, (32, 32, 32)).astype(np.int16)
        assert np.array_equal(prepare_label(classes, (32, 32, 32))[0].numpy(), classes)


class TestWayBack:
    @pytest.mark.parametrize(
        ("shape", "grid"),
        [
            ((256, 256), (64, 64)),
            ((300, 211), (64, 96)),
            ((50, 40), (64, 64)),
            ((512, 96), (32, 64)),
            ((60, 72, 48), (32, 48, 32)),
            ((40, 50, 20), (48, 48, 32)),
        ],
    )
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_perfect_network_gives_the_label_back_unshifted(self, small_config, shape, grid, seed):
        label = ellipse(shape, seed)
        config = small_config(spatial_dims=len(shape), spatial_size=grid)
        model = Model(Oracle(), {"version": "oracle", "label_names": ["disk"], "config": config.to_dict()})
        result = segment(model, image_of(200.0 * label[None] + 50))
        assert result.shape == shape
        step = [max(1.0, n / m) for n, m in zip(shape, grid, strict=True)]
        # only pixels within one pixel of the network's grid from the boundary may differ
        wrong = np.stack(np.nonzero(result != label))
        inside = np.stack(np.nonzero(label))
        outside = np.stack(np.nonzero(~label))
        for pixel, truth in zip(wrong.T, label[tuple(wrong)], strict=True):
            other = outside if truth else inside
            assert (np.abs(other - pixel[:, None]) / np.array(step)[:, None]).max(axis=0).min() <= 1.0
        shift = np.argwhere(result).mean(axis=0) - np.argwhere(label).mean(axis=0)
        assert np.abs(shift / step).max() < 0.15
        assert image_dice(result, label) > 0.93

    @pytest.mark.parametrize("factor", [2, 4])
    def test_label_on_the_grid_comes_back_where_it_was(self, factor):
        # training's label and inference's way back together; nearest neighbour would be off by half a pixel here
        shifts = []
        for seed in range(6):
            label = ellipse((64 * factor, 64 * factor), seed)
            small = prepare_label(label.astype(np.int16), (64, 64))[0]
            back = classes_on_grid(torch.stack([small == 0, small == 1]).float(), label.shape)
            shifts.append(np.argwhere(back).mean(axis=0) - np.argwhere(label).mean(axis=0))
        assert np.abs(np.mean(shifts, axis=0)).max() < 0.1

    def test_most_probable_class_after_interpolation_wins_and_ties_go_to_the_lower(self):
        probabilities = torch.tensor([[[0.2, 0.4]], [[0.4, 0.4]], [[0.4, 0.2]]])
        assert classes_on_grid(probabilities, (1, 2)).tolist() == [[1, 0]]

    def test_more_than_256_classes(self):
        probabilities = torch.zeros(300, 2, 2)
        probabilities[299, 0, 0] = probabilities[256, 1, 1] = 1
        result = classes_on_grid(probabilities, (2, 2))
        assert result.tolist() == [[299, 0], [0, 256]]

    def test_transposed_image_gives_the_transposed_result(self, small_config):
        label = ellipse((96, 70))
        model = Model(Oracle(), {"version": "o", "label_names": ["disk"], "config": small_config().to_dict()})
        upright = segment(model, image_of(label[None] * 9.0))
        assert np.array_equal(segment(model, image_of(label.T[None] * 9.0)), upright.T)

    def test_image_is_not_changed(self, small_config):
        image = image_of(ellipse((40, 40))[None] * 9.0)
        before = replace(image, pixels=image.pixels.copy())
        segment(Model(Oracle(), {"label_names": ["disk"], "config": small_config().to_dict()}), image)
        assert np.array_equal(image.pixels, before.pixels)
