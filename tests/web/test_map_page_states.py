"""The map page in Chromium where there is nothing yet, very much, or something odd to show."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image as Picture
from playwright.sync_api import BrowserContext, expect

from coldstart.adapters.inference import AttentionUnetInference
from coldstart.adapters.server import free_port
from coldstart.campaign import Campaign
from coldstart.web import Page, Viewer, create_router
from large_pool import SETTINGS, add_scoring, prepare, write_images
from map_window import WAIT_S, MapWindow, chromium, new_context, require_chromium

MANY = 3_000


@contextmanager
def serving(campaign: Campaign, files: dict[str, Path], tasks: list[dict[str, Any]] | None = None) -> Iterator[str]:
    """Serve the page of a campaign, without the rest of MONAI Label's server; its address."""
    page = Page(
        campaign=campaign,
        app_version="0",
        may_read=lambda: None,
        may_steer=lambda: None,
        viewer=lambda request: Viewer(None, True, True),
        tasks=lambda: tasks or [],
        training=lambda: {"state": "idle", "on_its_way": False, "problem": None},
        ask_for_training=lambda who: True,
        fetch=lambda image_id: files[image_id],
        model=AttentionUnetInference(campaign).model,
        link=lambda image_id: f"../ohif/viewer?StudyInstanceUIDs={image_id}",
        archive=True,
        authentication=False,
    )
    app = FastAPI()
    app.include_router(create_router(page))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        campaign.store.close()


@pytest.fixture(scope="module")
def context() -> Iterator[BrowserContext]:
    require_chromium()
    expect.set_options(timeout=WAIT_S * 1000)
    with chromium() as browser:
        yield new_context(browser)


@pytest.fixture
def look(context: BrowserContext) -> Iterator[Callable[[str], MapWindow]]:
    windows: list[MapWindow] = []

    def look_at(url: str) -> MapWindow:
        windows.append(MapWindow(context, url))
        return windows[-1]

    yield look_at
    for window in windows:
        assert window.complaints == [] and window.elsewhere == []
        window.page.close()


def test_map_without_images_says_what_to_do(look: Callable[[str], MapWindow], tmp_path: Path) -> None:
    with serving(Campaign(SETTINGS, tmp_path), {}) as url:
        window = look(url).open()
        expect(window.page.locator("#notice")).to_contain_text("No images yet")
        expect(window.panel).to_contain_text("Nobody has saved a label yet")


def test_images_appear_on_the_map_once_they_are_embedded(look: Callable[[str], MapWindow], tmp_path: Path) -> None:
    files = {}
    for seed in range(9):
        files[f"image {seed} <b>&"] = tmp_path / f"image{seed}.png"
        pixels = np.random.default_rng(seed).integers(0, 255, (24, 24), dtype=np.uint8)
        Picture.fromarray(pixels).save(tmp_path / f"image{seed}.png")
    campaign = Campaign(SETTINGS, tmp_path / "state")
    campaign.sync(files, {})
    task = {"name": "embedding", "title": "Embedding", "state": "running", "done": 4, "total": 9, "message": "at work"}
    tasks = [{**task, "error": None, "started_at": time.time(), "log": ["one", "two"]}]
    with serving(campaign, files, tasks) as url:
        window = look(url).open()
        expect(window.page.locator("#notice")).to_contain_text("The map is being made")
        assert window.page.locator("#notice progress").get_attribute("value") == "4"
        expect(window.page.locator("#busy")).to_contain_text("44 %")
        assert len(window.drawn()["not labelled"]["x"]) == 9, "every image is a point from the beginning"
        campaign.embed()
        tasks.clear()
        expect(window.page.locator("#notice")).to_be_hidden()
        window.wait("plot.data.some(one => one.name === 'planned' && one.visible)")
        name = "image 3 <b>&"
        window.page.mouse.move(*window.place_of(name))
        expect(window.page.locator("#card strong")).to_have_text(name)
        window.page.mouse.click(*window.place_of(name))
        expect(window.panel.get_by_role("heading", level=2)).to_have_text(name)
        link = window.panel.get_by_role("link", name="Open in OHIF")
        assert str(link.get_attribute("href")).startswith("../ohif/viewer?")
        expect(window.panel.get_by_role("checkbox", name="Uncertainty")).to_be_disabled()
        expect(window.panel).to_contain_text("no trained model yet")


def test_many_points_are_drawn_with_webgl(look: Callable[[str], MapWindow], tmp_path: Path) -> None:
    files = write_images(tmp_path / "studies", MANY)
    campaign = prepare(tmp_path / "state", files)
    add_scoring(campaign)
    with serving(campaign, files) as url:
        window = look(url).open(colour="entropy")
        drawn = window.drawn()
        assert {trace["type"] for trace in drawn.values()} == {"scattergl"}
        table = window.table()
        assert len(drawn["not labelled"]["x"]) == table["state"].count("pool")
        assert len(drawn["planned"]["x"]) == table["state"].count("planned") == SETTINGS.budget
        planned = table["image_id"][table["rank"].index(1)]
        window.page.mouse.move(*window.place_of(planned))
        expect(window.page.locator("#card strong")).to_have_text(planned)
        window.page.get_by_role("combobox").fill("image_02999")
        window.page.keyboard.press("Enter")
        expect(window.panel.get_by_role("heading", level=2)).to_have_text("image_02999")
