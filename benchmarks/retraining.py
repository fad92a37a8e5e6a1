"""Seconds that an annotator waits for a retraining on a server: this checkout beside an earlier one, in one run.

    git worktree add ../before 2db411f   # the commit before the training loop was made fast
    python benchmarks/retraining.py --before ../before

Each round starts a server of each checkout in turn, on copies of the same labelled radiograph-like images, asks it over
HTTP to train, as a viewer does, and waits until the model is published. `training` is what the server says the training
itself took; what is left of the whole is the start of the child process. CPU seconds are those of that process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import requests
from PIL import Image

from coldstart.adapters.server import APP_FOLDER, Server
from coldstart.experiments.runs import hardware
from coldstart.images import read_image, write_label
from coldstart.segmentation import resolve_device

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
MODEL = "attention_unet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="folder of an earlier checkout")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "retraining.json")
    arguments = parser.parse_args()
    checkouts = {"before": arguments.before.resolve(), "now": ROOT}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        truth = Path(name) / "truth"
        write_images(truth, arguments.images, arguments.side)
        for number in range(arguments.rounds):
            for checkout, folder in checkouts.items():
                taken = retrain(folder, truth, Path(name) / f"{checkout}_{number}", arguments.side, arguments.epochs)
                print(checkout, taken)
                rounds[checkout].append(taken)
    medians = {
        checkout: {key: round(statistics.median(one[key] for one in taken), 1) for key in taken[0]}
        for checkout, taken in rounds.items()
    }
    result = {
        "command": f"python benchmarks/retraining.py --before ../before --images {arguments.images} "
        f"--side {arguments.side} --epochs {arguments.epochs} --rounds {arguments.rounds}",
        "hardware": f"{hardware(resolve_device('auto'))}; load average {load_before:.1f} from other work when the run "
        f"began, {os.getloadavg()[0]:.1f} when it ended",
        "medians": medians,
        "ratio_to_before": {key: round(medians["now"][key] / medians["before"][key], 2) for key in medians["now"]},
        "rounds": rounds,
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: result[key] for key in ("medians", "ratio_to_before")}, indent=2))


def write_images(truth: Path, n_images: int, side: int) -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] / side
    (truth / "labels" / "final").mkdir(parents=True)
    for index in range(n_images):
        row, column, radius = rng.uniform((0.3, 0.3, 0.1), (0.7, 0.7, 0.25))
        disk = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        pixels = 80 + 90 * disk + rng.normal(0, 10, disk.shape)
        path = truth / f"image_{index:03d}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
        write_label(disk.astype(int), read_image(path).geometry, truth / "labels" / "final" / path.name)


def retrain(checkout: Path, truth: Path, studies: Path, side: int, epochs: int) -> dict[str, float]:
    (studies / "labels" / "final").mkdir(parents=True)
    for path in [*truth.glob("*.png"), *truth.glob("labels/final/*.png")]:
        (studies / path.relative_to(truth)).write_bytes(path.read_bytes())
    conf = {"preset": "sample", "labels": "disk:1", "encoder": "descriptor", "spatial_size": f"{side},{side}"}
    conf |= {"epochs": str(epochs), "prelabel": "0"}
    os.environ["PYTHONPATH"] = str(checkout / "lib")
    app = checkout / APP_FOLDER.relative_to(ROOT)
    with Server(studies, conf, studies.with_suffix(".log"), app=app) as server:
        while requests.get(f"{server.url}/info/", timeout=60).json()["coldstart"]["planned"] is None:
            time.sleep(0.5)
        cpu = CpuOfChildren(server.pid)
        started = time.perf_counter()
        requests.post(f"{server.url}/train/{MODEL}", json={}, timeout=60).raise_for_status()
        while (state := requests.get(f"{server.url}/train/", timeout=60).json()["status"]) not in ("DONE", "ERROR"):
            time.sleep(0.2)
        seconds = time.perf_counter() - started
        if state == "ERROR":
            raise SystemExit(f"The training failed; see {studies.with_suffix('.log')}.")
        stats = requests.get(f"{server.url}/info/", timeout=60).json()["train_stats"][MODEL]
        hours, minutes, training_s = map(float, stats["total_time"].split(":"))
        return {"whole_s": seconds, "training_s": 3600 * hours + 60 * minutes + training_s, "cpu_s": cpu.stop()}


class CpuOfChildren:
    """CPU seconds of the busiest process that a server starts while this looks."""

    def __init__(self, server: int):
        self._used: dict[int, float] = {}
        self._server = psutil.Process(server)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.2):
            for process in self._server.children(recursive=True):
                try:
                    times = process.cpu_times()
                except psutil.NoSuchProcess:
                    continue
                self._used[process.pid] = times.user + times.system

    def stop(self) -> float:
        self._over.set()
        self._thread.join()
        return max(self._used.values())


if __name__ == "__main__":
    main()
