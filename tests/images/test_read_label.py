import itertools
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image as PillowImage

from coldstart.exceptions import LabelError
from coldstart.images import describe_mismatch, read_image, read_label, result_suffix, write_label

LABEL = np.random.default_rng(0).integers(0, 4, (20, 30)).astype(np.uint8)
AXIS_ORDERS = list(itertools.permutations(range(3)))
SENSES = list(itertools.product((1.0, -1.0), repeat=3))


def direction_of(order: tuple[int, ...], senses: tuple[float, ...], oblique: bool) -> np.ndarray:
    matrix = np.zeros((3, 3))
    matrix[list(order), range(3)] = senses
    if oblique:
        a, b = np.radians([17, -12])
        turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        matrix = turn @ tilt @ matrix
    return matrix


def write_volume(path: Path, values: np.ndarray, direction: np.ndarray) -> sitk.Image:
    """Write values (x, y, z in file order) with an anisotropic spacing and the given direction (LPS)."""
    volume = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    volume.SetSpacing((0.5, 1.25, 3.0))
    volume.SetOrigin((-12.5, 40.0, 7.75))
    volume.SetDirection(direction.ravel().tolist())
    sitk.WriteImage(volume, str(path))
    return sitk.ReadImage(str(path))


def assert_same_grid(one: sitk.Image, other: sitk.Image) -> None:
    assert one.GetSize() == other.GetSize()
    np.testing.assert_allclose(one.GetSpacing(), other.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(one.GetOrigin(), other.GetOrigin(), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(one.GetDirection(), other.GetDirection(), atol=1e-6)


# ---- written back where the image lies


@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 6, 7), (5, 1, 7), (5, 6, 1)])
@pytest.mark.parametrize("order", AXIS_ORDERS)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_label_returns_to_the_voxels_it_came_from(
    tmp_path: Path, shape: tuple[int, ...], order: tuple[int, ...], suffix: str
) -> None:
    """The image's own voxel numbers, written as a label, come back in the same voxels, header included."""
    numbers = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    for senses, oblique in itertools.product(SENSES, (False, True)):
        image_path, label_path = tmp_path / f"image{suffix}", tmp_path / f"label{suffix}"
        original = write_volume(image_path, numbers, direction_of(order, senses, oblique))
        image = read_image(image_path)
        write_label(image.pixels[0].astype(int), image.geometry, label_path)
        written = sitk.ReadImage(str(label_path))
        assert_same_grid(written, original)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(written), numbers.T)
        np.testing.assert_array_equal(read_label(label_path).values, image.pixels[0])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".nrrd", ".nii.gz"])
def test_2d_label_returns_to_its_pixels(tmp_path: Path, suffix: str) -> None:
    picture = sitk.GetImageFromArray(np.arange(600, dtype=np.uint16).reshape(20, 30))
    if suffix in (".nrrd", ".nii.gz"):
        picture.SetSpacing((0.2, 0.4))
        picture.SetOrigin((3.0, -4.0))
    sitk.WriteImage(picture, str(tmp_path / f"image{suffix}"))
    image = read_image(tmp_path / f"image{suffix}")
    write_label(image.pixels[0].astype(int), image.geometry, tmp_path / f"label{suffix}")
    original = sitk.ReadImage(str(tmp_path / f"image{suffix}"))
    written = sitk.ReadImage(str(tmp_path / f"label{suffix}"))
    assert_same_grid(written, original)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(original))


def test_jpeg_gets_a_png_label(tmp_path: Path) -> None:
    PillowImage.fromarray(LABEL * 60).save(tmp_path / "a.jpg")
    path = tmp_path / f"label{result_suffix('a.jpg')}"
    write_label(LABEL, read_image(tmp_path / "a.jpg").geometry, path)
    assert path.suffix == ".png"
    np.testing.assert_array_equal(np.asarray(PillowImage.open(path)), LABEL)


def test_dicom_gets_a_label_of_one_slice_in_its_geometry(tmp_path: Path, write_dicom: Callable[..., Path]) -> None:
    sagittal = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "ImagePositionPatient": [1.5, -2.0, 3.0]}
    source = write_dicom(
        tmp_path / "a.dcm",
        LABEL + np.uint8(1),
        SOPClassUID="1.2.840.10008.5.1.4.1.1.4",
        PixelSpacing=[0.5, 0.25],
        **sagittal,
    )
    path = tmp_path / f"label{result_suffix(source)}"
    write_label(LABEL, read_image(source).geometry, path)
    assert path.suffix == ".nrrd"
    assert_same_grid(sitk.ReadImage(str(path)), sitk.ReadImage(str(source)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0], LABEL)


def test_label_of_a_sheared_nifti_keeps_its_sform(tmp_path: Path) -> None:
    affine = np.array([[0.5, 0.02, 0, -12.5], [-0.01, 1.25, 0.1, 40], [0, 0, 3, 7.75], [0, 0, 0, 1]])
    values = np.arange(210, dtype=np.int16).reshape(5, 6, 7)
    for suffix in (".nii.gz", ".nii"):
        nib.save(nib.Nifti1Image(values, affine), tmp_path / f"a{suffix}")
        image = read_image(tmp_path / f"a{suffix}")
        write_label(image.pixels[0].astype(int), image.geometry, tmp_path / f"label{suffix}")
        written = nib.load(tmp_path / f"label{suffix}")
        np.testing.assert_allclose(written.affine, affine, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(np.asarray(written.dataobj), values)
        np.testing.assert_array_equal(read_label(tmp_path / f"label{suffix}").values, image.pixels[0])


def test_2d_nifti_keeps_the_height_of_its_plane(tmp_path: Path) -> None:
    affine = np.diag([0.5, 1.25, 3.0, 1.0])
    affine[:3, 3] = [1, 2, 77]
    nib.save(nib.Nifti1Image(LABEL.astype(np.int16), affine), tmp_path / "a.nii.gz")
    image = read_image(tmp_path / "a.nii.gz")
    write_label(image.pixels[0].astype(int), image.geometry, tmp_path / "label.nii.gz")
    written = nib.load(tmp_path / "label.nii.gz")
    assert written.shape == (20, 30)
    np.testing.assert_allclose(written.affine, affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj), LABEL)


@pytest.mark.parametrize(("high", "dtype"), [(1, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16)])
def test_smallest_type_that_holds_the_values_is_written(tmp_path: Path, high: int, dtype: type) -> None:
    PillowImage.fromarray(LABEL).save(tmp_path / "a.png")
    geometry = read_image(tmp_path / "a.png").geometry
    values = LABEL.astype(np.int64)
    values[0, 0] = high
    for suffix in (".png", ".nrrd", ".nii.gz", ".tif"):
        write_label(values, geometry, tmp_path / f"label{suffix}")
        assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"label{suffix}"))).dtype == dtype
        np.testing.assert_array_equal(read_label(tmp_path / f"label{suffix}").values, values)


def test_mask_of_booleans_is_written(tmp_path: Path) -> None:
    PillowImage.fromarray(LABEL).save(tmp_path / "a.png")
    write_label(LABEL > 1, read_image(tmp_path / "a.png").geometry, tmp_path / "label.png")
    np.testing.assert_array_equal(read_label(tmp_path / "label.png").values, LABEL > 1)


def test_label_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    PillowImage.fromarray(LABEL).save(tmp_path / "a.png")
    flat = read_image(tmp_path / "a.png").geometry
    write_volume(tmp_path / "a.nrrd", np.arange(60, dtype=np.uint8).reshape(3, 4, 5), np.eye(3))
    volume = read_image(tmp_path / "a.nrrd").geometry
    for values, geometry, name, reason in [
        (LABEL.astype(float), flat, "label.png", "must hold integers; got float64"),
        (LABEL.astype(int) - 1, flat, "label.png", "from 0 to 65535; got -1 to 2"),
        (LABEL.astype(int) + 65534, flat, "label.png", "got 65534 to 65537"),
        (LABEL.T, flat, "label.png", r"shape \(20, 30\) of its image; got \(30, 20\)"),
        (LABEL, flat, "label.jpg", r"use \.nii\.gz"),
        (LABEL, flat, "absent/label.nrrd", "cannot be written"),
        (np.zeros((3, 4, 5), int), volume, "label.png", "PNG holds no volumes"),
    ]:
        with pytest.raises(LabelError, match=reason) as caught:
            write_label(values, geometry, tmp_path / name)
        assert "\n" not in str(caught.value)


# ---- read


@pytest.mark.parametrize("name", ["a.png", "a.nrrd", "a.seg.nrrd", "a.nii.gz", "a.nii", "a.tif"])
def test_integer_label_is_read_as_it_is(tmp_path: Path, name: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(LABEL), str(tmp_path / name))
    label = read_label(tmp_path / name)
    np.testing.assert_array_equal(label.values, LABEL)
    assert label.values.dtype == np.int32


def test_float_file_with_whole_numbers_is_a_label(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(LABEL.astype(np.float64)), str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(read_label(tmp_path / "a.nrrd").values, LABEL)


def test_label_of_nothing_but_background_is_valid(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(LABEL * np.uint8(0)), str(tmp_path / "a.nrrd"))
    assert not read_label(tmp_path / "a.nrrd").values.any()


@pytest.mark.parametrize(
    ("value", "reason"), [(0.5, "got 0.5"), (-1.0, "got -1 to 3"), (7e4, "to 70000"), (np.nan, "NaN")]
)
@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz"])
def test_value_that_is_no_label_is_refused(tmp_path: Path, value: float, reason: str, suffix: str) -> None:
    values = LABEL.astype(np.float32)
    values[3, 4] = value
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / f"a{suffix}"))
    with pytest.raises(LabelError, match=reason):
        read_label(tmp_path / f"a{suffix}")


def test_palette_png_gives_its_indices(tmp_path: Path) -> None:
    picture = PillowImage.fromarray(LABEL, mode="P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png").values, LABEL)


@pytest.mark.parametrize(("bits", "high"), [(1, 1), (2, 3), (4, 15)])
def test_png_of_few_bits_is_not_stretched(tmp_path: Path, bits: int, high: int) -> None:
    values = np.random.default_rng(1).integers(0, high + 1, (8, 16)).astype(np.uint8)
    packed = np.packbits(np.unpackbits(values[..., None], axis=-1)[..., -bits:].reshape(8, -1), axis=-1)
    write_png(tmp_path / "a.png", packed, width=16, bits=bits)
    np.testing.assert_array_equal(read_label(tmp_path / "a.png").values, values)


def write_png(path: Path, packed_rows: np.ndarray, *, width: int, bits: int) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, len(packed_rows), bits, 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in packed_rows)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def test_colour_png_is_a_label_only_where_its_channels_agree(tmp_path: Path) -> None:
    PillowImage.fromarray(np.dstack([LABEL] * 3)).save(tmp_path / "grey.png")
    PillowImage.fromarray(np.dstack([LABEL] * 3 + [LABEL * 0 + 255])).save(tmp_path / "alpha.png")
    PillowImage.fromarray(np.dstack([LABEL, LABEL, 3 - LABEL])).save(tmp_path / "colour.png")
    np.testing.assert_array_equal(read_label(tmp_path / "grey.png").values, LABEL)
    np.testing.assert_array_equal(read_label(tmp_path / "alpha.png").values, LABEL)
    with pytest.raises(LabelError, match="colour channels differ"):
        read_label(tmp_path / "colour.png")


def write_layers(path: Path, layers: np.ndarray) -> None:
    """Write (layer, x, y, z) as Slicer writes segments that may overlap."""
    header = {
        "space": "left-posterior-superior",
        "kinds": ["list", "domain", "domain", "domain"],
        "space directions": np.vstack([np.full(3, np.nan), np.diag([1.0, 2.0, 3.0])]),
        "space origin": [0, 0, 0],
    }
    for i in range(len(layers)):
        header |= {f"Segment{i}_LabelValue": str(i + 1), f"Segment{i}_Layer": str(i), f"Segment{i}_Name": f"s{i}"}
    nrrd.write(str(path), layers, header)


def test_layers_of_a_segmentation_are_flattened_where_they_do_not_overlap(tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    write_layers(tmp_path / "a.seg.nrrd", np.stack([(values == 1) * 1, (values == 2) * 2]).astype(np.uint8))
    np.testing.assert_array_equal(read_label(tmp_path / "a.seg.nrrd").values, values[::-1, ::-1])


def test_layers_that_overlap_or_share_a_value_are_refused(tmp_path: Path) -> None:
    layers = np.zeros((2, 4, 5, 6), np.uint8)
    layers[0, :2], layers[1, 1:3] = 1, 2
    write_layers(tmp_path / "overlap.seg.nrrd", layers)
    layers[1] = 0
    layers[1, 3] = 1
    write_layers(tmp_path / "same.seg.nrrd", layers)
    with pytest.raises(LabelError, match="layers overlap"):
        read_label(tmp_path / "overlap.seg.nrrd")
    with pytest.raises(LabelError, match="value 1 stands for different segments"):
        read_label(tmp_path / "same.seg.nrrd")


def test_label_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\nnonsense\n\n")
    PillowImage.fromarray(LABEL).save(tmp_path / "a.jpg")
    for name, reason in {"a.nrrd": "damaged", "absent.nii.gz": "cannot be opened", "a.jpg": "JPEG changes"}.items():
        with pytest.raises(LabelError, match=reason) as caught:
            read_label(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_time_series_is_no_label(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6, 3), np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(LabelError, match="4 dimensions"):
        read_label(tmp_path / "a.nii.gz")


def test_real_labels_lie_on_their_images(shared_data: Path) -> None:
    folder = shared_data / "hippocampus"
    images = sorted(folder.glob("images/*.nii.gz"))[:5]
    assert images
    for path in images:
        image, label = read_image(path), read_label(folder / "labels" / path.name)
        assert describe_mismatch(image.geometry, label.geometry) is None
        assert set(np.unique(label.values)) <= {0, 1, 2}
