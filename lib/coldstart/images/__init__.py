"""Read medical images and labels into one axis convention, and write labels back as the image lies in its file.

Axis convention of every array here, written (channels, *spatial) for images and (*spatial) for labels:

- 2D: (rows, columns), the top row and the leftmost column first, as a radiograph is looked at. A volume of one slice,
  whichever axis is the single one, is 2D; where its file knows the patient's orientation, axial slices have columns
  increasing to the Left and rows to Posterior, coronal ones Left and Inferior, sagittal ones Posterior and Inferior.
- 3D: (x, y, z), increasing to the Right, Anterior and Superior (RAS), by permuting and flipping axes only:
  nothing is ever resampled.

Positions and directions are in mm and in LPS, as in ITK and DICOM. All functions can be called from several threads.
"""

from coldstart.images.dicom_seg import SegmentedLabel, read_dicom_seg, write_dicom_seg
from coldstart.images.formats import IMAGE_PATTERNS, SUFFIXES, image_suffix, result_suffix
from coldstart.images.geometry import (
    DIRECTION_TOLERANCE,
    ORIGIN_TOLERANCE,
    SPACING_TOLERANCE,
    Geometry,
    describe_mismatch,
)
from coldstart.images.image import Image, read_image
from coldstart.images.label import INTEGER_TOLERANCE, MAX_LABEL_VALUE, Label, read_label, write_label
from coldstart.images.series import Series, read_series, write_series_image

__all__ = [
    "DIRECTION_TOLERANCE",
    "IMAGE_PATTERNS",
    "INTEGER_TOLERANCE",
    "MAX_LABEL_VALUE",
    "ORIGIN_TOLERANCE",
    "SPACING_TOLERANCE",
    "SUFFIXES",
    "Geometry",
    "Image",
    "Label",
    "SegmentedLabel",
    "Series",
    "describe_mismatch",
    "image_suffix",
    "read_dicom_seg",
    "read_image",
    "read_label",
    "read_series",
    "result_suffix",
    "write_dicom_seg",
    "write_label",
    "write_series_image",
]
