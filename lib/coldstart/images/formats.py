"""Which file formats are read, and in which one a label is written."""

from __future__ import annotations

from pathlib import Path

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm")
"""Suffixes of the files that can be read, in lower case; `image_suffix` compares without regard to case."""

IMAGE_PATTERNS: tuple[str, ...] = tuple(f"*{s}" for s in SUFFIXES) + tuple(f"*{s.upper()}" for s in SUFFIXES)
"""File patterns of the images we serve, in lower and in upper case; a mixed case such as `*.Png` is not served."""


def image_suffix(path: str | Path) -> str:
    """Give the suffix of a file that can be read, in lower case (`.nii.gz` as one); empty for any other file."""
    name = Path(path).name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix) and name != suffix), "")


def result_suffix(path: str | Path) -> str:
    """Give the suffix of the lossless format that a label for this image is written in."""
    suffix = image_suffix(path)
    return {".jpg": ".png", ".jpeg": ".png", ".dcm": ".nrrd", "": ".nrrd"}.get(suffix, suffix)
