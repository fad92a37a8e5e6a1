"""Memory of the server at every stage of a campaign, beside MONAI Label's own, in one run.

    python benchmarks/memory.py

Two servers run side by side on the same generated images, 16x16 PNG: this app, and a minimal MONAI Label app with the
stock datastore and the stock strategies. The embedding is a real one, with the `descriptor`. The page is what a browser
with the map page open asks for: the campaign, the map, what comes next, the pictures of the images that are looked at,
and every two seconds whether something changed. Memory is what lies in it of the server's own process, and of that with
the tasks that run; the largest since the stage before. What these share, such as the code of libraries, is counted
once, and counted whole, whatever else on the machine uses it too. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import requests
from load import CONF, STOCK_APP, write_images

from coldstart.adapters.server import Server

RESULTS = Path(__file__).parent / "results"
LIMIT_MB = 2048
EMBEDDING_LIMIT_S = 3_600.0
SAMPLED_EVERY_S = 0.5
MAPPED = re.compile(
    r"^[0-9a-f]+-[0-9a-f]+ \S+ ([0-9a-f]+) \S+ [1-9]\d* +(/.*)\n(?:(?!Rss).*\n)*?Rss: +(\d+) kB\n"
    r"(?:(?!Anonymous).*\n)*?Anonymous: +(\d+)",
    re.MULTILINE,
)
"""A mapped file in /proc/PID/smaps: offset, path, and what of it is in memory, of this the changed copies."""
MB = 2**20


class Watched:
    """The largest memory of a server since it was asked last, with and without its tasks."""

    def __init__(self, server: Server):
        self._process = psutil.Process(server.pid)
        self._largest = [0, 0]
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while self._process.is_running():
            self._note()
            time.sleep(SAMPLED_EVERY_S)

    def _note(self) -> None:
        tasks = [process.pid for process in self._process.children(recursive=True)]
        own, together = memory_of([self._process.pid]), memory_of([self._process.pid, *tasks])
        self._largest = [max(self._largest[0], own), max(self._largest[1], together)]

    def largest_mb(self) -> tuple[float, float]:
        """Of the server, and of it with its tasks."""
        self._note()
        found = tuple(round(size / MB, 1) for size in self._largest)
        self._largest = [0, 0]
        return found[0], found[1]


def memory_of(pids: list[int]) -> int:
    """Bytes that processes have in memory: what is their own, and what they mapped of files, which is counted once."""
    own, of_files = 0, Counter[tuple[str, str]]()
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            smaps = Path(f"/proc/{pid}/smaps").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        own += int(re.search(r"^Pss_Anon: +(\d+)", rollup, re.MULTILINE)[1])
        for offset, path, resident, anonymous in MAPPED.findall(smaps):
            of_files[path, offset] = max(of_files[path, offset], int(resident) - int(anonymous))
    return (own + of_files.total()) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--clicks", type=int, default=200)
    parser.add_argument("--projection", default="tsne")
    parser.add_argument("--page-seconds", type=float, default=30)
    parser.add_argument("--output", type=Path, default=RESULTS / "memory.json")
    arguments = parser.parse_args()
    result = {
        "command": f"python benchmarks/memory.py {' '.join(sys.argv[1:])}".strip(),
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()}), no GPU used",
        "images": arguments.images,
        "clicks": arguments.clicks,
        "stages": [],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for one in ("ours", "stock"):
            (folder / one).mkdir()
        write_images(folder, arguments.images)
        app = folder / "stock_app"
        app.mkdir()
        (app / "main.py").write_bytes((STOCK_APP / "main.py").read_bytes())
        conf = {**CONF, "projection": arguments.projection}
        with (
            Server(folder / "stock", {}, folder / "stock.log", app=app) as stock,
            Server(folder / "ours", conf, folder / "ours.log") as ours,
        ):
            measure(result, ours, stock, arguments)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    arguments.output.with_suffix(".md").write_text(table(result))
    print(table(result))


def measure(result: dict, ours: Server, stock: Server, arguments: argparse.Namespace) -> None:
    watched = Watched(ours), Watched(stock)

    def note(stage: str) -> None:
        (own, with_tasks), (stock_own, _) = (one.largest_mb() for one in watched)
        row = {"stage": stage, "server_mb": own, "with_tasks_mb": with_tasks, "stock_mb": stock_own}
        result["stages"].append(row)
        print(row, flush=True)

    note("started")
    deadline = time.monotonic() + EMBEDDING_LIMIT_S
    while state(ours)["planned"] is None or state(ours)["tasks"].get("embedding") != "DONE":
        if time.monotonic() > deadline:
            raise TimeoutError(f"The images were not embedded within {EMBEDDING_LIMIT_S:.0f} s.")
        time.sleep(2)
    note("images embedded, on the map and planned")
    for server, strategy in ((ours, "coldstart_al"), (stock, "random")):
        for index in range(arguments.clicks):
            asked = requests.post(
                f"{server.url}/activelearning/{strategy}", json={"client_id": f"client{index}"}, timeout=120
            )
            asked.raise_for_status()
    note(f"{arguments.clicks} clicks")
    look_at_the_page(ours, arguments.page_seconds)
    note(f"map page open for {arguments.page_seconds:.0f} s")
    for _ in range(30):
        requests.get(f"{ours.url}/coldstart/metrics", timeout=60).raise_for_status()
        requests.get(f"{ours.url}/coldstart/health", timeout=60)
    note("scraped 30 times")


def state(server: Server) -> dict:
    return requests.get(f"{server.url}/info/", timeout=120).json()["coldstart"]


def look_at_the_page(server: Server, seconds: float) -> None:
    session = requests.Session()
    page = f"{server.url}/coldstart/api"
    ids = session.get(f"{page}/map", timeout=120).json()["image_id"]
    for address in ("campaign", "next", "table.csv"):
        session.get(f"{page}/{address}", timeout=120).raise_for_status()
    until, at = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        session.get(f"{page}/state", timeout=120).raise_for_status()
        for _ in range(10):
            one = {"id": ids[at % len(ids)]}
            session.get(f"{page}/thumbnail", params=one, timeout=120).raise_for_status()
            session.get(f"{page}/image", params=one, timeout=120).raise_for_status()
            at += 37
        session.get(f"{page}/map", timeout=120).raise_for_status()
        time.sleep(2)


def table(result: dict) -> str:
    """What was measured, as Markdown."""
    own, together = (max(row[name] for row in result["stages"]) for name in ("server_mb", "with_tasks_mb"))
    lines = [
        "# Memory of the server",
        "",
        f"`{result['command']}` on {result['hardware']}. {result['images']:,} images; MB of memory, what "
        "a server shares with its tasks counted once; the largest since the stage before; both servers in one run.",
        "",
        "| stage | this app's server | with its tasks | stock MONAI Label's server |",
        "|---|---:|---:|---:|",
    ]
    for row in result["stages"]:
        lines.append(f"| {row['stage']} | {row['server_mb']} | {row['with_tasks_mb']} | {row['stock_mb']} |")
    verdict = "within" if together <= LIMIT_MB else "beyond"
    lines += [
        "",
        f"The server took at most {own:.0f} MB, and together with its tasks {together:.0f} MB: {verdict} the "
        f"{LIMIT_MB} MB that it may take.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
