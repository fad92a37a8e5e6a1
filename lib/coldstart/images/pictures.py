"""Read PNG and JPEG with Pillow, which knows palettes, grey with alpha, and truncated files; ITK does not.

Pillow's readers of the two formats are used themselves, not `Image.open`: it would try forty more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import JpegImagePlugin, PngImagePlugin

from coldstart.images.itk import load_itk
from coldstart.images.limits import require_room
from coldstart.images.stored import Stored

_KEPT_MODES = ("1", "L", "LA", "I", "I;16", "F", "RGB", "RGBA")


def load_picture(path: Path, kind: Literal["PNG", "JPEG"], *, indices: bool) -> Stored:
    """Read a picture; ITK reads 16-bit colour and 16-bit grey with alpha, which Pillow would cut to 8 bits."""
    with path.open("rb") as file:
        head = file.read(26)
        depth, colour_type = (head[24], head[25]) if kind == "PNG" and len(head) == 26 else (8, -1)
        file.seek(0)
        reader = PngImagePlugin.PngImageFile if kind == "PNG" else JpegImagePlugin.JpegImageFile
        with reader(file) as picture:
            require_room(picture.size, len(picture.getbands()), 2 if depth == 16 else 1)
            picture.load()
            if depth == 16 and colour_type in (2, 4, 6):
                return load_itk(path, "PNG", physical=False)
            kept = (*_KEPT_MODES, "P") if indices else _KEPT_MODES
            array = np.asarray(picture if picture.mode in kept else picture.convert("RGB"))
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) if indices else array.astype(np.uint8) * 255
    elif indices and colour_type == 0 and depth in (2, 4):
        array = array // (255 // (2**depth - 1))  # Pillow stretches them to 0..255
    array = array if array.ndim == 3 else array[..., None]
    return Stored(array.transpose(1, 0, 2), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0), False, None, {})
