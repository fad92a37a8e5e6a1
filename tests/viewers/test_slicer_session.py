"""A session in 3D Slicer, click by click: the plugin's own file, with its own client, against a real server.

Only Qt and Slicer's scene are stood in for (see `slicer_window`), so what is asked of the server, in which order, what
is read from its answers and what comes up in a message box is the plugin's doing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import SimpleITK as sitk  # noqa: N813
from slicer_annotator import PLUGIN, annotate
from slicer_scene import Volume, without_slicer
from slicer_window import Window

from coldstart.adapters.server import Server
from coldstart.images import read_image, read_label, write_label

MODEL = "attention_unet"
SAVED = ("infoDisplay", "Label-Mask saved into MONAI Label Server")
N_PRELABELS = 2
CONF = {
    "preset": "chest_xray",
    "labels": "disk:1,square:2",
    "encoder": "descriptor",
    "spatial_size": "32,32",
    "epochs": "2",
    "budget": "2",
    "device": "cpu",
    "prelabel": str(N_PRELABELS),
    "retrain_at_budget": "false",
    "publish_margin": "1",
}


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slicer")
    for name in ("studies", "truth"):
        (folder / name).mkdir()
    for index in range(12):
        write_case(folder, f"case_{index:02d}.nrrd", index)
    return folder / "studies"


def write_case(folder: Path, name: str, seed: int) -> None:
    """An image with a bright disk and a dark square, and its label."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:48, :40]
    disk = np.hypot(rows - rng.uniform(12, 20), columns - rng.uniform(12, 28)) < rng.uniform(5, 8)
    square = (abs(rows - 36) < rng.uniform(3, 6)) & (abs(columns - rng.uniform(12, 28)) < 5)
    pixels = 90 + 60 * disk - 50 * square + rng.normal(0, 4, disk.shape)
    sitk.WriteImage(sitk.GetImageFromArray(pixels.astype(np.int16)), str(folder / "studies" / name))
    geometry = read_image(folder / "studies" / name).geometry
    write_label(np.where(disk, 1, np.where(square, 2, 0)), geometry, folder / "truth" / name)


@pytest.fixture(scope="module")
def server(studies: Path) -> Iterator[Server]:
    with Server(studies, CONF, studies.parent / "server.log") as running:
        until(lambda: state(running)["planned"] is not None, running)
        yield running


@pytest.fixture
def open_slicer(server: Server, studies: Path, tmp_path: Path) -> Callable[..., Window]:
    """Open Slicer with the module, connected; the annotator draws the truth."""

    def draw(image: str, names: list[str]) -> Path:
        assert names == ["disk", "square"], "the segments that the server named, in the order of its values"
        return studies.parent / "truth" / f"{Path(image).name.split('.')[0]}.nrrd"

    def start(name: str = "one", **settings: Any) -> Window:
        slicer, others = without_slicer(draw)
        window = Window(PLUGIN, slicer, others, server.url, tmp_path / name, fileExtension=".nrrd", **settings)
        window.widget.onClickFetchInfo()
        assert window.said() == []
        return window

    return start


def state(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{server.url}/info/", timeout=30).json()["coldstart"]
    return found


def until(reached: Callable[[], object], server: Server, limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < deadline, f"{state(server)}; {server.log.read_text()[-2000:]}"
        time.sleep(0.3)


def originals(server: Server) -> dict[str, Any]:
    entries = requests.get(f"{server.url}/datastore/?output=all", timeout=30).json()["objects"]
    return {key: entry["labels"]["original"] for key, entry in entries.items() if "original" in entry["labels"]}


def test_a_session_from_the_first_click_to_the_image_after_the_training(
    open_slicer: Callable[..., Window], server: Server, studies: Path
) -> None:
    window = open_slicer(clientId="ann")
    widget, ui = window.widget, window.ui
    assert ui.strategyBox.currentText == "coldstart_al" and ui.trainerBox.currentText == MODEL
    assert ui.appComboBox.currentText == "coldstart_al"
    assert ui.nextSampleButton.enabled and not ui.trainingButton.enabled, "nothing is labelled yet"
    assert not ui.stopTrainingButton.enabled, "GET /train/ is 404 before the first training"
    assert ui.labelComboBox.count == 2 and not widget.models

    # Two images, as the cold-start plan says.
    for number in (1, 2):
        widget.onNextSampleButton()
        assert window.said() == [] and widget.current_sample["coldstart"]["rank"] == number
        image = studies / f"{widget.current_sample['id']}.nrrd"
        assert Path(widget._volumeNode.path).samefile(image), "read where the server has it"
        assert widget._segmentNode.names == ["disk", "square"] and widget._segmentNode.imported is None
        widget.onSaveLabel()
        assert window.said() == [SAVED]
    assert ui.activeLearningProgressBar.value == pytest.approx(100 * 2 / 12) and ui.trainingButton.enabled
    assert state(server)["labelled"] == 2 and state(server)["label_problems"] == []

    # A training, watched until its end, as Slicer's timer does every 5 s.
    rows = window.choose_options("train", MODEL)
    assert rows == {"max_epochs": "2", "train_batch_size": "2", "device": ["cpu"], "multi_gpu": False, "gpus": "all"}
    ui.configTable.type("max_epochs", "30")
    widget.onTraining()
    assert window.said() == [] and ui.stopTrainingButton.enabled and not ui.trainingButton.enabled
    while widget.timer is not None:
        widget.monitorTraining()
        time.sleep(0.1)
    assert ui.trainingProgressBar.tooltip == "Training: DONE" and ui.trainingProgressBar.value == 100
    assert any(1 < value < 100 for value in ui.trainingProgressBar.values), "the bar moves"
    assert state(server)["tasks"]["train"] == "DONE"
    trained = requests.get(f"{server.url}/info/", timeout=30).json()["train_stats"][MODEL]
    assert trained["total_epochs"] == 30, "the table's text became the number of epochs"

    # The two images next in line come with the model's segmentation.
    until(lambda: len(originals(server)) == N_PRELABELS, server)
    ahead = originals(server)
    widget.fetchInfo()
    assert ui.segmentationModelSelector.currentText == MODEL
    widget.onNextSampleButton()
    sample = widget.current_sample
    assert window.said() == [] and sample["coldstart"]["phase"] == "active" and sample["id"] in ahead
    file, names = widget._segmentNode.imported
    assert names == ["disk", "square"]
    path = studies / "labels" / "original" / f"{sample['id']}.nrrd"
    assert Path(file).read_bytes() == path.read_bytes()
    assert ahead[sample["id"]]["info"]["prelabel"]["model_version"] == sample["coldstart"]["model_version"]

    # Auto-segmentation of the same image by the same model draws the same.
    widget.onClickSegmentation()
    file, names = widget._segmentNode.imported
    assert window.said() == [] and names == ["disk", "square"] and file.endswith(".nrrd")
    assert np.array_equal(read_label(file).values, read_label(path).values)

    # Submitting counts; the pre-label stays beside it, and the next image in line is the other one.
    widget.onSaveLabel()
    assert window.said() == [SAVED] and path.is_file() and state(server)["labelled"] == 3
    widget.onNextSampleButton()
    assert widget.current_sample["id"] in ahead.keys() - {sample["id"]}


@pytest.mark.parametrize("typed", ["0,3", "abc", "", "2"])
def test_a_typo_in_the_alpha_cell_gets_a_sentence(open_slicer: Callable[..., Window], typed: str) -> None:
    window = open_slicer()
    assert window.choose_options("activelearning", "coldstart_al") == {"alpha": "0.3"}
    window.ui.configTable.type("alpha", typed)
    window.widget.onNextSampleButton()
    ((kind, text),) = window.said()
    assert kind == "errorDisplay" and "Failed to fetch Sample" in text and "Status: 400" in text
    assert f"`alpha` has a bad value '{typed}'" in text and "weight of distance against entropy" in text
    assert "Traceback" not in text

    window.ui.configTable.type("alpha", "0.5")
    window.widget.onNextSampleButton()
    assert window.said() == [] and window.widget.current_sample["id"]


def test_a_typo_in_the_table_of_a_training_gets_a_sentence(open_slicer: Callable[..., Window]) -> None:
    window = open_slicer()
    window.choose_options("train", MODEL)
    window.ui.configTable.type("max_epochs", "many")
    window.widget.onTraining()
    ((kind, text),) = window.said()
    assert kind == "errorDisplay" and "Failed to run training" in text and "'many'" in text


def test_slicer_on_another_machine_downloads_the_image(
    open_slicer: Callable[..., Window], studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: not str(path).startswith(str(studies)) and exists(path))
    window = open_slicer()
    window.widget.onNextSampleButton()
    assert window.said() == []
    (downloaded,) = window.cache.iterdir()
    assert Path(window.widget._volumeNode.path) == downloaded
    assert downloaded.read_bytes() == (studies / f"{window.widget.current_sample['id']}.nrrd").read_bytes()


def test_slicers_libraries_load_one_picture_and_not_its_neighbours(
    slicer_python: str, server: Server, studies: Path, tmp_path: Path
) -> None:
    """Slicer takes files that differ by a number for one volume: `case_00.nrrd` to `case_11.nrrd` look like one."""
    steps = [
        {"extension": extension, "remote": remote, "paint": str(studies.parent / "truth")}
        for extension, remote in ((".nii.gz", True), (".nrrd", True), (".nii.gz", False))
    ]
    seen = annotate(slicer_python, server.url, tmp_path / "libraries", steps)
    assert [step["dimensions"] for step in seen] == [[40, 48, 1]] * 3
    for step in seen:
        assert step["said"] == [list(SAVED)]
        (saved,) = (studies / "labels" / "final").glob(f"{step['id']}.*")
        truth = read_label(studies.parent / "truth" / f"{step['id']}.nrrd")
        assert np.array_equal(read_label(saved).values.squeeze(), truth.values)
    assert state(server)["label_problems"] == []


def test_a_training_can_be_stopped(open_slicer: Callable[..., Window], server: Server) -> None:
    window = open_slicer()
    window.widget.onNextSampleButton()
    window.widget.onSaveLabel()
    window.choose_options("train", MODEL)
    window.ui.configTable.type("max_epochs", "100000")
    window.said()
    window.widget.onTraining()
    assert window.ui.stopTrainingButton.enabled
    window.widget.onStopTraining()
    assert window.said() == [] and not window.ui.stopTrainingButton.enabled and window.ui.trainingButton.enabled


def test_a_training_can_be_stopped_before_it_has_said_anything(
    open_slicer: Callable[..., Window], server: Server
) -> None:
    window = open_slicer()
    logic = window.widget.logic
    logic.train_start(MODEL, {"max_epochs": "100000"})
    until(lambda: logic.train_status(True), server)
    assert not logic.train_status(False).get("details"), "a child process imports for seconds first"
    window.widget.onStopTraining()
    assert window.said() == [] and not window.ui.stopTrainingButton.enabled and window.ui.trainingButton.enabled
    assert logic.train_status(False)["details"] == ["Stopped before it said anything."]


def test_an_image_of_ones_own_can_be_uploaded_and_labelled(
    open_slicer: Callable[..., Window], server: Server, studies: Path
) -> None:
    window = open_slicer()
    own = studies.parent / "own.nrrd"
    own.write_bytes((studies / "case_00.nrrd").read_bytes())
    (studies.parent / "truth" / "own.nrrd").write_bytes((studies.parent / "truth" / "case_00.nrrd").read_bytes())
    volume = Volume(str(own))
    volume.file = own  # what saving it writes
    window.slicer.mrmlScene.AddNode(volume)
    assert window.widget.current_sample["id"] == "own" and window.ui.uploadImageButton.enabled
    window.widget.onUploadImage()
    assert window.said() == [] and (studies / "own.nrrd").is_file()
    window.widget.onSaveLabel()
    assert window.said() == [SAVED] and (studies / "labels" / "final" / "own.nrrd").is_file()


def test_an_address_that_nobody_answers_is_said(open_slicer: Callable[..., Window]) -> None:
    window = open_slicer()
    window.ui.serverComboBox.setCurrentText("http://127.0.0.1:9")
    window.widget.onClickFetchInfo()
    ((kind, text),) = window.said()
    assert kind == "errorDisplay" and "Make sure server address is correct" in text
