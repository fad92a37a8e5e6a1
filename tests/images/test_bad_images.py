"""What becomes of bad images: each is read for what it is, or refused in a sentence, within bounded time and memory."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
import whole_images
from PIL import Image as PillowImage
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless
from whole_images import COLOUR, DEEP, GREY, PAGES, VOLUME

from coldstart.embedding import create_encoder, embed_files
from coldstart.exceptions import ImageError
from coldstart.images import read_image
from coldstart.images.limits import MAX_MEMORY, require_room
from coldstart.segmentation import TrainingConfig, prepare_image

CHILD = Path(__file__).with_name("fuzz_child.py")
N_EACH = 30
"""Damaged versions of each of the 33 files: a third cut off, a third with bytes changed, a third in the header."""


def run_child(limit_gib: int, n_each: int, files: Sequence[Path]) -> list[dict[str, Any]]:
    command = [sys.executable, str(CHILD), str(limit_gib), str(n_each), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=dict(os.environ))
    assert done.returncode == 0, f"the process ended with {done.returncode}: {done.stderr[-2000:]}"
    return [json.loads(line) for line in done.stdout.splitlines()]


# ---- damage at random


def test_every_whole_file_is_read(tmp_path: Path, write_dicom: Callable[..., Path]) -> None:
    for path in whole_images.write_whole(tmp_path, write_dicom):
        assert read_image(path).pixels.size >= GREY.size


def test_damaged_files_give_a_sentence_or_an_image_and_cost_little(
    tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    files = whole_images.write_whole(tmp_path, write_dicom)
    results = run_child(4, N_EACH, files)
    assert len(results) == N_EACH * len(files)
    for result in results:
        if result["kind"] == 0:  # cut off: never an image with something missing
            assert result["result"] == "whole" or result["result"].startswith("error: "), result
        if result["result"].startswith("error: "):
            assert "cannot be used: " in result["result"] and "\n" not in result["result"], result
        assert result["seconds"] < 10 and result["mib"] < 700, result
    n_cut = sum(result["kind"] == 0 for result in results)
    assert sum(result["kind"] == 0 and result["result"] != "whole" for result in results) > 0.9 * n_cut


# ---- far too large


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_bomb(path: Path) -> Path:
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(30001)) for _ in range(30000)) + packer.flush()
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def jpeg_bomb(path: Path) -> Path:
    PillowImage.fromarray(GREY).save(path)
    content = bytearray(path.read_bytes())
    struct.pack_into(">HH", content, content.index(b"\xff\xc0") + 5, 60000, 60000)
    path.write_bytes(content)
    return path


def tiff_bomb(path: Path) -> Path:
    row = zlib.compress(bytes(60000 * 600), 9)
    tifffile.imwrite(
        path, iter([row] * 100), shape=(60000, 60000), dtype=np.uint8, compression="zlib", rowsperstrip=600
    )
    return path


def nifti_bomb(path: Path, dims: tuple[int, ...] = (3, 2000, 2000, 2000, 1, 1, 1, 1), n_values: int = 1 << 28) -> Path:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    head = bytearray(header.binaryblock)
    struct.pack_into("<8h", head, 40, *dims)
    struct.pack_into("<f", head, 108, 352.0)
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    head[352 - 4 :] = b""
    packed = packer.compress(bytes(head) + bytes(4))
    path.write_bytes(packed + b"".join(packer.compress(bytes(1 << 20)) for _ in range(n_values >> 20)) + packer.flush())
    return path


def nrrd_bomb(path: Path) -> Path:
    lines = ("NRRD0004", "type: short", "dimension: 3", "sizes: 2000 2000 2000", "encoding: gzip", "endian: little")
    path.write_bytes("\n".join(lines).encode() + b"\n\n" + gzip.compress(bytes(1 << 24)))
    return path


def write_deflated_dicom(path: Path, n_surplus: int = 0) -> Path:
    """Deflate a file as a whole, followed by an element of this many zeros."""
    content = path.read_bytes()
    start = content.index(b"\x08\0\x16\0UI")
    meta = content[:start].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    struct.pack_into("<H", meta := bytearray(meta), meta.index(b"1.2.840.10008.1.2.1.99") - 2, 22)
    struct.pack_into("<I", meta, 140, len(meta) - 144)
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    surplus = b"\xe0\x7f\x11\0OB\0\0" + struct.pack("<I", n_surplus) if n_surplus else b""
    packed = packer.compress(content[start:] + surplus)
    packed += b"".join(packer.compress(bytes(1 << 20)) for _ in range(n_surplus >> 20)) + packer.flush()
    path.write_bytes(bytes(meta) + packed)
    return path


def bombs(folder: Path, write_dicom: Callable[..., Path]) -> dict[Path, str]:
    """Files of at most a few MB, and the sizes that reading them would unfold."""
    rle = dcmread(write_dicom(folder / "rle.dcm", PAGES))
    rle.compress(RLELossless)
    rle.Rows = rle.Columns = 65535
    rle.save_as(folder / "rle.dcm")
    large = np.zeros((12000, 9000), np.uint8)
    inner = {
        name: whole_images.write_coded_dicom(write_dicom(folder / f"{name}.dcm", GREY), large, kind, syntax, **options)
        for name, kind, syntax, options in (
            ("jpeg", "JPEG", JPEGBaseline8Bit, {}),
            ("jpeg2000", "JPEG2000", JPEG2000Lossless, {"no_jp2": True}),
        )
    }
    deflated = write_deflated_dicom(write_dicom(folder / "deflated.dcm", GREY), 1 << 30)
    return {
        png_bomb(folder / "a.png"): r"its 30000 x 30000 pixels are too many; a plane may have 134217728",
        jpeg_bomb(folder / "a.jpg"): r"its 60000 x 60000 pixels are too many",
        tiff_bomb(folder / "a.tif"): r"its 60000 x 60000 x 1 pixels are too many",
        nifti_bomb(folder / "a.nii.gz"): r"its 2000 x 2000 x 2000 pixels are too many; .* takes 37.3 GiB of memory",
        nifti_bomb(folder / "longer.nii.gz", (3, 20, 20, 20, 1, 1, 1, 1)): "holds more than its header announces",
        nrrd_bomb(folder / "a.nrrd"): r"its 2000 x 2000 x 2000 pixels are too many; .* takes 44.7 GiB of memory",
        folder / "rle.dcm": r"its 65535 x 65535 x 4 pixels are too many",
        inner["jpeg"]: "announces 30 x 20 pixels, but its JPEG has 9000 x 12000",
        inner["jpeg2000"]: "announces 30 x 20 pixels, but its JPEG has 9000 x 12000",
        deflated: "is deflated, and larger than 256 MiB without that",
    }


def test_decompression_bombs_are_refused_from_their_header(tmp_path: Path, write_dicom: Callable[..., Path]) -> None:
    expected = bombs(tmp_path, write_dicom)
    assert all(path.stat().st_size < 10 << 20 for path in expected)
    results = run_child(2, 0, list(expected))
    for (path, sentence), result in zip(expected.items(), results, strict=True):
        assert result["file"] == path.name
        assert result["result"].startswith("error: ")
        with pytest.raises(ImageError, match=sentence):
            raise ImageError(result["result"])
        assert result["mib"] < (600 if path.name == "deflated.dcm" else 100), result


def test_large_images_of_a_hospital_are_not_taken_for_bombs(tmp_path: Path) -> None:
    require_room((6000, 8000), 1, 2)
    require_room((512, 512, 1200), 1, 2)
    assert 1024 * 1024 * 1500 * (4 + 4) <= MAX_MEMORY  # a micro-CT volume of 32-bit floats, on a machine that has it
    PillowImage.fromarray(np.add.outer(np.arange(8000) % 199, np.zeros(6000, int)).astype(np.uint8)).save(
        tmp_path / "radiograph.png", compress_level=1
    )
    assert read_image(tmp_path / "radiograph.png").pixels.shape == (1, 8000, 6000)


# ---- one by one


def save_nifti(path: Path, values: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(values, np.eye(4), dtype=values.dtype), path)


def save_picture(path: Path, pixels: np.ndarray, kind: str | None = None) -> None:
    PillowImage.fromarray(pixels).save(path, kind)


def vectors(path: Path) -> None:
    image = nib.Nifti1Image(np.random.default_rng(0).normal(size=(4, 5, 6, 1, 3)), np.eye(4))
    image.header.set_intent(1007)
    nib.save(image, path)


def detached(path: Path) -> None:
    header = b"NRRD0004\ntype: uchar\ndimension: 2\nsizes: 20 30\nencoding: raw\ndata file: ../secret.raw\n\n"
    path.write_bytes(header)
    (path.parent.parent / "secret.raw").write_bytes(GREY.tobytes())


def pair(path: Path) -> None:
    save_nifti(path, VOLUME)
    path.write_bytes(path.read_bytes().replace(b"n+1\0", b"ni1\0", 1))


def cut_before_packing(path: Path) -> None:
    save_nifti(path.with_suffix(""), VOLUME)
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()[:-40]))


def missing_strip(path: Path) -> None:
    tifffile.imwrite(path, DEEP, compression="zlib", rowsperstrip=4)
    with tifffile.TiffFile(path) as file:
        counts = file.pages[0].tags["StripByteCounts"]
    content = bytearray(path.read_bytes())
    struct.pack_into("<H" if counts.dtype == 3 else "<I", content, counts.valueoffset, 0)
    path.write_bytes(content)


def looped(path: Path) -> None:
    tifffile.imwrite(path, PAGES, photometric="minisblack")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        last = file.pages[-1].offset
    n_tags = struct.unpack_from("<H", content, last)[0]
    struct.pack_into("<I", content, last + 2 + 12 * n_tags, 8)
    path.write_bytes(content)


def two_sizes(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        file.write(GREY, photometric="minisblack")
        file.write(np.kron(GREY, np.ones((9, 9), np.uint8)), photometric="minisblack")


def absurd_spacing(path: Path) -> None:
    lines = ("NRRD0004", "type: uchar", "dimension: 2", "sizes: 30 20", "encoding: raw", "spacings: 1e300 2")
    path.write_bytes("\n".join(lines).encode() + b"\n\n" + GREY.tobytes())


REFUSED: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "zero bytes": ("a.png", lambda path: path.touch(), "the file has 0 bytes; copy it again"),
    "gzip that is none": ("a.nii.gz", lambda path: path.write_bytes(b"x" * 900), "damaged, incomplete or not NIfTI"),
    "gzip of something else": ("a.nii.gz", lambda p: p.write_bytes(gzip.compress(b"x" * 900)), "not begin as NIfTI"),
    "gzip without its suffix": (
        "a.nii",
        lambda p: p.write_bytes(gzip.compress(bytes(900))),
        "content is gzip, but its",
    ),
    "text": ("a.nii", lambda path: path.write_text("text " * 99), "damaged, incomplete or not NIfTI"),
    "AppleDouble": (
        "._a.png",
        lambda path: path.write_bytes(b"\0\5\x16\7" + bytes(200)),
        "not PNG .it begins otherwise",
    ),
    "NIfTI named .nrrd": ("a.nrrd", lambda p: save_then_move(p, ".nii", VOLUME), "is NIfTI, but its name says .nrrd"),
    "JPEG named .nii": ("a.nii", lambda path: save_picture(path, GREY, "JPEG"), "is JPEG, but its name says .nii"),
    "TIFF named .png": ("a.png", lambda path: save_picture(path, GREY, "TIFF"), "is TIFF, but its name says .png"),
    "PNG named .dcm": ("a.dcm", lambda path: save_picture(path, GREY, "PNG"), "is PNG, but its name says .dcm"),
    "GIF named .png": ("a.png", lambda path: save_picture(path, GREY, "GIF"), "not PNG .it begins otherwise"),
    "1 x 1": ("a.png", lambda path: save_picture(path, GREY[:1, :1]), "its 1 x 1 pixels are no picture"),
    "1 x 30": ("a.png", lambda path: save_picture(path, GREY[:1]), "its 30 x 1 pixels are no picture"),
    "constant": (
        "a.tif",
        lambda path: tifffile.imwrite(path, GREY * 0 + 7),
        "it is empty, every pixel has the value 7",
    ),
    "all NaN": ("a.nii", lambda path: save_nifti(path, VOLUME * np.nan), "720 of its 720 values are NaN, infinite"),
    "infinite": ("a.nii", lambda path: save_nifti(path, np.where(VOLUME > 2990, np.inf, VOLUME)), "NaN, infinite"),
    "beyond float32": ("a.nii", lambda path: save_nifti(path, VOLUME * 1e300), "beyond float32"),
    "huge span": ("a.nii", lambda path: save_nifti(path, VOLUME * 1e30), "32-bit floats cannot scale that"),
    "tiny span": ("a.nii", lambda path: save_nifti(path, VOLUME * 1e-40), "32-bit floats cannot scale that"),
    "4 dimensions": (
        "a.nii",
        lambda path: save_nifti(path, np.stack([VOLUME] * 3, -1)),
        "4 dimensions .8 x 9 x 10 x 3",
    ),
    "5 dimensions": ("a.nii.gz", vectors, "5 dimensions .4 x 5 x 6 x 1 x 3"),
    "complex": ("a.nii", lambda path: save_nifti(path, VOLUME.astype(np.complex64)), "values are complex numbers"),
    "NIfTI-2": (
        "a.nii",
        lambda path: nib.save(nib.Nifti2Image(VOLUME, np.eye(4)), path),
        "NIfTI-2, .* save it as NIfTI-1",
    ),
    "NIfTI pair": ("a.nii", pair, r"in another file \(.img\)"),
    "NRRD with a data file": ("a.nrrd", detached, "its values are in another file"),
    "spacing of no scan": ("a.nrrd", absurd_spacing, "geometry is none of a scan .spacing 1e.300 x 2 mm"),
    "cut off, then packed": ("a.nii.gz", cut_before_packing, "cut off: at most 1400 of 1440 bytes of pixels are there"),
    "TIFF without a strip": ("a.tif", missing_strip, "cut off: 4 of 5 strips of a page are there"),
    "loop of TIFF pages": ("a.tif", looped, "a page that it announces is not there"),
    "TIFF pages of two sizes": ("a.tif", two_sizes, "page 2 differs in size"),
}


def save_then_move(path: Path, suffix: str, values: np.ndarray) -> None:
    save_nifti(path.with_suffix(suffix), values)
    path.with_suffix(suffix).rename(path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", REFUSED)
def test_bad_image_is_refused_with_its_reason(tmp_path: Path, what: str) -> None:
    name, write, sentence = REFUSED[what]
    path = tmp_path / "studies" / name
    path.parent.mkdir()
    write(path)
    with pytest.raises(ImageError, match=sentence) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"Image {path} cannot be used: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("modality", ["SR", "RTSTRUCT", "PR", "DOC"])
def test_dicom_of_another_kind_is_refused(tmp_path: Path, write_dicom: Callable[..., Path], modality: str) -> None:
    with pytest.raises(ImageError, match=rf"holds no pixels \(modality {modality}\)"):
        read_image(write_dicom(tmp_path / "a.dcm", None, Modality=modality))


def test_dicom_that_lost_its_pixels_or_is_encrypted_is_refused(
    tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    dataset = dcmread(write_dicom(tmp_path / "a.dcm", DEEP))
    del dataset.PixelData
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(ImageError, match="announces 30 x 20 pixels, but they are absent or cut off"):
        read_image(tmp_path / "a.dcm")
    (tmp_path / "b.dcm").write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(ImageError, match="cannot be used: the file is damaged, incomplete or not DICOM"):
        read_image(tmp_path / "b.dcm")


def test_dicom_without_transfer_syntax_is_read_or_refused_in_a_sentence(
    tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    dataset = dcmread(write_dicom(tmp_path / "a.dcm", DEEP))
    del dataset.file_meta.TransferSyntaxUID
    dataset.save_as(tmp_path / "a.dcm", write_like_original=True)
    with pytest.raises(ImageError, match="cannot be used: "):
        read_image(tmp_path / "a.dcm")


# ---- handled


def test_picture_named_like_the_other_kind_of_picture_is_read(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", COLOUR, "JPEG")
    save_picture(tmp_path / "b.jpg", GREY, "PNG")
    assert read_image(tmp_path / "a.png").pixels.shape == (3, 20, 30)
    np.testing.assert_array_equal(read_image(tmp_path / "b.jpg").pixels[0], GREY)


def test_unpacked_nifti_named_gz_and_one_with_padding_are_read(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii", VOLUME)
    content = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(content)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content + bytes(4000)))
    for name in ("a.nii.gz", "b.nii.gz"):
        np.testing.assert_array_equal(read_image(tmp_path / name).pixels[0], VOLUME)


def test_deflated_dicom_and_one_that_begins_as_tiff_are_read(tmp_path: Path, write_dicom: Callable[..., Path]) -> None:
    deflated = write_deflated_dicom(write_dicom(tmp_path / "a.dcm", DEEP))
    np.testing.assert_array_equal(read_image(deflated).pixels[0], DEEP)
    content = bytearray(write_dicom(tmp_path / "b.dcm", DEEP).read_bytes())
    content[:4] = b"II*\0"
    (tmp_path / "b.dcm").write_bytes(content)
    np.testing.assert_array_equal(read_image(tmp_path / "b.dcm").pixels[0], DEEP)


def test_length_of_4_gib_in_a_dicom_file_is_not_believed(tmp_path: Path, write_dicom: Callable[..., Path]) -> None:
    path = write_dicom(tmp_path / "a.dcm", DEEP)
    path.write_bytes(path.read_bytes() + b"\xfc\xff\xfc\xffOB\0\0\xf0\xff\xff\xff" + bytes(100))
    (result,) = run_child(6, 0, [path])
    assert result["result"] == "other" and result["mib"] < 200
    np.testing.assert_array_equal(read_image(path).pixels[0], DEEP)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("two.png", np.array([[0, 1], [2, 3]], np.uint8)),
        ("narrow.png", GREY[:, :2]),
        ("low.png", np.repeat(GREY[:2], 40, axis=1)),
        ("extremes.nii", np.array([[[-(2**63)], [2**63 - 1]], [[0], [1]]], np.int64)),
        ("far.nii", (1e6 + np.arange(16.0).reshape(4, 4, 1)).astype(np.float32)),
        ("last.png", np.where(np.arange(600).reshape(20, 30) == 599, 1, 0).astype(np.uint8)),
    ],
)
def test_odd_but_usable_image_is_embedded_and_prepared_for_the_network(
    tmp_path: Path, name: str, values: np.ndarray
) -> None:
    path = tmp_path / name
    save_picture(path, values) if name.endswith("png") else save_nifti(path, values)
    ((_, vector),) = embed_files(create_encoder("descriptor", device="cpu"), [path], spatial_dims=2)
    assert not isinstance(vector, ImageError) and np.isfinite(vector).all()
    config = TrainingConfig(label_names=("disc",), spatial_dims=2, spatial_size=(32, 32))
    assert bool(prepare_image(read_image(path), config).isfinite().all())


def test_one_bad_file_among_many_sets_aside_only_itself(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number:02}.png" for number in range(12)]
    for number, path in enumerate(paths):
        save_picture(path, COLOUR if number % 2 else np.roll(GREY, number))
    paths[5].write_bytes(paths[5].read_bytes()[:100])
    paths[6] = tmp_path / "volume.nii.gz"
    save_nifti(paths[6], VOLUME)
    results = dict(embed_files(create_encoder("descriptor", device="cpu"), paths, spatial_dims=2, batch_size=4))
    assert [index for index, result in results.items() if isinstance(result, ImageError)] == [5, 6]
    with pytest.raises(ImageError, match=r"must be a 2D image, .* got a volume of 8 x 9 x 10"):
        raise results[6]


def test_reading_short_of_memory_is_a_sentence(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii", np.zeros((2, 2, 2), np.float32))
    content = bytearray((tmp_path / "a.nii").read_bytes()[:352])
    struct.pack_into("<3h", content, 42, 600, 600, 600)
    (tmp_path / "a.nii").write_bytes(content)
    os.truncate(tmp_path / "a.nii", 352 + 4 * 600**3)
    (result,) = run_child(1, 0, [tmp_path / "a.nii"])
    assert "cannot be used: this machine has not enough memory free for it" in result["result"]
