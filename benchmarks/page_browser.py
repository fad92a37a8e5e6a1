"""How long the map page takes in a browser: from the address to the drawn map, and how it moves.

    python benchmarks/page_browser.py

A real server on generated images, as in `page.py`, and headless Chromium on the same machine. "First visit" is a new
profile of the browser, with nothing in its cache; "again" has the page's files there. Drawn is when Plotly has drawn
every point, and the map can be used; the points are to be seen before that, in the sketch that is drawn without Plotly.
Beside the time on the clock stands the processor's time of all of Chromium's processes, which hardly depends on what
else the machine does. There is no graphics card: WebGL is computed on the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
from load import CONF, add_model, prepare, write_images
from playwright.sync_api import Browser, Page

from coldstart.adapters.server import Server

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from map_window import MapWindow, chromium, new_context

RESULTS = Path(__file__).parent / "results"
N_MOVES = 40
SEEN_AND_DRAWN_AT = """Promise.all(['sketched', 'drawn'].map(name => new Promise(done => {
    const look = () => {
        const {[name]: there, drawn} = document.querySelector('#map')?.dataset ?? {};
        there || drawn ? requestAnimationFrame(() => done(performance.now())) : setTimeout(look, 5);
    };
    look();
})))"""
MOVE = """async n => {
    const taken = [];
    for (let i = 0; i < n; i++) {
        const [left, right] = plot.layout.xaxis.range, by = (right - left) * (i < n / 2 ? 0.01 : -0.01);
        const begun = performance.now();
        await Plotly.relayout(plot, {'xaxis.range': [left + by, right + by]});
        taken.push(performance.now() - begun);
    }
    return taken;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 50_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "page_browser.json")
    arguments = parser.parse_args()
    result: dict = {
        "hardware": f"{os.cpu_count()} CPU cores, no GPU; load average {os.getloadavg()[0]:.1f} when the run began",
        "measurements": [],
    }
    for n_images in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            result["measurements"] += measure_pool(Path(folder), n_images, arguments.repeats)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    arguments.output.with_suffix(".md").write_text(table(result))
    print(table(result))


def measure_pool(folder: Path, n_images: int, repeats: int) -> list[dict]:
    for name in ("ours", "stock"):
        (folder / name).mkdir()
    write_images(folder, n_images)
    campaign = prepare(folder / "ours")
    with Server(folder / "ours", CONF, folder / "ours.log") as server:
        add_model(campaign, folder / "ours", server)
        rows = []
        with chromium() as browser:
            visit(browser, server, n_images, 1)  # Chromium's own beginning, and the server's first reading
            rows += visit(browser, server, n_images, repeats)
    campaign.store.close()
    return rows


def visit(browser: Browser, server: Server, n_images: int, repeats: int) -> list[dict]:
    first, again, moves = [], [], []
    for _ in range(repeats):
        context = new_context(browser)
        with MapWindow(context, server.url) as window:
            first.append(load(window.page, server.url))
            again.append(load(window.page, server.url))
            assert int(window.page.locator("#map").get_attribute("data-drawn") or 0) == n_images
            moves += window.page.evaluate(MOVE, N_MOVES)
        context.close()
    rows = []
    for what, taken in (("first visit", first), ("again", again)):
        seen, drawn, cpu = zip(*taken, strict=True)
        rows.append({"what": f"{what}, points to be seen", "images": n_images, **summary(seen), "cpu_ms": None})
        rows.append({"what": f"{what}, drawn", "images": n_images, **summary(drawn), "cpu_ms": median(cpu)})
    return [*rows, {"what": "a step of moving the map", "images": n_images, **summary(moves), "cpu_ms": None}]


def load(page: Page, url: str) -> tuple[float, float, float]:
    """Milliseconds on the clock until every point is to be seen, and until it is drawn; and of the processor."""
    page.goto("about:blank")
    before = cpu_ms()
    page.goto(f"{url}/coldstart/", wait_until="commit")
    seen_at, drawn_at = page.evaluate(SEEN_AND_DRAWN_AT)
    return seen_at, drawn_at, cpu_ms() - before


def cpu_ms() -> float:
    """What Chromium's processes have used."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if "chromium" in process.name():
                times = process.cpu_times()
                total += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return 1000 * total


def median(values: Sequence[float]) -> float:
    return round(float(np.median(values)), 1)


def summary(values: Sequence[float]) -> dict[str, float]:
    return {"fastest_ms": round(min(values), 1), "median_ms": median(values), "slowest_ms": round(max(values), 1)}


def table(result: dict) -> str:
    lines = [
        "# The map page in a browser",
        "",
        "`python benchmarks/page_browser.py`: headless Chromium and a real server on one machine, from the address to",
        "the last point drawn; processor time is that of all of Chromium's processes. It computes WebGL, too.",
        "",
        f"{result['hardware']}.",
        "",
        "| images | what | fastest, ms | median, ms | slowest, ms | processor, ms |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for row in result["measurements"]:
        times = " | ".join(f"{row[name]:,.0f}" for name in ("fastest_ms", "median_ms", "slowest_ms"))
        cpu = "" if row["cpu_ms"] is None else f"{row['cpu_ms']:,.0f}"
        lines.append(f"| {row['images']:,} | {row['what']} | {times} | {cpu} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
