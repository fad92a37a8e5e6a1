from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@pytest.fixture
def write_dicom() -> Callable[..., Path]:
    def write(path: Path, pixels: np.ndarray | None, *, photometric: str = "MONOCHROME2", **attributes: Any) -> Path:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        data.is_little_endian, data.is_implicit_VR = True, False
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.Modality, data.PatientID, data.PatientName = "DX", "1", "Made^Up"
        if pixels is not None:
            shape = pixels.shape
            data.SamplesPerPixel = 3 if shape[-1] == 3 else 1
            data.PhotometricInterpretation = photometric
            if shape[-1] == 3:
                data.PlanarConfiguration, shape = 0, shape[:-1]
            if len(shape) == 3:
                data.NumberOfFrames = shape[0]
            data.Rows, data.Columns = shape[-2:]
            data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
            data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
            data.PixelData = pixels.tobytes()
        for name, value in attributes.items():
            setattr(data, name, value)
        data.save_as(path, write_like_original=False)
        return path

    return write
