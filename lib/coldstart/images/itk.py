"""Read a file with ITK, and find the line that says something in its error messages.

Importing this module sets `ITK_NIFTI_SFORM_PERMISSIVE` (where it is not set) and switches ITK's warnings off: scanners
write NIfTI headers whose sform is not quite orthonormal, which ITK otherwise refuses. The sform itself is kept in
`Geometry.nifti_sform` and written back into labels unchanged.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import SimpleITK as sitk  # noqa: N813

from coldstart.images.stored import Stored, UnusableError, times

os.environ.setdefault("ITK_NIFTI_SFORM_PERMISSIVE", "1")
sitk.ProcessObject.SetGlobalWarningDisplay(False)


def load_itk(path: Path, *, physical: bool) -> Stored:
    """Read any file that ITK knows; `physical` says whether its spacing and position are to be believed."""
    picture = sitk.ReadImage(str(path))
    while picture.GetDimension() > 3 and picture.GetSize()[-1] == 1:
        picture = sitk.Extract(picture, (*picture.GetSize()[:-1], 0))
    if picture.GetDimension() > 3:
        raise UnusableError(
            f"it has {picture.GetDimension()} dimensions ({times(picture.GetSize())}), such as a time series; "
            "export one volume"
        )
    array = sitk.GetArrayFromImage(picture)
    if picture.GetNumberOfComponentsPerPixel() == 1 and array.ndim == picture.GetDimension():
        array = array[..., None]
    n_dims = array.ndim - 1
    return Stored(
        array=array.transpose(*range(n_dims - 1, -1, -1), n_dims),
        spacing=tuple(float(x) for x in picture.GetSpacing()),
        origin=tuple(float(x) for x in picture.GetOrigin()),
        direction=tuple(float(x) for x in picture.GetDirection()),
        physical=physical,
        nifti_sform=None,
        metadata={key: picture.GetMetaData(key) for key in picture.GetMetaDataKeys() if "Segment" in key},
    )


def itk_reason(error: BaseException) -> str:
    """Take the one line that says something out of ITK's multi-line messages."""
    text = str(error)
    for marker in ("sitk::ERROR:", "ITK ERROR:"):
        text = text.rpartition(marker)[2]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Exception thrown in")]
    line = re.sub(r"^\w+\(0x[0-9a-f]+\):\s*", "", lines[-1] if lines else type(error).__name__)
    return "its content is not recognised" if "Unable to determine ImageIO" in line else line.rstrip(".")
