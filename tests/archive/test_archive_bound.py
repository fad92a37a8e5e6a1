"""Fetched series within a bound, on a real archive: what was removed comes back when it is asked for."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from archive_case import Site, label_of_ball

from coldstart.adapters import archive_room
from dicom_series import volume_series


def test_series_leave_the_disk_and_come_back(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_room, "LOOK_EVERY_S", 0.0)
    labelled, idle, recent = (volume_series("CT", seed=seed) for seed in range(3))
    for one in (labelled, idle, recent):
        site.orthanc.store(one.instances)
    datastore = site.open(cache_gb="0.000001")
    paths = {one.series: Path(datastore.get_image_uri(one.series)) for one in (labelled, idle, recent)}
    label_of_ball(datastore, labelled, tmp_path / f"{labelled.series}.nii.gz")
    datastore.save_label(labelled.series, str(tmp_path / f"{labelled.series}.nii.gz"), "final", {})
    for one in (labelled, idle):
        os.utime(paths[one.series], (time.time() - 86_400,) * 2)
    datastore.sync()
    assert [paths[one.series].is_file() for one in (labelled, idle, recent)] == [True, False, True]
    assert not datastore.instances(idle.series).exists()
    assert (
        0
        < datastore.room.taken
        == sum(
            file.stat().st_size
            for one in (labelled, recent)
            for file in (paths[one.series], *datastore.instances(one.series).iterdir())
        )
    )
    assert idle.series in datastore.list_images() and datastore._campaign.status()["images"] == 3
    assert Path(datastore.get_image_uri(idle.series)).is_file()
    datastore.sync()
    assert paths[idle.series].is_file()
    assert datastore.get_label_uri(labelled.series, "final")
