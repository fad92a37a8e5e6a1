"""What is on this machine: pre-labels stay there, and whatever is lost of the rest comes back from the archive."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from archive_case import Site, label_of_ball, saved_slices

from coldstart.adapters.archive import ArchiveDatastore
from coldstart.adapters.prelabel import ORIGINAL, Prelabels
from coldstart.segmentation.samples import read_sample
from dicom_series import Series, multi_frame, volume_series


def cache_of(datastore: ArchiveDatastore, series: Series) -> Path:
    return Path(datastore.get_image_info(series.series)["path"]).parent


def test_prelabels_stay_here_and_take_no_place(site: Site, tmp_path: Path) -> None:
    free, own, labelled = (volume_series("CT", seed=seed) for seed in range(3))
    for one in (free, own, labelled):
        site.orthanc.store(one.instances)
    datastore = site.open()
    files = [tmp_path / f"{number}.nii.gz" for number in range(3)]
    for one, file in zip((free, own, labelled), files, strict=True):
        label_of_ball(datastore, one, file)
    datastore.save_label(own.series, str(files[1]), ORIGINAL, {})
    before = Path(datastore.get_label_uri(own.series, ORIGINAL)).read_bytes()
    datastore.save_label(labelled.series, str(files[2]), "final", {})
    prelabels = Prelabels(datastore)
    saved = [prelabels.save(one.series, files[0], "1", {"ball": 2}) for one in (free, own, labelled)]
    assert saved == [True, False, False]
    assert Path(datastore.get_label_uri(own.series, ORIGINAL)).read_bytes() == before
    datastore.sync()
    assert len(site.orthanc.segmentations()) == 1 and datastore._campaign.status()["labelled"] == 1
    assert len(datastore._campaign.trainings.require_images().training) == 1
    served = {datastore._campaign.next_sample("coldstart_al").image_id for _ in range(4)}  # type: ignore[union-attr]
    assert served <= {free.series, own.series}
    assert prelabels.remove_all_but("2") == 0
    assert [bool(datastore.get_label_uri(one.series, ORIGINAL)) for one in (free, own)] == [False, True]


def test_removed_cache_comes_back_and_can_be_trained_on(site: Site, tmp_path: Path) -> None:
    series = multi_frame(seed=3, order=range(9, -1, -1))
    site.orthanc.store(series.instances)
    datastore = site.open()
    slices = label_of_ball(datastore, series, tmp_path / "label.nii.gz")
    datastore.save_label(series.series, str(tmp_path / "label.nii.gz"), "final", {})
    (sample,) = datastore._campaign.trainings.require_images().training
    before = read_sample(sample)
    shutil.rmtree(cache_of(datastore, series))
    again = site.open()
    np.testing.assert_array_equal(saved_slices(again, series), slices)
    (sample,) = again._campaign.trainings.require_images().training
    image, classes = read_sample(sample)
    np.testing.assert_array_equal(image.pixels, before[0].pixels)
    np.testing.assert_array_equal(classes, before[1])
    assert len(site.orthanc.segmentations()) == 1


@pytest.mark.parametrize("content", [b"", b"\x00\xff no JSON", b"[1, 2]", b'{"objects": {"a": 5}}'])
def test_damaged_record_of_labels_loses_none(site: Site, tmp_path: Path, content: bytes) -> None:
    series, removed = volume_series("CT", seed=1), volume_series("CT", seed=2)
    datastore = None
    for one in (series, removed):
        site.orthanc.store(one.instances)
        datastore = site.open()
        label_of_ball(datastore, one, tmp_path / f"{one.series}.nii.gz")
        datastore.save_label(one.series, str(tmp_path / f"{one.series}.nii.gz"), "final", {})
    assert datastore is not None
    datastore.remove_label(removed.series, "final")
    datastore.flush()
    (cache_of(datastore, series) / "datastore_v2.json").write_bytes(content)
    again = site.open()
    again.sync()
    assert again._campaign.status()["labelled"] == 1 and not again.get_label_uri(removed.series, "final")
    slices = label_of_ball(again, series, tmp_path / "expected.nii.gz")
    np.testing.assert_array_equal(saved_slices(again, series), slices)
    assert len(site.orthanc.segmentations()) == 2
