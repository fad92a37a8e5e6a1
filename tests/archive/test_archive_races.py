"""A label that is saved while the archive is being read, or while the one before it is being sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from archive_case import VOLUMES, Site, label_of_ball, saved_slices

from coldstart.adapters.archive import ArchiveDatastore
from coldstart.adapters.errors import AppError
from dicom_series import Series, volume_series


def save(datastore: ArchiveDatastore, series: Series, folder: Path, corner: int) -> np.ndarray:
    def paint(slices: np.ndarray) -> np.ndarray:
        slices[0, :corner, :corner] = 1
        return slices

    slices = label_of_ball(datastore, series, folder / "label.nii.gz", paint)
    datastore.save_label(series.series, str(folder / "label.nii.gz"), "final", {})
    return slices


def test_label_saved_while_another_is_read_stays(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {one.series: one for one in (volume_series("CT", seed=1), volume_series("CT", seed=2))}
    for one in known.values():
        site.orthanc.store(one.instances)
    first, second = site.open("first", **VOLUMES), site.open("second", **VOLUMES)
    changed, removed = (known[image_id] for image_id in second._datastore.objects)
    for series in (changed, removed):
        save(first, series, tmp_path, 1)
    second.sync()
    of_removed = {str(one.ReferencedSeriesSequence[0].SeriesInstanceUID): one for one in site.orthanc.segmentations()}
    site.orthanc.remove_series(of_removed[removed.series].SeriesInstanceUID)
    save(first, changed, tmp_path, 2)
    download, here = second._cache.download_label, []

    def download_slowly(study: str, uid: str, folder: Path) -> Path:
        found = download(study, uid, folder)
        if not here:
            here.extend(save(second, series, tmp_path, 3) for series in (changed, removed))
        return found

    monkeypatch.setattr(second._cache, "download_label", download_slowly)
    for _ in range(2):
        second.sync()
        assert len(here) == 2
        for series, slices in zip((changed, removed), here, strict=True):
            np.testing.assert_array_equal(saved_slices(second, series), slices)


def test_label_saved_within_the_second_of_the_one_before_is_sent_too(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = volume_series("CT", seed=1)
    site.orthanc.store(series.instances)
    first, second = site.open("first", **VOLUMES), site.open("second", **VOLUMES)
    store, later = first._client.store, []

    def store_slowly(segmentation: Path) -> None:
        store(segmentation)
        if not later:
            before = first._datastore.label(series.series, "final")
            later.append(save(first, series, tmp_path, 2))
            now = first._datastore.label(series.series, "final")
            now.info = {**now.info, "ts": before.info["ts"]}

    monkeypatch.setattr(first._client, "store", store_slowly)
    save(first, series, tmp_path, 1)
    first.sync()
    assert first.n_unsent == 0
    second.sync()
    np.testing.assert_array_equal(saved_slices(second, series), later[0])


def test_prediction_that_is_saved_as_final_is_sent_at_once(site: Site, tmp_path: Path) -> None:
    series = volume_series("CT", seed=1)
    site.orthanc.store(series.instances)
    datastore = site.open("first", **VOLUMES)
    label_of_ball(datastore, series, tmp_path / "label.nii.gz")
    datastore.save_prediction(series.series, str(tmp_path / "label.nii.gz"), "final", {})
    [segmentation] = site.orthanc.segmentations()
    note = datastore.get_label_info(series.series, "final")["coldstart"]
    assert note == {"segmentation": segmentation.SeriesInstanceUID} and datastore.n_unsent == 0
    with pytest.raises(AppError, match="a prediction does not take its place"):
        datastore.save_prediction(series.series, str(tmp_path / "label.nii.gz"), "final", {})
