"""What whoever looks at a campaign is told of its files: their names, and when one was replaced."""

from __future__ import annotations

import os
import zlib
from pathlib import Path


def without_folders(sentence: str, *paths: str) -> str:
    """Name files by their place within the folders of the paths: where these lie on the server is nobody's business."""
    for path in paths:
        sentence = sentence.replace(f"{Path(path).parent}{os.sep}", "")
    return sentence


def file_version(signature: str) -> int:
    """Return a number that most likely is another one when the file of an image is."""
    return zlib.crc32(signature.encode(errors="replace"))
