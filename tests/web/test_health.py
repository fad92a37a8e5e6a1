"""Which part is ill: the route's status, and who is told why."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from coldstart.campaign import Campaign
from coldstart.exceptions import StoreError
from coldstart.settings import Settings
from coldstart.web import health as health_module
from coldstart.web.health import Check, Health
from coldstart.web.metrics import Metrics, Sources
from coldstart.web.monitor import create_monitor

SETTINGS = Settings(labels={"disc": 1}, spatial_dims=2, spatial_size=(32, 32), encoder="descriptor")


def client(tmp_path: Path, checks: dict[str, Check]) -> TestClient:
    """The two routes; whoever sends the header `X-User` is one."""
    health = Health(checks)
    campaign = Campaign(SETTINGS, tmp_path / "state")
    metrics = Metrics(
        Sources(campaign=campaign, app_version="1", tasks=list, ill=health.ill, cards=list, caches={}),
    )

    def is_user(request: Request) -> bool:
        return "X-User" in request.headers

    app = FastAPI()
    app.include_router(create_monitor(metrics, health, may_scrape=[], may_see_details=is_user))
    return TestClient(app)


def test_all_well(tmp_path: Path) -> None:
    answer = client(tmp_path, {"disk": lambda: None, "model": lambda: None}).get("/coldstart/health")
    assert answer.status_code == 200
    assert answer.json() == {"status": "well", "parts": {"disk": "well", "model": "well"}, "details": None}


@pytest.mark.parametrize("error", [StoreError("Out of reach."), OSError("Out of reach."), ValueError("Out of reach.")])
def test_a_part_that_cannot_be_looked_at_is_ill_and_the_others_are_looked_at(tmp_path: Path, error: Exception) -> None:
    def fails() -> str | None:
        raise error

    server = client(tmp_path, {"database": fails, "disk": lambda: "It is full.", "model": lambda: None})
    answer = server.get("/coldstart/health", headers={"X-User": "uma"})
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "ill",
        "parts": {"database": "ill", "disk": "ill", "model": "well"},
        "details": {"database": "Out of reach.", "disk": "It is full."},
    }
    metrics = server.get("/coldstart/metrics").text
    assert 'coldstart_part_well{part="disk"} 0.0' in metrics and 'coldstart_part_well{part="model"} 1.0' in metrics


def test_details_are_for_users_only(tmp_path: Path) -> None:
    server = client(tmp_path, {"disk": lambda: "/srv/secret is full."})
    assert "secret" not in server.get("/coldstart/health").text
    assert "secret" in server.get("/coldstart/health", headers={"X-User": "uma"}).text


def test_a_look_that_hangs_takes_one_thread_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "PATIENCE_S", 0.05)
    begun, back = threading.Event(), threading.Event()

    def hangs() -> str | None:
        begun.set()
        back.wait(60)
        return None

    health = Health({"studies": hangs, "disk": lambda: None})
    first = threading.Thread(target=health.complaints)
    first.start()
    begun.wait(60)
    for _ in range(3):
        found = health.complaints()
        assert found["studies"] is not None and found["disk"] is None
    back.set()
    first.join(60)
    assert health.complaints()["studies"] is None
