"""Time a click on "Next Sample": this app beside MONAI Label's stock random strategy, over HTTP, in one run.

    python benchmarks/next_sample.py --images 1000 --clicks 100

Both servers serve copies of the same generated images. The stock app spawns a child process for scoring after every
click where an app has scoring methods; here it has none, so it is measured at its best.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import requests
from PIL import Image

from coldstart.adapters.server import Server
from coldstart.adapters.simulation import SilentObserver, SimulatedAnnotator, connect
from coldstart.images import read_image, write_label

STOCK_APP = Path(__file__).parent / "stock_app"
BUDGET = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--clicks", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "next_sample.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), arguments.images, arguments.clicks)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def run(folder: Path, n_images: int, n_clicks: int) -> dict:
    for name in ("ours", "stock", "truth"):
        (folder / name).mkdir()
    write_images(folder, n_images)
    app = shutil.copytree(STOCK_APP, folder / "stock_app")  # the server makes folders beside an app's main.py
    with Server(folder / "stock", {}, folder / "stock.log", app=app) as server:
        stock = click(server, "random", n_clicks)
    conf = {"preset": "sample", "labels": "disk:1", "encoder": "descriptor", "budget": str(BUDGET)}
    conf |= {"spatial_size": "32,32", "epochs": "1", "score_batch_size": "32"}
    with Server(folder / "ours", conf, folder / "ours.log") as server:
        annotator = SimulatedAnnotator(connect(server.url), folder / "truth", SilentObserver())
        started = time.monotonic()
        annotator.wait_until("planned", "embedding", lambda state: state["planned"] is not None)
        embedded_s = time.monotonic() - started
        annotator.label(BUDGET // 2)
        planned = [sample["answered_ms"] for sample in annotator.log.served]
        annotator.label(BUDGET - BUDGET // 2)
        complete = click(server, "coldstart_al", n_clicks)
        annotator.train()
        annotator.wait_until("scored", "entropy", lambda state: state["scored_model_version"] is not None)
        active = click(server, "coldstart_al", n_clicks)
    phases = {
        "stock random": summary(stock),
        "cold-start plan": summary(planned),
        "plan complete": summary(complete),
        "active learning": summary(active),
    }
    median = phases["stock random"]["median_ms"]
    ratios = {name: round(values["median_ms"] / median, 2) for name, values in phases.items()}
    hardware = f"{os.cpu_count()} CPU cores ({platform.machine()}), no GPU used"
    return {
        "images": n_images,
        "hardware": hardware,
        "embedding_map_plan_s": round(embedded_s, 1),
        "click": phases,
        "median_ratio_to_stock": ratios,
    }


def write_images(folder: Path, n_images: int) -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    for index in range(n_images):
        row, column, radius = rng.uniform((20, 20, 5), (44, 44, 14))
        disk = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        pixels = 80 + 90 * disk + rng.normal(0, 10, disk.shape) + (index % 5) * 12
        path = folder / "ours" / f"image_{index:05d}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
        (folder / "stock" / path.name).write_bytes(path.read_bytes())
        write_label(disk.astype(int), read_image(path).geometry, folder / "truth" / path.name)


def click(server: Server, strategy: str, n: int) -> list[float]:
    """Milliseconds of each of `n` anonymous clicks, one after the other."""
    taken = []
    for _ in range(n):
        started = time.perf_counter()
        response = requests.post(f"{server.url}/activelearning/{strategy}", json={}, timeout=60)
        taken.append(1000 * (time.perf_counter() - started))
        response.raise_for_status()
    return taken


def summary(milliseconds: list[float]) -> dict[str, float]:
    quantiles = np.percentile(milliseconds, [50, 95, 100])
    return {name: round(float(q), 1) for name, q in zip(("median_ms", "p95_ms", "max_ms"), quantiles, strict=True)}


if __name__ == "__main__":
    main()
