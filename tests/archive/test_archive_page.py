"""The map page of a campaign whose images are in an archive."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest
import requests
from PIL import Image as Picture

from coldstart.adapters.server import Server
from dicom_series import radiograph, volume_series
from orthanc import Orthanc

WAIT_LIMIT_S = 60.0
CONF = {
    "preset": "chest_xray",
    "labels": "ball:1",
    "encoder": "descriptor",
    "spatial_size": "32,32",
    "budget": "2",
    "retrain_at_budget": "false",
}


def test_series_of_an_archive_are_shown_and_open_in_ohif(
    orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shots = [radiograph(seed=seed) for seed in range(3)]
    volume = volume_series(seed=1)  # set aside by a preset of 2D images, and drawn all the same
    for series in (*shots, volume):
        orthanc.store(series.instances)
    monkeypatch.setenv("MONAI_LABEL_DICOMWEB_CACHE_PATH", str(tmp_path / "cache"))
    conf = {**CONF, "state_dir": str(tmp_path / "state"), "modalities": "CT,DX"}
    with Server(orthanc.url, conf, tmp_path / "server.log") as server:
        api = f"{server.url}/coldstart/api"
        deadline = time.monotonic() + WAIT_LIMIT_S
        while not (campaign := requests.get(f"{api}/campaign", timeout=60).json())["planned"]:
            assert time.monotonic() < deadline, server.log.read_text()[-3000:]
            time.sleep(0.3)
        assert campaign["archive"] is True
        assert [one["image_id"] for one in campaign["set_aside"]] == [volume.series]
        for series in (*shots, volume):
            asked = {"id": series.series}
            record = requests.get(f"{api}/image", params=asked, timeout=60).json()
            mode = "monai-label" if series is volume else "viewer"  # OHIF labels no radiographs
            in_study = f"StudyInstanceUIDs={series.study}&initialSeriesInstanceUID={series.series}"
            assert record["ohif_url"] == f"../ohif/{mode}?{in_study}"
            assert record["geometry"]["unit"] == "mm"
            picture = requests.get(f"{api}/thumbnail", params=asked, timeout=60)
            with Picture.open(io.BytesIO(picture.content)) as drawn:
                assert (drawn.width > 2 * drawn.height) == (series is volume)
        page = requests.get(f"{server.url}/coldstart/{record['ohif_url']}", timeout=60)
        assert page.status_code == 200 and re.search("<title>.*OHIF", page.text, re.IGNORECASE)
        unknown = requests.get(f"{api}/thumbnail", params={"id": volume.study}, timeout=60)
        assert unknown.status_code == 404 and "has no image" in unknown.json()["detail"]
