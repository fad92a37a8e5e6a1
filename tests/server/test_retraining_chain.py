"""A real server trains, checks, publishes and scores by itself: killed in the middle, beside a viewer, and put back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import requests

from coldstart.adapters.server import Server
from coldstart.adapters.simulation import SilentObserver, SimulatedAnnotator, connect
from coldstart.adapters.tasks import NICENESS
from coldstart.campaign.replay import decision_rows
from coldstart.campaign.versions import Versions
from coldstart.store import Store

LIMIT_S = 400.0
MODEL = "attention_unet"


def wait_for(what: str, reached: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if found := reached():
            return found
        time.sleep(0.3)
    raise AssertionError(f"not reached within {LIMIT_S:g} s: {what}")


def info(server: Server) -> dict[str, Any]:
    answer: dict[str, Any] = requests.get(f"{server.url}/info/", timeout=60).json()
    return answer


def state(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = info(server)["coldstart"]
    return found


def scored(server: Server, *, but: str | None = None) -> str | None:
    """The model in use, once it has scored the pool."""
    found = state(server)
    version = found["scored_model_version"]
    return version if version == found["model_version"] and version != but else None


def trainings(folder: Path) -> list[dict[str, Any]]:
    store = Store(folder)
    try:
        return [row for row in decision_rows(store) if row["kind"].startswith("training")]
    finally:
        store.close()


def test_server_trains_by_itself_and_goes_on_after_a_kill(
    make_studies: Callable[[], tuple[Path, Path, Path]], start: Callable[..., Server]
) -> None:
    studies, truth, held_out = make_studies()
    conf = {"heldout": str(held_out), "retrain_at_budget": "true", "retrain_every": "2"}
    # Of the first training the budget alone decides: else one may begin after two of the four labels.
    server = start(studies, **{**conf, "retrain_every": "0"}, epochs="100000")
    annotator = SimulatedAnnotator(connect(server.url), truth, SilentObserver())
    annotator.wait_until("embedded", "embedding", lambda found: found["planned"] == 4)
    annotator.label(4)
    folder = studies / "coldstart"

    wait_for("an epoch", lambda: "epoch" in info(server)["train_stats"][MODEL])
    joined = requests.post(f"{server.url}/train/{MODEL}", json={}, timeout=60)
    assert joined.ok and joined.json()["status"] == "RUNNING" and joined.json()["request"]["trigger"] == "budget"
    tasks = requests.get(f"{server.url}/train/?all=true", timeout=60).json()
    assert len(tasks) == 1, "the viewer's training is the one that runs"
    children = psutil.Process(server.pid).children(recursive=True)
    niceness = min(psutil.Process(server.pid).nice() + NICENESS, 19)  # the most there is
    assert {child.nice() for child in children} == {niceness}
    os.kill(server.pid, signal.SIGKILL)
    wait_for("the end of the children", lambda: not any(child.is_running() for child in children))
    assert trainings(folder) == []

    server = start(studies, **conf, epochs="2")
    first = wait_for("a scored model", lambda: scored(server))
    [line] = trainings(folder)
    assert line["details"]["trigger"] == "budget" and line["details"]["model_version"] == first
    annotator = SimulatedAnnotator(connect(server.url), truth, SilentObserver())
    annotator.label(2)
    assert {one["model_version"] for one in annotator.log.served} == {first}
    second = wait_for("another scored model", lambda: scored(server, but=first))
    assert [row["details"]["trigger"] for row in trainings(folder)] == ["budget", "labels"]
    annotator.label(1)
    assert annotator.log.served[-1]["model_version"] == second

    versions = Versions(folder / "models" / "versions")
    assert versions.states() == {first: "done", second: "done"}
    assert versions.read(second)["comparison"]["basis"] == "heldout"
    done = info(server)["train_stats"][MODEL]
    assert done["model_version"] == second and done["comparison"].startswith("It is used: it has a Dice of ")
    versions.write(first, {**versions.read(first), "chosen_by": "ann"}, "chosen")  # a rollback that was killed
    assert wait_for("the first model again", lambda: scored(server, but=second)) == first
    answer = requests.post(f"{server.url}/infer/{MODEL}?image=case_00&output=json", timeout=60)
    assert answer.json()["model_version"] == first
    assert state(server)["watch_errors"] == {} and state(server)["task_errors"] == {}
    assert len(trainings(folder)) == 2, "one new label is not two"
