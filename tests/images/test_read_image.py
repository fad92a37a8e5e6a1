import gzip
import itertools
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from PIL import Image as PillowImage

from coldstart.exceptions import ImageError
from coldstart.images import IMAGE_PATTERNS, image_suffix, read_image, read_label, result_suffix

PICTURE = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30) % 251
GREY = PICTURE.astype(np.uint8)
COLOUR = np.dstack([GREY, 255 - GREY, GREY // 2])


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        turn = np.eye(3)
        a, b = [i for i in range(3) if i != axis]
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def orientations() -> list[np.ndarray]:
    """All 48 axis orders and senses, and five oblique ones: direction matrices in RAS."""
    out = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            matrix = np.zeros((3, 3))
            for column, (row, sign) in enumerate(zip(order, signs, strict=True)):
                matrix[row, column] = sign
            out.append(matrix)
    turns = [(10, -15, 20), (30, 5, -10), (0, 0, 40), (-25, 10, 3), (5, 35, 12)]
    out += [rotation(turn) @ out[9 * i + 1] for i, turn in enumerate(turns)]
    return out


def affine_of(direction: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = direction * [0.5, 1.25, 3.0]
    affine[:3, 3] = [-12.5, 40.0, 7.75]
    return affine


# ---- 2D


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".tif", ".tiff", ".PNG", ".JPG", ".TIF"])
def test_grey_picture_is_rows_by_columns(tmp_path: Path, suffix: str) -> None:
    flat = np.repeat(np.repeat(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20, 16, 0), 16, 1)
    PillowImage.fromarray(flat).save(tmp_path / f"a{suffix}", **({"quality": 100} if "j" in suffix.lower() else {}))
    image = read_image(tmp_path / f"a{suffix}")
    assert image.pixels.shape == (1, 48, 64)
    assert image.pixels.dtype == np.float32
    np.testing.assert_allclose(image.pixels[0], flat, atol=1.0 if "j" in suffix.lower() else 0.0)
    assert image.spacing_mm == (1.0, 1.0)
    assert not image.geometry.physical
    assert image.spatial_dims == 2


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_rgb_gives_three_channels_and_alpha_is_dropped(tmp_path: Path, suffix: str) -> None:
    PillowImage.fromarray(COLOUR).save(tmp_path / f"rgb{suffix}")
    PillowImage.fromarray(np.dstack([COLOUR, 255 - GREY])).save(tmp_path / f"rgba{suffix}")
    for name in ("rgb", "rgba"):
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}{suffix}").pixels, COLOUR.transpose(2, 0, 1))


def test_grey_with_alpha_is_grey(tmp_path: Path) -> None:
    PillowImage.merge("LA", [PillowImage.fromarray(GREY), PillowImage.fromarray(255 - GREY)]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels[0], GREY)


def test_palette_picture_gives_its_colours(tmp_path: Path) -> None:
    picture = PillowImage.fromarray(GREY % 2, mode="P")
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.save(tmp_path / "a.png")
    expected = np.array([[10, 20, 30], [200, 100, 50]])[GREY % 2]
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, expected.transpose(2, 0, 1))


def test_16_bit_grey_and_colour_png_keep_their_values(tmp_path: Path) -> None:
    PillowImage.fromarray(PICTURE * 257).save(tmp_path / "grey.png")
    sitk.WriteImage(
        sitk.GetImageFromArray((COLOUR.astype(np.uint16) * 257), isVector=True), str(tmp_path / "colour.png")
    )
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png").pixels[0], PICTURE * 257)
    np.testing.assert_array_equal(
        read_image(tmp_path / "colour.png").pixels, COLOUR.transpose(2, 0, 1).astype(np.float32) * 257
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_2d_nrrd_written_with_pynrrd_keeps_values_and_spacing(tmp_path: Path, dtype: type) -> None:
    values = (PICTURE.astype(np.float64) - (0 if np.dtype(dtype).kind == "u" else 100)).astype(dtype)
    nrrd.write(str(tmp_path / "a.nrrd"), values.T, {"space dimension": 2, "space directions": np.diag([0.2, 0.4])})
    image = read_image(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(image.pixels[0], values.astype(np.float32))
    assert image.spacing_mm == pytest.approx((0.4, 0.2))  # rows, columns
    assert image.geometry.physical


def test_one_slice_volume_is_2d_whichever_axis_is_single(tmp_path: Path) -> None:
    """The same radiograph, stored as an axial, a coronal and a sagittal slice of an LPS volume, looks the same."""
    upright = {0: (1, 1), 1: (1, 1), 2: (1, 1)}
    for axis in upright:
        array = np.expand_dims(GREY.T, axis)  # x, y, z
        volume = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
        volume.SetSpacing([(1.0, 2.0, 3.0)[i] for i in range(3)])
        path = tmp_path / f"{axis}.nrrd"
        sitk.WriteImage(volume, str(path))
        image = read_image(path)
        # In LPS z runs up: sagittal and coronal slices have their top row last in the file.
        expected = GREY if axis == 2 else GREY[::-1]
        np.testing.assert_array_equal(image.pixels[0], expected)
        assert image.spatial_dims == 2
        assert image.spacing_mm == {0: (3.0, 2.0), 1: (3.0, 1.0), 2: (2.0, 1.0)}[axis]


@pytest.mark.parametrize("direction", orientations()[:48])
def test_one_slice_volume_looks_the_same_in_every_storage_order(tmp_path: Path, direction: np.ndarray) -> None:
    # An axial slice known in RAS voxels: left-most column is the patient's right, top row is anterior.
    anatomy = np.flip(GREY.T, (0, 1))[..., None]  # index increases towards R, A, S
    reference = nib.Nifti1Image(anatomy, np.diag([1.0, 2.0, 3.0, 1.0]))
    target = nib.orientations.io_orientation(np.block([[direction, np.zeros((3, 1))], [0, 0, 0, 1]]))
    turned = reference.as_reoriented(nib.orientations.ornt_transform([[0, 1], [1, 1], [2, 1]], target))
    nib.save(turned, tmp_path / "a.nii.gz")
    image = read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(image.pixels[0], GREY)
    assert image.spacing_mm == pytest.approx((2.0, 1.0))


# ---- 3D


@pytest.mark.parametrize("direction", orientations())
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_volume_is_oriented_to_ras_as_nibabel_does(tmp_path: Path, direction: np.ndarray, suffix: str) -> None:
    values = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
    affine = affine_of(direction)
    stored = nib.Nifti1Image(values, affine)
    path = tmp_path / f"a{suffix}"
    if suffix == ".nrrd":
        lps = np.diag([-1, -1, 1, 1]) @ affine
        header = {"space": "left-posterior-superior", "space directions": lps[:3, :3].T, "space origin": lps[:3, 3]}
        nrrd.write(str(path), values, header)
    else:
        nib.save(stored, path)
    expected = nib.as_closest_canonical(stored)
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels[0], np.asarray(expected.dataobj))
    assert image.spacing_mm == pytest.approx(expected.header.get_zooms(), rel=1e-5)


def test_nifti_scaling_is_applied(tmp_path: Path) -> None:
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<2f", content, 112, 2.0, -10.0)  # scl_slope, scl_inter
    (tmp_path / "a.nii").write_bytes(content)
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii").pixels[0], values * 2.0 - 10.0)


def test_sheared_sform_of_a_real_scanner_is_read(tmp_path: Path) -> None:
    affine = affine_of(rotation((3, 2, 1)))
    affine[0, 1] += 0.02
    values = np.random.default_rng(1).normal(size=(6, 5, 4)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "a.nii.gz")
    image = read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(image.pixels[0], values)
    assert image.geometry.nifti_sform is not None
    np.testing.assert_allclose(np.reshape(image.geometry.nifti_sform[1:], (3, 4)), affine[:3], rtol=1e-6)


def test_big_endian_nifti_is_read(tmp_path: Path) -> None:
    values = np.arange(60, dtype=">i2").reshape(3, 4, 5)
    nib.save(nib.Nifti1Image(values, np.eye(4), nib.Nifti1Header(endianness=">")), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii.gz").pixels[0], values)


def test_trailing_single_dimension_is_no_time_series(tmp_path: Path) -> None:
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5, 1)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii.gz").pixels[0], values[..., 0])


def test_multi_page_tiff_is_a_volume(tmp_path: Path) -> None:
    pages = [PillowImage.fromarray(GREY + np.uint8(i)) for i in range(4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    image = read_image(tmp_path / "a.tif")
    expected = np.stack([GREY + np.uint8(i) for i in range(4)], -1).transpose(1, 0, 2)[::-1, ::-1]  # LPS to RAS
    np.testing.assert_array_equal(image.pixels[0], expected)


def test_tiff_resolution_is_not_taken_for_millimetres_of_the_patient(tmp_path: Path) -> None:
    PillowImage.fromarray(GREY).save(tmp_path / "a.tif", dpi=(96, 96))
    assert read_image(tmp_path / "a.tif").spacing_mm == (1.0, 1.0)


# ---- DICOM


def test_dicom_file_is_2d_with_its_spacing(tmp_path: Path, write_dicom: Callable[..., Path]) -> None:
    image = read_image(write_dicom(tmp_path / "a.dcm", PICTURE, PixelSpacing=[0.5, 0.25]))
    np.testing.assert_array_equal(image.pixels[0], PICTURE)
    assert image.spacing_mm == (0.5, 0.25)
    assert image.geometry.physical
    assert image.geometry.size == (30, 20, 1)


def test_dicom_without_spacing_gives_no_millimetres(tmp_path: Path, write_dicom: Callable[..., Path]) -> None:
    assert not read_image(write_dicom(tmp_path / "a.DCM", PICTURE)).geometry.physical


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_monochrome1_is_inverted_so_that_it_equals_its_monochrome2_twin(
    tmp_path: Path, write_dicom: Callable[..., Path], dtype: type
) -> None:
    values = (PICTURE.astype(np.int32) - (100 if dtype is np.int16 else 0)).astype(dtype)
    limits = np.iinfo(dtype)
    twin = (limits.max + limits.min - values.astype(np.int64)).astype(dtype)
    scaling = {"RescaleSlope": 2, "RescaleIntercept": -7}
    bright = read_image(write_dicom(tmp_path / "2.dcm", values, **scaling))
    inverted = read_image(write_dicom(tmp_path / "1.dcm", twin, photometric="MONOCHROME1", **scaling))
    np.testing.assert_array_equal(bright.pixels, values.astype(np.float32)[None] * 2 - 7)
    np.testing.assert_array_equal(inverted.pixels, bright.pixels)


def test_multi_frame_dicom_is_a_volume(tmp_path: Path, write_dicom: Callable[..., Path]) -> None:
    frames = np.stack([PICTURE + i for i in range(4)])
    image = read_image(write_dicom(tmp_path / "a.dcm", frames))
    np.testing.assert_array_equal(image.pixels[0], frames.transpose(2, 1, 0)[::-1, ::-1])


def test_colour_dicom_is_rgb(tmp_path: Path, write_dicom: Callable[..., Path]) -> None:
    image = read_image(write_dicom(tmp_path / "a.dcm", COLOUR, photometric="RGB"))
    np.testing.assert_array_equal(image.pixels, COLOUR.transpose(2, 0, 1))


# ---- what cannot be used


def broken_files(folder: Path) -> dict[str, Path]:
    whole = np.random.default_rng(2).integers(0, 255, (30, 40)).astype(np.uint8)
    for suffix in ("png", "jpg", "tif"):
        PillowImage.fromarray(whole).save(folder / f"a.{suffix}")
    for suffix in ("nii", "nii.gz", "nrrd"):
        sitk.WriteImage(sitk.GetImageFromArray(np.stack([whole] * 9)), str(folder / f"a.{suffix}"))
    out = {}
    for suffix in ("png", "jpg", "tif", "nii", "nii.gz", "nrrd"):
        content = (folder / f"a.{suffix}").read_bytes()
        out[suffix] = folder / f"cut.{suffix}"
        out[suffix].write_bytes(content[: len(content) * 6 // 10])
    return out


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "nii", "nii.gz", "nrrd"])
def test_truncated_file_is_named_in_one_line(tmp_path: Path, suffix: str) -> None:
    path = broken_files(tmp_path)[suffix]
    with pytest.raises(ImageError, match=r"cannot be used: .*(cut off|damaged, incomplete)") as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


def test_truncated_dicom_is_refused(tmp_path: Path, write_dicom: Callable[..., Path]) -> None:
    path = write_dicom(tmp_path / "a.dcm", PICTURE)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ImageError, match="cut off: 700 of 1200 bytes"):
        read_image(path)


def test_gzip_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(0, 9999, (40, 40, 40)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    content = bytearray((tmp_path / "a.nii.gz").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 20] = bytes(20)
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(ImageError, match="damaged"):
        read_image(tmp_path / "a.nii.gz")


def test_file_with_text_in_it_is_refused(tmp_path: Path) -> None:
    for name in ("a.png", "a.nii", "a.nrrd", "a.dcm", "a.tif", "a.jpg"):
        (tmp_path / name).write_text("this is not an image, whatever its name says. " * 20)
        with pytest.raises(ImageError, match="damaged, incomplete or not"):
            read_image(tmp_path / name)


def test_absent_empty_unknown_and_folder_are_refused_each_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "zero.nrrd").touch()
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "folder.png").mkdir()
    for name, reason in {
        "absent.png": "cannot be opened",
        "zero.nrrd": "0 bytes",
        "a.txt": r"suffix must be one of \.nii\.gz",
        "folder.png": "not a file",
    }.items():
        with pytest.raises(ImageError, match=reason):
            read_image(tmp_path / name)


def test_dicom_without_pixels_is_refused(tmp_path: Path, write_dicom: Callable[..., Path]) -> None:
    with pytest.raises(ImageError, match=r"holds no pixels \(modality SR\)"):
        read_image(write_dicom(tmp_path / "a.dcm", None, Modality="SR"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    values = np.random.default_rng(4).normal(size=(4, 5, 6))
    values[1, 2, 3] = bad
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(ImageError, match="1 of its 120 values are NaN, infinite"):
        read_image(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("value", [0, 7])
def test_image_of_one_value_is_empty(tmp_path: Path, value: int) -> None:
    PillowImage.fromarray(np.full((9, 9), value, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=f"it is empty, every pixel has the value {value}"):
        read_image(tmp_path / "a.png")


def test_time_series_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.random.default_rng(5).normal(size=(4, 5, 6, 3)), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(ImageError, match=r"4 dimensions \(4 x 5 x 6 x 3\)"):
        read_image(tmp_path / "a.nii.gz")


def test_line_of_voxels_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.arange(9.0).reshape(9, 1, 1), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(ImageError, match="no picture"):
        read_image(tmp_path / "a.nii.gz")


def test_colour_volume_is_refused_unless_it_is_grey(tmp_path: Path) -> None:
    volume = np.random.default_rng(6).integers(0, 255, (3, 4, 5, 3)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(volume, isVector=True), str(tmp_path / "colour.nrrd"))
    volume[...] = volume[..., :1]
    sitk.WriteImage(sitk.GetImageFromArray(volume, isVector=True), str(tmp_path / "grey.nrrd"))
    with pytest.raises(ImageError, match="export it as a grey volume"):
        read_image(tmp_path / "colour.nrrd")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.nrrd").pixels[0], volume[..., 0].T[::-1, ::-1])


def test_complex_values_are_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(7).normal(size=(4, 5, 6)) + 1j
    nib.save(nib.Nifti1Image(values.astype(np.complex64), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(ImageError):
        read_image(tmp_path / "a.nii.gz")


# ---- names, threads


@pytest.mark.parametrize(
    ("name", "suffix", "result"),
    [
        ("a.nii.gz", ".nii.gz", ".nii.gz"),
        ("a.b.NII.GZ", ".nii.gz", ".nii.gz"),
        ("a.nii", ".nii", ".nii"),
        ("a.seg.nrrd", ".nrrd", ".nrrd"),
        ("a.png", ".png", ".png"),
        ("a.JPG", ".jpg", ".png"),
        ("a.jpeg", ".jpeg", ".png"),
        ("a.tiff", ".tiff", ".tiff"),
        ("a.dcm", ".dcm", ".nrrd"),
        ("a.gz", "", ".nrrd"),
        (".png", "", ".nrrd"),
    ],
)
def test_suffix_of_the_file_and_of_its_label(name: str, suffix: str, result: str) -> None:
    assert image_suffix(name) == suffix
    assert result_suffix(name) == result


def test_patterns_cover_both_cases() -> None:
    assert {"*.nii.gz", "*.nii", "*.nrrd", "*.png", "*.jpg", "*.jpeg", "*.tif", "*.tiff", "*.dcm", "*.DCM"} <= set(
        IMAGE_PATTERNS
    )


def test_threads_read_what_one_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    paths = []
    for i in range(24):
        suffix = (".nii.gz", ".nrrd", ".png")[i % 3]
        paths.append(tmp_path / f"{i}{suffix}")
        values = rng.integers(0, 255, (40, 50) if suffix == ".png" else (10, 20, 30)).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(values), str(paths[-1]))
    alone = [read_image(path).pixels for path in paths]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda path: read_image(path).pixels, paths * 3))
    for one, other in zip(alone * 3, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_error_messages_of_the_libraries_stay_out_of_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.05
    nib.save(nib.Nifti1Image(np.arange(60.0).reshape(3, 4, 5), affine), tmp_path / "a.nii.gz")
    read_image(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(b"x" * 500))
    with pytest.raises(ImageError):
        read_image(tmp_path / "b.nii.gz")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_whose_zero_is_white_is_turned_so_that_bright_means_dense(tmp_path, dtype):
    ramp = np.arange(48, dtype=dtype).reshape(6, 8)
    tifffile.imwrite(tmp_path / "white.tif", ramp, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "black.tif", ramp, photometric="minisblack")
    assert np.array_equal(read_image(tmp_path / "white.tif").pixels[0], np.iinfo(dtype).max - ramp.astype(float))
    assert np.array_equal(read_image(tmp_path / "black.tif").pixels[0], ramp)
    assert np.array_equal(read_label(tmp_path / "white.tif").values, ramp), "a label's values are numbers, not greys"


def test_tiff_of_half_precision_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "half.tif", np.arange(48, dtype=np.float16).reshape(6, 8))
    with pytest.raises(ImageError, match="16-bit floats"):
        read_image(tmp_path / "half.tif")
