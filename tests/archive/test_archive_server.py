"""Whole campaigns through the real server on a real archive."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import SimpleITK as sitk  # noqa: N813
from archive_case import RADIOGRAPHS, VOLUMES, Relay, Site, label_of_ball

from coldstart.adapters.archive_client import INFO_FIELDS
from coldstart.adapters.server import Server
from dicom_series import Series, radiograph, volume_series
from orthanc import Orthanc

WAIT_LIMIT_S = 120.0
COMMON = {
    "labels": "ball:1",
    "epochs": "2",
    "budget": "2",
    "prelabel": "0",
    "modalities": "CT,DX",
    "retrain_at_budget": "false",
    "publish_margin": "1",
}
OFFLINE_CHILD = Path(__file__).with_name("offline_start.py")


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Start the server on an archive, its cache and its database in folders of the test's."""
    monkeypatch.setenv("MONAI_LABEL_DICOMWEB_CACHE_PATH", str(tmp_path / "cache"))
    running: list[Server] = []

    def start_server(orthanc: Orthanc | Relay, **conf: str) -> Server:
        conf = {**COMMON, "state_dir": str(tmp_path / "state"), **conf}
        server = Server(orthanc.url, conf, tmp_path / f"server{len(running)}.log")
        running.append(server.__enter__())
        return server

    yield start_server
    for server in running:
        server.stop()


def campaign(server: Server) -> dict[str, Any]:
    answer: dict[str, Any] = requests.get(f"{server.url}/info/", timeout=30).json()["coldstart"]
    return answer


def wait_for(server: Server, what: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT_LIMIT_S
    while not what(found := campaign(server)):
        assert time.monotonic() < deadline, f"{found}\n{server.log.read_text()[-3000:]}"
        time.sleep(0.2)
    return found


def click(server: Server) -> dict[str, Any]:
    """As OHIF does: always for `random`, without a client id."""
    response = requests.post(f"{server.url}/activelearning/random", json={}, timeout=30)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def label(server: Server, image_id: str, folder: Path, level: float) -> dict[str, Any]:
    """As an annotator does with curl: download, threshold, upload a file named after the series; the answer."""
    image = requests.get(f"{server.url}/datastore/image", params={"image": image_id}, timeout=60)
    image.raise_for_status()
    (folder / "image.nii.gz").write_bytes(image.content)
    picture = sitk.ReadImage(str(folder / "image.nii.gz"))
    sitk.WriteImage(sitk.Cast(picture > level, sitk.sitkUInt8), str(folder / f"{image_id}.nrrd"))
    with (folder / f"{image_id}.nrrd").open("rb") as file:
        answer = requests.put(
            f"{server.url}/datastore/label", params={"image": image_id}, files={"label": file}, timeout=60
        )
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def save_and_train(
    server: Server, orthanc: Orthanc, series: dict[str, Series], folder: Path, level: float, before: frozenset[str]
) -> None:
    """Label the plan, train, have the rest scored, and get an active pick; `before` are those labelled already."""
    wait_for(server, lambda found: found["planned"] == 2)
    seen = set(before)
    while len(seen) < 2:
        answer = click(server)
        image_id = answer["id"]
        assert image_id not in seen
        for name in INFO_FIELDS:
            assert answer[name] not in ("", "UNK"), name
        assert answer["StudyInstanceUID"] == series[image_id].study and answer["SeriesInstanceUID"] == image_id
        assert answer["coldstart"]["phase"] == "cold_start"
        assert "coldstart" not in label(server, image_id, folder, level)  # no warning
        seen.add(image_id)
    referred = {one.ReferencedSeriesSequence[0].SeriesInstanceUID for one in orthanc.segmentations()}
    assert referred == seen
    status = requests.get(f"{server.url}/datastore/", timeout=30).json()
    assert (status["total"], status["completed"]) == (len(series), 2)
    assert requests.post(f"{server.url}/train/attention_unet", json={}, timeout=30).ok
    wait_for(server, lambda found: found["scored_model_version"])
    answer = click(server)
    assert answer["coldstart"]["phase"] == "active" and answer["id"] not in seen
    result = requests.post(
        f"{server.url}/infer/attention_unet",
        params={"image": answer["id"], "output": "dicom_seg"},
        data={"params": json.dumps({"label_info": []})},
        timeout=60,
    )
    assert result.ok and result.content[128:132] == b"DICM", result.text[:300]


def test_campaign_on_ct_volumes(orthanc: Orthanc, start: Callable[..., Server], tmp_path: Path) -> None:
    made = [volume_series("CT", seed=seed, shape=(10, 40, 40), descending=bool(seed % 2)) for seed in range(5)]
    for one in made:
        orthanc.store(one.instances)
    server = start(orthanc, **{**VOLUMES, **COMMON})
    save_and_train(server, orthanc, {one.series: one for one in made}, tmp_path, 120, frozenset())


def test_campaign_on_radiographs_one_of_which_was_labelled_elsewhere(
    site: Site, start: Callable[..., Server], tmp_path: Path
) -> None:
    """The server begins with an empty cache: what is labelled it knows from the archive alone, and trains on it."""
    made = [radiograph("DX", seed=seed, shape=(48, 40)) for seed in range(6)]
    for one in made:
        site.orthanc.store(one.instances)
    elsewhere = site.open("elsewhere", **{**RADIOGRAPHS, **COMMON})
    label_of_ball(elsewhere, made[0], tmp_path / "label.nii.gz")
    said = {"label_info": [{"name": "ball", "idx": 7}]}
    elsewhere.save_label(made[0].series, str(tmp_path / "label.nii.gz"), "final", said)
    server = start(site.orthanc, **{**RADIOGRAPHS, **COMMON})
    assert campaign(server)["labelled"] == 1
    labelled = frozenset({made[0].series})
    save_and_train(server, site.orthanc, {one.series: one for one in made}, tmp_path, 1140, labelled)
    assert campaign(server)["label_problems"] == []


def test_archive_that_goes_away_and_comes_back_with_more(
    own_orthanc: Orthanc, start: Callable[..., Server], tmp_path: Path
) -> None:
    made = [radiograph("DX", seed=seed, shape=(48, 40)) for seed in range(3)]
    for one in made[:2]:
        own_orthanc.store(one.instances)
    server = start(own_orthanc, **{**RADIOGRAPHS, **COMMON})
    wait_for(server, lambda found: found["planned"])
    own_orthanc.stop()
    image_id = click(server)["id"]
    assert "not in the archive yet" in label(server, image_id, tmp_path, level=1140)["coldstart"]["warning"]
    found = wait_for(server, lambda found: "cannot be reached" in str(found["watch_errors"]))
    assert found["labelled"] == 1 and click(server)["id"] != image_id
    own_orthanc.start()
    own_orthanc.store(made[2].instances)
    sent_at = time.monotonic()
    wait_for(server, lambda found: not found["watch_errors"] and found["images"] == 3)
    assert time.monotonic() - sent_at < 60
    while not own_orthanc.segmentations():
        assert time.monotonic() - sent_at < WAIT_LIMIT_S, server.log.read_text()[-3000:]
        time.sleep(0.5)
    assert campaign(server)["labelled"] == 1 and len(own_orthanc.segmentations()) == 1


def test_info_is_answered_at_once_for_a_thousand_series(orthanc: Orthanc, start: Callable[..., Server]) -> None:
    for seed in range(1000):
        orthanc.store(radiograph("DX", seed=seed, shape=(24, 24)).instances)
    server = start(orthanc, **{**RADIOGRAPHS, **COMMON, "modalities": "DX"})
    assert campaign(server)["images"] == 1000
    elapsed_s = []
    with requests.Session() as session:
        for _ in range(15):
            began = time.monotonic()
            session.get(f"{server.url}/info/", timeout=30).raise_for_status()
            elapsed_s.append(time.monotonic() - began)
            time.sleep(0.2)
    assert np.median(elapsed_s) < 0.1, elapsed_s


def test_server_starts_where_no_network_can_be_reached(tmp_path: Path) -> None:
    """In a network namespace of its own, which has a loopback interface and nothing else, and without dcmqi at hand."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let us make a network namespace, in which the internet is out of reach")
    command = ["unshare", "-rn", sys.executable, str(OFFLINE_CHILD), str(tmp_path)]
    own = [str(OFFLINE_CHILD.parent), str(OFFLINE_CHILD.parents[1]), os.environ.get("PYTHONPATH", "")]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=WAIT_LIMIT_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(own)},
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert json.loads(ended.stdout.splitlines()[-1]) == {"internet": False, "total": 1, "planned": 1}


def test_archive_that_keeps_silent_holds_up_nobody_but_who_needs_it(
    orthanc: Orthanc, start: Callable[..., Server], tmp_path: Path
) -> None:
    made = [radiograph("DX", seed=seed, shape=(48, 40)) for seed in range(3)]
    for one in made:
        orthanc.store(one.instances)
    with Relay(orthanc) as between:
        server = start(between, **{**RADIOGRAPHS, **COMMON})
        wait_for(server, lambda found: found["planned"] == 2)
        image_id = click(server)["id"]
        between.silent.set()
        began = time.monotonic()
        answer = label(server, image_id, tmp_path, 1140)
        saved_s = time.monotonic() - began
        assert "not in the archive yet" in answer["coldstart"]["warning"]
        assert click(server)["id"] != image_id and campaign(server)["labelled"] == 1
        assert saved_s < 15 and time.monotonic() - began < 25  # the archive has 30 s to answer
        with ThreadPoolExecutor() as pool:
            shutil.rmtree(next(tmp_path.glob("cache/*")) / made[0].series)
            waiting = pool.submit(requests.get, f"{server.url}/datastore/image", {"image": made[0].series}, timeout=60)
            passed_on = pool.submit(requests.get, f"{server.url}/proxy/dicom/studies", timeout=90)
            time.sleep(0.5)
            began = time.monotonic()
            campaign(server)
            assert time.monotonic() - began < 5
            assert not waiting.done() and not passed_on.done()
            between.silent.clear()
            assert waiting.result().ok and passed_on.result().ok
        wait_for(server, lambda found: len(orthanc.segmentations()) == 1)
