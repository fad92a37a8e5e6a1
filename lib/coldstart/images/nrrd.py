"""Read NRRD with ITK, after a look at what ITK would follow out of the folder."""

from __future__ import annotations

from pathlib import Path

from coldstart.images.itk import load_itk
from coldstart.images.stored import Stored, UnusableError

_MAX_HEADER_BYTES = 1 << 20
"""Slicer's headers describe each segment in ten lines; a header that does not end here is none."""


def load_nrrd(path: Path) -> Stored:
    """Read a NRRD file whose values are in the file itself; another file that its header names is not opened."""
    with path.open("rb") as file:
        n_read = 0
        while (line := file.readline(_MAX_HEADER_BYTES)).strip(b"\r\n"):
            n_read += len(line)
            if n_read > _MAX_HEADER_BYTES:
                raise UnusableError(
                    "the file is damaged, incomplete or not NRRD (its header does not end); export or copy it again"
                )
            if line.lower().replace(b" ", b"").startswith(b"datafile:"):
                raise UnusableError("its values are in another file; save it as one .nrrd file")
    return load_itk(path, "NRRD", physical=True)
