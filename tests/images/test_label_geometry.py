from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image as PillowImage

from coldstart.images import (
    DIRECTION_TOLERANCE,
    ORIGIN_TOLERANCE,
    SPACING_TOLERANCE,
    Geometry,
    describe_mismatch,
    read_image,
    read_label,
)

SIZE, SPACING, ORIGIN = (5, 6, 7), (0.5, 1.25, 3.0), (-12.5, 40.0, 7.75)


def geometry_of(path: Path, image: sitk.Image) -> Geometry:
    sitk.WriteImage(image, str(path))
    return read_label(path).geometry


def volume(size: tuple[int, ...] = SIZE) -> sitk.Image:
    out = sitk.Image(list(size), sitk.sitkUInt8)
    out.SetSpacing(SPACING[: len(size)])
    out.SetOrigin(ORIGIN[: len(size)])
    return out


@pytest.fixture
def image(tmp_path: Path) -> Geometry:
    return geometry_of(tmp_path / "image.nrrd", volume())


def test_same_geometry_fits(image: Geometry) -> None:
    assert describe_mismatch(image, image) is None


def test_same_voxels_in_another_axis_order_fit(tmp_path: Path, image: Geometry) -> None:
    for code in ("RAS", "SPL", "AIR", "PSL"):
        turned = sitk.DICOMOrient(volume(), code)
        assert describe_mismatch(image, geometry_of(tmp_path / "label.nrrd", turned)) is None


def test_another_size_shows_both(tmp_path: Path, image: Geometry) -> None:
    label = geometry_of(tmp_path / "label.nrrd", volume((5, 6, 8)))
    assert "5 x 6 x 8 pixels" in (describe_mismatch(image, label) or "")
    assert "its image has 5 x 6 x 7" in (describe_mismatch(image, label) or "")


def test_another_dimension_is_named(tmp_path: Path, image: Geometry) -> None:
    label = geometry_of(tmp_path / "label.nrrd", volume((5, 6)))
    assert describe_mismatch(image, label) == "The label is 2D, while its image is 3D; save it on its own image."


@pytest.mark.parametrize(("factor", "fits"), [(0.5, True), (2.0, False)])
def test_tolerances_are_those_named(image: Geometry, factor: float, fits: bool) -> None:
    spacing = (SPACING[0], SPACING[1], SPACING[2] * (1 + factor * SPACING_TOLERANCE))
    # In RAS the first voxel is at the file's last x and y, so only z leaves its place untouched.
    found = describe_mismatch(image, replace(image, spacing=spacing))
    assert (found is None) == fits
    assert fits or "spacing" in (found or "")

    origin = (ORIGIN[0] + factor * ORIGIN_TOLERANCE * min(SPACING), *ORIGIN[1:])
    found = describe_mismatch(image, replace(image, origin=origin))
    assert (found is None) == fits
    assert fits or "0.1 mm away" in (found or "")

    angle = np.arcsin(factor * DIRECTION_TOLERANCE)
    turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    found = describe_mismatch(image, replace(image, direction=tuple(turned.ravel())))
    assert (found is None) == fits
    assert fits or "axes point elsewhere" in (found or "")


def test_flipped_label_does_not_fit(tmp_path: Path, image: Geometry) -> None:
    flipped = volume()
    flipped.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))
    assert "away" in (describe_mismatch(image, geometry_of(tmp_path / "label.nrrd", flipped)) or "")


def test_png_label_of_an_image_with_spacing_is_compared_by_size_alone(tmp_path: Path) -> None:
    picture = sitk.GetImageFromArray(np.arange(600, dtype=np.uint16).reshape(20, 30))
    picture.SetSpacing((0.2, 0.4))
    picture.SetOrigin((100.0, 50.0))
    sitk.WriteImage(picture, str(tmp_path / "image.nrrd"))
    geometry = read_image(tmp_path / "image.nrrd").geometry
    for shape, fits in {(20, 30): True, (30, 20): False}.items():
        PillowImage.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "label.png")
        found = describe_mismatch(geometry, read_label(tmp_path / "label.png").geometry)
        assert (found is None) == fits
        assert fits or "30 x 20 pixels (rows x columns)" in (found or "")


@pytest.mark.parametrize("image_dims", [2, 3])
def test_one_slice_and_2d_fit_both_ways_when_they_lie_in_one_plane(tmp_path: Path, image_dims: int) -> None:
    flat = geometry_of(tmp_path / "flat.nrrd", volume((5, 6)))
    slab = geometry_of(tmp_path / "slab.nrrd", volume((5, 6, 1)))
    image, label = (flat, slab) if image_dims == 2 else (slab, flat)
    assert describe_mismatch(image, label) is None
    moved = replace(label, origin=tuple(x + 1.0 for x in label.origin))
    assert "1.41 mm away" in (describe_mismatch(image, moved) or "")


def test_2d_label_of_a_sagittal_slice_is_compared_by_size_and_spacing(tmp_path: Path) -> None:
    slab = geometry_of(tmp_path / "slab.nrrd", volume((1, 6, 7)))
    flat = sitk.Image([6, 7], sitk.sitkUInt8)
    flat.SetSpacing((1.25, 3.0))
    assert describe_mismatch(slab, geometry_of(tmp_path / "flat.nrrd", flat)) is None
    flat.SetSpacing((1.25, 2.0))
    assert "spacing" in (describe_mismatch(slab, geometry_of(tmp_path / "flat.nrrd", flat)) or "")
