"""3D Slicer's own libraries as the annotator: the plugin's code loads, paints, saves and submits with Slicer's MRML,
segmentation and file classes, and what the server then has is voxel for voxel what was painted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import SimpleITK as sitk  # noqa: N813
from slicer_annotator import annotate

from coldstart.adapters.server import Server
from coldstart.images import describe_mismatch, read_image, read_label

CONF = {
    "preset": "volume_ct",
    "labels": "lesion:7,organ:3",
    "encoder": "descriptor",
    "spatial_size": "32,32,32",
    "epochs": "1",
    "budget": "4",
    "device": "cpu",
    "prelabel": "2",
    "retrain_at_budget": "false",
    "publish_margin": "1",
}
Seen = list[dict[str, Any]]


@pytest.fixture(scope="module")
def studies(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six volumes: as generated (one of sagittal slices), with axes turned round, and oblique in NIfTI; and labels."""
    folder = tmp_path_factory.mktemp("volumes")
    (folder / "studies").mkdir()
    (folder / "truth").mkdir()
    source = repository / "sample-data" / "volumes"
    angle = math.radians(20)
    oblique = (math.cos(angle), -math.sin(angle), 0, math.sin(angle), math.cos(angle), 0, 0, 0, 1)
    for number, (name, direction, suffix) in enumerate(
        [
            ("volume_001", None, ".nrrd"),
            ("volume_004", None, ".nrrd"),
            ("volume_005", (-1, 0, 0, 0, 1, 0, 0, 0, -1), ".nrrd"),
            ("volume_006", (0, 0, 1, 1, 0, 0, 0, -1, 0), ".nii.gz"),
            ("volume_007", oblique, ".nii.gz"),
            ("volume_008", oblique, ".nrrd"),
        ]
    ):
        for image, target in ((source / f"{name}.nrrd", "studies"), (source / "groundtruth" / f"{name}.nrrd", "truth")):
            picture = sitk.ReadImage(str(image))
            if direction is not None:
                picture.SetDirection([float(value) for value in direction])
                picture.SetSpacing((0.7 + number, 1.3, 2.9))
                picture.SetOrigin((11.5, -40.25, 7.0))
            sitk.WriteImage(picture, str(folder / target / f"{name}{suffix}"))
    return folder / "studies"


@pytest.fixture(scope="module")
def server(slicer_python: str, studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(studies, CONF, tmp_path_factory.mktemp("log") / "server.log") as running:
        wait(running, lambda state: state["planned"] is not None)
        yield running


def wait(server: Server, reached: Callable[[dict[str, Any]], bool], limit_s: float = 120) -> dict[str, Any]:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        state = requests.get(f"{server.url}/info/", timeout=30).json()["coldstart"]
        if reached(state):
            return state
        time.sleep(0.3)
    raise AssertionError(f"not reached within {limit_s} s: {state}; {server.log.read_text()[-2000:]}")


def label_of(studies: Path, image_id: str, tag: str) -> Path:
    (path,) = (studies / "labels" / tag).glob(f"{image_id}.*")
    return path


def image_of(studies: Path, image_id: str) -> Path:
    (path,) = studies.glob(f"{image_id}.*")
    return path


@pytest.fixture(scope="module")
def painted(slicer_python: str, server: Server, studies: Path) -> Seen:
    """Four labels, one of each form that Slicer saves: from a server on the same machine, and from another one."""
    truth = str(studies.parent / "truth")
    return annotate(
        slicer_python,
        server.url,
        studies.parent / "painted",
        [
            {"extension": ".nii.gz", "remote": False, "paint": truth},
            {"extension": ".nrrd", "remote": True, "paint": truth},
            {"extension": ".seg.nrrd", "remote": True, "paint": truth},
            {"extension": ".nii.gz", "remote": True, "paint": truth},
        ],
    )


def test_a_label_from_slicer_is_voxel_for_voxel_what_was_painted(painted: Seen, studies: Path, server: Server) -> None:
    assert len({step["id"] for step in painted}) == 4
    for step in painted:
        assert step["said"] == [["infoDisplay", "Label-Mask saved into MONAI Label Server"]]
        assert step["voxels"] == {"organ": 0, "lesion": 0}, "segments of the server's names, empty at first"
        saved = read_label(label_of(studies, step["id"], "final"))
        image = read_image(image_of(studies, step["id"]))
        truth = read_label(next((studies.parent / "truth").glob(f"{step['id']}.*")))
        assert describe_mismatch(image.geometry, saved.geometry) is None
        assert np.array_equal(saved.values, truth.values) and set(np.unique(truth.values)) == {0, 1, 2}
    state = wait(server, lambda state: state["labelled"] == 4)
    assert state["label_problems"] == []


def test_a_pre_label_is_the_segmentation_that_slicer_starts_from(
    painted: Seen, slicer_python: str, studies: Path, server: Server
) -> None:
    started = requests.post(f"{server.url}/train/attention_unet", json={}, timeout=60)
    assert started.ok, started.text
    wait(server, lambda state: state["tasks"].get("prelabel") == "DONE")
    left = {path.name.split(".")[0] for path in studies.glob("volume_*")} - {step["id"] for step in painted}
    deadline = time.monotonic() + 30
    while True:  # the server sees within seconds what its child process saved
        datastore = requests.get(f"{server.url}/datastore/?output=all", timeout=30).json()["objects"]
        if {image_id for image_id, entry in datastore.items() if "original" in entry["labels"]} == left:
            break
        assert time.monotonic() < deadline, datastore
        time.sleep(0.3)
    seen = annotate(
        slicer_python,
        server.url,
        studies.parent / "prelabelled",
        [
            {"extension": ".nii.gz", "remote": True, "paint": None},
            {"extension": ".seg.nrrd", "remote": False, "paint": None},
        ],
    )
    assert {step["id"] for step in seen} == left
    for step in seen:
        ours = read_label(label_of(studies, step["id"], "original"))
        assert ours.values.max() > 0, "a model trained for one epoch has drawn something"
        assert step["voxels"] == {"organ": int((ours.values == 1).sum()), "lesion": int((ours.values == 2).sum())}
        for path in (Path(step["came"]), label_of(studies, step["id"], "final")):
            label = read_label(path)
            assert describe_mismatch(ours.geometry, label.geometry) is None
            assert np.array_equal(label.values, ours.values)
    assert wait(server, lambda state: state["labelled"] == 6)["label_problems"] == []
