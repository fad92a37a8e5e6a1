"""The page's pictures: which way up, in which grey, what lies over them, and how they are kept."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from PIL import Image as Picture
from torch import nn

from coldstart.images import Image, read_image
from coldstart.segmentation import Model, TrainingConfig
from coldstart.web.drawing import CLASS_ALPHA, CLASS_COLOURS, EDGE_ALPHA, ENTROPY_ALPHA, draw_image, draw_prediction
from coldstart.web.headers import file_geometry
from coldstart.web.picture_cache import PictureCache
from coldstart.web.planes import GAP, cut, lay_out


def pixels_of(content: bytes) -> np.ndarray:
    with Picture.open(io.BytesIO(content)) as picture:
        return np.asarray(picture)


def grey_of(content: bytes) -> np.ndarray:
    return pixels_of(content)[..., :3].mean(axis=2)


def write_volume(path: Path, values: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Path:
    """Write (x, y, z) towards right, anterior and superior as a file whose axes run to left, posterior and superior."""
    picture = sitk.GetImageFromArray(values[::-1, ::-1].transpose(2, 1, 0).copy())
    picture.SetSpacing(spacing)
    sitk.WriteImage(picture, str(path))
    return path


def write_picture(path: Path, values: np.ndarray) -> Path:
    Picture.fromarray(values).save(path)
    return path


# Planes


def test_planes_are_looked_at_as_a_radiologist_does(tmp_path: Path) -> None:
    values = np.zeros((32, 32, 32), dtype=np.float32)
    values[24:, 12:20, 12:20] = 50  # right
    values[12:20, 24:, 12:20] = 150  # anterior
    values[12:20, 12:20, 24:] = 255  # superior
    shown = grey_of(draw_image(read_image(write_volume(tmp_path / "a.nii.gz", values)), 128, (0, 255)))
    assert shown.shape == (128, 3 * 128 + 2 * GAP)
    axial, coronal, sagittal = (shown[:, left : left + 128] for left in (0, 128 + GAP, 2 * (128 + GAP)))
    middle, low, high = slice(56, 72), slice(8, 24), slice(104, 120)

    def levels(plane: np.ndarray) -> list[int]:
        """Top, bottom, left and right."""
        parts = (plane[low, middle], plane[high, middle], plane[middle, low], plane[middle, high])
        return [round(float(part.mean()) / 10) * 10 for part in parts]

    assert levels(axial) == [150, 0, 50, 0], "anterior up, the patient's right on the left"
    assert levels(coronal) == [260, 0, 50, 0], "head up, the patient's right on the left"
    assert levels(sagittal) == [260, 0, 150, 0], "head up, anterior to the left"


def test_planes_of_a_volume_have_one_scale_in_mm() -> None:
    layout = lay_out((100, 50, 20), (1.0, 1.0, 4.0), 200)
    assert layout.sizes == ((200, 100), (200, 160), (100, 160))
    assert layout.size == (200 + 200 + 100 + 2 * GAP, 160)
    assert lay_out((30, 60), (2.0, 1.0), 120).sizes == ((120, 120),)
    assert lay_out((4000, 1), (1.0, 1.0), 96).sizes == ((1, 96),)


def test_cut_takes_the_middle_slice_on_the_own_grid_and_the_same_place_on_another() -> None:
    x = np.arange(9.0)
    layout = lay_out((9, 5, 6), (1.0, 1.0, 1.0), 90)
    volume = np.broadcast_to(x[:, None, None], (9, 5, 6))[None]
    sagittal = cut(volume, layout)[2]
    np.testing.assert_allclose(sagittal, 4.0)  # 9 // 2
    # On a grid half as fine, sampled at the same places, a ramp has the same value there.
    coarse = (np.arange(18.0) + 0.5) / 2 - 0.5
    coarser = np.broadcast_to(coarse[:, None, None], (18, 3, 4))[None]
    np.testing.assert_allclose(cut(coarser, layout)[2], 4.0)
    tiny = np.broadcast_to((np.arange(3.0) + 0.5)[:, None, None] * 3 - 0.5, (3, 2, 2))[None]
    np.testing.assert_allclose(cut(tiny, layout)[2], 4.0)


def test_array_is_left_as_it_is() -> None:
    volume = np.random.default_rng(0).normal(size=(1, 8, 9, 7)).astype(np.float32)
    before = volume.copy()
    cut(volume, lay_out((8, 9, 7), (1, 1, 1), 96))
    np.testing.assert_array_equal(volume, before)


# Grey


def test_grey_runs_between_the_percentiles_of_what_is_shown(tmp_path: Path) -> None:
    values = np.tile(np.linspace(100, 200, 200).astype(np.uint16), (200, 1))
    values[0, 0] = 60_000  # a pixel of metal
    image = read_image(write_picture(tmp_path / "a.png", values))
    shown = grey_of(draw_image(image, 200, None))
    assert shown[100, 3] < 10 and shown[100, 197] > 245
    assert shown[100, 100] == pytest.approx(128, abs=6)


def test_intensity_range_says_what_is_black_and_white(tmp_path: Path) -> None:
    values = np.full((64, 64), 1000, dtype=np.uint16)
    values[:, 32:] = 3000
    image = read_image(write_picture(tmp_path / "a.png", values))
    shown = grey_of(draw_image(image, 64, (0, 2000)))
    assert shown[30, 10] == pytest.approx(128, abs=4) and shown[30, 50] > 250


def test_colour_stays_colour(tmp_path: Path) -> None:
    values = np.zeros((60, 60, 3), dtype=np.uint8)
    values[:30, :, 0] = 255
    values[30:, :, 2] = 255
    shown = pixels_of(draw_image(read_image(write_picture(tmp_path / "a.png", values)), 128, None)).astype(int)
    assert (shown[20, 60] - (255, 0, 0) < 25).all() and (shown[100, 60] - (0, 0, 255) < 25).all()


def test_an_image_that_is_almost_flat_is_drawn(tmp_path: Path) -> None:
    values = np.zeros((64, 64), dtype=np.uint8)
    values[0, 0] = 255
    assert grey_of(draw_image(read_image(write_picture(tmp_path / "a.png", values)), 96, None)).shape == (96, 96)


# What lies over


class Brightness(nn.Module):
    """The brighter, the more it is class 2, and the darker, class 1: a network whose predictions are known."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(inputs), -8 * inputs, 8 * inputs], dim=1)


def model_for(spatial_dims: int) -> Model:
    config = TrainingConfig(
        label_names=("dark", "bright"), spatial_dims=spatial_dims, spatial_size=(32,) * spatial_dims
    )
    network = Brightness()
    network.anchor = nn.Parameter(torch.zeros(1))  # by which a model knows its device
    return Model(network, {"version": "m1", "config": config.to_dict(), "label_names": ["dark", "bright"]})


def halves(spatial_dims: int, tmp_path: Path) -> Image:
    """Dark on the left of a picture (the patient's right), bright on the right, and a ramp between."""
    ramp = np.clip(np.arange(60) - 24.5, 0, 10) * 20
    if spatial_dims == 2:
        return read_image(write_picture(tmp_path / "a.png", np.tile(ramp.astype(np.uint8), (40, 1))))
    volume = np.broadcast_to(ramp[::-1, None, None], (60, 40, 20)).astype(np.float32)
    return read_image(write_volume(tmp_path / "a.nii.gz", volume))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_overlays_lie_on_the_preview(spatial_dims: int, tmp_path: Path) -> None:
    image = halves(spatial_dims, tmp_path)
    preview = pixels_of(draw_image(image, 120, None))
    prediction, entropy = (pixels_of(content) for content in draw_prediction(model_for(spatial_dims), image, 120))
    assert prediction.shape[:2] == entropy.shape[:2] == preview.shape[:2]
    assert prediction.shape[2] == entropy.shape[2] == 4
    width, _ = lay_out(image.pixels.shape[1:], image.spacing_mm, 120).sizes[0]
    row = preview.shape[0] // 2
    dark, bright = (tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5)) for colour in CLASS_COLOURS[:2])
    assert tuple(prediction[row, width // 4]) == (*dark, CLASS_ALPHA)
    assert tuple(prediction[row, 3 * width // 4]) == (*bright, CLASS_ALPHA)
    assert preview[row, width // 4].mean() < 20 and preview[row, 3 * width // 4].mean() > 235
    edges = np.flatnonzero(prediction[row, :width, 3] == EDGE_ALPHA)
    assert abs(edges.mean() - width / 2) < 4, "the edge lies where the image changes"
    assert entropy[row, width // 4, 3] < 0.1 * ENTROPY_ALPHA
    assert abs(int(entropy[row, :width, 3].argmax()) - width / 2) < 6, "it is uncertain where it changes"


def test_background_is_transparent(tmp_path: Path) -> None:
    image = halves(2, tmp_path)
    model = model_for(2)
    model.network.forward = lambda inputs: torch.cat([9 + 0 * inputs, 0 * inputs, 0 * inputs], dim=1)  # type: ignore
    prediction, _ = (pixels_of(content) for content in draw_prediction(model, image, 120))
    assert prediction[..., 3].max() == 0


# Headers


def test_geometry_comes_from_the_header(tmp_path: Path) -> None:
    values = np.zeros((8, 9, 7), dtype=np.float32)
    values[0] = 1
    volume = write_volume(tmp_path / "a.nii.gz", values, (0.5, 0.75, 3.0))
    assert file_geometry(volume) == {"size": [8, 9, 7], "spacing": [0.5, 0.75, 3.0], "unit": "mm"}
    picture = write_picture(tmp_path / "a.png", np.eye(20, 30, dtype=np.uint8))
    assert file_geometry(picture) == {"size": [30, 20], "spacing": [1.0, 1.0], "unit": "pixel"}
    for name, content in (
        ("cut.png", b"\x89PNG\r\n\x1a\n"),
        ("cut.nii.gz", b"x"),
        ("a.txt", b""),
        ("cut.nrrd", b"NRRD"),
    ):
        (tmp_path / name).write_bytes(content)
        assert file_geometry(tmp_path / name) is None
    assert file_geometry(tmp_path / "absent.png") is None


# The cache


def test_what_was_not_looked_at_for_longest_goes_first(tmp_path: Path) -> None:
    cache = PictureCache(tmp_path / "kept", max_bytes=350)
    for name in ("a", "b", "c"):
        cache.put(name, name.encode() * 100)
    assert cache.get("a") == b"a" * 100
    cache.put("d", b"d" * 100)
    assert [cache.get(name) is not None for name in "abcd"] == [True, False, True, True]
    assert sum(path.stat().st_size for path in (tmp_path / "kept").iterdir()) <= 350


def test_bound_holds_over_processes_and_for_what_is_put_twice(tmp_path: Path) -> None:
    first = PictureCache(tmp_path, max_bytes=1000)
    for number in range(9):
        first.put(f"{number}", bytes(100))
        os.utime(next(path for path in tmp_path.iterdir() if path.stat().st_mtime > 1e8), (number, number))
    second = PictureCache(tmp_path, max_bytes=1000)
    for _ in range(5):
        second.put("again", bytes(100))
    assert len(list(tmp_path.iterdir())) == 10
    second.put("large", bytes(500))
    left = {number for number in range(9) if second.get(f"{number}") is not None}
    assert left == {5, 6, 7, 8}, "those put first are gone"


def test_any_text_is_a_key(tmp_path: Path) -> None:
    cache = PictureCache(tmp_path)
    keys = ["../../x", "a/b", "ü 漢字", "\ud800", "x" * 5000, ""]
    for number, key in enumerate(keys):
        cache.put(key, bytes([number]))
    assert [cache.get(key) for key in keys] == [bytes([number]) for number in range(len(keys))]
    assert {path.parent for path in tmp_path.rglob("*")} == {tmp_path}


def test_a_folder_that_cannot_be_written_costs_no_picture(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file is in its place")
    cache = PictureCache(tmp_path / "kept")
    cache.put("a", b"x")
    assert cache.get("a") is None
