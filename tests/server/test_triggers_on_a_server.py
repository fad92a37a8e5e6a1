"""A real server trains by itself at a time of day, and when nobody is there; also where users have to log in."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import requests
from realm_case import RealmServer, guarded_server
from server_case import CONF, write_cases

from coldstart.adapters.server import Server
from coldstart.campaign.replay import decision_rows
from coldstart.store import Store

LIMIT_S = 400.0
IDLE_MINUTES = 0.1


class Annotator:
    def __init__(self, server: Server, truth: Path, token: str | None = None):
        self._url = server.url
        self._truth = truth
        self._session = requests.Session()
        if token is not None:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self._session.get(f"{self._url}/info/", timeout=60).json()["coldstart"]
        return found

    def click(self) -> str:
        answer = self._session.post(f"{self._url}/activelearning/coldstart_al", json={}, timeout=60)
        return str(answer.json()["id"])

    def save_label(self, image_id: str) -> None:
        url = f"{self._url}/datastore/label?image={image_id}&tag=final"
        label = (self._truth / f"{image_id}.png").read_bytes()
        self._session.put(url, files={"label": ("label.png", label)}, timeout=60).raise_for_status()

    def wait_for(self, what: str, reached: Callable[[dict[str, Any]], Any], *, clicking: bool = False) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not reached(self.state()):
            assert time.monotonic() < deadline, f"not reached within {LIMIT_S:g} s: {what}"
            if clicking:
                self.click()
            time.sleep(0.5)


def is_scored(state: dict[str, Any]) -> bool:
    return state["model_version"] is not None and state["scored_model_version"] == state["model_version"]


def trainings(folder: Path) -> list[dict[str, Any]]:
    store = Store(folder / "studies" / "coldstart")
    try:
        return [row for row in decision_rows(store) if row["kind"].startswith("training")]
    finally:
        store.close()


def test_server_trains_at_a_time_of_day_while_somebody_clicks(tmp_path: Path) -> None:
    now = datetime.now()
    times = sorted({f"{now + timedelta(minutes=ahead):%H:%M}" for ahead in range(60)})  # the next minute, come what may
    conf = {**CONF, "retrain_at": ",".join(times), "retrain_idle_minutes": "30", "retrain_every": "9"}
    with Server(write_cases(tmp_path), conf, tmp_path / "server.log") as server:
        annotator = Annotator(server, tmp_path / "truth")
        annotator.wait_for("a plan", lambda state: state["planned"])
        annotator.save_label(annotator.click())
        saved_at = time.time()
        annotator.wait_for("a model that has scored", is_scored, clicking=True)
        [line] = trainings(tmp_path)
        assert line["details"]["trigger"] == "time"
        assert line["details"]["began_at"] // 60 > saved_at // 60, "not in the minute in which the label was saved"


def test_server_under_authentication_trains_when_nobody_is_there_any_more(tmp_path: Path) -> None:
    conf = {"retrain_idle_minutes": str(IDLE_MINUTES), "prelabel": "1"}
    with RealmServer() as realm, guarded_server(realm, tmp_path, conf=conf) as server:
        annotator = Annotator(server, tmp_path / "truth", realm.token())
        annotator.wait_for("a plan", lambda state: state["planned"])
        annotator.save_label(annotator.click())
        annotator.click()
        left_at = time.time()
        annotator.wait_for("pre-labels", lambda state: state["tasks"].get("prelabel") == "DONE")
        [line] = trainings(tmp_path)
        assert line["details"]["trigger"] == "idle" and line["details"]["began_at"] - left_at >= 60 * IDLE_MINUTES - 1
        state = annotator.state()
        assert is_scored(state) and state["watch_errors"] == {} and state["task_errors"] == {}
    log = server.log.read_text()
    assert " 401 " not in log and "POST /scoring" not in log, "the chain asks nobody to let it in"
