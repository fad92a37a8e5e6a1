"""Images scored a second: this app's entropy beside MONAI Label's stock `EpistemicScoring`, in one run.

    python benchmarks/score.py

Both score the same generated radiographs, 256x256 PNG, with the same network and weights: the Attention U-Net of the
presets, untrained, since what it has learned has no effect on how long it takes. Each way to score has a process of its
own, with as many threads of torch; they work in turn, never at once, and the medians over the rounds are compared. A
round is what the server's child process does after its start: read the model, score every image, write the scores.

Stock is MONAI Label's app with the least that its scoring needs: an inference task that loads, normalises and applies a
softmax, since the images have the network's size already. It makes five passes with dropout for each image; this app
makes one without dropout. So it is also measured with five passes with dropout and the entropy of their mean, which is
stock's number: what is left of the difference then has nothing to do with the number of passes.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from device_rates import N_TRIALS, rates, use
from monai.inferers import SimpleInferer
from monai.transforms import Activationsd, EnsureChannelFirstd, LoadImaged, NormalizeIntensityd
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask
from monailabel.tasks.scoring.epistemic_v2 import EpistemicScoring
from PIL import Image as Picture
from torch.utils.flop_counter import FlopCounterMode

from coldstart.campaign import Campaign, learning
from coldstart.experiments.runs import hardware
from coldstart.images import read_image
from coldstart.scoring import batch_entropy, score_entropy
from coldstart.segmentation import (
    Model,
    TrainingConfig,
    build_network,
    faster,
    load_model,
    predict_prepared,
    predict_with_dropout,
    prepare_image,
    save_model,
)
from coldstart.selection import image_entropy
from coldstart.settings import Settings

RESULTS = Path(__file__).parent / "results"
SIDE = 256
LABELS = {"right_lung": 1, "left_lung": 2}
N_PASSES = 5
"""Stock's default."""

OURS, OURS_PASSES = "this app, entropy, 1 pass", f"this app, {N_PASSES} passes with dropout"
STOCK = f"stock EpistemicScoring, {N_PASSES} passes with dropout"
N_OF_PASSES = {OURS: 1, OURS_PASSES: N_PASSES, STOCK: N_PASSES}

Round = Callable[[], int]
"""Scores the pool once; gives the number of images."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch, in each process")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=RESULTS / "score.json")
    arguments = parser.parse_args()
    # Threads that wait by spinning keep the cores from those that they wait for; processes read this when they start.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    device = use(arguments.device)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_images(folder, arguments.images)
        config = TrainingConfig(tuple(LABELS), 2, (SIDE, SIDE), device=str(device))
        save_model(Model(build_network(config), metadata(config, "0")), folder / "model.pt")
        rounds = measure(folder, device, arguments.threads, arguments.rounds)
        torch.set_num_threads(arguments.threads)
        machine = hardware(device)
        torch.set_num_threads(1)  # what follows is counted in the CPU's own seconds, without those of waiting threads
        result = {
            "command": f"python benchmarks/score.py {' '.join(sys.argv[1:])}".strip(),
            "hardware": (
                f"{machine}; load average {load_before:.1f} from other work when the run began, "
                f"{os.getloadavg()[0]:.1f} when it ended"
            ),
            "versions": {name: version(name) for name in ("torch", "monai", "monailabel")},
            "images": arguments.images,
            "scoring": {way: summary(way, arguments.images, of_way) for way, of_way in rounds.items()},
            "floor": floor(folder, device),
            "parts_ms": parts(folder, paths, device, arguments.rounds),
            "decoding_ms": decoding(folder, paths, device, arguments.rounds),
            "largest_difference_from_the_definition": largest_difference(folder, paths, device),
        }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    arguments.output.with_suffix(".md").write_text(table(result))
    print(table(result))


def write_images(folder: Path, n_images: int) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = []
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    for index in range(n_images):
        row, column, radius = rng.uniform((0.3, 0.3, 0.1), (0.7, 0.7, 0.3))
        disk = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        pixels = (80 + 90 * disk + rng.normal(0, 6, disk.shape)).clip(0, 255).astype(np.uint8)
        for pool in ("ours", "ours_passes", "stock"):
            (folder / pool).mkdir(exist_ok=True)
            Picture.fromarray(pixels).save(folder / pool / f"image_{index:04d}.png")
        paths.append(folder / "ours" / f"image_{index:04d}.png")
    return paths


def metadata(config: TrainingConfig, model_version: str) -> dict[str, Any]:
    names = {"version": model_version, "label_names": list(config.label_names)}
    return {"format": "coldstart-attention-unet", "config": config.to_dict(), **names}


# The ways to score, each in a process of its own.


def measure(folder: Path, device: torch.device, n_threads: int, n_rounds: int) -> dict[str, list[dict[str, float]]]:
    """Seconds and memory of each round, by way; the ways take turns."""
    context = multiprocessing.get_context("spawn")
    processes, connections = [], {}
    for way in (OURS, STOCK, OURS_PASSES):
        connections[way], theirs = context.Pipe()
        processes.append(context.Process(target=work, args=(theirs, way, folder, str(device), n_threads), daemon=True))
        processes[-1].start()
    found: dict[str, list[dict[str, float]]] = {way: [] for way in connections}
    for _ in range(n_rounds):
        for way, connection in connections.items():
            connection.send("round")
            found[way].append(connection.recv())
            print(way, found[way][-1], flush=True)
    for process in processes:
        process.terminate()
    return found


def work(connection: Connection, way: str, folder: Path, device: str, n_threads: int) -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(n_threads)
    use(device)
    prepare_round = {OURS: entropy_round, OURS_PASSES: passes_round, STOCK: stock_round}[way](folder, device)
    while connection.recv():
        score = next(prepare_round)
        forget_peak(device)
        before = memory_mb("VmRSS")
        started, worked = time.perf_counter(), time.process_time()
        score()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        figures = {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - worked}
        figures["above_mb"] = memory_mb("VmHWM") - before
        gpu_mb = torch.cuda.max_memory_allocated() / 2**20 if device.startswith("cuda") else 0.0
        connection.send(figures | {"process_mb": memory_mb("VmHWM"), "gpu_mb": gpu_mb})


def entropy_round(folder: Path, device: str) -> Iterator[Round]:
    """What this app does: `Campaign.score`, with its database. A round is due as there is a newer model each time."""
    settings = Settings(labels=LABELS, spatial_dims=2, spatial_size=(SIDE, SIDE), encoder="descriptor", device=device)
    campaign = Campaign(settings, folder / "ours" / "coldstart")
    campaign.sync({path.stem: path for path in sorted((folder / "ours").glob("*.png"))}, {})
    model = load_model(folder / "model.pt", "cpu")
    for number in range(sys.maxsize):
        details = metadata(model.config, str(number))
        save_model(Model(model.network, details), campaign.model_path)
        learning.record_model(campaign.store, str(number), details)
        yield campaign.score


def passes_round(folder: Path, device: str) -> Iterator[Round]:
    """This app's own passes with dropout, and the entropy of their mean."""
    paths = sorted((folder / "ours_passes").glob("*.png"))

    def score() -> int:
        model = faster(load_model(folder / "model.pt", device))

        def predict(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
            return sum(predict_with_dropout(model, inputs, n_draws=N_PASSES), torch.zeros(())) / N_PASSES

        prepare = partial(prepare_image, config=model.config)
        return len(list(score_entropy(predict, paths, spatial_dims=2, prepare=prepare)))

    while True:
        yield score


def stock_round(folder: Path, device: str) -> Iterator[Round]:
    """MONAI Label's own; it scores again what a model of another second has scored."""
    (folder / "stock_app").mkdir()
    app = StockApp(str(folder / "stock_app"), str(folder / "stock"), {"model": str(folder / "model.pt")})
    for number in range(sys.maxsize):
        os.utime(folder / "model.pt", (number + 10, number + 10))
        yield lambda: app.scoring({"method": "epistemic", "device": device})["executed"]


class StockInference(BasicInferTask):
    """The least that stock's scoring needs."""

    def pre_transforms(self, data=None):
        return [LoadImaged(keys="image"), EnsureChannelFirstd(keys="image"), NormalizeIntensityd(keys="image")]

    def inferer(self, data=None):
        return SimpleInferer()

    def post_transforms(self, data=None):
        return [Activationsd(keys="pred", softmax=True)]


class StockApp(MONAILabelApp):
    """MONAI Label's app with its own scoring method, and the network and weights that this app has."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]):
        self.model_path = conf["model"]
        super().__init__(app_dir, studies, {}, name="stock")

    def init_infers(self):
        network = build_network(load_model(Path(self.model_path), "cpu").config)
        options = {"dimension": 2, "description": "stock", "train_mode": True, "skip_writer": True}
        return {"stock": StockInference(self.model_path, network, InferType.SEGMENTATION, LABELS, **options)}

    def init_scoring_methods(self):
        return {"epistemic": EpistemicScoring(self.init_infers()["stock"])}


def forget_peak(device: str) -> None:
    Path("/proc/self/clear_refs").write_text("5")
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()


def memory_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


# Where the time goes, and how much there has to be.


def in_turn(
    jobs: dict[str, Callable[[], Any]],
    n_rounds: int,
    device: torch.device,
    clock: Callable[[], float] | None = None,
) -> dict[str, float]:
    """Median milliseconds of each job, on a CPU those it worked; in turn, after one round that is not counted."""
    clock = clock or (time.perf_counter if device.type == "cuda" else time.process_time)
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(n_rounds + 1):
        for name, job in jobs.items():
            started = clock()
            job()
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken[name] += [1000 * (clock() - started)] if number else []
    return {name: statistics.median(values) for name, values in taken.items()}


def floor(folder: Path, device: torch.device) -> dict[str, float]:
    """Least time of an image: its network's operations, and the bytes of its convolutions, over measured rates."""
    model = load_model(folder / "model.pt", str(device))
    one = torch.zeros(1, 1, SIDE, SIDE, device=device)
    n_bytes = 0

    def count(_layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal n_bytes
        n_bytes += 4 * (inputs[0].numel() + output.numel())

    for layer in model.network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            layer.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.network(one)
    on_gpu = device.type == "cuda"
    can = rates(
        device, torch.float16 if on_gpu else torch.float32, clock=time.perf_counter if on_gpu else time.process_time
    )
    gflop_per_s, gb_per_s = can.flop_per_s / 1e9, can.bytes_per_s / 1e9
    half = 0.5 if on_gpu else 1.0
    gflop = counter.get_total_flops() / 1e9
    return {
        "gflop": gflop,
        "gb": half * n_bytes / 1e9,
        "gflop_per_s": gflop_per_s,
        "gb_per_s": gb_per_s,
        "operations_ms": 1000 * gflop / gflop_per_s,
        "bytes_ms": 1000 * half * n_bytes / 1e9 / gb_per_s,
    }


def parts(folder: Path, paths: list[Path], device: torch.device, n_rounds: int) -> dict[str, float]:
    """Milliseconds an image of each step, and of the network in the forms that were tried."""
    n = min(8, len(paths))
    model = load_model(folder / "model.pt", str(device))
    images = [read_image(path) for path in paths[:n]]
    inputs = [prepare_image(image, model.config) for image in images]
    batch, probabilities = torch.stack(inputs).to(device), predict_prepared(model, inputs)
    fast = faster(model)

    def whole() -> None:
        with torch.inference_mode():
            model.network(batch)

    jobs = {
        "decoding": lambda: [read_image(path) for path in paths[:n]],
        "preparing": lambda: [prepare_image(image, model.config) for image in images],
        f"network, {n} images at once": whole,
        "network, in parts that fit the cache": lambda: predict_prepared(model, inputs),
        "the same, channels-last": lambda: predict_prepared(fast, inputs),
        "entropy": lambda: batch_entropy(probabilities),
    }
    return {name: ms / n for name, ms in in_turn(jobs, n_rounds, device).items()}


def decoding(folder: Path, paths: list[Path], device: torch.device, n_rounds: int) -> dict[str, float]:
    """Milliseconds an image of decoding and preparing alone, by number of threads, with no network behind."""
    config = load_model(folder / "model.pt", "cpu").config

    def run(n_threads: int) -> None:
        nothing = torch.full((1, 2, 1), 0.5)
        list(
            score_entropy(
                lambda inputs: nothing.expand(len(inputs), 2, 1),
                paths * 4,
                spatial_dims=2,
                prepare=partial(prepare_image, config=config),
                n_threads=n_threads,
            )
        )

    jobs = {f"{n} thread{'s' * (n > 1)}": partial(run, n) for n in (1, 2, 4)}
    return {name: ms / (4 * len(paths)) for name, ms in in_turn(jobs, n_rounds, device, time.perf_counter).items()}


def largest_difference(folder: Path, paths: list[Path], device: torch.device) -> float:
    """Nats between this app's scores and equations 5 and 6 on the network as it was saved, in float32 on the CPU."""
    plain, used = load_model(folder / "model.pt", "cpu"), faster(load_model(folder / "model.pt", str(device)))
    prepare = partial(prepare_image, config=plain.config)
    scores = score_entropy(partial(predict_prepared, used), paths, spatial_dims=2, prepare=prepare)
    expected = [image_entropy(predict_prepared(plain, [prepare(read_image(path))])[0].numpy()) for path in paths]
    return max(abs(score - nats) for (_, score), nats in zip(scores, expected, strict=True))


# The report.


def summary(way: str, n_images: int, rounds: list[dict[str, float]]) -> dict[str, float]:
    seconds = [one["seconds"] for one in rounds]
    rate = n_images / statistics.median(seconds)
    return {
        "images_per_s": rate,
        "images_per_s_slowest": n_images / max(seconds),
        "images_per_s_fastest": n_images / min(seconds),
        "cpu_s_an_image": statistics.median(one["cpu_s"] for one in rounds) / n_images,
        "passes_per_s": rate * N_OF_PASSES[way],
        **{key: max(one[key] for one in rounds) for key in ("above_mb", "process_mb", "gpu_mb")},
    }


def table(result: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    scoring, least = result["scoring"], result["floor"]
    on_gpu = any(row["gpu_mb"] for row in scoring.values())
    lines = [
        "# Scoring a pool",
        "",
        f"`{result['command']}` on {result['hardware']}. {', '.join(map(' '.join, result['versions'].items()))}. "
        f"{result['images']} images of {SIDE}x{SIDE}; all in one run, in turn; medians over the rounds, in "
        "brackets the slowest and the fastest. The CPU's seconds are those that it worked for the process, whatever "
        "else ran.",
        "",
        "| what | images/s | passes/s | CPU s an image | memory while scoring (MB) | process in all (MB) |"
        + (" GPU memory (MB) |" if on_gpu else ""),
        "|---|---:|---:|---:|---:|---:|" + ("---:|" if on_gpu else ""),
    ]
    for way, row in scoring.items():
        spread = f"{row['images_per_s_slowest']:.2f} to {row['images_per_s_fastest']:.2f}"
        cells = f"| {way} | {row['images_per_s']:.2f} ({spread}) | {row['passes_per_s']:.2f} "
        cells += f"| {row['cpu_s_an_image']:.2f} | {row['above_mb']:.0f} | {row['process_mb']:.0f} |"
        lines.append(cells + (f" {row['gpu_mb']:.0f} |" if on_gpu else ""))
    rates = {way: row["images_per_s"] for way, row in scoring.items()}
    cpu_s = {way: row["cpu_s_an_image"] for way, row in scoring.items()}
    floor_ms = max(least["operations_ms"], least["bytes_ms"])
    unit, here_ms = ("ms", 1000 / rates[OURS]) if on_gpu else ("ms of one CPU core", 1000 * cpu_s[OURS])
    lines += [
        "",
        f"- As each comes: {rates[OURS] / rates[STOCK]:.1f} times stock's rate. Stock makes {N_PASSES} passes for an "
        "image, this app 1.",
        f"- With {N_PASSES} passes each: {rates[OURS_PASSES] / rates[STOCK]:.1f} times.",
        f"- In the CPU's seconds: {cpu_s[STOCK] / cpu_s[OURS]:.1f} times less than stock as each comes, "
        f"{cpu_s[STOCK] / cpu_s[OURS_PASSES]:.1f} times with {N_PASSES} passes each.",
        f"- An image takes this app {here_ms:.0f} {unit} with everything. The floor is {floor_ms:.0f}: "
        f"{least['gflop']:.1f} GFLOP at {least['gflop_per_s']:.0f} GFLOP/s of a large matrix product or convolution "
        f"are {least['operations_ms']:.0f}; {least['gb']:.2f} GB that convolutions read and write at "
        f"{least['gb_per_s']:.1f} GB/s of a copy are {least['bytes_ms']:.0f}. (The rates are the best of "
        f"{N_TRIALS} short trials.)",
        f"- The scores differ from equations 5 and 6 by {result['largest_difference_from_the_definition']:.1e} nats at "
        f"most (of at most {math.log(len(LABELS) + 1):.1f}).",
        "",
        f"| step, one after the other | ms{'' if on_gpu else ' of one CPU core'} an image |",
        "|---|---:|",
        *(f"| {name} | {ms:.2f} |" for name, ms in result["parts_ms"].items()),
        "",
        "| decoding and preparing alone, with | ms an image |",
        "|---|---:|",
        *(f"| {name} | {ms:.2f} |" for name, ms in result["decoding_ms"].items()),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
