"""How a 2D image of a folder reaches 3D Slicer as the one image that it is.

Slicer takes a numbered 2D file for a slice of a volume and loads all its neighbours with it: those in its folder where
it reads the server's own, those that it downloaded before where it does not. So an answer names such an image by a link
in a folder of its own, and by a name to download it under that shares no pattern with another.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

FOLDER = "slicer"
"""Folder of the links, in that of the campaign's state."""
_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")


def alone(path: Path, image_id: str, state: Path) -> dict[str, str]:
    """The `path` and `name` that an answer gives for a 2D image; the path itself where no link can be made."""
    mark = hashlib.sha256(os.fsencode(path)).hexdigest()[:12].translate(_LETTERS)
    link = state / FOLDER / mark / path.name
    suffix = path.name.removeprefix(image_id)
    try:
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    except FileExistsError:  # another click on the same image was quicker
        pass
    except OSError as error:
        logger.warning("Slicer on this machine may load the images beside %s with it: %s", path, error)
        link = path
    return {"path": str(link), "name": f"{image_id}-{mark}{suffix}"}
