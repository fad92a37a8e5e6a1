"""Tell what a file holds from its first bytes, and whether that is what its name says."""

from __future__ import annotations

from typing import Literal

from coldstart.images.stored import UnusableError

Format = Literal["PNG", "JPEG", "TIFF", "NRRD", "DICOM", "NIfTI"]

HEAD_BYTES = 352

_MAGIC: tuple[tuple[int, bytes, Format], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"NRRD", "NRRD"),
    (128, b"DICM", "DICOM"),
    (344, b"n+1", "NIfTI"),
    (4, b"n+2", "NIfTI"),
)
FORMATS: dict[str, Format] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".nrrd": "NRRD",
    ".dcm": "DICOM",
    ".nii": "NIfTI",
    ".nii.gz": "NIfTI",
}
_PICTURES = ("PNG", "JPEG")
_GZIP = b"\x1f\x8b"


def format_of(head: bytes, suffix: str) -> Format:
    """Give the format of a file that begins with `head` and whose name ends in `suffix`.

    PNG and JPEG may carry each other's suffix: every viewer tells them apart by their content. DICOM may lack its
    preamble, and NIfTI be packed: what begins like nothing else is left to their readers.
    """
    named = FORMATS[suffix]
    if head.startswith(_GZIP) and suffix != ".nii.gz":
        raise UnusableError(f"its content is gzip, but its name says {suffix}; rename it or export it again")
    kinds = [kind for start, magic, kind in _MAGIC if head[start : start + len(magic)] == magic]
    if named in kinds:  # a DICOM file may begin as TIFF, for viewers of either
        return named
    found = kinds[0] if kinds else None
    if found is None and named not in ("DICOM", "NIfTI"):
        raise UnusableError(
            f"the file is damaged, incomplete or not {named} (it begins otherwise); export or copy it again"
        )
    if found is None:
        return named
    if found in _PICTURES and named in _PICTURES:
        return found
    raise UnusableError(f"its content is {found}, but its name says {suffix}; rename it or export it again")
