"""Read a file with ITK, and find the line that says something in its error messages.

Importing this module sets `ITK_NIFTI_SFORM_PERMISSIVE` (where it is not set) and switches ITK's warnings off: scanners
write NIfTI headers whose sform is not quite orthonormal, which ITK otherwise refuses. The sform itself is kept in
`Geometry.nifti_sform` and written back into labels unchanged.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from coldstart.images.limits import require_room, require_three_dimensions
from coldstart.images.stored import Stored

Kind = Literal["PNG", "TIFF", "DICOM", "NRRD", "NIfTI"]
_IMAGE_IO: dict[Kind, str] = {
    "PNG": "PNGImageIO",
    "TIFF": "TIFFImageIO",
    "DICOM": "GDCMImageIO",
    "NRRD": "NrrdImageIO",
    "NIfTI": "NiftiImageIO",
}

os.environ.setdefault("ITK_NIFTI_SFORM_PERMISSIVE", "1")
sitk.ProcessObject.SetGlobalWarningDisplay(False)


def load_itk(path: Path, kind: Kind, *, physical: bool) -> Stored:
    """Read a file with ITK; `physical` says whether its spacing and position are to be believed."""
    reader = _open(path, kind)
    header = _header(reader, physical=physical)
    picture = reader.Execute()
    array = sitk.GetArrayViewFromImage(picture)
    n_dims, n_file_dims = len(header.spacing), picture.GetDimension()
    array = array.reshape((*array.shape[n_file_dims - n_dims : n_file_dims], picture.GetNumberOfComponentsPerPixel()))
    return header.holding(array.copy().transpose(*range(n_dims - 1, -1, -1), n_dims))


def read_header(path: Path, kind: Kind, *, physical: bool) -> Stored:
    """Read what ITK knows of a file without its pixels: `array` has the shape of the file, and no values of it."""
    return _header(_open(path, kind), physical=physical)


def _open(path: Path, kind: Kind) -> sitk.ImageFileReader:
    """Have ITK read as this format and no other: left to choose, it tries twenty on a damaged file."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(_IMAGE_IO[kind])
    reader.ReadImageInformation()
    return reader


def _header(reader: sitk.ImageFileReader, *, physical: bool) -> Stored:
    size = tuple(int(n) for n in reader.GetSize())
    require_three_dimensions(size)
    n_dims = min(len(size), 3)
    n_components = int(reader.GetNumberOfComponents())
    # "16-bit signed integer", "vector of 32-bit float": ITK gives the width of a value in words only.
    bits = re.search(r"(\d+)-bit", sitk.GetPixelIDValueAsString(reader.GetPixelIDValue()))
    require_room(size, n_components, int(bits.group(1)) // 8 if bits else 8)
    direction: NDArray[np.float64] = np.reshape(reader.GetDirection(), (len(size), len(size)))[:n_dims, :n_dims]
    return Stored(
        array=np.broadcast_to(np.uint8(0), (*size[:n_dims], n_components)),
        spacing=tuple(float(x) for x in reader.GetSpacing()[:n_dims]),
        origin=tuple(float(x) for x in reader.GetOrigin()[:n_dims]),
        direction=tuple(float(x) for x in direction.flat),
        physical=physical,
        nifti_sform=None,
        metadata={key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys() if "Segment" in key},
    )


def itk_reason(error: BaseException) -> str:
    """Take the one line that says something out of ITK's multi-line messages."""
    text = str(error)
    for marker in ("sitk::ERROR:", "ITK ERROR:"):
        text = text.rpartition(marker)[2]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Exception thrown in")]
    line = re.sub(r"^\w+\(0x[0-9a-f]+\):\s*", "", lines[-1] if lines else type(error).__name__)
    return "its content is not recognised" if "Unable to determine ImageIO" in line else line.rstrip(".")
