"""Size and spacing of an image out of its header, without its pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import PIL
from PIL import Image as Picture

from coldstart.images import image_suffix
from coldstart.images.content import FORMATS
from coldstart.images.itk import read_header
from coldstart.images.stored import UnusableError


def file_geometry(path: Path) -> dict[str, Any] | None:
    """Pixels and spacing along each axis of a file, the fastest first; None where that cannot be read for now."""
    kind = FORMATS.get(image_suffix(path))
    try:
        if kind is None or not path.is_file():
            return None
        if kind == "PNG" or kind == "JPEG" or kind == "TIFF":
            with Picture.open(path) as picture:
                pages = getattr(picture, "n_frames", 1)
                size = [*picture.size, *([pages] if pages > 1 else [])]
            return {"size": size, "spacing": [1.0] * len(size), "unit": "pixel"}
        header = read_header(path, kind, physical=True)
    except (OSError, RuntimeError, ValueError, UnusableError, PIL.UnidentifiedImageError):
        return None
    size = list(header.array.shape[:-1])
    while len(size) > 2 and size[-1] == 1:
        size.pop()
    return {"size": size, "spacing": list(header.spacing[: len(size)]), "unit": "mm"}
