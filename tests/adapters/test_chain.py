"""A training that somebody asks for on the page, beside those that MONAI Label has queued: never two for the same."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from monailabel.utils.async_tasks import task as async_task
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import background_processes, background_tasks
from PIL import Image as Picture

from coldstart.adapters import chain as chain_module
from coldstart.adapters import tasks as tasks_module
from coldstart.adapters.chain import QUEUED_AT, TIMES, TRAINING_LOCK, TRIGGER, Chain
from coldstart.adapters.errors import AppError
from coldstart.adapters.tasks import KINDS, Tasks
from coldstart.adapters.training import AttentionUnetTraining
from coldstart.campaign import Campaign, LabelFile
from coldstart.campaign.triggers import ask, asked_request
from coldstart.exceptions import ModelError
from coldstart.segmentation import Model
from coldstart.settings import Settings

SETTINGS = Settings(labels={"disc": 1}, spatial_dims=2, spatial_size=(32, 32), encoder="descriptor", budget=3, epochs=3)


Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def campaign(tmp_path: Path) -> Iterator[Campaign]:
    campaign = Campaign(SETTINGS.override({"retrain_at_budget": False}), tmp_path / "state")
    for name in ("a", "b", "c", "d"):
        Picture.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / f"{name}.png")
    campaign.sync({name: tmp_path / f"{name}.png" for name in ("a", "b", "c", "d")}, {})
    yield campaign
    campaign.store.close()


@pytest.fixture
def chain(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> Chain:
    monkeypatch.setattr(AsyncTask, "run", AsyncTask.run)  # which the chain takes the place of
    monkeypatch.setitem(background_tasks, "train", [])
    trainer = AttentionUnetTraining(campaign)
    return Chain(campaign, "attention_unet", lambda request: "max_epochs" not in request, trainer.is_running)


@pytest.fixture
def looking(campaign: Campaign, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> Tasks:
    monkeypatch.setattr(async_task, "stop_background_task", async_task.stop_background_task)  # as with `run`
    for kind in KINDS:
        monkeypatch.setitem(background_processes, kind, {})
    return Tasks(campaign, chain)


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    begun: list[subprocess.Popen[str]] = []

    def begin(*command: str) -> subprocess.Popen[str]:
        begun.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def label(campaign: Campaign, image_id: str) -> None:
    path = Path(campaign.folder).parent / f"label {image_id}.png"
    Picture.fromarray(np.eye(16, dtype=np.uint8)).save(path)
    assert campaign.save_label(image_id, LabelFile(path, "ann")) is None


def queue(status: str, **request: Any) -> dict[str, Any]:
    """A training as MONAI Label knows it."""
    task = {
        "id": "1",
        "status": status,
        "request": {QUEUED_AT: time.time(), **request},
        "start_ts": datetime.now().strftime(TIMES),
    }
    background_tasks["train"].append(task)
    return task


def test_without_a_label_there_is_nothing_to_train_on(chain: Chain) -> None:
    with pytest.raises(ModelError, match="at least 1 labelled image"):
        chain.ask("ann")
    assert not chain.is_on_its_way()


def test_second_click_joins_the_first(campaign: Campaign, chain: Chain) -> None:
    label(campaign, "a")
    assert [chain.ask("ann"), chain.ask("ann"), chain.ask("bob")] == [True, False, False]
    due = campaign.trainings.due()
    assert due is not None and due.trigger == "asked"


@pytest.mark.parametrize("request_", [{TRIGGER: "labels"}, {}])
def test_click_beside_a_training_joins_it_unless_there_is_a_new_label(
    campaign: Campaign, chain: Chain, request_: dict[str, Any]
) -> None:
    label(campaign, "a")
    task = queue("RUNNING", **request_)
    assert not chain.ask("ann") and campaign.trainings.due() is None
    label(campaign, "b")
    assert chain.ask("ann"), "it may not learn from that one"
    assert not chain.ask("bob"), "which is remembered once"
    task["status"] = "DONE"
    assert campaign.trainings.due() is not None


def test_click_beside_a_training_with_other_settings_wants_another_one(campaign: Campaign, chain: Chain) -> None:
    label(campaign, "a")
    queue("RUNNING", max_epochs="1")
    assert chain.ask("ann")


def test_click_before_a_training_with_other_settings_has_begun_is_not_forgotten(
    campaign: Campaign, chain: Chain
) -> None:
    label(campaign, "a")
    task = queue("RUNNING", max_epochs="1")
    ask(campaign.store, None, task["request"], at=task["request"][QUEUED_AT])
    assert chain.ask("ann")
    AttentionUnetTraining(campaign)({"model": "attention_unet", **task["request"]}, None)
    task["status"] = "DONE"
    due = campaign.trainings.due()
    assert due is not None and due.trigger == "asked" and asked_request(campaign.store) == {}


@pytest.mark.parametrize("first", [{}, {"max_epochs": "1"}])
@pytest.mark.parametrize("then", [{}, {"max_epochs": "2"}])
def test_training_that_is_asked_for_while_a_plain_one_waits_is_that_one(
    campaign: Campaign, chain: Chain, first: dict[str, Any], then: dict[str, Any]
) -> None:
    label(campaign, "a")
    task = queue("SUBMITTED", **first)
    ask(campaign.store, None, task["request"], at=task["request"][QUEUED_AT])
    time.sleep(0.01)
    ask(campaign.store, "ann", then)  # of the command line, without the server
    AttentionUnetTraining(campaign)({"model": "attention_unet", **task["request"]}, None)
    task["status"] = "DONE"
    due = campaign.trainings.due()
    assert (due is None) is (not first and not then), "each other wish has a training of its own"


def test_click_beside_a_training_that_waits_joins_it(campaign: Campaign, chain: Chain) -> None:
    label(campaign, "a")
    queue("SUBMITTED")
    assert not chain.ask("ann")
    background_tasks["train"][0]["status"] = "RUNNING"
    queue("SUBMITTED")
    label(campaign, "b")
    assert not chain.ask("ann")


def test_click_after_a_failure_tries_again_at_once(campaign: Campaign, chain: Chain) -> None:
    label(campaign, "a")
    assert chain.ask("ann")
    before = chain.due()
    queue("ERROR")
    assert chain.ask("ann")
    assert chain.due() != before, "which does not wait as long as what is tried again by itself"


def test_training_that_failed_for_a_viewer_is_not_tried_again_by_itself(campaign: Campaign, chain: Chain) -> None:
    label(campaign, "a")
    campaign.trainings.ask(None)
    task = queue("RUNNING", max_epochs="5")
    assert chain.due("The embedding was killed.") != {}, "it has not failed"
    task["status"] = "ERROR"
    assert chain.due("The training was killed.") == {}
    assert campaign.trainings.status()["last_refused"] == "The training was killed."
    assert chain.ask("ann") and chain.due("The training was killed.") != {}, "somebody asked for another one"


def test_training_that_the_server_began_and_that_failed_is_tried_again(campaign: Campaign, chain: Chain) -> None:
    label(campaign, "a")
    campaign.trainings.ask("ann")
    queue("ERROR", trigger="asked")
    assert chain.due("The training was killed.") != {}


def test_training_that_the_server_began_is_left_after_three_failures_until_there_is_a_new_label(
    campaign: Campaign, looking: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks_module, "RETRY_AFTER_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(campaign, "tasks_to_do", dict)
    begun: list[dict[str, Any]] = []

    def run(_method: str, request: dict[str, Any], **_: Any) -> None:
        begun.append(queue("RUNNING", **request))

    def fail() -> str:
        begun[-1]["status"] = "ERROR"
        return looking.errors()["train"]

    monkeypatch.setattr(chain_module, "_run", run)
    label(campaign, "a")
    campaign.trainings.ask("ann")
    for number in (1, 2, 3):
        looking.begin()
        assert len(begun) == number
        assert ("it is tried again by itself" in fail()) is (number < 3)
    for _ in range(3):
        looking.begin()
    assert len(begun) == 3 and campaign.trainings.due() is None
    assert campaign.trainings.status()["last_refused"] == looking.errors()["train"]
    label(campaign, "b")
    campaign.trainings.ask("ann")
    looking.begin()
    assert len(begun) == 4 and "it is tried again by itself" in fail()


def test_training_that_another_server_does_is_not_begun_here(campaign: Campaign, chain: Chain) -> None:
    label(campaign, "a")
    campaign.trainings.ask("ann")
    with FileLock(campaign.folder / "training.lock"):
        assert chain.due() == {}
        assert chain.reason == "somebody asked for it"
    assert chain.due() != {}


def test_training_that_waits_is_remembered_when_the_one_before_it_is_stopped(campaign: Campaign, chain: Chain) -> None:
    label(campaign, "a")
    campaign.trainings.ask(None)
    stopped = queue("RUNNING")
    waiting = queue("SUBMITTED", max_epochs="7")
    ask(campaign.store, None, waiting["request"], at=waiting["request"][QUEUED_AT])
    stopped["status"] = "STOPPED"
    chain.note_stopped(stopped)
    due = campaign.trainings.due()
    assert due is not None and due.trigger == "asked"
    assert asked_request(campaign.store)["max_epochs"] == "7"


HOLD = "import sys, time, filelock; filelock.FileLock(sys.argv[1]).acquire(); print(flush=True); time.sleep(600)"


@pytest.mark.parametrize("other_server", [False, True])
def test_training_that_is_stopped_while_its_model_is_checked_is_not_finished(
    campaign: Campaign,
    looking: Tasks,
    spawn: Spawn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    other_server: bool,
) -> None:
    label(campaign, "a")
    settings = campaign.settings.override({"epochs": 1})
    used, _ = campaign.trainings.train(settings, lambda _: None)
    metadata = {**used.metadata, "version": "20990101T000000000Z-new"}
    versions = campaign.publisher.versions
    versions.keep(Model(used.network, metadata), {**metadata, "began_at": time.time(), "learned": {}}, "unchecked")
    due = campaign.trainings.due()
    assert due is not None and due.trigger == "check"
    lock = str(tmp_path / "another" if other_server else campaign.folder / TRAINING_LOCK)
    process = spawn(sys.executable, "-c", HOLD, lock)
    assert process.stdout is not None and process.stdout.readline()
    queue("RUNNING")
    background_processes["train"]["1"] = process
    if other_server:
        monkeypatch.setattr(chain_module, "STOP_LIMIT_S", 0.1)
        with FileLock(campaign.folder / TRAINING_LOCK):
            assert async_task.stop_background_task("train")["status"] == "STOPPED"
    else:
        assert async_task.stop_background_task("train")["status"] == "STOPPED"
    assert campaign.trainings.status()["last_refused"] == "It was stopped."
    due = campaign.trainings.due()
    if other_server:
        assert due is not None and due.trigger == "check", "it may be that one's model"
    else:
        assert due is None and versions.read(metadata["version"])["refused"] == "It was stopped."
        assert campaign.publisher.in_use() == used.version


def test_training_that_waits_for_the_end_of_a_stopped_one_has_not_failed(
    campaign: Campaign, looking: Tasks, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "tasks_to_do", dict)
    queue("STOPPED")
    ending = spawn("sleep", "600")
    background_processes["train"]["1"] = ending
    del background_processes["train"]["1"]  # as MONAI Label does at once
    waiting = queue("SUBMITTED")
    for _ in range(3):
        looking.begin()
    assert waiting["status"] == "SUBMITTED"
    ending.kill()
    ending.wait()
    for _ in range(2):
        looking.begin()
    assert waiting["status"] == "ERROR", "nothing is before it any more"


def test_training_that_a_viewer_begins_while_the_server_begins_one_joins_that(
    campaign: Campaign, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    label(campaign, "a")
    campaign.trainings.ask("ann")
    both = threading.Barrier(2)

    def run_slowly(_method: str, request: dict[str, Any], params: Any = None, *_: Any, **__: Any) -> tuple[Any, None]:
        with suppress(threading.BrokenBarrierError):
            both.wait(1.0)
        return queue("SUBMITTED", **{**request, **(params or {})}), None

    monkeypatch.setattr(chain_module, "_run", run_slowly)
    viewer = threading.Thread(target=AsyncTask.run, args=("train", {"model": "attention_unet"}))
    viewer.start()
    chain.begin()
    viewer.join()
    assert len(background_tasks["train"]) == 1


def test_whoever_stops_a_task_does_not_wait_while_the_server_begins_work(
    looking: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks_module, "STOP_LIMIT_S", 0.1)
    assert async_task.stop_background_task("train") is None
    with ThreadPoolExecutor() as pool, looking._turn:  # the pool ends once the turn is over
        assert pool.submit(async_task.stop_background_task, "scoring").result(60) is None
        with pytest.raises(AppError, match="is beginning work just now") as caught:
            pool.submit(async_task.stop_background_task, "train").result(60)
    assert caught.value.status_code == 503


def test_process_that_is_started_while_the_server_is_being_ended_ends_too(looking: Tasks, spawn: Spawn) -> None:
    started = spawn("sleep", "600")
    looking.end_before(None)(signal.SIGTERM, None)
    background_processes["train"]["1"] = started  # as MONAI Label's thread does only now
    assert started.wait(20) == -signal.SIGKILL


def test_training_that_has_its_result_is_ending(campaign: Campaign, chain: Chain) -> None:
    label(campaign, "a")
    campaign.trainings.note_ended("It was stopped.")
    assert not chain.is_ending(), "none runs"
    time.sleep(0.01)
    queue("RUNNING")
    assert not chain.is_ending(), "that was the one before"
    campaign.trainings.note_ended("It was stopped.")
    assert chain.is_ending()


@pytest.mark.parametrize("queued", ["before", "meanwhile"])
def test_training_that_fails_while_the_server_looks_for_work_is_not_begun_again_by_that_look(
    campaign: Campaign, looking: Tasks, monkeypatch: pytest.MonkeyPatch, queued: str
) -> None:
    label(campaign, "a")
    campaign.trainings.ask(None)
    running = [queue("RUNNING", method="train", max_epochs="5")] if queued == "before" else []
    begun: list[str] = []
    monkeypatch.setattr(chain_module, "_run", lambda method, **request: begun.append(method))

    def fails() -> dict[str, str]:
        task = running.pop() if running else queue("RUNNING", method="train", max_epochs="5")
        task["status"] = "ERROR"
        return {}

    monkeypatch.setattr(campaign, "tasks_to_do", fails)
    looking.begin()
    assert not begun
    monkeypatch.setattr(campaign, "tasks_to_do", dict)
    looking.begin()
    assert not begun and campaign.trainings.due() is None, "whoever asked for it is told that it failed"
