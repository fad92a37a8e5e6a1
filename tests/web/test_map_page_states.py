"""The map page in Chromium where there is nothing yet, very much, or something odd to show."""

from __future__ import annotations

import io
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
from PIL import ImageColor
from playwright.sync_api import BrowserContext, Route, expect

from coldstart.adapters.inference import AttentionUnetInference
from coldstart.adapters.server import free_port
from coldstart.campaign import Campaign, LabelFile
from coldstart.web import Page, Viewer, create_router
from large_pool import SETTINGS, add_scoring, prepare, write_images
from map_window import WAIT_S, MapWindow, chromium, new_context, require_chromium

MANY = 3_000


@contextmanager
def serving(
    campaign: Campaign, files: dict[str, Path], tasks: list[dict[str, Any]] | None = None, port: int | None = None
) -> Iterator[str]:
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
    port = port or free_port()
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


ODD_IDS = [
    "üñï 漢字",
    'quote\'d "twice"',
    "<img src=x onerror=alert(1)>",
    "a&amp;b#?%41+1",
    "=1+1",
    " lead and trail ",
    "😀",
]


def embedded(folder: Path, ids: list[str], **values: Any) -> tuple[Campaign, dict[str, Path]]:
    """A campaign on an image of noise for each id."""
    studies = folder / "studies"
    studies.mkdir()
    files = {image_id: studies / f"file{seed}.png" for seed, image_id in enumerate(ids)}
    for seed, path in enumerate(files.values()):
        write_noise(path, seed)
    campaign = Campaign(SETTINGS.override(values), folder / "state")
    campaign.sync(files, {})
    campaign.embed()
    return campaign, files


def write_noise(path: Path, seed: int) -> None:
    Picture.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 24), dtype=np.uint8)).save(path)


def save_label(campaign: Campaign, path: Path, image_id: str, who: str) -> None:
    Picture.fromarray(np.eye(24, dtype=np.uint8)).save(path)
    assert campaign.save_label(image_id, LabelFile(path, who)) is None


@pytest.mark.parametrize("n", [1, 3])
def test_few_images_are_shown_until_all_are_labelled(look: Callable[[str], MapWindow], tmp_path: Path, n: int) -> None:
    campaign, files = embedded(tmp_path, [f"i{number}" for number in range(n)])
    with serving(campaign, files) as url:
        window = look(url).open()
        expect(window.page.locator("#progress")).to_contain_text(f"0 of {n} ")
        expect(window.panel.get_by_role("button", name="Train", exact=True)).to_be_disabled()
        expect(window.panel).to_contain_text("A training needs at least 1 labelled image")
        window.page.locator("#map").focus()
        for key in ("ArrowRight", "PageDown", "Enter"):
            window.page.keyboard.press(key)
        expect(window.panel.get_by_role("heading", level=2)).to_have_text(window.state["image"])
        for image_id in files:
            save_label(campaign, tmp_path / f"{image_id}.png", image_id, "ann")
        expect(window.page.locator("#progress")).to_contain_text(f"{n} of {n} images labelled")
        window.page.get_by_role("tab", name="What comes next").click()
        expect(window.panel).to_contain_text("Nothing comes next")


@pytest.mark.parametrize(
    ("held_out", "sentence"),
    [
        ((), "None of the 2 images can be used. The first: Image i0.png cannot be used"),
        (("i1",), "None of the 2 images can be used: 1 cannot be read, the others are held out. The first: Image i0"),
        (("i0", "i1"), "All 2 images are held out; there is none to be labelled."),
    ],
    ids=["set aside", "both", "held out"],
)
def test_images_that_cannot_be_used_are_not_waited_for(
    look: Callable[[str], MapWindow], tmp_path: Path, held_out: tuple[str, ...], sentence: str
) -> None:
    files = {name: tmp_path / f"{name}.png" for name in ("i0", "i1")}
    for seed, (image_id, path) in enumerate(files.items()):
        write_noise(path, seed)
        if image_id not in held_out:
            path.write_bytes(path.read_bytes()[:100])
    (tmp_path / "heldout.txt").write_text("\n".join(held_out))
    campaign = Campaign(SETTINGS.override({"heldout": tmp_path / "heldout.txt"}), tmp_path / "state")
    campaign.sync(files, {})
    campaign.embed()
    with serving(campaign, files) as url:
        window = look(url).open()
        expect(window.page.locator("#notice")).to_contain_text(sentence)
        expect(window.page.locator("#progress")).to_contain_text("No usable images")
        expect(window.panel).to_contain_text(sentence)


def test_panel_stays_where_it_is_read_while_a_task_goes_on(look: Callable[[str], MapWindow], tmp_path: Path) -> None:
    campaign, files = embedded(tmp_path, ["i0", "i1", "i2"])
    task = {"name": "score", "title": "Scoring", "state": "running", "done": 1, "total": 9, "message": "at work"}
    tasks = [{**task, "error": None, "started_at": time.time(), "log": [f"line {n}" for n in range(300)]}]
    places = "[document.querySelector('.tab:not([hidden])').scrollTop, document.querySelector('.tasks pre').scrollTop]"
    with serving(campaign, files, tasks) as url:
        window = look(url).open()
        window.panel.locator("summary", has_text="Last lines of its log").click()
        word = window.panel.locator(".term").first
        word.focus()
        expect(window.page.get_by_role("tooltip")).to_be_visible()
        window.page.keyboard.press("Escape")
        window.page.evaluate("document.querySelector('.tasks pre').scrollTop = 700")
        window.page.evaluate("document.querySelector('.tasks pre').scrollIntoView({block: 'center'})")
        before = window.page.evaluate(places)
        assert before[0] > 100 and before[1] == 700
        for done in (2, 3):
            tasks[0] |= {"done": done, "log": [*tasks[0]["log"], "one more"]}
            expect(window.panel).to_contain_text(f"{done} of 9")
        assert window.page.evaluate(places) == before
        expect(word).to_be_focused()
        expect(window.page.get_by_role("tooltip")).to_be_hidden()


def test_names_are_shown_as_they_are_whatever_is_in_them(look: Callable[[str], MapWindow], tmp_path: Path) -> None:
    who = "<b>Dr. Ünï</b> " + "verylongname" * 6
    campaign, files = embedded(tmp_path, ODD_IDS, budget=4)
    save_label(campaign, tmp_path / "label.png", ODD_IDS[0], who)
    with serving(campaign, files) as url:
        window = look(url).open()
        expect(window.panel.locator("table.days th[scope=row]")).to_have_text(who)
        for image_id in ODD_IDS:
            window.page.mouse.move(*window.place_of(image_id))
            window.wait("name => document.querySelector('#card strong')?.textContent === name", image_id)
            window.page.mouse.move(3, 3)
            window.page.evaluate("image => { location.hash = new URLSearchParams({tab: 'image', image}) }", image_id)
            window.wait("name => document.querySelector('#tab-image h2').textContent === name", image_id)
            expect(window.panel.get_by_role("button", name="Show on the map")).to_be_visible()
        assert window.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_record_that_was_left_and_is_gone_back_to_is_shown(look: Callable[[str], MapWindow], tmp_path: Path) -> None:
    campaign, files = embedded(tmp_path, ["i0", "i1", "i2"])
    with serving(campaign, files) as url:
        window = look(url).open(tab="image", image="i1")
        closing = window.panel.get_by_role("button", name="Show on the map")
        expect(closing).to_be_visible()
        held: list[Route] = []
        window.page.route("**/api/image?id=i2", lambda route: held.append(route))
        window.page.evaluate("location.hash = 'tab=image&image=i2'")
        expect(window.panel).to_contain_text("Loading…")
        window.page.evaluate("location.hash = 'tab=image&image=i1'")
        expect(closing).to_be_visible()
        expect(window.panel.get_by_role("heading", level=2)).to_have_text("i1")


@pytest.mark.parametrize("last", ["campaign", "map"])
def test_record_opened_by_its_address_has_what_comes_after_it(
    look: Callable[[str], MapWindow], tmp_path: Path, last: str
) -> None:
    campaign, files = embedded(tmp_path, [f"i{number}" for number in range(8)], budget=3)
    save_label(campaign, tmp_path / "label.png", "i1", "ann")
    with serving(campaign, files) as url:
        window = look(url)
        table = window.table()
        labelled, planned = table["image_id"].index("i1"), table["state"].index("planned")
        row = labelled if last == "campaign" else planned
        said = "Structuresdisc" if last == "campaign" else f"Why{table['reason'][planned]}"
        held: list[Route] = []
        window.page.route(f"**/api/{last}", lambda route: held.append(route))
        window.visit(tab="image", image=table["image_id"][row])
        expect(window.panel.get_by_role("button", name="Show on the map")).to_be_visible()
        facts = window.panel.locator("dl")
        window.wait("document.querySelector('#progress').textContent" if last == "map" else "window.plot?.data")
        expect(facts).not_to_contain_text(said)
        held[0].continue_()
        expect(facts).to_contain_text(said)
        expect(facts).to_contain_text(f"Cluster{table['cluster'][row]} of {max(table['cluster'])}")


def test_what_failed_is_said_in_a_sentence_and_asked_again(look: Callable[[str], MapWindow], tmp_path: Path) -> None:
    campaign, files = embedded(tmp_path, [f"i{number}" for number in range(8)], budget=3)
    with serving(campaign, files) as url:
        window = look(url).open(tab="image", image="i1")
        window.wait("document.querySelector('img.photo.here') !== null")
        banner = window.page.locator("#away")
        for part in ("image", "preview"):  # the record, then only a picture of it
            window.page.route(f"**/api/{part}?id=i{len(part)}*", lambda route: route.abort())
            window.page.evaluate("image => { location.hash = `tab=image&image=${image}` }", f"i{len(part)}")
            expect(window.panel).to_contain_text("The server does not answer.")
            window.page.unroute(f"**/api/{part}?id=i{len(part)}*")
            window.wait("document.querySelector('img.photo.here') !== null")
            expect(banner).to_be_hidden()
        expect(window.panel).not_to_contain_text("does not answer")
        window.complaints = [one for one in window.complaints if "ERR_FAILED" not in one]


def test_server_that_hangs_is_said(look: Callable[[str], MapWindow], tmp_path: Path) -> None:
    campaign, files = embedded(tmp_path, ["i0", "i1", "i2"])
    with serving(campaign, files) as url:
        window = look(url)
        window.page.clock.install()
        window.open()
        held: list[Route] = []
        window.page.route("**/api/state", lambda route: held.append(route))
        with window.page.expect_request("**/api/state"):
            window.page.clock.fast_forward(3_000)
        window.page.clock.fast_forward(29_000)
        expect(window.page.locator("#away")).to_be_hidden()
        window.page.clock.fast_forward(2_000)
        expect(window.page.locator("#away")).to_contain_text("The server does not answer. What you see is from")
        window.page.unroute("**/api/state")
        window.page.clock.fast_forward(3_000)
        expect(window.page.locator("#away")).to_be_hidden()


def test_picture_that_cannot_be_saved_is_said(look: Callable[[str], MapWindow], tmp_path: Path) -> None:
    campaign, files = embedded(tmp_path, ["i0", "i1", "i2"])
    with serving(campaign, files) as url:
        window = look(url)
        window.page.route("**/plotly.min.js", lambda route: route.abort())
        window.visit()
        expect(window.page.locator("#notice")).to_contain_text("Load the page again")
        window.page.get_by_role("button", name="Save the map as a picture").click()
        expect(window.page.get_by_role("tooltip")).to_contain_text("map.png was not saved.")
        window.page.keyboard.press("Escape")
        expect(window.page.get_by_role("tooltip")).to_be_hidden()
        window.complaints = [one for one in window.complaints if "ERR_FAILED" not in one]


def test_address_opened_in_a_page_that_is_open_brings_all_of_it(
    look: Callable[[str], MapWindow], tmp_path: Path
) -> None:
    campaign, files = embedded(tmp_path, [f"i{number}" for number in range(8)], budget=3)
    with serving(campaign, files) as url:
        window = look(url).open(tab="image", image="i3", view="900,901,900,901")
        whole = window.view()
        at = window.table()["x"][3], window.table()["y"][3]
        near = [at[0] - 0.1, at[0] + 0.1, at[1] - 0.1, at[1] + 0.1]
        layer = window.panel.get_by_role("checkbox", name="Uncertainty")
        expect(layer).not_to_be_checked()
        view = ",".join(f"{edge:.5f}" for edge in near)
        window.page.evaluate("said => { location.hash = said }", f"tab=image&image=i3&overlays=entropy&view={view}")
        expect(layer).to_be_checked()
        window.wait("wide => plot.layout.xaxis.range[1] - plot.layout.xaxis.range[0] < wide / 2", whole[1] - whole[0])
        left, right, bottom, top = window.view()
        assert ((left + right) / 2, (bottom + top) / 2) == pytest.approx(at, abs=1e-3)
        for said in ("colour=nonsense&tab=nowhere", "colour=toString&tab=constructor"):
            window.page.evaluate("said => { location.hash = said }", said)
            expect(window.panel).to_contain_text("About this campaign")
            expect(window.page.get_by_role("radio", name="Cluster")).to_be_checked()
            window.wait("left => Math.abs(plot.layout.xaxis.range[0] - left) < 1e-4", whole[0])
            window.page.evaluate("location.hash = 'colour=entropy&tab=next'")
            expect(window.page.get_by_role("radio", name="Uncertainty")).to_be_checked()
            expect(window.panel).to_contain_text("Which images come next")
        window.visit(colour="nonsense", tab="nowhere")
        expect(window.panel).to_contain_text("About this campaign")


def test_replaced_file_has_another_picture_on_an_open_page(look: Callable[[str], MapWindow], tmp_path: Path) -> None:
    campaign, files = embedded(tmp_path, [f"i{number}" for number in range(8)], budget=3)
    source = "(document.querySelector('#card img')?.src ?? '')"
    with serving(campaign, files) as url:
        window = look(url).open(tab="image", image="i2")
        window.wait("document.querySelector('img.photo.here') !== null")
        preview = window.page.evaluate("document.querySelector('img.photo').src")
        window.page.mouse.move(*window.place_of("i2"))
        window.wait(f"{source} !== ''")
        before = window.page.evaluate(source)
        window.page.mouse.move(3, 3)
        table = window.table()
        write_noise(files["i2"], 77)
        campaign.sync(files, {})
        campaign.embed()
        row = table["image_id"].index("i2")
        window.wait("x => plot.data.every(one => !one.x.includes(x))", table["x"][row])
        window.wait("before => document.querySelector('img.photo').src !== before", preview)
        window.page.mouse.move(*window.place_of("i2"))
        window.wait(f"before => {source} !== '' && {source} !== before", before)


def test_picture_of_an_image_that_was_passed_over_holds_nothing_up(
    look: Callable[[str], MapWindow], tmp_path: Path
) -> None:
    campaign, files = embedded(tmp_path, [f"i{number}" for number in range(8)], budget=3)
    with serving(campaign, files) as url:
        window = look(url).open()
        held: list[Route] = []
        window.page.route("**/api/thumbnail*", lambda route: held.append(route))
        for image_id in files:
            with window.page.expect_event("requestfailed") as given_up:
                with window.page.expect_request(f"**/api/thumbnail?id={image_id}*"):
                    window.page.mouse.move(*window.place_of(image_id))
                window.page.mouse.move(3, 3)
            assert f"/api/thumbnail?id={image_id}&" in given_up.value.url
        window.page.unroute("**/api/thumbnail*")
        window.page.mouse.move(*window.place_of("i3"))
        window.wait("document.querySelector('#card img').naturalWidth > 90")


def test_points_are_seen_before_plotly_is_there(look: Callable[[str], MapWindow], tmp_path: Path) -> None:
    campaign, files = embedded(tmp_path, [f"i{number}" for number in range(8)], budget=3)
    inked = """() => {
        const {width, height} = sketch, pixels = sketch.getContext('2d').getImageData(0, 0, width, height).data;
        return pixels.filter((value, i) => i % 4 === 3 && value > 0).length;
    }"""
    with serving(campaign, files) as url:
        window = look(url)
        held: list[Route] = []
        window.page.route("**/plotly.min.js", lambda route: held.append(route))
        window.visit()
        window.page.locator("#map[data-sketched='8']").wait_for()
        assert 300 < window.page.evaluate(inked) < 20_000
        assert window.page.locator("#map[data-drawn]").count() == 0
        before = window.page.screenshot(clip=window.page.locator("#map").bounding_box())
        for route in held:
            route.continue_()
        window.page.locator("#map[data-drawn='8']").wait_for()
        assert window.page.locator("#sketch").count() == 0
        window.page.evaluate("marks.hidden = true")
        after = window.page.screenshot(clip=window.page.locator("#map").bounding_box())
        first, second = (np.asarray(Picture.open(io.BytesIO(one)).convert("L"), dtype=int) for one in (before, after))
        differ = (abs(first - second) > 60).sum()
        assert differ < 0.5 * (second < 200).sum(), "the points stay where they were"


def test_two_fingers_zoom_and_one_moves_the_map(context: BrowserContext, tmp_path: Path) -> None:
    campaign, files = embedded(tmp_path, [f"i{number}" for number in range(8)], budget=3)
    browser = context.browser
    assert browser is not None
    with serving(campaign, files) as url, new_context(browser, width=390, height=800, has_touch=True) as phone:
        with MapWindow(phone, url) as window:
            window.open()
            box = window.page.locator("#map").bounding_box()
            assert box is not None
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            fingers = phone.new_cdp_session(window.page)

            def touch(kind: str, *at: float) -> None:
                points = [{"x": x + dx, "y": y, "id": number} for number, dx in enumerate(at)]
                fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

            width = "plot.layout.xaxis.range[1] - plot.layout.xaxis.range[0]"
            before = window.page.evaluate(width)
            touch("touchStart", -30)
            touch("touchStart", -30, 30)
            for apart in (40, 50, 60):
                touch("touchMove", -apart, apart)
            touch("touchEnd")
            window.wait(f"wide => Math.abs(({width}) / wide - 0.5) < 0.05", before)
            left, right, *_ = window.view()
            touch("touchStart", 0)
            for moved in (10, 30, 60):
                touch("touchMove", moved)
            touch("touchEnd")
            window.wait("left => plot.layout.xaxis.range[0] < left", left - 0.05 * (right - left))
            assert "image" not in window.state


def test_chosen_tab_is_told_apart_in_forced_colours(context: BrowserContext, tmp_path: Path) -> None:
    campaign, files = embedded(tmp_path, ["i0", "i1", "i2"])
    border = "one => getComputedStyle(one).borderBottomColor"
    with serving(campaign, files) as url, MapWindow(context, url, forced_colors="active") as window:
        window.open(tab="next")
        chosen, others = (window.page.locator(f"#tabs [aria-selected={which}]") for which in ("true", "false"))
        seen = {chosen.evaluate(border), *(one.evaluate(border) for one in others.all())}
        assert len(seen) == 2


def test_page_follows_a_server_that_begins_again_with_another_database(
    look: Callable[[str], MapWindow], tmp_path: Path
) -> None:
    campaign, files = embedded(tmp_path, [f"i{number}" for number in range(8)], budget=3)
    save_label(campaign, tmp_path / "label.png", "i1", "ann")
    port = free_port()
    with serving(campaign, files, port=port) as url:
        window = look(url).open(tab="image", image="i5")
        expect(window.page.locator("#progress")).to_contain_text("1 of 3")
    expect(window.page.locator("#away")).to_contain_text("The server does not answer. What you see is from")
    (tmp_path / "anew").mkdir()
    campaign, files = embedded(tmp_path / "anew", [f"i{number}" for number in range(5)], budget=4)
    with serving(campaign, files, port=port):
        expect(window.page.locator("#away")).to_be_hidden()
        expect(window.page.locator("#progress")).to_contain_text("0 of 4")
        window.wait("document.querySelector('#map').dataset.drawn === '5'")
        expect(window.panel).to_contain_text("The server has no image 'i5'")
        window.complaints = [one for one in window.complaints if "ERR_" not in one and "404" not in one]


NUMBER_ABOVE_PX, RIGHT_PX, TOP_PX, SCALE = 22, 230, 50, 2
"""Where a saved picture has the number of a cluster, its legend, and its map, in pixels of the page; their size."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_saved_picture_explains_its_colours(look: Callable[[str], MapWindow], tmp_path: Path, scheme: Any) -> None:
    campaign, files = embedded(tmp_path, [f"i{number}" for number in range(12)], budget=6, k_max=3)
    for who in ("ann", "ann", "ben"):
        assert campaign.next_sample("cold_start", annotator=who) is not None
    save_label(campaign, tmp_path / "label.png", "i1", "ann")
    add_scoring(campaign)
    of_an_image = "[...new Set(plot.data.slice(0, -1).flatMap(one => one.visible ? one.marker.color : []))]"
    with serving(campaign, files) as url:
        window = look(url)
        window.page.emulate_media(color_scheme=scheme)

        def saved(colour: str) -> np.ndarray:
            window.open(colour=colour).save_by("Save the map as a picture").save_as(tmp_path / "map.png")
            with Picture.open(tmp_path / "map.png") as picture:
                return np.asarray(picture.convert("RGB"), dtype=int)

        def has(pixels: np.ndarray, colour: tuple[int, ...]) -> bool:
            return bool((abs(pixels - colour).max(axis=-1) <= 3).sum() > 50)

        for colour in ("state", "cluster", "phase"):
            legend = saved(colour)[:, -RIGHT_PX * SCALE :]
            colours = [ImageColor.getrgb(one) for one in window.page.evaluate(of_an_image)]
            assert len(colours) > 1 and all(has(legend, one) for one in colours), colour
        legend = saved("entropy")[:, -RIGHT_PX * SCALE :]
        for end in ("#00224e", "#707173", "#fee838"):
            assert has(legend, ImageColor.getrgb(end)), "the scale has all of cividis"

        pixels, table = saved("cluster"), window.table()
        ink = np.array(ImageColor.getrgb("#1b2127" if scheme == "light" else "#e8ecf0"))
        map_at = window.page.locator("#map").bounding_box()
        assert map_at is not None
        for row in [row for row, medoid in enumerate(table["medoid"]) if medoid]:
            x, y = window.place_of(table["image_id"][row])
            x, y = round((x - map_at["x"] + 10) * SCALE), round((y - map_at["y"] + TOP_PX) * SCALE)
            assert (abs(pixels[y - 3 : y + 4, x - 3 : x + 4] - ink).max(axis=-1) > 20).all(), "nothing on the point"
            number = pixels[y - NUMBER_ABOVE_PX * SCALE - 12 : y - NUMBER_ABOVE_PX * SCALE + 12, x - 9 : x + 10]
            assert (abs(number - ink).max(axis=-1) < 20).sum() > 20, "the number above it"
