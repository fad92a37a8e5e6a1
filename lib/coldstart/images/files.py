"""Load one file as it is stored, by the reader of its format, and say in one line why it cannot be loaded."""

from __future__ import annotations

from pathlib import Path

from coldstart.images.content import FORMATS, HEAD_BYTES, format_of
from coldstart.images.dicom import load_dicom
from coldstart.images.formats import SUFFIXES, image_suffix
from coldstart.images.itk import itk_reason
from coldstart.images.nifti import load_nifti
from coldstart.images.nrrd import load_nrrd
from coldstart.images.pictures import load_picture
from coldstart.images.stored import Stored, UnusableError
from coldstart.images.tiff import load_tiff

NO_MEMORY = "this machine has not enough memory free for it; export it smaller, or try again when less is running"


def load(path: Path, *, indices: bool = False) -> Stored:
    """Read a file as it is stored; `indices` asks for the numbers in a PNG instead of the grey levels they mean."""
    try:
        n_bytes = path.stat().st_size
    except OSError as error:
        raise UnusableError(
            f"it cannot be opened ({error.strerror or error}); check the path and its permissions"
        ) from error
    if not path.is_file():
        raise UnusableError("it is not a file")
    suffix = image_suffix(path)
    if not suffix:
        raise UnusableError(f"its format is not known; the suffix must be one of {', '.join(SUFFIXES)}")
    if n_bytes == 0:
        raise UnusableError("the file has 0 bytes; copy it again")
    try:
        with path.open("rb") as file:
            kind = format_of(file.read(HEAD_BYTES), suffix)
        match kind:
            case "PNG" | "JPEG":
                return load_picture(path, kind, indices=indices)
            case "TIFF":
                return load_tiff(path, indices=indices)
            case "NRRD":
                return load_nrrd(path)
            case "DICOM":
                return load_dicom(path)
            case "NIfTI":
                return load_nifti(path)
    except UnusableError:
        raise
    except MemoryError as error:
        raise UnusableError(NO_MEMORY) from error
    except OSError as error:
        if error.errno is not None:
            raise UnusableError(f"it could not be read ({error.strerror}); check the disk and try again") from error
        raise UnusableError(_damaged(suffix, error)) from error
    # Five libraries and their codecs raise whatever they like on a damaged file; all of it means the same here.
    except Exception as error:
        raise UnusableError(_damaged(suffix, error)) from error


def _damaged(suffix: str, error: Exception) -> str:
    reason = itk_reason(error)
    return f"the file is damaged, incomplete or not {FORMATS[suffix]} ({reason}); export or copy it again"
