"""The map page in Chromium, against a real server with a campaign under way; in steps, as somebody goes through it."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image as Picture
from playwright.sync_api import Browser, BrowserContext, expect

from coldstart.adapters.server import Server
from map_window import WAIT_S, MapWindow, chromium, new_context, require_chromium
from page_campaign import BROKEN, Annotators, play, write_studies

TRAINED_WITHIN_MS = 400_000
"""How long a step of a training may take while other tests share the processor."""
PHONE = {"width": 390, "height": 844, "has_touch": True, "is_mobile": True}


@dataclass
class Site:
    """The server, those who label, and the browser."""

    server: Server
    people: Annotators
    browser: Browser
    context: BrowserContext
    studies: Path

    def window(self, **media: str) -> MapWindow:
        return MapWindow(self.context, self.server.url, **media)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Site]:
    require_chromium()
    folder = tmp_path_factory.mktemp("map_page")
    conf = write_studies(repository / "sample-data", folder)
    expect.set_options(timeout=WAIT_S * 1000)
    with Server(folder / "studies", conf, folder / "server.log") as server:
        people = play(server, repository / "sample-data" / "chest" / "groundtruth")
        with chromium() as browser:
            yield Site(server, people, browser, new_context(browser), folder / "studies")


@pytest.fixture
def window(site: Site) -> Iterator[MapWindow]:
    """A window on the page, which asks no other host and has nothing to complain about."""
    with site.window() as window:
        yield window
        assert window.elsewhere == []
        assert window.complaints == []


# --- The map --------------------------------------------------------------------------------------------


def test_every_image_is_a_point_with_the_shape_of_its_state(window: MapWindow) -> None:
    drawn, table = window.open().drawn(), window.table()
    words = {"pool": "not labelled", "planned": "planned", "served": "served now", "labelled": "labelled"}
    words |= {"held_out": "held out", "set_aside": "set aside", "skipped": "skipped"}
    assert {"served", "labelled", "held_out", "set_aside", "skipped", "pool"} <= set(table["state"])
    for state, word in words.items():
        assert (len(drawn[word]["x"]) if word in drawn else 0) == table["state"].count(state)
    assert len({drawn[word]["symbol"] for word in words.values() if word in drawn}) == len(set(table["state"]))
    x, y = drawn["served now"]["x"], drawn["served now"]["y"]
    at = table["state"].index("served")
    assert (x, y) == ([table["x"][at]], [table["y"][at]])
    assert len(drawn["centre of its cluster"]["x"]) == sum(table["medoid"]) > 1
    legend = window.page.locator("#legend").inner_text()
    assert "served now" in legend and "held out" in legend
    window.keep("light")


def test_image_without_a_place_on_the_map_is_drawn_below_it(window: MapWindow) -> None:
    drawn, table = window.open().drawn(), window.table()
    assert table["x"][table["image_id"].index(BROKEN)] is None
    assert max(drawn["set aside"]["y"]) < min(y for y in table["y"] if y is not None)


def test_colour_switch_colours_by_each_of_the_four(window: MapWindow) -> None:
    window.open()
    colours = "JSON.stringify(plot.data.map(one => one.marker.color))"
    seen = [window.page.evaluate(colours)]
    words = {"Phase": "phase", "Uncertainty": "entropy", "Label state": "state", "Cluster": "cluster"}
    for name, colour in words.items():
        window.page.get_by_role("group", name="Colour").get_by_text(name).click()
        window.wait(f"before => {colours} !== before", seen[-1])
        seen.append(window.page.evaluate(colours))
        assert window.state.get("colour", "cluster") == colour
    assert len(set(seen)) == 4 and seen[0] == seen[-1]
    table = window.table()
    expect(window.page.locator("#marks .cluster")).to_have_count(len(set(table["cluster"]) - {None}))


def test_hover_shows_thumbnail_and_reason(window: MapWindow, site: Site) -> None:
    table = window.open().table()
    at = table["state"].index("served")
    window.page.mouse.move(*window.place_of(table["image_id"][at]))
    card = window.page.locator("#card")
    expect(card).to_be_visible()
    expect(card).to_contain_text(table["image_id"][at])
    expect(card).to_contain_text(f"cluster {table['cluster'][at]}")
    expect(card).to_contain_text(table["reason"][at])
    expect(card).to_contain_text(f"uncertainty {table['entropy'][at]:.2f}")
    window.wait("document.querySelector('#card img').naturalWidth > 90")
    window.page.mouse.move(5, 5)
    expect(card).to_be_hidden()


def test_click_opens_the_record_with_preview_and_overlays(window: MapWindow) -> None:
    table = window.open().table()
    image_id = table["image_id"][table["served_order"].index(7)]
    window.page.mouse.click(*window.place_of(image_id))
    expect(window.panel.get_by_role("heading", level=2)).to_have_text(image_id)
    known = ("Annotator", "Label saved", "right lung, left lung, heart", "Model's Dice before", "alpha 0.3")
    for word in known:
        expect(window.panel).to_contain_text(word)
    window.wait("document.querySelector('img.photo').naturalWidth > 150")
    for name in ("Model's label", "Uncertainty"):
        window.panel.get_by_role("checkbox", name=name).check()
    expect(window.panel.locator("img.overlay.here")).to_have_count(2)
    size = "[...document.querySelectorAll('.frame img')].map(one => `${one.naturalWidth} x ${one.naturalHeight}`)"
    sizes = window.page.evaluate(size)
    assert len(sizes) == 3 and len(set(sizes)) == 1, "an overlay lies on what it is about"
    assert window.state == {"tab": "image", "image": image_id, "overlays": "prediction,entropy"}
    window.keep("record")
    window.panel.get_by_role("button", name="Close").click()
    expect(window.panel).to_contain_text("Choose an image")


def test_wheel_zooms_and_drag_moves_without_opening_a_record(window: MapWindow) -> None:
    left, right, *_ = window.open().view()
    box = window.page.locator("#map").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    window.page.mouse.move(x, y)
    window.page.mouse.wheel(0, -300)
    window.wait("width => plot.layout.xaxis.range[1] - plot.layout.xaxis.range[0] < 0.95 * width", right - left)
    window.wait("location.hash.includes('view')")
    before = window.view()
    window.page.mouse.down()
    window.page.mouse.move(x + 120, y + 40, steps=4)
    window.page.mouse.up()
    window.wait("left => plot.layout.xaxis.range[0] < left", before[0])
    assert "image" not in window.state
    window.page.get_by_role("button", name="Show the whole map").click()
    window.wait("!location.hash.includes('view')")


# --- Steering -------------------------------------------------------------------------------------------


def test_slider_shows_at_once_what_would_come_next(window: MapWindow) -> None:
    window.open(tab="next")
    expect(window.panel.locator("ol.next li")).not_to_have_count(0)
    usual = window.picks()
    expect(window.page.locator("#marks .pick")).to_have_count(len(usual))
    slider = window.panel.get_by_role("slider")
    assert slider.input_value() == "0.3"
    slider.fill("1")
    expect(window.panel.locator("ol.next b").first).not_to_have_text(f"1{usual[0]}")
    changed = window.picks()
    answer = window.page.request.get(f"{window.server}/coldstart/api/next?alpha=1&n=10").json()
    assert changed == [pick["image_id"] for pick in answer["picks"]] != usual
    assert window.state["alpha"] == "1"
    window.keep("next")
    window.panel.get_by_role("button", name="Back").click()
    assert "alpha" not in window.state and slider.input_value() == "0.3"


def test_bad_budget_is_answered_with_a_sentence(window: MapWindow) -> None:
    window.open(tab="next")
    window.panel.get_by_role("spinbutton").fill("0")
    expect(window.panel.locator("p.problem")).to_contain_text("budget")
    expect(window.panel.locator("ol.next li")).to_have_count(0)
    window.complaints = [one for one in window.complaints if "400" not in one]  # Chromium notes what was refused


def test_use_this_is_the_campaigns_value_for_everybody(window: MapWindow, site: Site) -> None:
    with site.window() as other:
        other.open(tab="next")
        window.open(tab="next", alpha="0.8")
        window.panel.get_by_role("button", name="Use this").click()
        expect(window.panel).to_contain_text("The campaign uses these values now")
        expect(window.panel.get_by_role("button", name="Use this")).to_be_disabled()
        expect(other.panel.get_by_role("slider")).to_have_value("0.8")
    assert window.page.request.get(f"{window.server}/coldstart/api/campaign").json()["alpha"] == 0.8
    expect(window.panel).to_contain_text("alpha 0.8 was chosen,")
    window.panel.get_by_role("slider").fill("0.3")
    window.panel.get_by_role("button", name="Use this").click()
    expect(window.panel.get_by_role("button", name="Use this")).to_be_disabled()


# --- The campaign ---------------------------------------------------------------------------------------


def test_campaign_panel_says_how_far_it_is(window: MapWindow) -> None:
    window.open()
    expect(window.page.locator("#progress")).to_contain_text("10 of")
    panel = window.panel
    expect(panel).to_contain_text("Do more labels still help?")
    curve = window.page.request.get(f"{window.server}/coldstart/api/campaign").json()["curve"]
    assert len(curve["heldout"]) == 2
    expect(panel.locator(".verdict")).to_have_text(curve["verdict"]["sentence"])
    expect(panel.locator("svg.curve rect")).to_have_count(2)
    expect(panel.locator("svg.curve circle")).to_have_count(len(curve["prequential"]))
    assert len(curve["prequential"]) == 4
    rows = panel.locator("table.days tbody tr").all_inner_texts()
    assert [row.split()[-1] for row in rows if row.startswith(("anna", "Dr. Berg"))] == ["7", "3"]
    for word in ("Training", "descriptor", "Last lines of its log", "anna has", "chest_xray", BROKEN):
        expect(panel).to_contain_text(word)
    panel.locator(".tasks summary").first.click()
    expect(panel.locator(".tasks pre").first).to_be_visible()


def test_page_updates_itself_and_keeps_zoom_and_selection(window: MapWindow, site: Site) -> None:
    table = window.open().table()
    chosen = table["image_id"][table["state"].index("labelled")]
    served = table["image_id"][table["state"].index("served")]
    window.page.locator("#map").focus()
    window.page.keyboard.press("+")
    window.wait("location.hash.includes('view')")
    window.page.get_by_role("combobox").fill(chosen)
    window.page.keyboard.press("Enter")
    expect(window.panel.get_by_role("heading", level=2)).to_have_text(chosen)
    before = window.view()
    site.people.save(site.people.anna, served)
    expect(window.page.locator("#progress")).to_contain_text("11 of")
    n_labelled = table["state"].count("labelled") + 1
    window.wait("n => plot.data.find(one => one.name === 'labelled').x.length === n", n_labelled)
    assert window.view() == pytest.approx(before)
    assert window.state["image"] == chosen
    expect(window.panel.get_by_role("heading", level=2)).to_have_text(chosen)
    assert "11 labelled" in window.said()


def test_train_button_trains_once_and_says_how_far_it_is(window: MapWindow, site: Site) -> None:
    campaign = f"{window.server}/coldstart/api/campaign"
    before = window.open().page.request.get(campaign).json()
    assert len(before["models"]) == 2
    heard = "window.heard = []; new MutationObserver(() => heard.push(live.textContent))"
    heard += ".observe(live, {childList: true})"
    states = "window.states = []; setInterval(() => states.push(document.querySelector('.state').textContent), 20)"
    window.page.evaluate(f"{heard}; {states}; undefined")
    button = window.panel.get_by_role("button", name="Train", exact=True)
    button.focus()
    for key in ("Enter", "Space", "Enter"):
        window.page.keyboard.press(key)
    expect(button).to_be_focused()
    expect(button).to_be_disabled()
    expect(button).to_have_accessible_description("It learns from every label there is.")
    expect(window.panel.locator(".state")).to_contain_text("Epoch", timeout=TRAINED_WITHIN_MS)
    expect(window.panel.get_by_role("progressbar", name="Progress of the training").first).to_be_visible()
    window.keep("training")
    expect(window.panel.locator(".models tbody tr")).to_have_count(3, timeout=TRAINED_WITHIN_MS)
    expect(window.panel.locator(".state")).to_have_text("No training runs.", timeout=TRAINED_WITHIN_MS)
    expect(window.panel).to_contain_text("It is used: it has a Dice of")
    seen = " ".join(window.page.evaluate("states"))
    assert re.search(r"Epoch \d of 8 · loss \d\.\d+ .*left", seen) and "The new model is checked" in seen
    assert "Training has begun" in (spoken := " ".join(window.page.evaluate("heard")))
    assert "The training has ended. It is used" in spoken
    after = window.page.request.get(campaign).json()
    assert [one["version"] for one in after["models"][:2]] == [one["version"] for one in before["models"]]
    assert (len(after["models"]), after["training"]["now"]["state"]) == (3, "idle"), "three presses are one training"
    site.people.wait_until_scored()


def test_kept_model_is_put_back_and_forward(window: MapWindow, site: Site) -> None:
    window.open()
    models = window.page.request.get(f"{window.server}/coldstart/api/campaign").json()["models"]
    window.panel.get_by_text("3 kept models").click()
    for one in (models[0], models[-1]):
        window.panel.get_by_role("button", name=f"Use the model {one['version']}").click()
        expect(window.panel).to_contain_text(f"{one['version']} is used now")
        expect(window.panel.locator(".models tr", has_text="in use").locator("th")).to_have_attribute(
            "title", re.compile(one["version"])
        )
        assert site.people.state()["model_version"] == one["version"]
    site.people.wait_until_scored()


def test_image_set_aside_is_tried_again(window: MapWindow, site: Site, repository: Path) -> None:
    window.open()
    button = window.panel.get_by_role("button", name=f"Try {BROKEN} again")
    button.click()
    expect(window.panel).to_contain_text("1 image is tried again now")
    expect(button).to_be_visible()  # it is as broken as before
    shutil.copy(repository / "sample-data" / "chest" / "chest_059.nrrd", site.studies / f"{BROKEN}.nrrd")
    window.wait("!document.querySelector('#tab-campaign').innerText.includes('Set aside')")
    assert window.table()["state"].count("set_aside") == 0


# --- Ways to use it -------------------------------------------------------------------------------------


def test_map_is_used_with_the_keyboard_alone(window: MapWindow) -> None:
    window.open()
    for _ in range(6):  # the way there is short
        window.page.keyboard.press("Tab")
        if window.page.evaluate("document.activeElement.id") == "map":
            break
    assert window.page.evaluate("document.activeElement.id") == "map"
    outline = window.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "one sees where one is"
    heard = set()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "ArrowLeft", "PageDown", "PageDown"):
        window.page.keyboard.press(key)
        heard.add(window.said())
    assert len(heard) >= 4
    assert "number 2 of the plan" in window.said()
    expect(window.page.locator("#card")).to_be_visible()
    image_id = window.said().split(":")[0]
    window.page.keyboard.press("Enter")
    expect(window.panel.get_by_role("heading", level=2)).to_have_text(image_id)
    window.page.keyboard.press("Escape")
    window.page.keyboard.press("Escape")
    expect(window.panel).to_contain_text("Choose an image")
    assert window.page.evaluate("document.activeElement.id") == "map"


def test_tabs_and_explanations_work_with_keys(window: MapWindow) -> None:
    window.open()
    window.page.get_by_role("tab", name="Campaign").focus()
    window.page.keyboard.press("ArrowLeft")
    expect(window.page.get_by_role("tab", name="What comes next")).to_be_focused()
    expect(window.panel).to_contain_text("Which images come next")
    window.panel.get_by_role("button", name="alpha:").focus()
    expect(window.page.get_by_role("tooltip")).to_contain_text("most unsure about")
    window.page.keyboard.press("Escape")
    expect(window.page.get_by_role("tooltip")).to_be_hidden()


def test_phone_shows_everything_without_scrolling_sideways(site: Site) -> None:
    with new_context(site.browser, **PHONE) as context, MapWindow(context, site.server.url) as window:
        table = window.open(tab="next").table()
        expect(window.panel.locator("ol.next li")).not_to_have_count(0)
        assert window.page.evaluate("document.documentElement.scrollWidth") <= 390
        box = window.page.locator("#map").bounding_box()
        assert box is not None and box["height"] > 400
        window.page.touchscreen.tap(*window.place_of(table["image_id"][table["state"].index("held_out")]))
        expect(window.panel.get_by_role("heading", level=2)).to_be_visible()
        assert window.state["image"] in table["image_id"]
        window.keep("phone")
        assert window.complaints == [] and window.elsewhere == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(site: Site, scheme: str) -> None:
    with site.window(color_scheme=scheme) as window:
        window.open()
        contrasts = window.page.evaluate(CONTRASTS, SMALL_TEXT)
        assert window.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
        assert len(contrasts) > 20 and min(contrasts)[0] >= 4.5, min(contrasts)
        window.keep(scheme)


SMALL_TEXT = "h1, .term, .quiet, #tabs [role=tab], .switch span, summary, .link, #legend b, dt"
CONTRASTS = """names => {
    const levels = colour => colour.match(/[\\d.]+/g).map(Number);
    const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
    const behind = one => {
        for (; one; one = one.parentElement) {
            const colour = levels(getComputedStyle(one).backgroundColor);
            if (colour.length < 4 || colour[3] === 1) return colour;
        }
    };
    return [...document.querySelectorAll(names)].filter(one => one.checkVisibility()).map(one => {
        const pair = [light(levels(getComputedStyle(one).color)), light(behind(one))].sort((a, b) => b - a);
        return [(pair[0] + 0.05) / (pair[1] + 0.05), one.textContent.slice(0, 40)];
    });
}"""


def test_nothing_moves_for_whoever_wants_that(site: Site) -> None:
    with site.window(reduced_motion="reduce") as window:
        window.open()
        moving = "getComputedStyle(document.querySelector('.frame img') ?? document.body).transitionDuration"
        assert window.page.evaluate(moving) == "0s"
        assert window.page.evaluate("document.getAnimations().length") == 0


def test_address_brings_the_same_page_back(window: MapWindow) -> None:
    table = window.open().table()
    image_id = table["image_id"][table["state"].index("labelled")]
    state = {"colour": "entropy", "tab": "image", "image": image_id, "overlays": "prediction", "view": "-1,3,-1,2"}
    window.open(**state)
    expect(window.page.get_by_role("radio", name="Uncertainty")).to_be_checked()
    expect(window.panel.get_by_role("heading", level=2)).to_have_text(image_id)
    expect(window.panel.get_by_role("checkbox", name="Model's label")).to_be_checked()
    expect(window.page.locator("#marks .selected")).to_have_count(1)
    left, right, bottom, top = window.view()
    assert left <= -1 and right >= 3 and bottom <= -1 and top >= 2
    assert (right - left == pytest.approx(4)) or (top - bottom == pytest.approx(3)), "as near as before"


def test_found_image_is_shown(window: MapWindow) -> None:
    table = window.open().table()
    image_id = table["image_id"][3]
    window.page.get_by_role("combobox").fill(image_id[-4:].upper())
    expect(window.page.get_by_role("option")).to_have_count(1)
    window.page.keyboard.press("Enter")
    expect(window.panel.get_by_role("heading", level=2)).to_have_text(image_id)


def test_map_is_saved_as_png_and_its_table_as_csv(window: MapWindow, tmp_path: Path) -> None:
    table = window.open().table()
    window.save_by("Save the map as a picture").save_as(tmp_path / "map.png")
    with Picture.open(tmp_path / "map.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 1000
        assert len(picture.convert("RGB").getcolors(maxcolors=1 << 24) or []) > 100, "something is drawn on it"
    window.save_by("Save the table behind the map").save_as(tmp_path / "map.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "map.csv").read_text(encoding="utf-8-sig"))))
    assert [row["image_id"] for row in rows] == table["image_id"]
    assert {"x", "y", "cluster", "entropy", "state", "phase", "rank", "reason"} <= set(rows[0])


def test_server_that_is_away_is_said_and_comes_back(site: Site) -> None:
    with site.window() as window:
        window.open()
        window.offline(True)
        expect(window.page.locator("#away")).to_contain_text("The server does not answer. What you see is from")
        window.offline(False)
        expect(window.page.locator("#away")).to_be_hidden()
