"""A training that somebody begins in a viewer: what its stats say meanwhile, and what becomes of it after a kill."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import requests
from server_case import CONF

from coldstart.adapters.server import APP_FOLDER, Server
from coldstart.campaign import Campaign
from coldstart.settings import load_settings

LIMIT_S = 600.0
MODEL = "attention_unet"
ENDLESS = 1_000_000
N_LABELLED = 3


def wait_for(what: str, reached: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if found := reached():
            return found
        time.sleep(0.2)
    raise AssertionError(f"not reached within {LIMIT_S:g} s: {what}")


def train_stats(server: Server) -> dict[str, Any]:
    stats: dict[str, Any] = requests.get(f"{server.url}/info/", timeout=60).json()["train_stats"][MODEL]
    return stats


def kill(server: Server) -> None:
    children = psutil.Process(server.pid).children(recursive=True)
    os.kill(server.pid, signal.SIGKILL)
    wait_for("the end of the children", lambda: not any(child.is_running() for child in children))


def test_training_begun_in_a_viewer_shows_how_it_goes_and_outlives_a_kill_but_no_stop(
    make_studies: Callable[[], tuple[Path, Path, Path]], start: Callable[..., Server]
) -> None:
    studies, truth, held_out = make_studies()
    for index in range(N_LABELLED):
        name = f"case_{index:02d}.png"
        (studies / "labels" / "final" / name).write_bytes((truth / name).read_bytes())
    conf = {"heldout": str(held_out)}
    server = start(studies, **conf)

    # What the bars of Slicer and OHIF are drawn from, in the keys that they read, moves; so does the log.
    assert requests.post(f"{server.url}/train/{MODEL}", json={"max_epochs": "30"}, timeout=60).ok
    seen: list[dict[str, Any]] = []

    def trained() -> bool:
        seen.append(train_stats(server))
        return bool(seen[-1].get("model_version"))

    wait_for("a model", trained)
    running = [stats for stats in seen if "current_time" in stats]
    assert running and all("total_time" not in stats and stats["total_epochs"] == 30 for stats in running)
    assert 0 < running[0]["epoch"] <= running[-1]["epoch"] <= 30
    assert all({"loss", "remaining"} <= stats["train"].keys() for stats in running)
    judged = [stats for stats in running if "eval" in stats]
    assert judged, "the network was judged every third epoch"
    for stats in judged:
        assert stats["best_metric"] == stats["eval"]["best_metric"] >= stats["eval"]["metrics"]["val_mean_dice"]
        assert stats["eval"]["best_metric_epoch"] % 3 == 0
    first = seen[-1]
    assert "total_time" in first and first["best_metric"] == first["heldout"]["dice"]
    log = server.log.read_text()
    assert "Epoch 1 of 30, loss " in log and "Epoch 30 of 30, loss " in log
    assert log.count(", validation Dice ") == 10 and ", 0:00:00 left" in log

    # Killed with the server it is begun again, as it was asked for.
    assert requests.post(f"{server.url}/train/{MODEL}", json={"max_epochs": str(ENDLESS)}, timeout=60).ok
    wait_for("an epoch", lambda: train_stats(server)["total_epochs"] == ENDLESS)
    kill(server)
    server = start(studies, **conf)
    wait_for("an epoch", lambda: train_stats(server)["total_epochs"] == ENDLESS)
    [task] = requests.get(f"{server.url}/train/?all=true", timeout=60).json()
    assert task["status"] == "RUNNING" and task["request"]["trigger"] == "asked"

    # Stopped, it is not.
    assert requests.delete(f"{server.url}/train/", timeout=60).ok
    kill(server)
    campaign = Campaign(load_settings({**CONF, **conf}, APP_FOLDER / "configs"), studies / "coldstart")
    try:
        assert campaign.trainings.due() is None
        assert campaign.trainings.status()["last_refused"] == "It was stopped."
    finally:
        campaign.store.close()
