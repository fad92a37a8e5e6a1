"""The stats that 3D Slicer and OHIF draw their bars from, and that a training on several processes keeps."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from coldstart.adapters.errors import AppError
from coldstart.adapters.training import AttentionUnetTraining
from coldstart.adapters.training_stats import RunningStats
from coldstart.campaign import Campaign, LabelFile
from coldstart.segmentation import EpochReport
from coldstart.settings import Settings

BEFORE = {"best_metric": 0.8, "heldout": {"n_images": 3}, "model_version": "m1", "total_time": "0:01:00", "epoch": 9}


class Told:
    """Stats of a training of 20 epochs, as a viewer reads them."""

    def __init__(self, path: Path, before: dict[str, Any]):
        self._path = path
        self.running = RunningStats(path, before, 20)

    def read(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._path.read_text())
        return found

    def epoch(self, epoch: int, dice: float | None) -> dict[str, Any]:
        self.running.on_epoch(EpochReport(epoch, 20, 0.5 / epoch, 3.0 * epoch, 61.0, dice))
        return self.read()


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path / "running.json", BEFORE)


def test_bars_move_with_epoch_and_validation(told: Told) -> None:
    found = told.epoch(1, None)
    assert (found["epoch"], found["total_epochs"], found["best_metric"]) == (1, 20, 0.8)
    assert found["train"] == {"loss": 0.5, "remaining": "0:01:01"} and "eval" not in found
    assert "total_time" not in found, "else the viewers take it for one that has ended"
    assert told.epoch(2, 0.3)["best_metric"] == 0.3
    assert told.epoch(4, 0.6)["best_metric"] == 0.6
    found = told.epoch(6, 0.5)
    assert found["best_metric"] == 0.6 and found["train"]["validation_dice"] == 0.5
    assert found["eval"] == {
        "best_metric": 0.6,
        "best_metric_epoch": 4,
        "key_metric_name": "val_mean_dice",
        "metrics": {"val_mean_dice": 0.5},
    }
    assert (found["model_version"], found["heldout"]) == ("m1", {"n_images": 3}), "that one is in use"
    assert told.epoch(7, None)["eval"] == found["eval"], "until the next is judged"


def test_log_tells_the_same(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    told.epoch(1, None)
    told.epoch(2, 0.25)
    assert [record.message for record in caplog.records] == [
        "Epoch 1 of 20, loss 0.5000, 0:01:01 left",
        "Epoch 2 of 20, loss 0.2500, validation Dice 0.2500, 0:01:01 left",
    ]


def test_wait_is_told_until_it_is_over(told: Told) -> None:
    told.running.on_wait("It waits.")
    found = told.read()
    assert found["waits"] == "It waits." and (found["epoch"], found["total_epochs"]) == (0, 20)
    assert "total_time" not in found and found["best_metric"] == 0.8
    told.running.on_wait(None)
    assert "waits" not in told.read()


def test_end_tells_of_the_model_in_use(told: Told) -> None:
    told.epoch(20, 0.9)
    refused = told.running.end({"trained_version": "m2"})
    assert (refused["best_metric"], refused["model_version"], refused["trained_version"]) == (0.8, "m1", "m2")
    assert refused["heldout"] == {"n_images": 3} and "total_time" in refused and "current_time" not in refused
    used = told.running.end({"trained_version": "m2", "model_version": "m2", "best_metric": 0.85, "heldout": {}})
    assert (used["best_metric"], used["model_version"], used["eval"]["best_metric"]) == (0.85, "m2", 0.9)
    unjudged = told.running.end({"trained_version": "m2", "model_version": "m2"})
    assert unjudged["best_metric"] == 0 and "heldout" not in unjudged, "those were of the model before"


@pytest.fixture
def campaign(tmp_path: Path) -> Iterator[Campaign]:
    """Three labelled images to learn from, and two held out."""
    (tmp_path / "heldout.txt").write_text("d\ne\n")
    settings = Settings(
        labels={"disc": 1}, spatial_dims=2, spatial_size=(32, 32), encoder="descriptor", epochs=2, device="cpu"
    )
    campaign = Campaign(settings.override({"heldout": str(tmp_path / "heldout.txt")}), tmp_path / "state")
    names = "abcde"
    rng = np.random.default_rng(0)
    for name in names:
        mask = (np.hypot(*(np.mgrid[:32, :32] - rng.uniform(12, 20))) < 8).astype(np.uint8)
        Picture.fromarray((90 * mask + 60).astype(np.uint8)).save(tmp_path / f"{name}.png")
        Picture.fromarray(mask).save(tmp_path / f"{name} label.png")
    labels = {name: LabelFile(tmp_path / f"{name} label.png") for name in names}
    campaign.sync({name: tmp_path / f"{name}.png" for name in names}, labels)
    yield campaign
    campaign.store.close()


def test_two_processes_of_monai_labels_own_option_train_publish_and_keep_stats(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MONAI Label spawns a process for each GPU that `gpus` names; here they train on the CPU, joined by gloo."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    trainer = AttentionUnetTraining(campaign)
    stats = trainer({"model": "attention_unet", "multi_gpu": True, "gpus": "0,1"}, None)
    record = campaign.publisher.versions.read(stats["model_version"])
    assert record["n_processes"] == 2 and record["training_images"] == ["a", "b", "c"]
    assert sorted(record["validation"]["images"]) == ["d", "e"] and list(record["validation"]["dice"]) == ["1", "2"]
    assert stats["epoch"] == stats["total_epochs"] == 2 and stats["heldout"]["n_images"] == 2
    assert campaign.publisher.in_use() == stats["model_version"]


ONE_OF_TWO = """
import sys
from pathlib import Path
from torch import distributed
from coldstart.campaign import Campaign
from coldstart.settings import Settings
rank, settings, folder, meet = int(sys.argv[1]), Settings.model_validate_json(sys.argv[2]), *sys.argv[3:]
distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
model, _ = Campaign(settings, Path(folder)).trainings.train(settings, lambda _: None, rank=rank, world_size=2)
distributed.destroy_process_group()
print(model.metadata["training_images"])
"""


def test_all_processes_learn_from_what_the_first_one_found(campaign: Campaign, tmp_path: Path) -> None:
    """The second one's database knows a label less: one was saved between two looks."""
    less = tmp_path / "less"
    earlier = Campaign(campaign.settings, less)
    images = {name: tmp_path / f"{name}.png" for name in "abcde"}
    earlier.sync(images, {name: LabelFile(tmp_path / f"{name} label.png") for name in "abde"})
    assert [sample.image_id for sample in earlier.trainings.require_images().training] == ["a", "b"]
    earlier.store.close()
    settings = campaign.settings.model_dump_json()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO, str(rank), settings, str(folder), str(tmp_path / "meet")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, folder in enumerate((campaign.folder, less))
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert said == ["['a', 'b', 'c']\n"] * 2


@pytest.mark.parametrize(("gpus", "expected"), [("2,3", 3), ("3, 0", 0), ("all", 1)])
def test_each_process_takes_the_gpu_that_the_request_names_for_it(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch, gpus: str, expected: int
) -> None:
    """There are none here: what is looked at is which one the second of two processes asks torch for."""
    taken: list[int] = []

    def take(gpu: int) -> None:
        taken.append(gpu)
        raise InterruptedError

    monkeypatch.setenv("LOCAL_RANK", "0")  # put back after the test
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", take)
    with pytest.raises(InterruptedError):
        AttentionUnetTraining(campaign).train(1, 2, {"multi_gpu": True, "gpus": gpus}, [])
    assert taken == [expected]


def test_gpus_that_are_no_numbers_are_refused(campaign: Campaign) -> None:
    with pytest.raises(AppError, match=r"`gpus` must be all, or numbers of GPUs such as 0,1; got 'first,second'\."):
        AttentionUnetTraining(campaign)({"multi_gpu": True, "gpus": "first,second"}, None)
