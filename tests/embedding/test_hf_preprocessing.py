"""Preprocessing from `preprocessor_config.json`, beside the processors that come with `transformers`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.mobilevit.image_processing_pil_mobilevit import MobileViTImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from coldstart.embedding.hf_preprocessing import centre_crop, output_size, read_preprocessor
from coldstart.exceptions import EncoderError

OPTION = "`--conf encoder` 'hf:x'"


def write(folder: Path, config: Any) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("shape", [(60, 60), (40, 90), (75, 50)])
@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessorPil(
            size={"height": 32, "width": 24}, resample=2, image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 3]
        ),
        ViTImageProcessorPil(size={"height": 20, "width": 20}, resample=0, do_normalize=False),
        CLIPImageProcessorPil(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, resample=3),
        CLIPImageProcessorPil(do_resize=False, crop_size={"height": 64, "width": 64}),
        ConvNextImageProcessorPil(size={"shortest_edge": 28}, crop_pct=0.875),
        ConvNextImageProcessorPil(size={"shortest_edge": 384}, crop_pct=0.875),
        MobileViTImageProcessorPil(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}),
        SamImageProcessorPil(size={"longest_edge": 48}, pad_size={"height": 48, "width": 48}),
    ],
    ids=lambda processor: type(processor).__name__,
)
def test_pixels_agree_with_the_processor_of_transformers(
    processor: Any, shape: tuple[int, int], tmp_path: Path
) -> None:
    # Smooth colours: rounding to 8 bit before and after resizing, which is theirs only, then stays below 2 levels.
    rows, columns = np.meshgrid(np.linspace(0, 3, shape[0]), np.linspace(0, 5, shape[1]), indexing="ij")
    levels = np.stack([127 + 120 * np.sin(rows + k) * np.cos(columns - k) for k in range(3)]).astype(np.uint8)
    processor.save_pretrained(tmp_path)
    expected = processor(np.moveaxis(levels, 0, -1), return_tensors="np", input_data_format="channels_last")[
        "pixel_values"
    ][0]

    prepare = read_preprocessor(tmp_path, n_channels=3, option=OPTION)
    values = prepare(levels.astype(np.float32) / 255)

    assert values.shape == expected.shape and values.dtype == np.float32
    smallest_std = min(np.atleast_1d(processor.image_std)) if processor.do_normalize and processor.image_std else 1
    assert np.abs(values - expected).max() <= 2.01 / 255 / smallest_std


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((100, 200), {"height": 7, "width": 9}, (7, 9)),
        ((100, 200), {"shortest_edge": 50}, (50, 100)),
        ((200, 100), {"shortest_edge": 50}, (100, 50)),
        ((100, 400), {"shortest_edge": 50, "longest_edge": 100}, (25, 100)),
        ((100, 200), {"longest_edge": 50}, (25, 50)),
        ((3, 2), {"longest_edge": 1024}, (1024, 683)),
    ],
)
def test_output_size(shape: tuple[int, int], size: dict[str, int], expected: tuple[int, int]) -> None:
    assert output_size(shape, size) == expected


def test_centre_crop_cuts_the_middle_and_surrounds_with_zeros() -> None:
    image = np.arange(1, 13, dtype=np.float32).reshape(1, 3, 4)

    assert centre_crop(image, (1, 2)).tolist() == [[[6, 7]]]
    assert centre_crop(image, (5, 2)).tolist() == [[[0, 0], [2, 3], [6, 7], [10, 11], [0, 0]]]


@pytest.mark.parametrize(
    ("kind", "size", "expected"),
    [
        ("ViTFeatureExtractor", 16, (16, 16)),
        ("CLIPFeatureExtractor", 16, (16, 32)),
        ("ViTFeatureExtractor", [12, 14], (12, 14)),
        ("LevitImageProcessor", {"shortest_edge": 14}, (16, 32)),
    ],
)
def test_older_forms_of_size(kind: str, size: Any, expected: tuple[int, int], tmp_path: Path) -> None:
    config = {"feature_extractor_type": kind, "do_resize": True, "size": size, "do_normalize": False}
    prepare = read_preprocessor(write(tmp_path, config), n_channels=3, option=OPTION)

    assert prepare(np.zeros((1, 20, 40), dtype=np.float32)).shape == (3, *expected)


def test_without_rescaling_values_stay_grey_levels(tmp_path: Path) -> None:
    config = {"do_resize": False, "do_rescale": False, "do_normalize": True, "image_mean": 100, "image_std": 10}
    prepare = read_preprocessor(write(tmp_path, config), n_channels=3, option=OPTION)

    assert prepare(np.ones((1, 2, 2), dtype=np.float32)) == pytest.approx(15.5)


def test_image_processor_inside_processor_config_is_found(tmp_path: Path) -> None:
    inner = {"do_resize": True, "size": {"height": 4, "width": 4}, "do_normalize": False}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": inner}))

    prepare = read_preprocessor(tmp_path, n_channels=1, option=OPTION)

    assert prepare(np.ones((3, 8, 8), dtype=np.float32)).shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"do_thumbnail": True}, r"asks for do_thumbnail; supported are do_center_crop, "),
        ({"do_resize": True, "size": {"area": 3}}, r"sizes in pixels .*size \{'area': 3\} is not understood"),
        ({"do_resize": True}, "must give sizes in pixels"),
        ({"do_normalize": True, "image_mean": [1, 2], "image_std": [1, 1]}, "2 numbers for 3 channels"),
        ({"do_normalize": True}, "'image_mean'"),
        ({"do_resize": True, "size": 3, "resample": 17}, "must give sizes .* 17"),
    ],
)
def test_bad_configurations_are_named(tmp_path: Path, config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(EncoderError, match=rf"^`--conf encoder` 'hf:x'.*{sentence}"):
        read_preprocessor(write(tmp_path, config), n_channels=3, option=OPTION)


def test_unreadable_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text("{")

    with pytest.raises(EncoderError, match=r"preprocessor_config.json' cannot be read as JSON"):
        read_preprocessor(tmp_path, n_channels=3, option=OPTION)
