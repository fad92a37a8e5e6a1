"""Metrics, health, log and limits on a real server: what an engineer sees of it from outside."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from realm_case import CLIENT_ID, ROLES, RealmServer
from server_case import CONF, write_cases

from coldstart.adapters.server import Server

USER = ROLES[0]
WAIT_LIMIT_S = 120.0
MEMORY_GB = 4


@pytest.fixture(scope="module")
def realm() -> Iterator[RealmServer]:
    with RealmServer() as running:
        yield running


def metrics_of(server: Server) -> dict[tuple[str, str], float]:
    """Values by the name and the labels of a sample."""
    answer = requests.get(f"{server.url}/coldstart/metrics", timeout=60)
    assert answer.status_code == 200 and answer.headers["Content-Type"].startswith("text/plain")
    return {
        (one.name, ",".join(f"{name}={value}" for name, value in sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(answer.text)
        for one in family.samples
    }


def health_of(server: Server, **headers: str) -> tuple[int, dict[str, Any]]:
    answer = requests.get(f"{server.url}/coldstart/health", headers=headers, timeout=60)
    return answer.status_code, answer.json()


def wait(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_LIMIT_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "coldstart.jsonl").read_text().splitlines()]


def test_a_server_is_measured_and_says_what_is_ill(tmp_path: Path, start: Callable[..., Server]) -> None:
    studies, log = write_cases(tmp_path, 6), tmp_path / "log"
    server = start(studies, log_dir=str(log), cores="1", memory_gb=str(MEMORY_GB))
    wait(lambda: metrics_of(server).get(("coldstart_task_seconds_count", "state=done,task=embedding")))

    clicked = requests.post(f"{server.url}/activelearning/coldstart_al", json={"client_id": "ann"}, timeout=60)
    assert clicked.status_code == 200
    found = metrics_of(server)
    assert found["coldstart_images", "kind=pool"] == 6 and found["coldstart_reservations_open", ""] == 1
    assert found["coldstart_clicks", "outcome=reserved,phase=cold_start,strategy=coldstart_al"] == 1
    route = "method=POST,route=/activelearning/{strategy},status=2xx"
    assert found["coldstart_request_seconds_count", route] == 1
    assert found["coldstart_database_bytes", ""] > 0 and found["process_resident_memory_bytes", ""] > 1e8
    status, body = health_of(server)
    assert status == 200 and set(body["parts"].values()) == {"well"} and body["details"] == {}
    assert {part for name, part in found if name == "coldstart_part_well"} == {f"part={part}" for part in body["parts"]}

    said = [line for line in logged(log) if line.get("task") == "scoring"]
    assert any("embedding" in line["message"] and line["logger"] == "coldstart.campaign.progress" for line in said)
    assert {line["process"] for line in said if line["logger"].startswith("coldstart")}.isdisjoint({server.pid})
    assert server.pid in {line["process"] for line in logged(log)}

    assert len(os.sched_getaffinity(server.pid)) == 1
    threads = Path(f"/proc/{server.pid}/task").iterdir()
    assert all(len(os.sched_getaffinity(int(thread.name))) == 1 for thread in threads)
    limits = Path(f"/proc/{server.pid}/limits").read_text()
    assert str(MEMORY_GB << 30) in next(line for line in limits.splitlines() if line.startswith("Max data size"))

    studies.rename(tmp_path / "away")
    wait(lambda: health_of(server)[1]["parts"]["studies"] == "ill")
    status, body = health_of(server)
    assert status == 503 and body["details"]["studies"].startswith(f"The studies folder {studies} ")
    assert metrics_of(server)["coldstart_part_well", "part=studies"] == 0
    assert "Traceback" not in server.log.read_text(), "every probe would write one"
    (tmp_path / "away").rename(studies)
    wait(lambda: health_of(server)[0] == 200)

    for name in list(studies.glob("case_*.png")):
        label = (tmp_path / "truth" / name.name).open("rb")
        with label:
            url = f"{server.url}/datastore/label?image={name.stem}&tag=final"
            assert requests.put(url, files={"label": label}, timeout=60).status_code == 200
    assert metrics_of(server)["coldstart_labels", "kind=usable"] == 6


def test_who_may_read_metrics_and_details(realm: RealmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONAI_LABEL_AUTH_ENABLE", "true")
    monkeypatch.setenv("MONAI_LABEL_AUTH_REALM_URI", realm.uri)
    monkeypatch.setenv("MONAI_LABEL_AUTH_CLIENT_ID", CLIENT_ID)
    studies = write_cases(tmp_path, 6)
    user = {"Authorization": f"Bearer {realm.token('scraper', [USER])}"}
    nobody = {"Authorization": f"Bearer {realm.token('zoe', [])}"}

    def status(server: Server, headers: dict[str, str]) -> int:
        return requests.get(f"{server.url}/coldstart/metrics", headers=headers, timeout=60).status_code

    with Server(studies, CONF, tmp_path / "closed.log") as server:
        assert [status(server, headers) for headers in ({}, nobody, user)] == [401, 403, 200]
        code, body = health_of(server)
        assert code == 200 and body["details"] is None and body["parts"]["database"] == "well"
        assert health_of(server, **user)[1]["details"] == {}
        assert health_of(server, **nobody)[1]["details"] is None
        assert health_of(server, Authorization="Bearer of nobody")[0] == 401
        studies.rename(tmp_path / "away")
        wait(lambda: health_of(server)[0] == 503)
        assert str(studies) not in json.dumps(health_of(server)[1])
        assert str(studies) in health_of(server, **user)[1]["details"]["studies"]
        (tmp_path / "away").rename(studies)
    with Server(studies, {**CONF, "metrics_open": "true"}, tmp_path / "open.log") as server:
        assert [status(server, headers) for headers in ({}, user)] == [200, 200]
        assert requests.get(f"{server.url}/info/", timeout=60).status_code == 401
