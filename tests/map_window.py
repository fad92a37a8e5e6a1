"""The map page in a headless Chromium, as an annotator uses it; everything that it does beside the page is noted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Download, Locator, Page, Request, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
WITH_WEBGL = ["--enable-unsafe-swiftshader"]
"""Without a graphics card, Chromium draws WebGL only when told to."""
WAIT_S = 90.0
"""How long the page may take for what a click asks: other tests may share the processor."""
ARTIFACTS = "COLDSTART_ARTIFACTS"
"""Environment variable with the folder for screenshots; none are kept without it."""


def require_chromium() -> None:
    """Skip where the browser is not installed."""
    if not CHROMIUM.exists():
        pytest.skip("Chromium is not installed: make viewers installs the Debian package chromium")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=[*FLAGS, *WITH_WEBGL])
        try:
            yield browser
        finally:
            browser.close()


def new_context(browser: Browser, *, width: int = 1400, height: int = 900, **options: Any) -> BrowserContext:
    """A profile of its own, with its own cache."""
    return browser.new_context(viewport={"width": width, "height": height}, locale="en-GB", **options)


class MapWindow:
    """One window with the map page; a context manager.

    Parameters
    ----------
    context : BrowserContext
        Windows of one context share their cache.
    server : str
        Address of the server.
    media : str
        What the browser prefers: `color_scheme`, `reduced_motion`.

    Attributes
    ----------
    elsewhere : list of str
        Addresses outside the server that the page asked for.
    complaints : list of str
        Errors and warnings in the console.
    """

    def __init__(self, context: BrowserContext, server: str, **media: Any):
        self.server = server
        self.elsewhere: list[str] = []
        self.complaints: list[str] = []
        self._context = context
        self.page: Page = context.new_page()
        self.page.set_default_timeout(WAIT_S * 1000)
        self.page.emulate_media(**media)
        self.page.on("request", self._look_where)
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))

    def __enter__(self) -> MapWindow:
        return self

    def __exit__(self, *error: object) -> None:
        self.page.close()

    def _look_where(self, request: Request) -> None:
        # Requests are not held up: that would switch the browser's cache off.
        if not request.url.startswith((f"{self.server}/", "data:", "blob:", "about:")):
            self.elsewhere.append(request.url)

    def _note(self, message: Any) -> None:
        # Chromium notes what the graphics driver says, which here is a program.
        if message.type in ("error", "warning") and "GL Driver Message" not in message.text:
            self.complaints.append(f"{message.type}: {message.text}")

    def open(self, **state: str) -> MapWindow:
        """Open the page in a state of its address, and wait until the map is drawn."""
        self.visit(**state)
        self.page.locator("#map[data-drawn]").wait_for()
        return self

    def visit(self, **state: str) -> None:
        """Open the page in a state of its address."""
        said = "&".join(f"{name}={value}" for name, value in state.items())
        self.page.goto("about:blank")
        self.page.goto(f"{self.server}/coldstart/#{said}", wait_until="domcontentloaded")

    def offline(self, off: bool) -> None:
        """Take the network away, or give it back."""
        self._context.set_offline(off)

    def keep(self, name: str) -> None:
        """Keep a screenshot, where somebody wants to look at it."""
        if folder := os.environ.get(ARTIFACTS):
            self.page.screenshot(path=Path(folder) / f"map-{name}.png")

    # --- What the page shows --------------------------------------------------------------------------

    @property
    def state(self) -> dict[str, str]:
        """What the address says."""
        return dict(parse_qsl(urlsplit(self.page.url).fragment))

    def drawn(self) -> dict[str, dict[str, Any]]:
        """Traces that Plotly draws, by name: kind, symbol, points, colours."""
        traces = self.page.evaluate(
            "plot.data.filter(one => one.visible).map(({name, type, marker, x, y}) =>"
            " ({name, type, symbol: marker.symbol, colours: marker.color, x, y}))"
        )
        return {trace["name"]: trace for trace in traces}

    def view(self) -> list[float]:
        """The part of the map that is looked at: left, right, bottom, top."""
        return [float(edge) for edge in self.page.evaluate("[...plot.layout.xaxis.range, ...plot.layout.yaxis.range]")]

    def place_of(self, image_id: str) -> tuple[float, float]:
        """Where on the screen the point of an image is, by the axes and the table that the server gives."""
        map_table = self.table()
        row = map_table["image_id"].index(image_id)
        left, right, bottom, top = self.view()
        box = self.page.locator("#map").bounding_box()
        assert box is not None
        x = (map_table["x"][row] - left) / (right - left) * box["width"]
        y = (top - map_table["y"][row]) / (top - bottom) * box["height"]
        return box["x"] + x, box["y"] + y

    def table(self) -> dict[str, list[Any]]:
        """The table behind the map, as the server gives it."""
        answer = self.page.request.get(f"{self.server}/coldstart/api/map")
        assert answer.ok, answer.text()
        return dict(answer.json())

    def picks(self) -> list[str]:
        """Images in the list of what comes next."""
        names = self.page.evaluate("[...document.querySelectorAll('ol.next b')].map(one => one.lastChild.data)")
        return [str(name) for name in names]

    def said(self) -> str:
        """What somebody hears who does not see the page."""
        return self.page.locator("#live").inner_text()

    @property
    def panel(self) -> Locator:
        """The part at the side that is open."""
        return self.page.locator(".tab:visible")

    def wait(self, condition: str, argument: Any = None) -> None:
        """Wait until an expression of the page holds."""
        self.page.wait_for_function(condition, arg=argument)

    def save_by(self, button: str) -> Download:
        """Press a button that saves a file."""
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name=button).click()
        return download.value
