"""Trainings, scorings and model files that go wrong: the model before stays in use, and a sentence says what happened.

One server on one small campaign, whose model was trained before; the tests follow each other on it.
"""

import multiprocessing
import os
import pickle
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import requests
import torch
from fault_case import (
    BUDGET,
    MODEL,
    child,
    click,
    gone,
    infer,
    info,
    label_in_folder,
    open_campaign,
    query,
    state,
    sync,
    train,
    wait_for,
    write_images,
)
from model_writer import save_without_end

from coldstart.adapters.server import Server
from coldstart.segmentation import Model, TrainingConfig, build_network, load_model, save_model
from coldstart.segmentation.model_file import FORMAT

N_IMAGES = 12
ENDLESS = 1_000_000


def state_of(studies: Path) -> Path:
    """Apart from the images, so that these can go away alone."""
    return studies.with_name("state")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign with its budget labelled and a published model that has not scored the pool yet."""
    folder = tmp_path_factory.mktemp("training") / "studies"
    write_images(folder, N_IMAGES)
    label_in_folder(folder, *(f"case_{index:03d}" for index in range(BUDGET)))
    campaign = open_campaign(folder, state_dir=str(folder.with_name("state")))
    sync(campaign, folder)
    campaign.embed()
    campaign.trainings.train(campaign.settings, lambda report: None)
    campaign.store.close()
    return folder


@pytest.fixture(scope="module")
def model_path(studies: Path) -> Path:
    return state_of(studies) / "models" / f"{MODEL}.pt"


@pytest.fixture(scope="module")
def server(studies: Path, start: Callable[..., Server]) -> Server:
    return start(studies, state_dir=str(state_of(studies)))


def used_version(server: Server) -> str:
    """Version of the model that answers."""
    answer = infer(server, "case_007")
    assert answer.ok, answer.text
    return str(answer.json()["model_version"])


def scorings(studies: Path) -> list[tuple[str, int]]:
    return query(state_of(studies), "select model_version, n_images from scorings order by id")


def wait_until_trained(server: Server) -> None:
    wait_for("the end", lambda: state(server)["tasks"].get("train") in ("DONE", "ERROR", "STOPPED"), server)


def wait_for_epochs(server: Server) -> psutil.Process:
    wait_for("an epoch", lambda: info(server)["train_stats"][MODEL].get("total_epochs") == ENDLESS, server)
    process = child(server, "train")
    assert process is not None
    return process


def test_killed_scoring_shows_nothing_half_done_and_is_run_again(
    studies: Path, server: Server, model_path: Path
) -> None:
    version = load_model(model_path, "cpu").version
    worker = wait_for("a scoring", lambda: child(server, "scoring"), server)
    worker.kill()
    said = wait_for("the sentence", lambda: state(server)["task_errors"].get("entropy"), server)
    assert said == (
        "The entropy scoring was killed (signal 9), perhaps for lack of memory; the scoring before stays in use, and "
        "it is tried again by itself."
    )
    assert scorings(studies) == []
    wait_for("the scoring", lambda: scorings(studies), server)
    wait_for("its end", lambda: state(server)["tasks"]["entropy"] == "DONE", server)
    assert scorings(studies) == [(version, N_IMAGES - BUDGET)]
    assert click(server)["coldstart"]["model_version"] == version


def test_killed_training_leaves_the_model_and_its_stats(server: Server, model_path: Path) -> None:
    before, content = info(server)["train_stats"], model_path.read_bytes()
    version = used_version(server)
    assert train(server, max_epochs=ENDLESS).ok
    wait_for_epochs(server).kill()
    wait_until_trained(server)
    found = info(server)
    assert found["coldstart"]["tasks"]["train"] == "ERROR"
    assert found["coldstart"]["task_errors"] == {
        "train": "The training was killed (signal 9), perhaps for lack of memory; nothing was published, and the model "
        "before, if there is one, stays in use."
    }
    assert found["train_stats"] == before, "a training that was killed is not shown as running"
    assert used_version(server) == version
    assert model_path.read_bytes() == content


def test_failed_training_says_its_sentence(server: Server) -> None:
    version = used_version(server)
    assert train(server, max_epochs=40, learning_rate=1e37).ok
    wait_until_trained(server)
    assert state(server)["task_errors"]["train"].startswith("The training diverged: its loss or weights were no longer")
    assert used_version(server) == version


def test_stopped_training_leaves_the_model_and_lets_the_one_of_a_second_server_go_on(
    studies: Path, server: Server, start: Callable[..., Server]
) -> None:
    version = used_version(server)
    assert train(server, max_epochs=ENDLESS).ok
    worker = wait_for_epochs(server)
    second = start(studies, state_dir=str(state_of(studies)))
    assert used_version(second) == version
    assert train(second).ok
    wait_for("the second training", lambda: child(second, "train"), second)
    assert info(second)["train_stats"][MODEL]["total_epochs"] == ENDLESS, "the stats are of the training that runs"

    assert requests.delete(f"{server.url}/train/", timeout=30).ok

    assert state(server)["tasks"]["train"] == "STOPPED"
    assert state(server)["task_errors"]["train"] == (
        "The training was stopped; nothing was published, and the model before, if there is one, stays in use."
    )
    wait_for("the end of the stopped training", lambda: gone(worker), limit_s=10)
    wait_until_trained(second)
    assert state(second)["tasks"]["train"] == "DONE"
    newer = used_version(second)
    assert newer != version and used_version(server) == newer
    wait_for("the scoring", lambda: scorings(studies)[-1][0] == newer, server)
    for each in (server, second):
        wait_for("idle servers", lambda each=each: child(each, "scoring") is None, each)
    assert [scored for scored, _ in scorings(studies)] == [version, newer], "both servers scored with one model"
    second.stop()


class Malicious:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def upload(server: Server, content: bytes) -> requests.Response:
    return requests.put(f"{server.url}/model/{MODEL}", files={"file": ("model.pt", content)}, timeout=60)


def test_upload_that_is_no_model_is_refused_and_not_run(server: Server, model_path: Path, tmp_path: Path) -> None:
    before, target = model_path.read_bytes(), tmp_path / "made-by-the-upload"
    torch.save({"model": Malicious(target), "metadata": {}}, tmp_path / "code.pt")
    code, cut_off = "code or other objects than weights", "cut off or damaged"
    contents = {
        (tmp_path / "code.pt").read_bytes(): code,
        pickle.dumps(Malicious(target)): code,
        b"garbage": code,
        b"": "empty",
        before[:-50]: cut_off,
    }
    for content, reason in contents.items():
        refused = upload(server, content)
        assert refused.status_code == 400, refused.text
        detail = refused.json()["detail"]
        assert reason in detail and detail.endswith("Send a model file that this app wrote.")
        assert not re.search("/tmp|PyTorch 2|weights_only|WeightsUnpickler", detail)
    assert not target.exists()
    assert model_path.read_bytes() == before


def test_inference_on_an_image_whose_file_is_gone_just_now_is_404_with_a_sentence(
    server: Server, studies: Path
) -> None:
    image = min(studies.glob("*.png"))
    image.rename(image.with_suffix(".away"))
    refused = requests.post(f"{server.url}/infer/{MODEL}?image={image.stem}", timeout=60)
    image.with_suffix(".away").rename(image)
    assert refused.status_code == 404
    detail = refused.json()["detail"]
    assert detail.endswith(".") and "''" not in detail and str(studies) not in detail


def test_uploaded_model_is_used(server: Server, model_path: Path, tmp_path: Path) -> None:
    model = load_model(model_path, "cpu")
    save_model(Model(model.network, {**model.metadata, "version": "20990101T000000000Z-uploaded"}), tmp_path / "new.pt")
    assert upload(server, (tmp_path / "new.pt").read_bytes()).ok
    assert used_version(server) == "20990101T000000000Z-uploaded"
    wait_for("its record", lambda: state(server)["model_version"] == "20990101T000000000Z-uploaded", server)


@pytest.mark.parametrize("damage", ["empty", "cut off", "code"])
def test_damaged_model_file_is_never_used(server: Server, model_path: Path, tmp_path: Path, damage: str) -> None:
    version, whole = used_version(server), model_path.read_bytes()
    target = tmp_path / "made-by-the-file"
    torch.save({"model": Malicious(target), "metadata": {}}, tmp_path / "code.pt")
    model_path.write_bytes({"empty": b"", "cut off": whole[:-50], "code": (tmp_path / "code.pt").read_bytes()}[damage])
    assert used_version(server) == version
    said = wait_for("the sentence", lambda: state(server)["model_problem"], server)
    assert str(model_path) in said and "is damaged or not a model of this app" in said
    model_path.write_bytes(whole)
    wait_for("the end of the trouble", lambda: state(server)["model_problem"] is None, server)
    assert used_version(server) == version
    assert not target.exists()


def test_studies_folder_that_goes_away_for_a_while_is_said_once_and_loses_nothing(
    studies: Path, server: Server
) -> None:
    click(server)
    tables = ("images", "labels", "servings", "plan_picks", "scorings")
    before = {table: query(state_of(studies), f"select * from {table}") for table in tables}
    numbers = {key: state(server)[key] for key in ("images", "labelled", "planned", "set_aside")}
    away = studies.with_name("away")

    studies.rename(away)
    said = wait_for("the sentence", lambda: state(server)["watch_errors"].get("look for new files"), server)
    assert str(studies) in said
    time.sleep(4.5)
    away.rename(studies)
    wait_for("the end of the trouble", lambda: not state(server)["watch_errors"], server)

    # An unmounted share is an empty folder.
    studies.rename(away)
    studies.mkdir()
    said = wait_for("the sentence", lambda: state(server)["watch_errors"].get("look for new files"), server)
    assert f"{studies} has no image any more; {N_IMAGES} were in it" in said
    time.sleep(4.5)
    shutil.rmtree(studies)
    away.rename(studies)
    wait_for("the end of the trouble", lambda: not state(server)["watch_errors"], server)

    def rows() -> dict[str, list]:
        return {table: query(state_of(studies), f"select * from {table}") for table in tables}

    wait_for("the rows as they were", lambda: rows() == before, server, limit_s=15)
    assert {key: state(server)[key] for key in numbers} == numbers
    log = server.log.read_text()
    assert log.count("The look for new files failed") == 2 == log.count("The look for new files works again")


def test_model_file_is_whole_at_whatever_moment_its_writer_is_killed(tmp_path: Path) -> None:
    config = TrainingConfig(label_names=("disk",), spatial_dims=2, spatial_size=(32, 32), channels=(16, 32, 64))
    described = {"format": FORMAT, "label_names": ["disk"], "config": config.to_dict()}
    paths = {version: tmp_path / f"{version}.pt" for version in ("first", "second")}
    for version, path in paths.items():
        save_model(Model(build_network(config), {**described, "version": version}), path)
    target = tmp_path / "models" / f"{MODEL}.pt"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["coldstart.segmentation"])
    generator = random.Random(0)
    found, n_cut_off = set(), 0
    for _ in range(15):
        begun = context.Event()
        writer = context.Process(target=save_without_end, args=(*paths.values(), target, begun), daemon=True)
        writer.start()
        assert begun.wait(60)
        time.sleep(generator.uniform(0, 0.03))
        writer.kill()
        writer.join()
        n_cut_off += (target.parent / f".{target.name}.tmp").exists()
        found.add(load_model(target, "cpu").version)
    assert found == set(paths)
    assert n_cut_off > 0, "no kill came while the file was being written"
    save_model(load_model(target, "cpu"), target)
    names = sorted(path.name for path in target.parent.iterdir() if path.suffix != ".lock")
    assert names == [f"{MODEL}.last-good.pt", f"{MODEL}.pt"]


def test_start_after_a_kill_with_a_damaged_model_file_serves_the_last_good_one(
    studies: Path, server: Server, model_path: Path, start: Callable[..., Server]
) -> None:
    version = used_version(server)
    wait_for("the scoring", lambda: state(server)["scored_model_version"] == version, server)
    before, stats = state(server), info(server)["train_stats"]
    clicked = click(server, "one")["id"]
    assert train(server, max_epochs=ENDLESS).ok
    orphan = wait_for_epochs(server)
    os.kill(server.pid, signal.SIGKILL)
    wait_for("the end of the orphan", lambda: gone(orphan), limit_s=15)
    model_path.write_bytes(b"half a model")

    again = start(studies, state_dir=str(state_of(studies)))

    assert info(again)["train_stats"] == stats, "the training that was killed is not shown as running"
    assert used_version(again) == version
    after = state(again)
    assert {key: after[key] for key in ("images", "labelled", "planned", "model_version", "scored_model_version")} == {
        key: before[key] for key in ("images", "labelled", "planned", "model_version", "scored_model_version")
    }
    assert click(again, "two")["id"] != clicked
    assert "is damaged" in after["model_problem"]
    wait_for("the training that was killed with its server", lambda: child(again, "train"), again)
