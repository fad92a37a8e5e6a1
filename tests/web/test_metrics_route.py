"""The metrics of a real campaign, read by Prometheus's own parser."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image as Picture
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select, update
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from coldstart.campaign import Campaign, LabelFile
from coldstart.settings import Settings
from coldstart.store import Image, Judgement, Model, Serving
from coldstart.web.cards import Card
from coldstart.web.metrics import Metrics, RequestTimes, Sources, TaskRun

BUDGET = 4
SETTINGS = Settings(
    labels={"disc": 1},
    spatial_dims=2,
    spatial_size=(32, 32),
    encoder="descriptor",
    projection="pca",
    budget=BUDGET,
    device="cpu",
)
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    """Eight images, embedded; one of them held out, and a damaged one besides."""
    studies = tmp_path / "studies"
    studies.mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        Picture.fromarray(rng.integers(0, 255, (24, 24), dtype=np.uint8)).save(studies / f"i{number}.png")
    (studies / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    (tmp_path / "heldout.txt").write_text("i7")
    opened = Campaign(SETTINGS.model_copy(update={"heldout": tmp_path / "heldout.txt"}), tmp_path / "disk" / "state")
    opened.sync({path.stem: path for path in studies.glob("*.png")}, {})
    opened.embed()
    return opened


def label(campaign: Campaign, image_id: str, side: int = 24) -> None:
    path = campaign.folder / f"{image_id}_label.png"
    Picture.fromarray(np.ones((side, side), np.uint8)).save(path)
    campaign.save_label(image_id, LabelFile(path, "ann"))


def sources(campaign: Campaign, **others: Any) -> Sources:
    nothing: dict[str, Any] = {"tasks": list, "ill": dict, "cards": list, "caches": {}}
    return Sources(campaign=campaign, app_version="1.2", **{**nothing, **others})


def read(metrics: Metrics) -> Samples:
    text, kind = metrics.exposition("")
    assert kind.startswith("text/plain")
    families = text_string_to_metric_families(text.decode())
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value(samples: Samples, metric: str, /, **labels: str) -> float | None:
    return samples.get((metric, frozenset(labels.items())))


def test_images_and_labels_are_counted(campaign: Campaign) -> None:
    metrics = Metrics(sources(campaign))
    label(campaign, "i0")
    label(campaign, "i1", side=9)
    label(campaign, "i7")
    found = read(metrics)
    counted = {kind: value(found, "coldstart_images", kind=kind) for kind in ("pool", "held_out", "set_aside")}
    assert counted == {"pool": 7, "held_out": 1, "set_aside": 1}
    assert value(found, "coldstart_images_unlabelled") == 5
    assert value(found, "coldstart_labels", kind="total") == 3
    assert value(found, "coldstart_labels", kind="usable") == 1, "i1's is no label of it, and i7 is held out"
    assert value(found, "coldstart_budget") == BUDGET
    size = value(found, "coldstart_database_bytes")
    assert size is not None and size >= campaign.store.path.stat().st_size
    assert value(found, "coldstart_app_info", version="1.2") == 1


def test_labels_of_images_that_are_away_or_set_aside_are_no_labels_to_learn_from(campaign: Campaign) -> None:
    for image_id in ("i0", "i1", "i2"):
        label(campaign, image_id)
    with campaign.store.writing() as session:
        session.execute(update(Image).where(Image.image_id == "i0").values(present=False))
        session.execute(update(Image).where(Image.image_id == "i1").values(problem="It cannot be read."))
    found = read(Metrics(sources(campaign)))
    assert {kind: value(found, "coldstart_labels", kind=kind) for kind in ("total", "usable")} == {
        "total": 3,
        "usable": 1,
    }


def test_clicks_are_counted_by_what_became_of_them(campaign: Campaign) -> None:
    served = {who: campaign.next_sample("coldstart_al", annotator=who) for who in ("ann", "ben", "cay")}
    assert all(served.values())
    campaign.next_sample("coldstart_al", annotator="ben")  # skips the one before
    label(campaign, served["ann"].image_id)  # type: ignore[union-attr]
    with campaign.store.writing() as session:
        oldest = select(Serving.id).where(Serving.annotator == "cay").scalar_subquery()
        session.execute(update(Serving).where(Serving.id == oldest).values(served_at=time.time() - 3601))
    found = read(Metrics(sources(campaign)))
    by_outcome = {
        outcome: value(found, "coldstart_clicks", strategy="coldstart_al", phase="cold_start", outcome=outcome)
        for outcome in ("labelled", "skipped", "reserved", "expired")
    }
    assert by_outcome == {"labelled": 1, "skipped": 1, "reserved": 1, "expired": 1}
    assert value(found, "coldstart_reservations_open") == 1


def test_dice_is_that_of_the_model_in_use(campaign: Campaign) -> None:
    assert not any("model" in name for name, _ in read(Metrics(sources(campaign))))
    label(campaign, "i0")
    label(campaign, "i1")
    rated = [{"image_id": "i7", "dice": 0.9}, {"image_id": "i6", "dice": 0.6}, {"image_id": "i5", "dice": math.nan}]
    with campaign.store.writing() as session:
        for version, images in (("old", [{"image_id": "i7", "dice": 0.1}]), ("new", rated)):
            session.add(Model(version=version, created_at=1000.0, details={"heldout": {"images": images}}))
            for row in session.scalars(select(Image).where(Image.image_id.in_(["i0", "i1"]))):
                dice = 0.2 if version == "old" else {"i0": 0.5, "i1": None}[row.image_id]
                judged = {"label_signature": "", "judged_at": 1.0, "n_labels": 1, "class_dice": {}}
                session.add(Judgement(image=row.id, model_version=version, dice=dice, annotator=None, **judged))
    found = read(Metrics(sources(campaign)))
    assert value(found, "coldstart_model_dice", on="heldout") == pytest.approx(0.75)
    assert value(found, "coldstart_model_dice_images", on="heldout") == 2
    assert value(found, "coldstart_model_dice", on="prequential") == pytest.approx(0.5)
    assert value(found, "coldstart_model_dice_images", on="prequential") == 1
    assert value(found, "coldstart_model_info", version="new", scored_version="") == 1
    assert value(found, "coldstart_model_trained_timestamp_seconds") == 1000


def test_what_the_server_knows_is_told(campaign: Campaign) -> None:
    runs = [
        TaskRun("train", "done", 59.0),
        TaskRun("train", "done", 61.0),
        TaskRun("train", "failed", 100_000.0),
        TaskRun("train", "waiting", None),
        TaskRun("embedding", "running", None),
    ]
    cards = [Card("0", "H200", 5, 7)]
    made = sources(
        campaign,
        tasks=lambda: runs,
        ill=lambda: {"disk": True, "model": False},
        cards=lambda: cards,
        caches={"series": lambda: 12},
    )
    found = read(Metrics(made))
    done = {"task": "train", "state": "done"}
    assert value(found, "coldstart_task_seconds_sum", **done) == 120
    buckets = [value(found, "coldstart_task_seconds_bucket", le=le, **done) for le in ("10.0", "60.0", "300.0", "+Inf")]
    assert buckets == [0, 1, 2, 2]
    failed = {"task": "train", "state": "failed"}
    assert value(found, "coldstart_task_seconds_bucket", le="43200.0", **failed) == 0
    assert value(found, "coldstart_task_seconds_count", **failed) == 1
    assert value(found, "coldstart_tasks_open", task="train", state="waiting") == 1
    assert value(found, "coldstart_tasks_open", task="train", state="running") == 0  # none runs any more
    assert value(found, "coldstart_tasks_open", task="embedding", state="running") == 1
    assert value(found, "coldstart_part_well", part="disk") == 0
    assert value(found, "coldstart_part_well", part="model") == 1
    assert value(found, "coldstart_gpu_memory_used_bytes", gpu="0", name="H200") == 5
    assert value(found, "coldstart_gpu_memory_total_bytes", gpu="0", name="H200") == 7
    assert value(found, "coldstart_cache_bytes", cache="series") == 12
    assert value(found, "process_resident_memory_bytes") or 0 > 1e7


def test_a_database_out_of_reach_takes_only_its_own_metrics_away(campaign: Campaign) -> None:
    metrics = Metrics(sources(campaign, ill=lambda: {"database": True}))
    assert value(read(metrics), "coldstart_images", kind="pool") == 7
    home, away = campaign.folder.parent, campaign.folder.parent.with_name("away")
    home.rename(away)
    found = read(metrics)
    assert value(found, "coldstart_part_well", part="database") == 0
    assert not any(name == "coldstart_images" for name, _ in found)
    away.rename(home)


def test_open_metrics_are_given_to_who_prefers_them(campaign: Campaign) -> None:
    text, kind = Metrics(sources(campaign)).exposition("application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert list(openmetrics_parser.text_string_to_metric_families(text.decode()))


@pytest.fixture
def timed(campaign: Campaign) -> tuple[Callable[..., Any], Metrics]:
    metrics = Metrics(sources(campaign))
    app = FastAPI(middleware=[Middleware(RequestTimes, times=metrics.requests)])

    @app.get("/datastore/{name}")
    async def slow(name: str) -> str:
        await asyncio.sleep(0.3 if name == "slow" else 0)
        if name == "broken":
            raise ZeroDivisionError
        return name

    return TestClient(app, raise_server_exceptions=False).request, metrics


def test_requests_are_timed_by_the_pattern_of_their_route(timed: tuple[Callable[..., Any], Metrics]) -> None:
    request, metrics = timed
    for name in ("slow", "a", "b", "broken"):
        request("GET", f"/datastore/{name}")
    found = read(metrics)
    route = {"method": "GET", "route": "/datastore/{name}"}
    assert value(found, "coldstart_request_seconds_count", status="2xx", **route) == 3
    assert value(found, "coldstart_request_seconds_count", status="5xx", **route) == 1
    slow = value(found, "coldstart_request_seconds_bucket", status="2xx", le="0.25", **route)
    assert slow is not None and slow <= 2
    seconds = value(found, "coldstart_request_seconds_sum", status="2xx", **route)
    assert seconds is not None and seconds >= 0.3


def test_whoever_asks_at_random_makes_no_series(timed: tuple[Callable[..., Any], Metrics]) -> None:
    request, metrics = timed
    for number in range(20):
        request("GET", f"/nowhere/{number}")
        request(f"VERB{number}", "/nowhere")
    names = [labels for name, labels in read(metrics) if name == "coldstart_request_seconds_count"]
    assert {dict(labels)["route"] for labels in names} == {"other"}
    assert {dict(labels)["method"] for labels in names} == {"GET", "other"}
