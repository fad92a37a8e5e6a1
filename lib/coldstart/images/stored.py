"""A file as it is stored, before any axis is moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from coldstart.exceptions import ColdStartError


class UnusableError(ColdStartError):
    """The reason why a file cannot be used, before it is known whether it is an image or a label."""


@dataclass(frozen=True)
class Stored:
    """A file as it is stored: `array` is (*file axes, components)."""

    array: NDArray[Any]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    physical: bool
    nifti_sform: tuple[float, ...] | None
    metadata: Mapping[str, str]

    def holding(self, array: NDArray[Any]) -> Stored:
        """The same file with these values."""
        return replace(self, array=array)


def times(numbers: tuple[float, ...]) -> str:
    """Write sizes or spacings as people do: 256 x 256."""
    return " x ".join(f"{number:g}" for number in numbers)
