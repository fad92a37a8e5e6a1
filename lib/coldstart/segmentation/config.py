"""What a training is told: one frozen, checked value object that also travels inside the model file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coldstart.exceptions import InvalidInputError

SMALLEST_AXIS = 32
"""Pixels. Half of it halved four times is one pixel, of which a batch of one has no variance to normalise by."""


@dataclass(frozen=True)
class TrainingConfig:
    """Everything besides the samples that decides how a training ends.

    Parameters
    ----------
    label_names : tuple of str
        Names of the classes without the background; the class index is the position plus one.
    spatial_dims : {2, 3}
        Dimensions of the images and of the network.
    spatial_size : tuple of int
        The network's own grid in pixels, in the axis order of `coldstart.images.Image.pixels`: (rows, columns), or
        (x, y, z). Each a multiple of 16 (with the default channels) and at least 32.
    intensity_range : tuple of float or None
        Intensities are clipped to (lowest, highest) first (Hounsfield units for CT); None: no clipping.
    channels : tuple of int
        Channels of the network's levels, from the top; every level after the first halves the grid.
    epochs, batch_size : int
        Passes over the samples, and samples in a step.
    learning_rate : float
        Of Adam.
    dropout : float
        Probability in [0, 1).
    random_state : int
        Seeds the initial weights, the order of the samples and the dropout.
    device : str
        "auto" (a GPU where there is one, else the CPU), "cpu", "cuda" or "cuda:N".
    amp : bool
        Mixed precision, on a GPU only.

    Raises
    ------
    InvalidInputError
        If a value is outside its range; the sentence names it.
    """

    label_names: tuple[str, ...]
    spatial_dims: int
    spatial_size: tuple[int, ...]
    intensity_range: tuple[float, float] | None = None
    channels: tuple[int, ...] = (32, 64, 128, 256, 512)
    epochs: int = 120
    batch_size: int = 2
    learning_rate: float = 1e-3
    dropout: float = 0.15
    random_state: int = 0
    device: str = "auto"
    amp: bool = True

    def __post_init__(self) -> None:
        _check_labels(self.label_names)
        _check_geometry(self)
        _check_training(self)

    @property
    def n_classes(self) -> int:
        """Number of classes with the background."""
        return len(self.label_names) + 1

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON types (tuples become lists)."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Return the config that `to_dict` gave `values`; unknown keys raise TypeError."""
        fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in values.items()}
        return cls(**fields)


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Parameters
    ----------
    image_id : str
        Identity in the datastore; recorded in the model file.
    image, label : Path
        The two files, on the same grid.
    class_of_value : Mapping of int to int
        Class index of every value that the label file holds; value 0 is the background whether listed or not.
    """

    image_id: str
    image: Path
    label: Path
    class_of_value: Mapping[int, int]


def _check_labels(names: tuple[str, ...]) -> None:
    if not names or any(not isinstance(name, str) or not name.strip() for name in names):
        raise InvalidInputError(
            f"`label_names` must hold at least one name, none of them empty; got {names!r}. "
            "Name what is to be segmented."
        )
    if len(set(names)) != len(names):
        raise InvalidInputError(f"`label_names` must all differ; got {names!r}. Rename or remove the doubled one.")


def _check_geometry(config: TrainingConfig) -> None:
    if config.spatial_dims not in (2, 3):
        raise InvalidInputError(f"`spatial_dims` must be 2 or 3; got {config.spatial_dims!r}.")
    if len(config.channels) < 2 or any(channel < 2 for channel in config.channels):
        raise InvalidInputError(
            f"`channels` must hold at least 2 levels of at least 2 channels each; got {config.channels}."
        )
    size = config.spatial_size
    multiple = 2 ** (len(config.channels) - 1)
    smallest = max(SMALLEST_AXIS, 2 * multiple)
    if len(size) != config.spatial_dims:
        raise InvalidInputError(
            f"`spatial_size` must have {config.spatial_dims} numbers, one for each axis; got {len(size)}: {size}."
        )
    if any(axis < smallest or axis % multiple for axis in size):
        raise InvalidInputError(
            f"`spatial_size` must be at least {smallest} and a multiple of {multiple} along every axis, because the "
            f"network halves its grid {len(config.channels) - 1} times; got {size}. "
            f"The nearest that works is {tuple(max(smallest, round(axis / multiple) * multiple) for axis in size)}."
        )
    if config.intensity_range is not None and not config.intensity_range[0] < config.intensity_range[1]:
        raise InvalidInputError(
            f"`intensity_range` must be (lowest, highest) with lowest < highest; got {config.intensity_range}."
        )


def _check_training(config: TrainingConfig) -> None:
    if config.epochs < 1:
        raise InvalidInputError(f"`epochs` must be at least 1; got {config.epochs}.")
    if config.batch_size < 1:
        raise InvalidInputError(f"`batch_size` must be at least 1; got {config.batch_size}.")
    if not config.learning_rate > 0:
        raise InvalidInputError(f"`learning_rate` must be above 0; got {config.learning_rate}.")
    if not 0 <= config.dropout < 1:
        raise InvalidInputError(f"`dropout` must be in [0, 1); got {config.dropout}.")
    if config.random_state < 0:
        raise InvalidInputError(f"`random_state` must be 0 or above; got {config.random_state}.")
