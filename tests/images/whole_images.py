"""One small valid file of every format that is read, to be damaged by the tests."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import SimpleITK as sitk  # noqa: N813
import tifffile
from PIL import Image as PillowImage
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

GREY = np.random.default_rng(0).integers(1, 255, (20, 30)).astype(np.uint8)
DEEP = GREY.astype(np.uint16) * 257
COLOUR = np.dstack([GREY, 255 - GREY, GREY // 2])
VOLUME = np.random.default_rng(1).integers(1, 3000, (8, 9, 10)).astype(np.int16)
PAGES = np.stack([GREY // 2 + i for i in range(4)]).astype(np.uint8)


def write_whole(folder: Path, write_dicom: Callable[..., Path]) -> list[Path]:
    """Write the files; give their paths."""
    for name, pixels in (("grey8", GREY), ("grey16", DEEP), ("colour", COLOUR), ("alpha", np.dstack([COLOUR, GREY]))):
        PillowImage.fromarray(pixels).save(folder / f"{name}.png")
    palette = PillowImage.fromarray(GREY % 2, mode="P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.save(folder / "palette.png")
    sitk.WriteImage(sitk.GetImageFromArray(COLOUR.astype(np.uint16) * 257, isVector=True), str(folder / "colour16.png"))
    PillowImage.fromarray(GREY).save(folder / "grey.jpg")
    PillowImage.fromarray(COLOUR).save(folder / "colour.jpeg", progressive=True)
    for name, compression in (("raw", None), ("deflate", "zlib")):
        tifffile.imwrite(folder / f"{name}.tif", DEEP, compression=compression, rowsperstrip=4)
        tifffile.imwrite(folder / f"{name}-pages.tiff", PAGES, compression=compression, photometric="minisblack")
        tiled = np.kron(GREY, np.ones((4, 4), np.uint8))
        tifffile.imwrite(folder / f"{name}-tiles.tif", tiled, compression=compression, tile=(16, 16))
    PillowImage.fromarray(GREY).save(folder / "lzw.tif", compression="tiff_lzw")
    PillowImage.fromarray(COLOUR).save(folder / "jpeg.tif", compression="jpeg")
    tifffile.imwrite(folder / "big.tif", GREY, bigtiff=True)
    colours = np.zeros(VOLUME.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for channel in "RGB":
        colours[channel] = VOLUME % 251
    for suffix in ("nii", "nii.gz"):
        nib.save(nib.Nifti1Image(VOLUME, np.diag([1, 2, 3, 1.0])), folder / f"whole.{suffix}")
        nib.save(nib.Nifti1Image(VOLUME.astype(np.float32), np.eye(4)), folder / f"float.{suffix}")
        nib.save(nib.Nifti1Image(colours, np.eye(4)), folder / f"rgb.{suffix}")
    for encoding in ("raw", "gzip", "ascii"):
        space = {"space": "left-posterior-superior", "space directions": np.eye(3), "space origin": np.zeros(3)}
        nrrd.write(str(folder / f"{encoding}.nrrd"), VOLUME, {"encoding": encoding, **space})
    write_dicom(folder / "plain.dcm", DEEP, PixelSpacing=[1, 1])
    write_dicom(folder / "inverted.dcm", DEEP, photometric="MONOCHROME1")
    write_dicom(folder / "frames.dcm", PAGES)
    write_dicom(folder / "colour.dcm", COLOUR, photometric="RGB")
    rle = dcmread(write_dicom(folder / "rle.dcm", PAGES))
    rle.compress(RLELossless)
    rle.save_as(folder / "rle.dcm")
    for name, kind, syntax, options in (
        ("jpeg", "JPEG", JPEGBaseline8Bit, {}),
        ("jpeg2000", "JPEG2000", JPEG2000Lossless, {"no_jp2": True}),
    ):
        write_coded_dicom(write_dicom(folder / f"{name}.dcm", GREY), GREY, kind, syntax, **options)
    return sorted(folder.iterdir())


def write_coded_dicom(path: Path, pixels: np.ndarray, kind: str, syntax: str, **options: bool) -> Path:
    """Put pixels into a DICOM file as JPEG or JPEG 2000; what its header says of their size stays."""
    dataset, coded = dcmread(path), io.BytesIO()
    PillowImage.fromarray(pixels).save(coded, kind, **options)
    dataset.PixelData = encapsulate([coded.getvalue()])
    dataset["PixelData"].is_undefined_length, dataset["PixelData"].VR = True, "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)
    return path
