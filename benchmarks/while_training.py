"""What annotators notice while a server trains, scores or pre-labels: latencies beside an idle server, in one run.

    python benchmarks/while_training.py

A real server, with a model, on generated radiograph-like images. One annotator asks for the next sample, has it
segmented, and saves its label, over HTTP and with a moment between: while nothing else runs, during a training, during
a scoring, and during pre-labelling, round after round. Each latency is compared with the median of the idle server in
the same run. The server's own CPU time, for one sample with all three, tells waiting from work.

Beside it, in the same rounds: a MONAI Label app with stock parts (`stock_training_app`), its random strategy and its
`BasicTrainTask`, with the same network, images and batch size. It has no scoring that could be compared, so it is idle
or trains. `--before FOLDER` measures an earlier checkout as well.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
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
STOCK_APP = Path(__file__).parent / "stock_training_app"
RESULTS = Path(__file__).parent / "results"
MODEL = "attention_unet"
BUDGET = 8
ENDLESS = 100_000
"""Epochs of a training that is stopped when it has been measured."""
PAUSE_S = 0.1
"""Between two requests; people take longer."""
LIMIT_S = 900.0
NEXT, INFER, SAVE = "next sample", "inference", "saving a label"
OPEN = ("SUBMITTED", "RUNNING")
IDLE, TRAINING, SCORING, PRELABELLING = "idle", "training", "scoring", "pre-labelling"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--samples", type=int, default=20, help="in each state and round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--before", type=Path, help="folder of an earlier checkout")
    parser.add_argument("--output", type=Path, default=RESULTS / "while_training.json")
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        write_images(folder / "images", folder / "truth", arguments.images, arguments.side)
        servers = {"this app": OurServer(folder, "now", ROOT, arguments.side)}
        if arguments.before is not None:
            servers["before"] = OurServer(folder, "before", arguments.before.resolve(), arguments.side)
        servers["stock"] = StockServer(folder)
        for server in servers.values():
            os.environ["PYTHONPATH"] = server.python_path
            stack.enter_context(server.server)
            server.make_model()
            server.sample()  # the first inference of a server reads the model
        measured = measure(servers, arguments.rounds, arguments.samples)
    result = {
        "command": f"python benchmarks/while_training.py {' '.join(sys.argv[1:])}".strip(),
        "hardware": f"{hardware(resolve_device('auto'))}; load average {load_before:.1f} from other work when the run "
        f"began, {os.getloadavg()[0]:.1f} when it ended",
        "images": arguments.images,
        "side": arguments.side,
        "figures": figures(measured),
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    arguments.output.with_suffix(".md").write_text(table(result))
    print(table(result))


def write_images(folder: Path, truth: Path, n_images: int, side: int) -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] / side
    folder.mkdir()
    truth.mkdir()
    for index in range(n_images):
        row, column, radius = rng.uniform((0.3, 0.3, 0.1), (0.7, 0.7, 0.25))
        disk = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        pixels = rng.uniform(50, 110) + rng.uniform(20, 110) * disk + rng.normal(0, rng.uniform(5, 25), disk.shape)
        path = folder / f"image_{index:04d}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
        write_label(disk.astype(int), read_image(path).geometry, truth / path.name)


def measure(servers: dict, n_rounds: int, n_samples: int) -> dict:
    """Milliseconds by server, state and request, and the server's CPU milliseconds for a sample."""
    measured: dict = defaultdict(list)
    for number in range(n_rounds):
        for name, server in servers.items():
            for state, (begin, goes_on, end) in server.states().items():
                begin()
                cpu_s, done = server.cpu_s(), 0
                while done < n_samples and goes_on():
                    for request, milliseconds in server.sample().items():
                        measured[name, state, request].append(milliseconds)
                    done += 1
                end()
                if done:
                    measured[name, state, "cpu"].append(1000 * (server.cpu_s() - cpu_s) / done)
                print(f"round {number + 1}: {name}, {state}: {done} samples", flush=True)
    return measured


class Annotated:
    """A server and its one annotator."""

    strategy: str
    python_path = ""

    def __init__(self, server: Server, studies: Path, truth: Path):
        self.server, self.studies, self.truth = server, studies, truth

    def sample(self, *, infer: bool = True) -> dict[str, float]:
        """Ask for a sample, have it segmented, and save its label; milliseconds of each."""
        taken = {}
        taken[NEXT], answer = timed(lambda: self.post(f"activelearning/{self.strategy}", json={"client_id": "ann"}))
        image_id = answer.json()["id"]
        if infer:
            time.sleep(PAUSE_S)
            taken[INFER], _ = timed(lambda: self.post(f"infer/{MODEL}?image={image_id}&output=image"))
        time.sleep(PAUSE_S)
        label = next(self.truth.glob(f"{image_id}.*")).read_bytes()
        url = f"{self.server.url}/datastore/label?image={image_id}&tag=final"
        taken[SAVE], _ = timed(lambda: requests.put(url, files={"label": (f"{image_id}.png", label)}, timeout=LIMIT_S))
        time.sleep(PAUSE_S)
        return taken

    def post(self, path: str, **options: object) -> requests.Response:
        return requests.post(f"{self.server.url}/{path}", timeout=LIMIT_S, **options)

    def train(self, epochs: int) -> None:
        self.post(f"train/{MODEL}", json={"max_epochs": epochs, "name": "train_01"}).raise_for_status()

    def training(self) -> dict:
        return requests.get(f"{self.server.url}/train/", timeout=LIMIT_S).json()

    def info(self) -> dict:
        return requests.get(f"{self.server.url}/info/", timeout=LIMIT_S).json()

    def cpu_s(self) -> float:
        """CPU seconds of the server's process, without its tasks."""
        times = psutil.Process(self.server.pid).cpu_times()
        return times.user + times.system

    def states(self) -> dict[str, tuple[Callable, Callable, Callable]]:
        """How each state begins, whether it goes on, and how it ends."""
        return {
            IDLE: (lambda: None, lambda: True, lambda: None),
            TRAINING: (self._begin_training, lambda: self.training()["status"] in OPEN, self._end_training),
        }

    def _begin_training(self) -> None:
        self.train(ENDLESS)
        wait_for("an epoch", lambda: any("Epoch" in line for line in self.training().get("details", ())))

    def _end_training(self) -> None:
        requests.delete(f"{self.server.url}/train/", timeout=LIMIT_S).raise_for_status()
        wait_for("the end of the training", lambda: not psutil.Process(self.server.pid).children(recursive=True))


class StockServer(Annotated):
    """MONAI Label with stock parts."""

    strategy = "random"

    def __init__(self, folder: Path):
        studies, app = copied(folder, "stock"), shutil.copytree(STOCK_APP, folder / "stock_app")
        super().__init__(Server(studies, {}, folder / "stock.log", app=app), studies, folder / "truth")

    def make_model(self) -> None:
        for _ in range(BUDGET):
            self.sample(infer=False)
        self.train(1)
        wait_for("a stock model", lambda: self.training()["status"] not in OPEN)


class OurServer(Annotated):
    """This app, of some checkout."""

    strategy = "coldstart_al"

    def __init__(self, folder: Path, name: str, checkout: Path, side: int):
        conf = {"preset": "sample", "labels": "disk:1", "encoder": "descriptor", "spatial_size": f"{side},{side}"}
        conf |= {"epochs": "1", "budget": str(BUDGET), "prelabel": "50", "publish_margin": "1"}
        studies = copied(folder, name)
        app = checkout / APP_FOLDER.relative_to(ROOT)
        super().__init__(Server(studies, conf, folder / f"{name}.log", app=app), studies, folder / "truth")
        self.python_path = str(checkout / "lib")

    def make_model(self) -> None:
        """Two of them, so that there is one to roll back to."""
        wait_for("a plan", lambda: self._campaign()["planned"])
        for _ in range(BUDGET):
            self.sample(infer=False)
        wait_for("a model, with all that follows", self._has_ended)  # a training asked for sooner would join this one
        self.train(1)
        wait_for("another model", lambda: len(self._campaign()["retraining"]["kept_models"]) > 1)
        wait_for("the end of all that follows", self._has_ended)

    def states(self) -> dict[str, tuple[Callable, Callable, Callable]]:
        return {
            **super().states(),
            SCORING: (self._begin_scoring, self._is_scoring, self._end_scoring),
            PRELABELLING: (self._begin_prelabelling, self._is_prelabelling, self._wait_for_end),
        }

    def _begin_scoring(self) -> None:
        """Put the other model into use: the server scores the pool with it, and then pre-labels."""
        found = self._campaign()
        [other] = set(found["retraining"]["kept_models"]) - {found["model_version"]}
        command = [sys.executable, "-m", "coldstart", "models", "rollback", str(self.studies), other]
        environment = {**os.environ, "PYTHONPATH": self.python_path}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        wait_for("a scoring", lambda: self._campaign()["tasks"].get("entropy") == "RUNNING")

    def _end_scoring(self) -> None:
        wait_for("the end of the scoring", lambda: not self._is_scoring())

    def _begin_prelabelling(self) -> None:
        wait_for("pre-labelling", self._is_prelabelling)

    def _wait_for_end(self) -> None:
        wait_for("the end of the pre-labelling", self._has_ended)

    def _campaign(self) -> dict:
        return self.info()["coldstart"]

    def _is_scoring(self) -> bool:
        return self._campaign()["tasks"].get("entropy") in OPEN

    def _is_prelabelling(self) -> bool:
        return self._campaign()["tasks"].get("prelabel") in OPEN

    def _has_ended(self) -> bool:
        """Whether the model in use has scored and pre-labelled, and nothing runs any more."""
        found = self._campaign()
        last = found["progress"].get("prelabel", {"message": "none", "done": 0, "total": 1})
        done = last["message"] == f"model {found['model_version']}" and last["done"] == last["total"]
        return done and not psutil.Process(self.server.pid).children(recursive=True)


def copied(folder: Path, name: str) -> Path:
    return Path(shutil.copytree(folder / "images", folder / name))


def timed(request: Callable[[], requests.Response]) -> tuple[float, requests.Response]:
    started = time.perf_counter()
    answer = request()
    milliseconds = 1000 * (time.perf_counter() - started)
    answer.raise_for_status()
    return milliseconds, answer


def wait_for(what: str, reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not reached():
        if time.monotonic() > deadline:
            raise SystemExit(f"Not reached within {LIMIT_S:g} s: {what}.")
        time.sleep(0.2)


def figures(measured: dict) -> list[dict]:
    """One row for each server, request and state; `ratio` is of the medians, to the idle server."""
    rows = []
    for name, state in dict.fromkeys((name, state) for name, state, _ in measured):
        for request in (NEXT, INFER, SAVE):
            taken = measured[name, state, request]
            median, p95, largest = np.percentile(taken, [50, 95, 100])
            idle = np.median(measured[name, IDLE, request])
            row = {"server": name, "request": request, "state": state, "n": len(taken), "median_ms": median}
            row |= {"p95_ms": p95, "max_ms": largest, "median_to_idle": median / idle, "p95_to_idle": p95 / idle}
            row["server_cpu_ms"] = float(np.median(measured[name, state, "cpu"]))
            rows.append({key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()})
    return rows


def table(result: dict) -> str:
    """What was measured, as Markdown."""
    lines = [
        "# While a training runs",
        "",
        f"`{result['command']}` on {result['hardware']}. {result['images']} images of {result['side']} x "
        f"{result['side']}; milliseconds a request. The ratios are to the median of the same server while it was idle.",
        "",
        "| request | server | state | n | median | p95 | max | median/idle | p95/idle |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    order = (NEXT, INFER, SAVE)
    for row in sorted(result["figures"], key=lambda row: (order.index(row["request"]), row["server"] == "stock")):
        lines.append(
            f"| {row['request']} | {row['server']} | {row['state']} | {row['n']} | {row['median_ms']:.1f} "
            f"| {row['p95_ms']:.1f} | {row['max_ms']:.1f} | {row['median_to_idle']:.2f} | {row['p95_to_idle']:.2f} |"
        )
    lines += ["", "| server | state | the server's CPU ms for a sample |", "|---|---|---:|"]
    for row in result["figures"]:
        if row["request"] == NEXT:
            lines.append(f"| {row['server']} | {row['state']} | {row['server_cpu_ms']:.0f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
