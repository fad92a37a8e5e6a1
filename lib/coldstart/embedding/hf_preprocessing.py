"""Preprocessing of `transformers` vision models, read from their `preprocessor_config.json` and done by ourselves.

Their own processors need torchvision for several models. Order and meaning of the steps are theirs: resize, centre
crop, rescale, normalise, pad. Two differences: we resize in float, not in 8 bit, and antialias always.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coldstart.embedding.preprocessing import Array, resize, to_grey, to_rgb
from coldstart.exceptions import EncoderError

CONFIG_NAME = "preprocessor_config.json"
# Newer models of several modalities keep the image processor inside this file.
PROCESSOR_NAME = "processor_config.json"
# Pillow's numbers: nearest, Lanczos, bilinear, bicubic, box, Hamming. Torch has no Lanczos and no Hamming window.
MODE_OF_RESAMPLE = {0: "nearest", 1: "cubic", 2: "linear", 3: "cubic", 4: "area", 5: "linear"}
# Processors for which a plain number is the shortest edge, not a square.
SHORTEST_EDGE_PROCESSORS = ("bit", "clip", "convnext", "levit", "mobilenet", "mobilevit", "vilt", "videomae")
# ConvNeXt: from this size on the image is squeezed, below it is cropped.
CONVNEXT_SQUEEZE_FROM = 384
LEVIT_ENLARGEMENT = 256 / 224
# Steps that do nothing to a model's input here.
HARMLESS_STEPS = {"do_convert_rgb", "do_reduce_labels"}
# EfficientNet's: they change the input without a name that begins with "do_".
UNSUPPORTED_SWITCHES = {"include_top", "rescale_offset"}
KNOWN_STEPS = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad", "do_flip_channel_order"}


@dataclass(frozen=True)
class ImagePreprocessor:
    """The steps, with every size resolved; `None` leaves a step out.

    Attributes
    ----------
    size : mapping or None
        {"height", "width"}, {"shortest_edge"} (with {"longest_edge"} as a limit) or {"longest_edge"}, in pixels.
    crop_size, pad_size : (rows, columns) or None
        Cropped around the centre, padded with zeros; padding goes to the right and below.
    scale : float
        What grey levels of 0 to 255 are multiplied with.
    mean, std : one number for each channel, or None
        Subtracted, then divided by.
    reverse_channels : bool
        Blue, green, red instead of red, green, blue.
    """

    size: Mapping[str, int] | None
    mode: str
    crop_size: tuple[int, int] | None
    crop_fraction: float | None
    scale: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    pad_size: tuple[int, int] | None
    reverse_channels: bool
    n_channels: int

    def __call__(self, image: Array) -> Array:
        """Turn (channels, rows, columns) in [0, 1] into the model's `pixel_values` (n_channels, rows, columns)."""
        values = to_grey(image) if self.n_channels == 1 else to_rgb(image)
        if self.crop_fraction is not None and self.size is not None:
            values = self._convnext(values, self.size["shortest_edge"], self.crop_fraction)
        elif self.size is not None:
            values = resize(values, output_size(values.shape[1:], self.size), self.mode)
        if self.crop_size is not None:
            values = centre_crop(values, self.crop_size)
        values = values * np.float32(255 * self.scale)
        if self.reverse_channels:
            values = values[::-1]
        if self.mean is not None and self.std is not None:
            mean, std = (np.array(numbers, dtype=np.float32)[:, None, None] for numbers in (self.mean, self.std))
            values = (values - mean) / std
        if self.pad_size is not None:
            below, right = (max(0, new - old) for new, old in zip(self.pad_size, values.shape[1:], strict=True))
            values = np.pad(values, ((0, 0), (0, below), (0, right)))
        return np.ascontiguousarray(values, dtype=np.float32)

    def _convnext(self, values: Array, edge: int, fraction: float) -> Array:
        if edge >= CONVNEXT_SQUEEZE_FROM:
            return resize(values, (edge, edge), self.mode)
        larger = {"shortest_edge": int(edge / fraction)}
        return centre_crop(resize(values, output_size(values.shape[1:], larger), self.mode), (edge, edge))


def read_preprocessor(folder: Path, *, n_channels: int, option: str) -> ImagePreprocessor:
    """Read the preprocessing of a model folder.

    Parameters
    ----------
    folder : Path
        Holds `preprocessor_config.json`, or `processor_config.json` with a part "image_processor".
    n_channels : int
        Channels that the model takes, 1 or 3.
    option : str
        What to name in errors.

    Raises
    ------
    EncoderError
        If there is none, it cannot be read, or it asks for a step that is not supported.
    """
    config = _read_config(folder, option)
    asked = (
        key for key, value in config.items() if key.startswith("do_") or key in UNSUPPORTED_SWITCHES if value is True
    )
    steps = set(asked)
    unknown = sorted(steps - KNOWN_STEPS - HARMLESS_STEPS)
    if unknown:
        raise EncoderError(
            f"{option}: {CONFIG_NAME} of {folder.name!r} asks for {', '.join(unknown)}; supported are "
            f"{', '.join(sorted(KNOWN_STEPS))}. Use another model."
        )
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "").lower()
    try:
        return _resolve(config, kind, n_channels)
    except (TypeError, ValueError, KeyError) as error:
        raise EncoderError(
            f"{option}: {CONFIG_NAME} of {folder.name!r} must give sizes in pixels and one mean and std for each of "
            f"the {n_channels} channels; {error}. Use another model, or put the file right."
        ) from error


def output_size(shape: tuple[int, ...], size: Mapping[str, int]) -> tuple[int, int]:
    """Give the rows and columns that an image of `shape` (rows, columns) gets for a `size` of the configuration."""
    rows, columns = shape
    if "height" in size and "width" in size:
        return int(size["height"]), int(size["width"])
    if "shortest_edge" in size:
        short, long = min(rows, columns), max(rows, columns)
        edge = int(size["shortest_edge"])
        limit = size.get("longest_edge")
        if limit is not None and long / short * edge > limit:
            edge = round(limit * short / long)
        other = int(edge * long / short)
        return (edge, other) if rows <= columns else (other, edge)
    if "longest_edge" in size:
        factor = size["longest_edge"] / max(rows, columns)
        return int(rows * factor + 0.5), int(columns * factor + 0.5)
    raise ValueError(f"size {dict(size)} is not understood")


def centre_crop(image: Array, size: tuple[int, int]) -> Array:
    """Cut the middle of (channels, rows, columns); a smaller image is surrounded by zeros first."""
    margins = [max(0, new - old) for new, old in zip(size, image.shape[1:], strict=True)]
    if any(margins):
        image = np.pad(image, ((0, 0), *((math.ceil(margin / 2), margin // 2) for margin in margins)))
    top, left = ((old - new) // 2 for new, old in zip(size, image.shape[1:], strict=True))
    return image[:, top : top + size[0], left : left + size[1]]


def _read_config(folder: Path, option: str) -> dict[str, Any]:
    for name, inner in ((CONFIG_NAME, None), (PROCESSOR_NAME, "image_processor")):
        path = folder / name
        if not path.is_file():
            continue
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EncoderError(f"{option}: {str(path)!r} cannot be read as JSON: {error}.") from error
        if inner is not None and isinstance(config, dict):
            config = config.get(inner)
        if isinstance(config, dict):
            return config
    raise EncoderError(
        f"{option} must name a model with a {CONFIG_NAME}, which says how its images are prepared; "
        f"{str(folder)!r} has none. Download the whole model folder."
    )


def _resolve(config: dict[str, Any], kind: str, n_channels: int) -> ImagePreprocessor:
    square = not any(name in kind for name in SHORTEST_EDGE_PROCESSORS)
    size = _size(config.get("size"), square) if config.get("do_resize") else None
    if size is not None and kind.startswith("levit") and "shortest_edge" in size:
        size = {"shortest_edge": int(size["shortest_edge"] * LEVIT_ENLARGEMENT)}
    crop_size = config.get("crop_size") if config.get("do_center_crop") else None
    fraction = config.get("crop_pct") if size is not None and "shortest_edge" in size else None
    pad = config.get("pad_size") if config.get("do_pad") else None
    normalise = config.get("do_normalize")
    return ImagePreprocessor(
        size=size,
        mode=MODE_OF_RESAMPLE[int(config.get("resample", 2))],
        crop_size=_pair(crop_size),
        crop_fraction=None if fraction is None else float(fraction),
        scale=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
        mean=_per_channel(config["image_mean"], n_channels) if normalise else None,
        std=_per_channel(config["image_std"], n_channels) if normalise else None,
        pad_size=_pair(pad),
        reverse_channels=bool(config.get("do_flip_channel_order")),
        n_channels=n_channels,
    )


def _size(value: Any, square: bool) -> dict[str, int]:
    if isinstance(value, int):
        return {"height": value, "width": value} if square else {"shortest_edge": value}
    if isinstance(value, (list, tuple)):
        return {"height": int(value[0]), "width": int(value[1])}
    size = {key: int(number) for key, number in dict(value).items() if number is not None}
    output_size((1, 1), size)
    return size


def _pair(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, int):
        return value, value
    if isinstance(value, Mapping):
        if "shortest_edge" in value:
            return int(value["shortest_edge"]), int(value["shortest_edge"])
        return int(value["height"]), int(value["width"])
    return int(value[0]), int(value[1])


def _per_channel(value: Any, n_channels: int) -> tuple[float, ...]:
    numbers = [float(value)] if isinstance(value, (int, float)) else [float(number) for number in value]
    if len(numbers) == 1:
        numbers *= n_channels
    if n_channels == 1 and len(numbers) == 3:
        numbers = [sum(numbers) / 3]
    if len(numbers) != n_channels:
        raise ValueError(f"{len(numbers)} numbers for {n_channels} channels")
    return tuple(numbers)
