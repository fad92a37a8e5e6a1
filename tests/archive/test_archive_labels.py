"""Labels come back from the archive as they were saved: on another machine, with nothing but the archive to go by."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from archive_case import RADIOGRAPHS, VOLUMES, Site, label_of_ball, on_slices, saved_slices

from coldstart.adapters.archive import ArchiveDatastore
from coldstart.adapters.errors import AppError
from coldstart.images import read_image, read_label
from dicom_series import Series, multi_frame, radiograph, volume_series

ANGLE = np.deg2rad(25)
OBLIQUE = {"row_cosine": (np.cos(ANGLE), np.sin(ANGLE), 0), "column_cosine": (0, 0, -1), "spacing": (4, 0.8, 1.1)}
CASES = {
    "CT upwards": lambda: volume_series("CT", seed=1),
    "CT downwards": lambda: volume_series("CT", seed=2, descending=True),
    "oblique anisotropic MR": lambda: volume_series("MR", seed=3, **OBLIQUE),
    "oblique MR downwards": lambda: volume_series("MR", seed=4, descending=True, **OBLIQUE),
    "sagittal MR": lambda: volume_series("MR", seed=5, row_cosine=(0, 1, 0), column_cosine=(0, 0, -1)),
    "multi-frame MR": lambda: multi_frame(seed=6),
    "multi-frame MR downwards": lambda: multi_frame(seed=10, order=range(9, -1, -1), shared=False),
    "one slice of CT": lambda: volume_series("CT", seed=7, shape=(1, 48, 40)),
    "CR": lambda: radiograph("CR", seed=8),
    "DX": lambda: radiograph("DX", seed=9),
}


def conf_of(series: Series) -> dict[str, str]:
    return VOLUMES if len(series.ball) > 1 else RADIOGRAPHS


def a_few_slices(slices: np.ndarray) -> np.ndarray:
    """Two structures, neither symmetric, on at most two slices that are no neighbours."""
    few = np.zeros_like(slices)
    for index in {len(slices) // 3, min(len(slices) // 3 + 2, len(slices) - 1)}:
        few[index, 5:9, 3:12], few[index, 20:31, 8:10] = 7, 1
    return few


def empty(slices: np.ndarray) -> np.ndarray:
    return np.zeros_like(slices)


def two_sites(site: Site, series: Series) -> tuple[ArchiveDatastore, ArchiveDatastore]:
    site.orthanc.store(series.instances)
    return site.open("first", **conf_of(series)), site.open("second", **conf_of(series))


@pytest.mark.parametrize("case", CASES)
def test_label_of_every_kind_comes_back_from_the_archive(site: Site, tmp_path: Path, case: str) -> None:
    series = CASES[case]()
    first, second = two_sites(site, series)
    for change in (None, a_few_slices, empty):
        slices = label_of_ball(first, series, tmp_path / "label.nii.gz", change)
        first.save_label(series.series, str(tmp_path / "label.nii.gz"), "final", {})
        assert first.label_warning(series.series) is None
        second.sync()
        assert second.label_warning(series.series) is None
        np.testing.assert_array_equal(saved_slices(second, series), slices)
        assert second._campaign.status()["labelled"] == 1
    assert len(site.orthanc.segmentations()) == 3
    assert second._campaign.trainings.require_images().training[0].class_of_value == {}


def test_segmentation_lies_in_the_archive_where_the_structure_is(site: Site, tmp_path: Path) -> None:
    """Each frame refers to the instance that shows the ball, whatever our own reader makes of it."""
    series = volume_series("MR", seed=3, descending=True, **OBLIQUE)
    first, _ = two_sites(site, series)
    label_of_ball(first, series, tmp_path / "label.nrrd")
    first.save_label(series.series, str(tmp_path / "label.nrrd"), "final", {})
    (segmentation,) = site.orthanc.segmentations()
    pixels = segmentation.pixel_array
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == series.series
    assert segmentation.StudyInstanceUID == series.study
    instances = {str(one.SOPInstanceUID): one for one in series.instances}
    seen = 0
    for mask, groups in zip(pixels, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        source = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        height = np.dot(np.array(instances[source].ImagePositionPatient, float) - series.origin, series.normal)
        index = round(height / series.spacing[0])
        np.testing.assert_array_equal(mask.astype(bool), series.ball[index])
        seen += int(mask.sum())
    assert seen == series.ball.sum()


def test_numbers_with_gaps_and_names_survive(site: Site, tmp_path: Path) -> None:
    series = volume_series("CT", seed=1)
    conf = {**VOLUMES, "labels": "left lung:2,ball:7,Äste:40".replace(" ", "_")}
    site.orthanc.store(series.instances)
    first, second = site.open("first", **conf), site.open("second", **conf)

    def paint(slices: np.ndarray) -> np.ndarray:
        slices[0, :4, :4], slices[0, 8:12, :4] = 300, 40
        return slices

    slices = label_of_ball(first, series, tmp_path / "label.nii.gz", paint)
    said = [{"name": "ball", "idx": 300}, {"name": "left_lung", "idx": 7}]
    first.save_label(series.series, str(tmp_path / "label.nii.gz"), "final", {"label_info": said})
    assert first.label_warning(series.series) is None
    second.sync()
    np.testing.assert_array_equal(saved_slices(second, series), slices)
    names = {entry["idx"]: entry["name"] for entry in second.get_label_info(series.series, "final")["label_info"]}
    assert names == {300: "ball", 7: "left_lung", 40: "Äste"}
    (sample,) = second._campaign.trainings.require_images().training
    assert sample.class_of_value == {7: 1, 300: 2, 40: 3}


@pytest.mark.parametrize("kind", ["bin", "seg.nrrd", "nii.gz", "dcm"])
def test_what_each_viewer_sends_is_stored(site: Site, tmp_path: Path, kind: str) -> None:
    series = volume_series("MR", seed=3, **OBLIQUE)
    first, second = two_sites(site, series)
    file = tmp_path / f"label.{kind}"
    if kind == "bin":
        slices = label_of_ball(first, series, tmp_path / "label.nii.gz")
        slices.transpose(2, 1, 0).astype(np.uint8).ravel(order="F").tofile(file)
    elif kind == "dcm":
        slices = label_of_ball(first, series, tmp_path / "label.nii.gz")
        first.save_label(series.series, str(tmp_path / "label.nii.gz"), "final", {})
        site.orthanc.segmentations()[0].save_as(file)
    else:
        slices = label_of_ball(first, series, file)
    first.save_label(series.series, str(file), "final", {})
    assert first.label_warning(series.series) is None
    second.sync()
    np.testing.assert_array_equal(saved_slices(second, series), slices)


def test_voxels_of_another_image_are_refused(site: Site, tmp_path: Path) -> None:
    series = volume_series("CT", seed=1)
    first, _ = two_sites(site, series)
    (tmp_path / "label.bin").write_bytes(bytes(100))
    with pytest.raises(AppError, match=r"must have the 49152 voxels .* got 100 bytes"):
        first.save_label(series.series, str(tmp_path / "label.bin"), "final", {})
    assert site.orthanc.segmentations() == []


def test_label_off_its_image_is_kept_here_and_not_in_the_archive(site: Site, tmp_path: Path) -> None:
    one, other = volume_series("CT", seed=1), volume_series("CT", seed=2, shape=(12, 64, 60))
    site.orthanc.store(one.instances)
    first, _ = two_sites(site, other)
    label_of_ball(first, one, tmp_path / "label.nii.gz")
    first.save_label(other.series, str(tmp_path / "label.nii.gz"), "final", {})
    assert "has 64 x 64 x 12 pixels" in str(first.label_warning(other.series))
    assert site.orthanc.segmentations() == []
    assert first.get_label_uri(other.series, "final")


def test_original_labels_stay_here(site: Site, tmp_path: Path) -> None:
    series = volume_series("CT", seed=1)
    first, second = two_sites(site, series)
    label_of_ball(first, series, tmp_path / "label.nii.gz")
    first.save_label(series.series, str(tmp_path / "label.nii.gz"), "original", {})
    second.sync()
    assert first.get_label_uri(series.series, "original") and not second.get_label_uri(series.series, "original")
    assert site.orthanc.segmentations() == [] and first._campaign.status()["labelled"] == 0


def test_newest_of_several_segmentations_counts(site: Site, tmp_path: Path) -> None:
    series = volume_series("CT", seed=1)
    first, second = two_sites(site, series)
    for change in (None, a_few_slices):
        slices = label_of_ball(first, series, tmp_path / "label.nii.gz", change)
        first.save_label(series.series, str(tmp_path / "label.nii.gz"), "final", {})
        time.sleep(0.01)
    for machine in (first, second, site.open("third", **VOLUMES)):
        machine.sync()
        np.testing.assert_array_equal(saved_slices(machine, series), slices)
        assert machine._campaign.status()["labelled"] == 1 and machine.status()["completed"] == 1
    assert len(site.orthanc.segmentations()) == 2


def test_segmentation_by_another_program_is_read(site: Site, tmp_path: Path) -> None:
    """dcmqi's, whose segments count from 1; their names say what they are."""
    series = volume_series("MR", seed=3, descending=True, **OBLIQUE)
    first, second = two_sites(site, series)
    slices = label_of_ball(first, series, tmp_path / "label.nii.gz", a_few_slices)
    attributes = [
        {
            "labelID": value,
            "SegmentLabel": name,
            "SegmentAlgorithmType": "MANUAL",
            "SegmentedPropertyCategoryCodeSequence": _code("123037004", "Anatomical Structure"),
            "SegmentedPropertyTypeCodeSequence": _code("85756007", "Tissue"),
        }
        for value, name in ((1, "BALL"), (7, "lung"))
    ]
    common = {"SeriesDescription": "x", "SeriesNumber": "300", "InstanceNumber": "1", "ContentLabel": "X"}
    (tmp_path / "meta.json").write_text(json.dumps({**common, "segmentAttributes": [attributes]}))
    command = [str(Path(sys.executable).parent / "itkimage2segimage")]
    command += ["--inputImageList", str(tmp_path / "label.nii.gz"), "--inputMetadata", str(tmp_path / "meta.json")]
    command += ["--inputDICOMDirectory", str(first.instances(series.series))]
    command += ["--outputDICOM", str(tmp_path / "seg.dcm")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    site.orthanc.store([pydicom.dcmread(tmp_path / "seg.dcm")])
    second.sync()
    assert second.label_warning(series.series) is None
    np.testing.assert_array_equal(saved_slices(second, series), np.select([slices == 1, slices == 7], [1, 2]))
    (sample,) = second._campaign.trainings.require_images().training
    assert sample.class_of_value == {1: 2, 2: 1}


def test_segments_that_overlap_keep_the_image_and_say_why(site: Site, tmp_path: Path) -> None:
    series = volume_series("CT", seed=1)
    first, second = two_sites(site, series)
    label_of_ball(first, series, tmp_path / "label.nii.gz", a_few_slices)
    first.save_label(series.series, str(tmp_path / "label.nii.gz"), "final", {})
    (segmentation,) = site.orthanc.segmentations()
    segmentation.SeriesInstanceUID, segmentation.SOPInstanceUID = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    segmentation.file_meta.MediaStorageSOPInstanceUID = segmentation.SOPInstanceUID
    segmentation.PixelData = bytes([255]) * len(segmentation.PixelData)
    segmentation.SeriesDate = segmentation.ContentDate = segmentation.InstanceCreationDate = "20991231"  # the newer one
    site.orthanc.store([segmentation])
    second.sync()
    assert "overlap" in str(second.label_warning(series.series))
    status = second._campaign.status()
    assert status["labelled"] == 1 and "overlap" in status["label_problems"][0]
    assert second._campaign.next_sample("coldstart_al") is None
    label_of_ball(second, series, tmp_path / "label.nii.gz")
    second.save_label(series.series, str(tmp_path / "label.nii.gz"), "final", {})  # put right
    assert second.label_warning(series.series) is None and second._campaign.status()["label_problems"] == []


def test_result_of_inference_as_dicom_seg(site: Site, tmp_path: Path) -> None:
    series = radiograph("DX", seed=9)
    first, _ = two_sites(site, series)
    label_of_ball(first, series, tmp_path / "label.nii.gz", lambda slices: slices // 7 * 2)  # the second of the preset
    instances = first.get_image_uri(series.series).removesuffix(".nii.gz")
    file = first.segmentation_of_result(instances, str(tmp_path / "label.nii.gz"), [], use_itk=True)
    result = pydicom.dcmread(file)
    assert [segment.SegmentLabel for segment in result.SegmentSequence] == ["ball"]
    np.testing.assert_array_equal(result.pixel_array.astype(bool).reshape(series.ball.shape), series.ball)


def test_bright_ball_of_the_image_is_where_the_label_is(site: Site) -> None:
    """The image that is fetched has the pixels of the series in their places."""
    for case, make in CASES.items():
        series = make()
        site.orthanc.store(series.instances)
        datastore = site.open(case.replace(" ", "_"), **conf_of(series))
        image = read_image(datastore.get_image_uri(series.series))
        slices = on_slices(image.pixels[0], image.geometry)
        brightest = slices >= np.sort(slices.ravel())[-int(series.ball.sum())]
        assert (brightest & series.ball).sum() > 0.99 * series.ball.sum(), case


def test_values_of_a_label_are_whole_after_a_second_round(site: Site, tmp_path: Path) -> None:
    """What was read back can be saved again as it is."""
    series = multi_frame(seed=6)
    first, second = two_sites(site, series)
    slices = label_of_ball(first, series, tmp_path / "label.nii.gz", a_few_slices)
    first.save_label(series.series, str(tmp_path / "label.nii.gz"), "final", {})
    second.sync()
    path = second.get_label_uri(series.series, "final")
    second.save_label(
        series.series, path, "final", {"label_info": second.get_label_info(series.series, "final")["label_info"]}
    )
    first.sync()
    np.testing.assert_array_equal(saved_slices(first, series), slices)
    assert read_label(path).values.max() == 7


def _code(value: str, meaning: str) -> dict[str, str]:
    return {"CodeValue": value, "CodingSchemeDesignator": "SCT", "CodeMeaning": meaning}
