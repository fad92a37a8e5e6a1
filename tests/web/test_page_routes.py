"""The page's routes on a real campaign: what they show is what the store holds, whatever happened to it."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from PIL import Image as Picture
from pydantic import TypeAdapter
from sqlalchemy import select, update

from coldstart import web
from coldstart.adapters.inference import AttentionUnetInference
from coldstart.adapters.server import free_port
from coldstart.campaign import Campaign, LabelFile
from coldstart.campaign.figure import map_points
from coldstart.campaign.map_table import MapMemory, MapTable
from coldstart.campaign.steering import Preview
from coldstart.exceptions import ColdStartError
from coldstart.settings import Settings
from coldstart.store import Image, Model, Progress, Scoring, Serving
from coldstart.web import Page, Viewer, create_router
from coldstart.web.models import CampaignAnswer, ImageRecord, MapAnswer
from coldstart.web.routes import N_DRAWN_AT_ONCE

ODD = ["with space", "üñï 漢字", "100% #1 & more", "a+b=c?", 'quote\'d "twice"', "=1+1", "<b>bold"]
HELD_OUT = ("held 1", "held 2")
BROKEN = "broken"
BUDGET = 6
AS_PREVIEW = TypeAdapter(Preview)


def draw(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:40, :36]
    disc = np.hypot(rows - rng.uniform(12, 28), columns - rng.uniform(12, 24)) < rng.uniform(5, 9)
    pixels = 60 + 30 * (seed % 3) + 90 * disc + rng.normal(0, 5, disc.shape)
    Picture.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


class Site:
    """A campaign on a folder of images, and its page on a port."""

    def __init__(self, folder: Path, campaign: Campaign):
        self.folder, self.campaign = folder, campaign
        self.files = {path.stem: path for path in sorted((folder / "studies").glob("*.png"))}
        self.may_fetch = threading.Event()
        self.may_fetch.set()
        self.fetching: list[str] = []
        self.asked: list[str | None] = []
        self.tasks: list[dict[str, Any]] = []
        self.url = ""

    def fetch(self, image_id: str) -> Path:
        self.fetching.append(image_id)
        self.may_fetch.wait(60)
        return self.files[image_id]

    def ask(self, who: str | None) -> bool:
        self.asked.append(who)
        return True

    def sync(self) -> None:
        self.campaign.sync(self.files, {})

    def get(self, path: str, **asked: Any) -> requests.Response:
        return requests.get(f"{self.url}/coldstart/api/{path}", timeout=60, **asked)

    def table(self) -> dict[str, Any]:
        answer = self.get("map")
        assert answer.status_code == 200
        return MapAnswer.model_validate(answer.json()).model_dump()

    def row(self, image_id: str) -> dict[str, Any]:
        found = self.table()
        at = found["image_id"].index(image_id)
        return {name: column[at] for name, column in found.items() if name != "map_revision"}

    def state(self) -> dict[str, str]:
        return dict(self.get("state").json())

    def campaign_answer(self) -> dict[str, Any]:
        answer = self.get("campaign")
        assert answer.status_code == 200
        return CampaignAnswer.model_validate(answer.json()).model_dump()

    def record(self, image_id: str) -> dict[str, Any]:
        answer = self.get("image", params={"id": image_id})
        assert answer.status_code == 200
        return ImageRecord.model_validate(answer.json()).model_dump()

    def click(self, who: str | None = "ann", strategy: str = "coldstart_al") -> str:
        sample = self.campaign.next_sample(strategy, annotator=who)
        assert sample is not None
        return sample.image_id

    def label(self, image_id: str, who: str | None = "ann", *, size: tuple[int, int] = (40, 36)) -> str | None:
        labels = self.folder / "labels"
        labels.mkdir(exist_ok=True)
        path = labels / self.files[image_id].name
        values = np.zeros(size, np.uint8)
        values[10:25, 10:25] = 1
        Picture.fromarray(values).save(path)
        return self.campaign.save_label(image_id, LabelFile(path, who))


def settings(**values: Any) -> Settings:
    defaults: dict[str, Any] = {
        "labels": {"disc": 1},
        "spatial_dims": 2,
        "spatial_size": (32, 32),
        "encoder": "descriptor",
        "projection": "pca",
        "budget": BUDGET,
        "epochs": 1,
        "prelabel": 0,
        "device": "cpu",
    }
    return Settings(**{**defaults, **values})


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with odd names, held-out ones and a damaged one, embedded and planned."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "studies").mkdir()
    for number, name in enumerate([*(f"p{number:02}" for number in range(14)), *ODD, *HELD_OUT]):
        draw(folder / "studies" / f"{name}.png", number)
    (folder / "studies" / f"{BROKEN}.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    (folder / "heldout.txt").write_text("\n".join(HELD_OUT))
    campaign = Campaign(settings(heldout=folder / "heldout.txt"), folder / "state")
    Site(folder, campaign).sync()
    campaign.embed()
    campaign.store.close()
    return folder


@pytest.fixture
def open_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """A page on a real server, whose campaign is in `folder` or new."""
    ends: list[Callable[[], None]] = []

    def open_it(folder: Path | None = None, **values: Any) -> Site:
        own = tmp_path / f"own{len(ends)}"
        if folder is not None:
            shutil.copytree(folder, own)
            values.setdefault("heldout", own / "heldout.txt")
        (own / "studies").mkdir(parents=True, exist_ok=True)
        site = Site(own, Campaign(settings(**values), own / "state"))
        ends.append(serve(site))
        return site

    yield open_it
    for end in ends:
        end()


@pytest.fixture
def site(open_site: Callable[..., Site], embedded: Path) -> Site:
    return open_site(embedded)


def serve(site: Site) -> Callable[[], None]:
    """Serve the page of a site in a thread; return what ends that."""
    page = Page(
        campaign=site.campaign,
        app_version="0",
        may_read=lambda: None,
        may_steer=lambda: None,
        viewer=lambda request: Viewer(None, True, True),
        tasks=lambda: site.tasks,
        training=lambda: {"state": "idle", "on_its_way": False, "problem": None},
        ask_for_training=site.ask,
        fetch=site.fetch,
        model=AttentionUnetInference(site.campaign).model,
        link=lambda image_id: None,
        archive=False,
        authentication=False,
    )
    app = FastAPI()
    app.include_router(create_router(page))

    @app.exception_handler(ColdStartError)
    async def sentence(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 400)

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{port}"
    while not server.started:
        time.sleep(0.02)

    def end() -> None:
        site.may_fetch.set()
        server.should_exit = True
        thread.join(20)
        site.campaign.store.close()

    return end


def add_scoring(campaign: Campaign) -> dict[str, float]:
    """A model's entropy for every image of the pool, in nats."""
    rng = np.random.default_rng(3)
    with campaign.store.writing() as session:
        session.add(Model(version="m1", created_at=time.time(), details={}))
        session.add(
            Scoring(id=1, model_version="m1", finished_at=time.time(), n_images=1, minimum=0, maximum=1, mean=0.3)
        )
        session.flush()
        rows = list(session.scalars(select(Image).where(~Image.held_out, Image.problem.is_(None))))
        for row in rows:
            row.entropy, row.scoring_id = float(rng.uniform(0, 0.69)), 1
    return {row.image_id: row.entropy for row in rows if row.entropy is not None}


# The table


def test_table_is_what_the_map_figure_draws(site: Site) -> None:
    for _ in range(3):
        site.label(site.click())
    site.click("bob")
    found, points = site.table(), {point.image_id: point for point in map_points(site.campaign.store)}
    assert found["image_id"] == sorted(site.files, key=str)
    assert set(points) == set(found["image_id"]) - {BROKEN}
    extent = max(abs(value) for point in points.values() for value in (point.x, point.y))
    for at, image_id in enumerate(found["image_id"]):
        row = {name: column[at] for name, column in found.items() if name != "map_revision"}
        if (point := points.get(image_id)) is None:
            assert row["x"] is row["y"] is row["cluster"] is None
            continue
        assert (row["x"], row["y"]) == pytest.approx((point.x, point.y), abs=1e-4 * extent)
        assert row["cluster"] == (None if point.cluster is None else point.cluster + 1)
        assert (row["served_order"], row["phase"] is None) == (point.served, point.phase is None)


def test_every_state_is_shown(site: Site) -> None:
    first = site.click("ann")
    assert site.label(first) is None
    skipped = site.click("ann")
    served = site.click("ann")
    states = dict(zip(*(site.table()[name] for name in ("image_id", "state")), strict=True))
    assert states[first] == "labelled" and states[skipped] == "skipped" and states[served] == "served"
    assert states[BROKEN] == "set_aside"
    assert {states[image_id] for image_id in HELD_OUT} == {"held_out"}
    assert sorted(states.values()).count("planned") == BUDGET - 3
    assert "pool" in states.values()
    row = site.row(first)
    assert row["annotator"] == "ann" and row["phase"] == "cold_start" and row["rank"] == 1 and row["medoid"]
    assert row["reason"].startswith("cold start: medoid of cluster")
    assert "cannot be used" in site.row(BROKEN)["reason"]
    assert site.label(HELD_OUT[0], "eve") is None
    assert (site.row(HELD_OUT[0])["state"], site.row(HELD_OUT[0])["annotator"]) == ("held_out", "eve")
    site.campaign.remove_label(first)
    assert site.row(first)["state"] == "planned"


def test_ranks_and_medoids_are_those_of_the_plan(site: Site) -> None:
    found = site.table()
    ranked = sorted((rank, name) for rank, name in zip(found["rank"], found["image_id"], strict=True) if rank)
    assert [rank for rank, _ in ranked] == list(range(1, BUDGET + 1))
    assert [name for _, name in ranked] == site.campaign.next_in_line(BUDGET)
    assert sum(found["medoid"]) == site.campaign.status()["n_clusters"]
    planned = [why for why, state in zip(found["reason"], found["state"], strict=True) if state == "planned"]
    assert sum("medoid" in why for why in planned) == sum(found["medoid"])


def test_entropy_is_that_of_the_newest_scoring_relative_to_the_largest(site: Site) -> None:
    assert set(site.table()["entropy"]) == {None}
    nats = add_scoring(site.campaign)
    found = dict(zip(*(site.table()[name] for name in ("image_id", "entropy")), strict=True))
    assert {name: value for name, value in found.items() if value is not None} == pytest.approx(
        {name: value / math.log(2) for name, value in nats.items()}, abs=1e-4
    )
    with site.campaign.store.writing() as session:
        session.add(Scoring(id=2, model_version="m2", finished_at=0, n_images=1, minimum=0, maximum=1, mean=0))
        session.flush()
        session.execute(update(Image).where(Image.image_id == "p00").values(scoring_id=2, entropy=-1e-9))
    found = dict(zip(*(site.table()[name] for name in ("image_id", "entropy")), strict=True))
    assert {name: value for name, value in found.items() if value is not None} == {"p00": 0.0}


def test_a_reservation_that_ends_changes_state_and_revision(site: Site) -> None:
    image_id = site.click(None)
    memory, now = MapMemory(), time.time()
    with site.campaign.store.reading() as session:
        before = memory.read(session, site.campaign.settings, now)
        after = memory.read(session, site.campaign.settings, now + 61 * 60)
    at = before.index_of_id[image_id]
    assert (before.moving["state"][at], after.moving["state"][at]) == ("served", "planned")
    assert before.revision != after.revision


def test_what_is_kept_in_memory_is_what_is_read_anew(site: Site) -> None:
    rng, kept = np.random.default_rng(0), MapMemory()
    revisions = set()

    def read(memory: MapMemory) -> MapTable:
        with site.campaign.store.reading() as session:
            return memory.read(session, site.campaign.settings)

    for step in range(30):
        match int(rng.integers(5)):
            case 0 | 1:
                site.click(["ann", "bob", None][step % 3])
            case 2:
                site.label(site.click("ann"))
            case 3:
                site.label("p03", "carl", size=(40 + step, 36))
            case 4:
                with site.campaign.store.writing() as session:
                    session.execute(update(Image).where(Image.image_id == "p05").values(cluster=step))
        if step == 20:
            with site.campaign.store.writing() as session:  # what was served is gone, as in a database made anew
                session.delete(session.scalars(select(Serving).order_by(Serving.id)).first())
        table, anew = read(kept), read(MapMemory())
        assert (table.revision, table.fixed, table.moving) == (anew.revision, anew.fixed, anew.moving)
        revisions.add(table.revision)
    assert len(revisions) == 30, "every change has a revision of its own"
    assert read(kept) is read(kept), "nothing is read where nothing changed"


def test_csv_is_the_table(site: Site) -> None:
    site.label(site.click())
    answer = site.get("table.csv")
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert "coldstart-map.csv" in answer.headers["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    found = site.table()
    found.pop("map_revision")
    found["image_id"] = [image_id.replace("=1+1", "'=1+1") for image_id in found["image_id"]]
    assert rows == [
        {name: "" if value is None else str(value) for name, value in zip(found, values, strict=True)}
        for values in zip(*found.values(), strict=True)
    ]


@pytest.mark.parametrize("name", ['=HYPERLINK("http://elsewhere")', "+1", "-1", "@SUM(1)", "\t=1"])
def test_csv_holds_no_formula(site: Site, name: str) -> None:
    image_id = site.click(name)
    site.label(image_id, name)
    rows = csv.DictReader(io.StringIO(site.get("table.csv").content.decode("utf-8-sig")))
    row = next(row for row in rows if row["image_id"].lstrip("'") == image_id)
    assert row["annotator"] == f"'{name}"
    assert (float(row["x"]), float(row["y"])) == (site.row(image_id)["x"], site.row(image_id)["y"]), "numbers stay"


# What changes, and what it costs to ask


def test_state_changes_with_whatever_the_page_shows(site: Site) -> None:
    seen = [site.state()]

    def changed(of_map: bool) -> None:
        seen.append(site.state())
        assert seen[-1]["revision"] != seen[-2]["revision"]
        assert (seen[-1]["map_revision"] != seen[-2]["map_revision"]) == of_map

    assert site.state() == seen[0], "asked again, it is the same"
    image_id = site.click()
    changed(of_map=True)
    site.label(image_id)
    changed(of_map=True)
    with site.campaign.store.writing() as session:
        session.merge(Progress(task="entropy", done=1, total=5, updated_at=time.time(), message="model m1"))
    changed(of_map=False)
    task = {"name": "entropy", "title": "Scoring", "state": "running", "error": None, "started_at": 0.0, "log": []}
    site.tasks = [{**task, "done": None, "total": None, "message": None}]
    changed(of_map=False)
    site.tasks = [{**site.tasks[0], "log": ["one line"]}]
    changed(of_map=False)
    site.campaign.use(who="rae", alpha=0.9)
    changed(of_map=False)
    add_scoring(site.campaign)
    changed(of_map=True)
    assert site.table()["map_revision"] == seen[-1]["map_revision"]
    assert site.campaign_answer()["revision"] == seen[-1]["revision"]


def test_answers_are_packed_and_not_sent_twice(site: Site) -> None:
    plain = site.get("map", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    packed = site.get("map", headers={"Accept-Encoding": "gzip"}, stream=True)
    raw = packed.raw.read()
    assert packed.headers["Content-Encoding"] == "gzip" and gzip.decompress(raw) == plain.content
    assert len(raw) < len(plain.content) / 2
    assert "Accept-Encoding" in plain.headers["Vary"]
    again = site.get("map", headers={"If-None-Match": plain.headers["ETag"]})
    assert again.status_code == 304 and again.content == b""
    site.click()
    assert site.get("map", headers={"If-None-Match": plain.headers["ETag"]}).status_code == 200


def test_json_is_what_any_browser_reads(site: Site) -> None:
    """No NaN, which JSON does not have."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(site.get("map").text, parse_constant=refuse)
    json.loads(site.get("campaign").text, parse_constant=refuse)


# The campaign


def test_campaign_before_anything_is_embedded(open_site: Callable[..., Site]) -> None:
    site = open_site()
    assert site.table()["image_id"] == []
    assert site.campaign_answer()["phase"] == "nothing_usable"
    assert site.campaign_answer()["phase_sentence"].startswith("There are no images.")
    for number in range(3):
        path = site.folder / "studies" / f"p{number}.png"
        draw(path, number)
        site.files[path.stem] = path
    site.sync()
    found = site.campaign_answer()
    assert (found["phase"], found["images"], found["planned"]) == ("before_embedding", 3, None)
    assert site.table()["x"] == [None] * 3
    assert site.get("next").json()["picks"][0]["phase"] == "before_embedding"


def test_phases_of_a_campaign(site: Site) -> None:
    assert site.campaign_answer()["phase"] == "cold_start"
    assert "6 of the 6 planned images are" in site.campaign_answer()["phase_sentence"]
    for _ in range(BUDGET - 1):
        site.label(site.click())
    assert "1 of the 6 planned images is" in site.campaign_answer()["phase_sentence"]
    site.label(site.click())
    assert site.campaign_answer()["phase"] == "plan_complete"
    add_scoring(site.campaign)
    assert site.campaign_answer()["phase"] == "active"
    for image_id in sorted(set(site.files) - {*HELD_OUT, BROKEN}):
        site.label(image_id, "bob")
    found = site.campaign_answer()
    assert (found["phase"], found["labelled"], found["images"]) == ("done", 21, 21)


def test_campaign_tells_numbers_people_and_what_is_set_aside(site: Site) -> None:
    status = site.campaign.status()
    found = site.campaign_answer()
    assert {name: found[name] for name in ("images", "held_out", "budget", "planned", "n_clusters", "encoder")} == {
        name: status[name] for name in ("images", "held_out", "budget", "planned", "n_clusters", "encoder")
    }
    assert found["n_set_aside"] == 1 and found["set_aside"][0]["image_id"] == BROKEN
    assert found["set_aside"][0]["reason"].startswith(f"Image {BROKEN}.png cannot be used")
    assert set(found["silhouettes"]) == {"2", "3", "4", "5", "6"}
    image_ids = [site.click("ann"), site.click("bob"), site.click(None)]
    shown = site.campaign_answer()["served_now"]
    assert [(one["image_id"], one["annotator"]) for one in shown] == list(
        zip(image_ids, ("ann", "bob", None), strict=True)
    )
    site.label(image_ids[0], "ann")
    site.label("p03", "bob")
    assert "stays out of training" in (site.label("p04", "bob", size=(8, 8)) or "")
    found = site.campaign_answer()
    assert [(one["name"], one["labels"]) for one in found["annotators"]] == [("bob", 2), ("ann", 1)]
    assert sum(day["labels"] for day in found["days"]) == 3
    assert len(found["label_problems"]) == 1
    site.label(HELD_OUT[0], None)
    assert site.campaign_answer()["annotators"] == found["annotators"], "a held-out label is nobody's work"
    assert str(site.folder) not in json.dumps([site.campaign_answer(), site.table(), site.record("p04")])
    assert found["curve"]["prequential"] == [] and found["curve"]["verdict"]["helping"] is None


# One image


def test_any_id_is_found(site: Site) -> None:
    for image_id in ODD:
        assert site.record(image_id)["image_id"] == image_id
        picture = site.get("thumbnail", params={"id": image_id})
        assert picture.status_code == 200 and picture.headers["Content-Type"] == "image/webp"


def test_an_unknown_id_is_a_sentence(site: Site) -> None:
    paths = ["", "nobody", "../state/coldstart.sqlite", "/etc/passwd", "p00.png", "P00", "p00\n", "漢", "x" * 3000]
    for image_id in paths:
        for path in ("image", "thumbnail", "preview"):
            answer = site.get(path, params={"id": image_id})
            assert answer.status_code == 404
            assert answer.json()["detail"].startswith("The server has no image '")
            assert len(answer.json()["detail"]) < 200


def test_bytes_that_are_no_text_are_a_sentence(site: Site) -> None:
    for path in ("image?id=%ff%fe", "thumbnail?id=%ed%a0%80", "image"):
        answer = site.get(path)
        assert answer.status_code == 404 and "has no image" in answer.json()["detail"]


def test_record_of_an_image_tells_its_story(site: Site) -> None:
    image_id = site.click("ann")
    site.click("ann")
    site.campaign.next_sample("coldstart_al", annotator="bob", alpha=0.7)
    site.label(image_id, "ann")
    nats = add_scoring(site.campaign)[image_id]
    found = site.record(image_id)
    assert (found["state"], found["rank"], found["role"]) == ("labelled", 1, "medoid")
    assert found["path"] == f"{image_id}.png" and str(site.folder) not in json.dumps(found)
    assert [(one["annotator"], one["outcome"]) for one in found["servings"]] == [("ann", "skipped")]
    assert found["label"]["annotator"] == "ann" and found["label"]["classes"] == {"1": 1}
    assert (found["entropy_nats"], found["entropy"]) == pytest.approx((nats, nats / math.log(2)))
    assert found["geometry"] == {"size": [36, 40], "spacing": [1.0, 1.0], "unit": "pixel"}
    assert found["ohif_url"] is None
    broken = site.record(BROKEN)
    assert broken["state"] == "set_aside" and "cannot be used" in broken["problem"]
    assert broken["has_prediction"] is False
    draw(site.files[image_id], 99)
    site.sync()
    assert site.record(image_id)["file_version"] != found["file_version"], "its pictures are asked for anew"


def test_an_image_that_cannot_be_read_is_a_sentence(site: Site) -> None:
    answer = site.get("thumbnail", params={"id": BROKEN})
    assert answer.status_code == 404 and "cannot be used" in answer.json()["detail"]


def test_picture_follows_its_image(site: Site) -> None:
    before = site.get("thumbnail", params={"id": "p00", "size": 96})
    assert site.get("thumbnail", params={"id": "p00", "size": 96}).content == before.content
    assert site.fetching == ["p00"], "the second time it was kept"
    draw(site.files["p00"], 99)
    site.sync()
    after = site.get("thumbnail", params={"id": "p00", "size": 96})
    assert after.content != before.content and after.headers["ETag"] != before.headers["ETag"]
    with Picture.open(io.BytesIO(after.content)) as picture:
        assert picture.size == (86, 96)
    assert site.get("thumbnail", params={"id": "p00", "size": 5000}).status_code == 422


def test_overlay_comes_from_the_newest_model(site: Site) -> None:
    answer = site.get("overlay", params={"id": "p00"})
    assert answer.status_code == 404 and "no trained model yet" in answer.json()["detail"]
    for image_id in ("p01", "p02"):
        site.label(image_id)
    site.campaign.trainings.train(site.campaign.settings, lambda report: None)
    preview = site.get("preview", params={"id": "p00"})
    tags = []
    for kind in ("prediction", "entropy"):
        answer = site.get("overlay", params={"id": "p00", "kind": kind})
        assert answer.status_code == 200 and answer.headers["Content-Type"] == "image/png"
        with Picture.open(io.BytesIO(answer.content)) as over, Picture.open(io.BytesIO(preview.content)) as under:
            assert (over.mode, over.size) == ("RGBA", under.size)
        tags.append(answer.headers["ETag"])
    assert site.fetching == ["p00", "p00"], "one prediction gives both"
    assert site.record("p00")["has_prediction"] is True
    site.campaign.trainings.train(site.campaign.settings.override({"random_state": 1}), lambda report: None)
    assert site.get("overlay", params={"id": "p00"}).headers["ETag"] not in tags


def test_pictures_that_take_long_stop_nobody(site: Site) -> None:
    site.may_fetch.clear()
    image_ids = [f"p{number:02}" for number in range(12)]
    with ThreadPoolExecutor(len(image_ids)) as browser:
        pictures = [browser.submit(site.get, "thumbnail", params={"id": image_id}) for image_id in image_ids]
        while len(site.fetching) < N_DRAWN_AT_ONCE:
            time.sleep(0.02)
        for path in ("state", "campaign", "map", "image?id=p00", "next"):
            assert site.get(path).status_code == 200
        assert len(site.fetching) == N_DRAWN_AT_ONCE, "each may hold a whole volume: so many at once, and no more"
        site.may_fetch.set()
        assert [picture.result().status_code for picture in pictures] == [200] * len(image_ids)


# Steering


def test_next_shows_what_other_values_would_give_and_changes_nothing(site: Site) -> None:
    for _ in range(BUDGET):
        site.label(site.click())
    add_scoring(site.campaign)
    before = site.state()
    by_entropy = AS_PREVIEW.validate_python(site.get("next?alpha=0&n=5").json())
    by_distance = AS_PREVIEW.validate_python(site.get("next?alpha=1&n=5").json())
    assert by_entropy.alpha == 0 and len(by_entropy.picks) == 5
    assert [one.rank for one in by_entropy.picks] == [1, 2, 3, 4, 5]
    scores = [one.entropy for one in by_entropy.picks]
    assert scores == sorted(scores, reverse=True) and by_distance.picks[1:] != by_entropy.picks[1:]
    more = AS_PREVIEW.validate_python(site.get(f"next?budget={BUDGET + 4}&n=4").json())
    assert [one.phase for one in more.picks] == ["cold_start"] * 4
    assert site.state() == before


def test_a_bad_value_is_a_sentence(site: Site) -> None:
    for name, value in (("alpha", "1.5"), ("alpha", "much"), ("budget", "0"), ("budget", "x"), ("budget", "1.5")):
        answer = site.get("next", params={name: value})
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith(f"`{name}` has a bad value '{value}'")


def test_values_that_are_used_are_the_campaigns(site: Site) -> None:
    url = f"{site.url}/coldstart/api/settings"
    assert requests.post(url, json={"alpha": 0.8}, timeout=60).json() == {"alpha": 0.8, "budget": BUDGET}
    assert requests.post(url, json={"budget": 9}, timeout=60).json() == {"alpha": 0.8, "budget": 9}
    found = site.campaign_answer()
    assert (found["alpha"], found["budget"], found["planned"]) == (0.8, 9, 9)
    assert found["chosen"]["alpha"]["value"] == 0.8 and found["chosen"]["alpha"]["configured"] == 0.3
    assert len([rank for rank in site.table()["rank"] if rank]) == 9
    for body, status in (({"alpha": 2}, 400), ({}, 400), ({"encoder": "x"}, 422), ({"alpha": True}, 422)):
        assert requests.post(url, json=body, timeout=60).status_code == status
    assert site.campaign_answer()["alpha"] == 0.8


def test_training_is_asked_for_and_a_kept_model_is_put_back(site: Site) -> None:
    def post(path: str, **body: Any) -> requests.Response:
        return requests.post(f"{site.url}/coldstart/api/{path}", json=body, timeout=60)

    found = site.campaign_answer()
    assert found["models"] == [] and found["training"]["hindrance"] and found["training"]["last"] is None
    assert post("train").json() == {"asked": True} and site.asked == [None]
    site.label("p00")
    for seed in (0, 1):
        site.campaign.trainings.train(site.campaign.settings.override({"random_state": seed}), lambda _: None)
    first, second = site.campaign_answer()["models"]
    assert (first["in_use"], second["in_use"]) == (False, True)
    before = site.state()["revision"]
    assert post("model", version=first["version"]).json() == {"in_use": first["version"]}
    assert site.campaign_answer()["model_version"] == first["version"] and site.state()["revision"] != before
    assert [one["in_use"] for one in site.campaign_answer()["models"]] == [True, False]
    for wrong in (first["version"], "nobody", "../attention_unet", ""):
        refused = post("model", version=wrong)
        assert refused.status_code == 400 and "`version` must be" in refused.json()["detail"]
    assert post("model").status_code == post("model", version=1).status_code == 422


def test_images_set_aside_are_tried_again(site: Site) -> None:
    url = f"{site.url}/coldstart/api/retry"
    assert requests.post(url, json={"image_ids": ["p00"]}, timeout=60).json() == {"tried": 0}
    draw(site.files[BROKEN], 77)
    assert requests.post(url, json={"image_ids": None}, timeout=60).json() == {"tried": 1}
    site.sync()
    site.campaign.embed()
    assert site.row(BROKEN)["state"] in ("pool", "planned") and site.campaign_answer()["n_set_aside"] == 0


# The page itself


def test_page_and_its_files(site: Site) -> None:
    page = requests.get(f"{site.url}/coldstart", timeout=60)
    assert page.url == f"{site.url}/coldstart/" and page.headers["Content-Type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    plotly = requests.get(f"{site.url}/coldstart/static/plotly.min.js", timeout=60)
    assert plotly.headers["Content-Type"].startswith("text/javascript") and b"Plotly" in plotly.content
    assert int(plotly.headers["Content-Length"]) < len(plotly.content) / 2
    again = requests.get(plotly.url, headers={"If-None-Match": plotly.headers["ETag"]}, timeout=60)
    assert again.status_code == 304


def test_files_of_the_page_are_kept_until_another_version(site: Site) -> None:
    page = requests.get(f"{site.url}/coldstart/", timeout=60)
    assert page.headers["Cache-Control"] == "no-cache"
    names = re.findall(r'(?:src|href)="(static/[^"]*)"', page.text)
    assert len(names) > 15 and len({name.split("/")[1] for name in names}) == 1
    own = {path.name for path in (Path(web.__file__).parent / "static").glob("*.js")}
    assert {name.split("/")[-1] for name in names} >= own, "each script is asked for at once"
    for name in names:
        kept = requests.get(f"{site.url}/coldstart/{name}", timeout=60)
        assert kept.status_code == 200 and "immutable" in kept.headers["Cache-Control"], name
    version = names[0].split("/")[1]
    plain = requests.get(f"{site.url}/coldstart/static/main.js", timeout=60)
    assert plain.status_code == 200 and plain.headers["Cache-Control"] == "no-cache"
    for name in (f"static/{version}/routes.py", f"static/{version}x/main.js", f"static/{version}/{version}/main.js"):
        assert requests.get(f"{site.url}/coldstart/{name}", timeout=60).status_code == 404


def test_no_other_file_is_served(site: Site) -> None:
    for name in ("routes.py", "../routes.py", "..%2froutes.py", "%2e%2e/models.py", "/etc/passwd", ""):
        asked = requests.Request("GET", f"{site.url}/coldstart/static/x").prepare()
        asked.url = f"{site.url}/coldstart/static/{name}"  # as it is, without the tidying of a client
        answer = requests.Session().send(asked, timeout=60)
        assert answer.status_code == 404 and "has no file" in answer.json()["detail"]


def test_every_route_of_the_data_is_described(site: Site) -> None:
    paths = requests.get(f"{site.url}/openapi.json", timeout=60).json()["paths"]
    assert len(paths) == 13 and all(path.startswith("/coldstart/api/") for path in paths)
    for path, methods in paths.items():
        for described in methods.values():
            assert described["tags"] == ["Map page"], path
            (content,) = described["responses"]["200"]["content"].items()
            assert content[0] != "application/json" or "$ref" in content[1]["schema"], path
