"""A campaign that is counted by whoever plays it, beside what the server's metrics, log and health say of it."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from server_case import N_HELD_OUT, N_POOL

from coldstart.adapters.server import Server
from coldstart.adapters.simulation import SilentObserver, SimulatedAnnotator, connect

LIMIT_S = 300.0
BUDGET = 4
MODEL = "attention_unet"
LOG_MB = 0.02
CLICK = "/activelearning/{strategy}"


def wait_for(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + LIMIT_S
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    return found


def read(server: Server) -> dict[str, dict[tuple[str, ...], float]]:
    """Values of each metric, by the values of its labels in the order of their names."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(requests.get(f"{server.url}/coldstart/metrics", timeout=60).text):
        for one in family.samples:
            found.setdefault(one.name, {})[tuple(value for _, value in sorted(one.labels.items()))] = one.value
    return found


def state(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{server.url}/info/", timeout=60).json()["coldstart"]
    return found


def parts(server: Server) -> dict[str, str]:
    found: dict[str, str] = requests.get(f"{server.url}/coldstart/health", timeout=60).json()["parts"]
    return found


def test_what_is_counted_is_what_was_done_and_each_part_says_when_it_is_ill(
    make_studies: Callable[[], tuple[Path, Path, Path]], start: Callable[..., Server]
) -> None:
    began = time.monotonic()
    studies, truth, held_out = make_studies()
    (studies / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    conf = {"heldout": str(held_out), "retrain_at_budget": "true", "log_mb": str(LOG_MB), "log_files": "200"}
    server = start(studies, **conf)
    annotator = SimulatedAnnotator(connect(server.url), truth, SilentObserver())
    annotator.wait_until("embedded", "embedding", lambda found: found["planned"] == BUDGET)
    annotator.label(BUDGET)
    version = wait_for(lambda: (found := state(server))["scored_model_version"] and found["model_version"])
    wait_for(lambda: not any(read(server)["coldstart_tasks_open"].values()))
    _check_clicks(server, truth)
    found = read(server)
    assert found["coldstart_images"] == {("pool",): N_POOL, ("held_out",): N_HELD_OUT, ("set_aside",): 1}
    assert found["coldstart_images_unlabelled"] == {(): N_POOL - BUDGET - 1}
    assert found["coldstart_labels"] == {("total",): BUDGET + 1 + N_HELD_OUT, ("usable",): BUDGET}
    assert found["coldstart_model_info"] == {(version, version): 1}
    stats = requests.get(f"{server.url}/info/", timeout=60).json()["train_stats"][MODEL]
    assert found["coldstart_model_dice"][("heldout",)] == pytest.approx(stats["best_metric"])
    assert found["coldstart_model_dice_images"][("heldout",)] == N_HELD_OUT
    tasks = found["coldstart_task_seconds_count"]
    assert tasks[("done", "embedding")] >= 1 and tasks[("done", "train")] == tasks[("done", "entropy")] == 1
    minutes, seconds = stats["total_time"].split(":")[-2:]
    took = found["coldstart_task_seconds_sum"][("done", "train")]
    assert 60 * int(minutes) + float(seconds) - 1 <= took < time.monotonic() - began
    _check_strangers_make_no_series(server)
    _check_log(studies / "coldstart" / "logs")

    assert set(parts(server).values()) == {"well"}
    _check_database(server, studies / "coldstart" / "coldstart.sqlite")
    _check_model(server, studies / "coldstart" / "models")
    _check_training(server)


def _check_clicks(server: Server, truth: Path) -> None:
    """Ann saves a label of the wrong size, ben asks twice, cay looks only."""
    before = read(server)["coldstart_request_seconds_count"][("POST", CLICK, "2xx")]
    served = {}
    for name in ("ann", "ben", "ben", "cay"):
        answer = requests.post(f"{server.url}/activelearning/coldstart_al", json={"client_id": name}, timeout=60)
        served[name] = answer.json()["id"]
    small = truth / "small.png"
    Image.new("L", (5, 5), 1).save(small)
    with small.open("rb") as label:
        address = f"{server.url}/datastore/label?image={served['ann']}&tag=final"
        assert requests.put(address, files={"label": label}, timeout=60).json()["coldstart"]["warning"]
    found = read(server)
    assert found["coldstart_request_seconds_count"][("POST", CLICK, "2xx")] == before + 4
    outcomes: Counter[str] = Counter()
    for (outcome, _, _), n in found["coldstart_clicks"].items():
        outcomes[outcome] += int(n)
    assert outcomes == {"labelled": BUDGET + 1, "skipped": 1, "reserved": 2}
    assert found["coldstart_reservations_open"] == {(): 2}


def _check_strangers_make_no_series(server: Server) -> None:
    def series() -> set[tuple[str, ...]]:
        return set(read(server)["coldstart_request_seconds_count"])

    requests.get(f"{server.url}/nowhere", timeout=60)
    requests.request("BREW", f"{server.url}/info/", timeout=60)
    requests.post(f"{server.url}/activelearning/guess", json={}, timeout=60)
    before = series()
    for number in range(20):
        requests.get(f"{server.url}/nowhere/{number}?a={number}", timeout=60)
        requests.request(f"BREW{number}", f"{server.url}/info/", timeout=60)
        requests.post(f"{server.url}/activelearning/guess{number}", json={}, timeout=60)
    assert series() == before
    assert all("guess" not in strategy for *_, strategy in read(server)["coldstart_clicks"])


def _check_log(folder: Path) -> None:
    """Every line of every file is whole, also those of children that wrote while the files were rotated."""
    files = list(folder.glob("coldstart.jsonl*"))
    assert len(files) > 3 and all(file.stat().st_size <= LOG_MB * 1e6 for file in files)
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert {"train", "scoring"} <= {line["task"] for line in lines if "task" in line}
    assert len({line["process"] for line in lines}) >= 3  # the server, a training, and a scoring


def _check_database(server: Server, database: Path) -> None:
    if subprocess.run(["chattr", "+i", str(database)], capture_output=True).returncode:
        return  # not on this file system, or not by this user
    try:
        assert parts(server)["database"] == "ill"
    finally:
        subprocess.run(["chattr", "-i", str(database)], check=True)
    assert parts(server)["database"] == "well"


def _check_model(server: Server, models: Path) -> None:
    files = {path: path.read_bytes() for path in models.rglob("*.pt")}
    for path in files:
        path.write_bytes(b"no model")
    wait_for(lambda: parts(server)["model"] == "ill")
    for path, content in files.items():
        path.write_bytes(content)
    wait_for(lambda: parts(server)["model"] == "well")


def _check_training(server: Server) -> None:
    """What a viewer asked for is not tried again, so its failure would last; what the server began itself is."""

    def kill_until(found: Callable[[], bool]) -> None:
        def look() -> bool:
            for child in psutil.Process(server.pid).children(recursive=True):
                child.kill()
            return found()

        wait_for(look)

    def failed() -> float:
        return read(server)["coldstart_task_seconds_count"].get(("failed", "train"), 0)

    requests.post(f"{server.url}/train/{MODEL}", json={"max_epochs": 100_000}, timeout=60).raise_for_status()
    kill_until(lambda: failed() == 1)
    assert parts(server)["training"] == "well"
    assert read(server)["coldstart_part_well"][("training",)] == 1
    requests.post(f"{server.url}/coldstart/api/train", timeout=60).raise_for_status()
    kill_until(lambda: parts(server)["training"] == "ill")
    assert failed() >= 2 and read(server)["coldstart_part_well"][("training",)] == 0
    wait_for(lambda: parts(server)["training"] == "well")
