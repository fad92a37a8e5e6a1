"""Clicks a second and their latency with many clients, beside MONAI Label's own strategies, in one run.

    python benchmarks/load.py

Two servers run side by side on the same generated images, 16x16 PNG: this app, and a minimal MONAI Label app with the
stock datastore and the stock `Random` and `First` strategies. They are measured in turn, each by the same clients: as
many threads of another process, each with a name and a connection of its own. A named annotator who clicks again skips
the image before, so all clicks find images that are free; between two measurements this app forgets what it served.

This app is measured in two phases: without a model (the cold-start plan, then farthest points) and with one (mixed
acquisition). What leads there is written into its database by this script, since embedding 10,000 images takes a
minute and a training is not what is measured: random vectors, points, plan and entropies. Neither has an effect on how
long a click takes. Labels are copied into the folder, where the server finds them.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import requests
from PIL import Image as Picture
from sqlalchemy import delete

from coldstart.adapters.server import Server
from coldstart.campaign import Campaign
from coldstart.settings import Settings
from coldstart.store import Image, ImageMap, Model, Plan, PlanPick, Scoring, Serving, vector_to_bytes
from coldstart.store.schema import POINT_DTYPE

STOCK_APP = Path(__file__).parent / "stock_app"
RESULTS = Path(__file__).parent / "results"
SIDE = 16
BUDGET = 10
VECTOR_LENGTH = 512
CONF = {"preset": "sample", "labels": "disk:1", "spatial_size": "32,32", "encoder": "descriptor", "projection": "pca"}
CONF |= {"budget": str(BUDGET), "device": "cpu"}

NO_MODEL, WITH_MODEL = "coldstart_al, no model yet", "coldstart_al, with a model"
STOCK_RANDOM, STOCK_FIRST = "stock Random", "stock First"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--clicks", type=int, default=400, help="at most, for each measurement")
    parser.add_argument("--seconds", type=float, default=6, help="after which no click is begun")
    parser.add_argument("--output", type=Path, default=RESULTS / "load.json")
    arguments = parser.parse_args()
    result = {
        "command": f"python benchmarks/load.py {' '.join(sys.argv[1:])}".strip(),
        "hardware": (
            f"{os.cpu_count()} CPU cores ({platform.machine()}), no GPU used; clients on the same machine; "
            f"load average {os.getloadavg()[0]:.1f} from other work when the run began"
        ),
        "measurements": [],
        "memory": [],
    }
    for n_images in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            measure_pool(Path(folder), n_images, arguments, result)
    result["hardware"] += f", {os.getloadavg()[0]:.1f} with both servers and the clients when it ended"
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    arguments.output.with_suffix(".md").write_text(table(result))
    print(table(result))


def measure_pool(folder: Path, n_images: int, arguments: argparse.Namespace, result: dict) -> None:
    """Measure both servers on a pool of this size, with every number of clients."""
    for name in ("ours", "stock"):
        (folder / name).mkdir()
    write_images(folder, n_images)
    store = prepare(folder / "ours")
    app = shutil.copytree(STOCK_APP, folder / "stock_app")  # the server makes folders beside an app's main.py
    with (
        Server(folder / "stock", {}, folder / "stock.log", app=app) as stock,
        Server(folder / "ours", CONF, folder / "ours.log") as ours,
    ):
        servers = {NO_MODEL: (ours, "coldstart_al"), STOCK_RANDOM: (stock, "random"), STOCK_FIRST: (stock, "first")}
        for n_clients in arguments.clients:
            for name, (server, strategy) in servers.items():
                forget_servings(store)
                figures = measure(server, strategy, n_clients, min(arguments.clicks, n_images), arguments.seconds)
                report(result, name, n_images, n_clients, figures)
        add_model(store, folder / "ours", ours)
        for n_clients in arguments.clients:
            forget_servings(store)
            figures = measure(ours, "coldstart_al", n_clients, min(arguments.clicks, n_images), arguments.seconds)
            report(result, WITH_MODEL, n_images, n_clients, figures)
        memory = {"images": n_images, "ours_mb": resident_mb(ours), "stock_mb": resident_mb(stock)}
        result["memory"].append(memory)
        print(memory, flush=True)
    store.store.close()


def write_images(folder: Path, n_images: int) -> None:
    rng = np.random.default_rng(0)
    for index in range(n_images):
        path = folder / "ours" / f"image_{index:05d}.png"
        Picture.fromarray(rng.integers(0, 255, (SIDE, SIDE), dtype=np.uint8)).save(path)
        os.link(path, folder / "stock" / path.name)


def prepare(studies: Path) -> Campaign:
    """Database of a campaign whose images are embedded, on the map and planned."""
    settings = Settings(
        labels={"disk": 1}, spatial_dims=2, spatial_size=(32, 32), encoder="descriptor", projection="pca", budget=BUDGET
    )
    campaign = Campaign(settings, studies / "coldstart")
    campaign.sync({path.stem: path for path in sorted(studies.glob("*.png"))}, {})
    rng = np.random.default_rng(0)
    with campaign.store.writing() as session:
        made = {"created_at": time.time(), "configured": "descriptor", "encoder": "descriptor 1", "method": "pca"}
        session.add(ImageMap(id=1, random_state=0, **made))
        session.flush()
        rows = list(session.query(Image).order_by(Image.image_id))
        for row in rows:
            row.vector, row.encoder = vector_to_bytes(rng.normal(size=VECTOR_LENGTH)), "descriptor 1"
            row.map_id, row.fitted, row.cluster = 1, True, 0
            row.point = vector_to_bytes(rng.normal(size=2), POINT_DTYPE)
        plan = {"budget": BUDGET, "size": BUDGET, "n_clusters": 1, "silhouettes": {}, "silhouette_sample_size": None}
        session.add(Plan(id=1, created_at=time.time(), map_id=1, **plan))
        session.flush()
        for rank, row in enumerate(rows[:BUDGET]):
            pick = {"cluster": 0, "cluster_size": len(rows), "role": "farthest", "distance": 1.0}
            session.add(PlanPick(plan_id=1, rank=rank, image_row=row.id, **pick))
    return campaign


def add_model(campaign: Campaign, studies: Path, server: Server) -> None:
    """Label the budget, and write a model and a scoring as they would be after a training."""
    rng = np.random.default_rng(1)
    for path in sorted(studies.glob("*.png"))[:BUDGET]:
        Picture.fromarray(np.eye(SIDE, dtype=np.uint8)).save(studies / "labels" / "final" / path.name)
    with campaign.store.writing() as session:
        session.add(Model(version="m1", created_at=time.time(), details={}))
        made = {"model_version": "m1", "finished_at": time.time(), "n_images": 1, "minimum": 0.0, "maximum": 0.7}
        session.add(Scoring(id=1, mean=0.35, **made))
        session.flush()
        for row in session.query(Image):
            row.entropy, row.scoring_id = rng.uniform(0, 0.7), 1
    deadline = time.monotonic() + 60
    while requests.get(f"{server.url}/info/", timeout=60).json()["coldstart"]["labelled"] < BUDGET:
        if time.monotonic() > deadline:
            raise TimeoutError("The server did not notice the labels within 60 s.")
        time.sleep(0.5)


def forget_servings(campaign: Campaign) -> None:
    with campaign.store.writing() as session:
        session.execute(delete(Serving))


def measure(server: Server, strategy: str, n_clients: int, n_clicks: int, seconds: float) -> dict:
    """Click with `n_clients` at once, from another process, until one of the limits is reached."""
    answers = multiprocessing.get_context("fork").Queue()
    arguments = (server.port, strategy, n_clients, n_clicks, seconds, answers)
    clients = multiprocessing.get_context("fork").Process(target=run_clients, args=arguments)
    clients.start()
    latencies, elapsed = answers.get(timeout=600)
    clients.join()
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99])
    figures = {"p50_ms": round(1000 * p50, 1), "p95_ms": round(1000 * p95, 1), "p99_ms": round(1000 * p99, 1)}
    return {"clicks": len(latencies), "clicks_per_s": round(len(latencies) / elapsed, 1), **figures}


def run_clients(port: int, strategy: str, n_clients: int, n_clicks: int, seconds: float, answers: object) -> None:
    latencies: list[float] = []
    tickets = iter(range(n_clicks))
    barrier = threading.Barrier(n_clients + 1)
    ends = []

    def click(name: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        body = json.dumps({"client_id": name})
        barrier.wait()
        while time.perf_counter() < ends[0] and next(tickets, None) is not None:
            started = time.perf_counter()
            connection.request("POST", f"/activelearning/{strategy}", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
            latencies.append(time.perf_counter() - started)
            if response.status != 200 or "id" not in answer:
                raise RuntimeError(f"The server answered {response.status}: {answer}")
        connection.close()

    threads = [threading.Thread(target=click, args=(f"client{index}",)) for index in range(n_clients)]
    for thread in threads:
        thread.start()
    began = time.perf_counter()
    ends.append(began + seconds)
    barrier.wait()
    for thread in threads:
        thread.join()
    answers.put((latencies, time.perf_counter() - began))


def resident_mb(server: Server) -> float:
    process = psutil.Process(server.pid)
    return round(sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 2**20, 1)


def report(result: dict, name: str, n_images: int, n_clients: int, figures: dict) -> None:
    measured = {"what": name, "images": n_images, "clients": n_clients, **figures}
    result["measurements"].append(measured)
    print(measured, flush=True)


def table(result: dict) -> str:
    """What was measured, as Markdown."""
    lines = [
        "# A click under load",
        "",
        f"`{result['command']}` on {result['hardware']}. Both servers in one run, in turn; milliseconds a click.",
        "",
        "| images | clients | what | clicks/s | p50 | p95 | p99 |",
        "|---:|---:|---|---:|---:|---:|---:|",
    ]
    for row in sorted(result["measurements"], key=lambda row: (row["images"], row["clients"])):
        lines.append(
            f"| {row['images']:,} | {row['clients']} | {row['what']} | {row['clicks_per_s']} "
            f"| {row['p50_ms']} | {row['p95_ms']} | {row['p99_ms']} |"
        )
    lines += ["", "| images | server's memory, this app (MB) | stock (MB) | ratio |", "|---:|---:|---:|---:|"]
    for row in result["memory"]:
        ratio = row["ours_mb"] / row["stock_mb"]
        lines.append(f"| {row['images']:,} | {row['ours_mb']} | {row['stock_mb']} | {ratio:.2f} |")
    lines += ["", *(f"- {sentence}" for sentence in ratios(result)), ""]
    return "\n".join(lines)


def ratios(result: dict) -> list[str]:
    """This app's p95 at the largest pool, against stock's there and against its own at the next smaller pool."""
    found = {(row["what"], row["images"], row["clients"]): row["p95_ms"] for row in result["measurements"]}
    *smaller, largest = sorted({row["images"] for row in result["measurements"]})
    sentences = []
    for (what, images, clients), p95 in found.items():
        if what in (NO_MODEL, WITH_MODEL) and images == largest:
            random, first = (found[stock, images, clients] / p95 for stock in (STOCK_RANDOM, STOCK_FIRST))
            sentence = f"{images:,} images, {clients} client{'s' * (clients > 1)}, {what}: p95 is 1/{random:.0f} of "
            sentence += f"stock Random's and 1/{first:.0f} of stock First's"
            if smaller:
                sentence += (
                    f", and {p95 / found[what, smaller[-1], clients]:.2f} times its own at {smaller[-1]:,} images"
                )
            sentences.append(f"{sentence}.")
    return sentences


if __name__ == "__main__":
    main()
