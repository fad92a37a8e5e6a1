"""Time and bytes of the map page's routes, beside MONAI Label's own list of the images, in one run.

    python benchmarks/page.py

Two servers run side by side on the same generated images, 16x16 PNG: this app, with a campaign under way, and a minimal
MONAI Label app with the stock datastore, whose `GET /datastore/?output=all` is the nearest that stock has to the table
behind the map: the name and the record of every image. What a training would have given is written into our database
by `load.py`. Bytes are those on the wire; both are asked by a client that unpacks gzip, as browsers do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import requests
from load import CONF, STOCK_APP, add_model, prepare, write_images

from coldstart.adapters.server import Server

RESULTS = Path(__file__).parent / "results"
STOCK = "stock GET /datastore/?output=all"
N_CLICKS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 50_000])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS / "page.json")
    arguments = parser.parse_args()
    result: dict = {
        "hardware": (
            f"{os.cpu_count()} CPU cores ({platform.machine()}), no GPU used; the client on the same machine; "
            f"load average {os.getloadavg()[0]:.1f} from other work when the run began"
        ),
        "measurements": [],
    }
    for n_images in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            measure_pool(Path(folder), n_images, arguments.repeats, result["measurements"])
    before = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
    arguments.output.write_text(json.dumps({**before, **result}, indent=2) + "\n")
    arguments.output.with_suffix(".md").write_text(table({**before, **result}))
    print(table(result))


def measure_pool(folder: Path, n_images: int, repeats: int, rows: list[dict]) -> None:
    """Measure both servers on a pool of this size."""
    for name in ("ours", "stock"):
        (folder / name).mkdir()
    write_images(folder, n_images)
    campaign = prepare(folder / "ours")
    app = shutil.copytree(STOCK_APP, folder / "stock_app")  # the server makes folders beside an app's main.py
    with (
        Server(folder / "stock", {}, folder / "stock.log", app=app) as stock,
        Server(folder / "ours", CONF, folder / "ours.log") as ours,
    ):
        add_model(campaign, folder / "ours", ours)
        for number in range(N_CLICKS):
            click(ours, f"annotator {number % 5}")
        baseline = measure(STOCK, n_images, repeats, lambda _: requests.get(f"{stock.url}/datastore/?output=all"))
        rows.append(baseline | {"of_stock_time": 1.0, "of_stock_bytes": 1.0})
        for what, ask in questions(ours).items():
            row = measure(what, n_images, repeats, ask)
            row["of_stock_time"] = round(row["median_ms"] / baseline["median_ms"], 4)
            row["of_stock_bytes"] = round(row["bytes"] / baseline["bytes"], 5)
            rows.append(row)
            print(row, flush=True)
    campaign.store.close()


def click(server: Server, name: str) -> None:
    answer = requests.post(f"{server.url}/activelearning/coldstart_al", json={"client_id": name}, timeout=60)
    answer.raise_for_status()


def questions(server: Server) -> dict[str, Callable[[int], requests.Response]]:
    """What the page asks, by a name; each takes the number of the try."""
    api = f"{server.url}/coldstart/api"
    tag = requests.get(f"{api}/map", timeout=60).headers["ETag"]

    def after_a_click(number: int) -> requests.Response:
        click(server, f"annotator {number % 5}")
        started = time.perf_counter()
        answer = requests.get(f"{api}/map", timeout=60)
        answer.elapsed_s = time.perf_counter() - started
        return answer

    def get(path: str) -> Callable[[int], requests.Response]:
        return lambda _: requests.get(f"{api}/{path}", timeout=60)

    return {
        "state (every 2 s)": get("state"),
        "campaign": get("campaign"),
        "map, as it was": get("map"),
        "map that the browser has": lambda _: requests.get(f"{api}/map", headers={"If-None-Match": tag}, timeout=60),
        "map after a click": after_a_click,
        "table.csv": get("table.csv"),
        "image": get("image?id=image_00007"),
        "next, other alpha each time": lambda n: requests.get(f"{api}/next?n=10&alpha={0.1 + n / 100}", timeout=60),
        "thumbnail, first time": lambda n: requests.get(f"{api}/thumbnail?id=image_{n + 100:05d}", timeout=60),
        "thumbnail, kept": get("thumbnail?id=image_00100"),
        "page": lambda _: requests.get(f"{server.url}/coldstart/", timeout=60),
        "plotly.min.js": lambda _: requests.get(f"{server.url}/coldstart/static/plotly.min.js", timeout=60),
    }


def measure(what: str, n_images: int, repeats: int, ask: Callable[[int], requests.Response]) -> dict:
    """First and median time, and bytes on the wire; the first one may have to read what later ones find in memory."""
    taken, n_bytes = [], 0
    for number in range(repeats + 1):
        started = time.perf_counter()
        answer = ask(number)
        elapsed = getattr(answer, "elapsed_s", time.perf_counter() - started)
        answer.raise_for_status()
        taken.append(1000 * elapsed)
        n_bytes = int(answer.headers.get("Content-Length", 0)) or len(answer.content)
    median = float(np.median(taken[1:]))
    times = {"first_ms": round(taken[0], 1), "median_ms": round(median, 1), "max_ms": round(max(taken[1:]), 1)}
    return {"what": what, "images": n_images, **times, "bytes": n_bytes}


def table(result: dict) -> str:
    lines = [
        "# The map page's routes",
        "",
        "`python benchmarks/page.py`: time and bytes on the wire of what the page asks the server, with a campaign",
        "under way (10 labels, a model, 100 clicks), and as a part of what MONAI Label's own",
        "`GET /datastore/?output=all` takes on the same images, in one run.",
        "",
        f"{result['hardware']}.",
        "",
        "| images | what | first, ms | median, ms | largest, ms | bytes | of stock's time | of stock's bytes |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["measurements"]:
        times = " | ".join(f"{row[name]:.1f}" for name in ("first_ms", "median_ms", "max_ms"))
        of_stock = f"{row['of_stock_time']:.3f} | {row['of_stock_bytes']:.4f}"
        lines.append(f"| {row['images']:,} | {row['what']} | {times} | {row['bytes']:,} | {of_stock} |")
    return "\n".join([*lines, *result.get("browser_lines", []), ""])


if __name__ == "__main__":
    main()
