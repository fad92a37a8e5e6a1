"""Load one file as it is stored, with ITK, Pillow or pydicom, and say in one line why it cannot be loaded."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import tifffile
from PIL import Image as PillowImage

from coldstart.images.formats import SUFFIXES, image_suffix
from coldstart.images.itk import itk_reason, load_itk
from coldstart.images.nifti import load_nifti
from coldstart.images.stored import Stored, UnusableError


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
        if suffix in (".png", ".jpg", ".jpeg"):
            picture = _load_picture(path, indices)
            return picture if picture is not None else load_itk(path, physical=False)
        if suffix in (".nii", ".nii.gz"):
            return load_nifti(path)
        if suffix == ".dcm":
            return _load_dicom(path)
        if suffix in (".tif", ".tiff"):
            return _load_tiff(path, indices)
        return load_itk(path, physical=True)
    except UnusableError:
        raise
    # Three libraries and their codecs raise whatever they like on a damaged file; all of it means the same here.
    except Exception as error:
        raise UnusableError(
            f"the file is damaged, incomplete or not {_format_name(suffix)} ({itk_reason(error)}); "
            "export or copy it again"
        ) from error


def _format_name(suffix: str) -> str:
    names = {".nii": "NIfTI", ".nii.gz": "NIfTI", ".jpg": "JPEG", ".tif": "TIFF", ".dcm": "DICOM"}
    return names.get(suffix, names.get(suffix[:4], suffix[1:].upper()))


def _load_picture(path: Path, indices: bool) -> Stored | None:
    """Read PNG and JPEG with Pillow, which knows palettes, grey with alpha, and truncated files; ITK does not.

    Returns None for 16-bit colour and 16-bit grey with alpha, which Pillow would cut to 8 bits.
    """
    with path.open("rb") as file:
        head = file.read(26)
    depth, colour_type = (head[24], head[25]) if head.startswith(b"\x89PNG") and len(head) == 26 else (8, -1)
    if depth == 16 and colour_type in (2, 4, 6):
        with PillowImage.open(path) as picture:
            picture.load()
        return None
    with PillowImage.open(path) as picture:
        picture.load()
        kept = ("1", "L", "LA", "I", "I;16", "F", "RGB", "RGBA", *(("P",) if indices else ()))
        array = np.asarray(picture if picture.mode in kept else picture.convert("RGB"))
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) if indices else array.astype(np.uint8) * 255
    elif indices and colour_type == 0 and depth in (2, 4):
        array = array // (255 // (2**depth - 1))  # Pillow stretches them to 0..255
    array = array if array.ndim == 3 else array[..., None]
    return Stored(array.transpose(1, 0, 2), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0), False, None, {})


def _load_tiff(path: Path, indices: bool) -> Stored:
    """Read TIFF with ITK, which knows neither half floats nor that in some files the largest value is black."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        dtype, white_is_zero = np.dtype(page.dtype), page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    if dtype == np.float16:
        raise UnusableError("it holds 16-bit floats; save it with 32-bit floats or whole numbers")
    stored = load_itk(path, physical=False)
    if white_is_zero and not indices and dtype.kind == "u" and stored.array.dtype == dtype:
        return stored.holding(np.iinfo(dtype).max - stored.array)
    return stored


def _load_dicom(path: Path) -> Stored:
    """Read one DICOM file, MONOCHROME1 inverted by us.

    GDCM inverts MONOCHROME1 itself, but not with every codec, and it fails on signed values: it is therefore given the
    same file declared as MONOCHROME2.
    """
    tags = ["Rows", "PhotometricInterpretation", "PixelSpacing", "ImagerPixelSpacing", "SharedFunctionalGroupsSequence"]
    head = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*tags, "Modality", "SOPClassUID"], force=True)
    if "SOPClassUID" in head and "Rows" not in head:
        raise UnusableError(f"this DICOM file holds no pixels (modality {head.get('Modality', 'unknown')}); remove it")
    physical = any(tag in head for tag in tags[2:])
    if str(head.get("PhotometricInterpretation", "")).strip() != "MONOCHROME1":
        return _with_pixel_spacing(load_itk(path, physical=physical), head)
    dataset = pydicom.dcmread(path, force=True)
    dataset.PhotometricInterpretation = "MONOCHROME2"
    with tempfile.TemporaryDirectory() as folder:
        twin = Path(folder) / "twin.dcm"
        dataset.save_as(twin)
        stored = load_itk(twin, physical=physical)
    # Raw values mirror at their middle: 0 <-> 2^bits - 1, or -2^(bits-1) <-> 2^(bits-1) - 1 where they are signed.
    mirror = -1.0 if dataset.PixelRepresentation else 2.0 ** int(dataset.BitsStored) - 1.0
    slope, intercept = float(dataset.get("RescaleSlope", 1.0)), float(dataset.get("RescaleIntercept", 0.0))
    inverted = slope * mirror + 2.0 * intercept - stored.array.astype(np.float64)
    return _with_pixel_spacing(stored.holding(inverted), head)


def _with_pixel_spacing(stored: Stored, head: pydicom.Dataset) -> Stored:
    """Take the spacing that GDCM leaves out: for each modality it reads one of the two tags and ignores the other."""
    spacing = head.get("PixelSpacing") or head.get("ImagerPixelSpacing")
    if not spacing or stored.spacing[:2] != (1.0, 1.0):
        return stored
    between_rows, between_columns = (float(value) for value in spacing)
    return replace(stored, spacing=(between_columns, between_rows, *stored.spacing[2:]))
