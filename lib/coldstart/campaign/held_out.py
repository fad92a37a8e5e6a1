"""The held-out images: their list, and whose labels have changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from coldstart.exceptions import SettingsError


def read_held_out(path: Path | None) -> frozenset[str]:
    """Ids of the held-out images: one a line, empty lines and lines that begin with # left out.

    Raises
    ------
    SettingsError
        If the file cannot be read.
    """
    if path is None:
        return frozenset()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"--conf heldout must name a text file with one image id a line; got '{path}': {error}."
        ) from None
    return frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def corrected_labels(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    """Ids of the held-out images whose label's signature differs between two models' details (`heldout_labels`)."""
    return {image_id for image_id in before.keys() & after.keys() if before[image_id] != after[image_id]}
