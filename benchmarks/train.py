"""Seconds to train: this app beside MONAI Label's stock `BasicTrainTask`, in one run.

    python benchmarks/train.py

Both train the same network with the same first weights, loss, optimiser, images, epochs and batch size, from image
files to a model file. Each has a process of its own, with as many threads of torch; they take turns, never at once,
and the medians over the rounds are compared. The first round of each is not counted.

Stock is `BasicTrainTask` with the least that it needs, as MONAI Label's own radiology app fills it in: CacheDataset
(images on the device), ThreadDataLoader, its handlers and its Dice of the training images. This app gets a listener,
so that it too reads its loss after each epoch, as on a server.

The floor is what a training cannot go below on this device: the operations of its steps over the rate of a large
matrix product or convolution, whichever is faster, and what the steps keep for the way back, written and read once,
with Adam's seven passes over the weights, over the rate of a copy. At the end, steps of a plain loop are timed with one
thing changed each time.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from device_rates import rates, use
from monai.inferers import SimpleInferer
from monai.losses import DiceCELoss
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    NormalizeIntensityd,
)
from monailabel.tasks.train.basic_train import BasicTrainTask
from PIL import Image as Picture
from torch.utils import deterministic
from torch.utils.flop_counter import FlopCounterMode

from coldstart.experiments.runs import hardware
from coldstart.segmentation import Sample, TrainingConfig, build_network, load_model, save_model, train
from coldstart.segmentation.training_memory import mixed_precision, step_bytes

RESULTS = Path(__file__).parent / "results"
OURS, STOCK = "this app", "stock BasicTrainTask"
EPOCHS_ON_GPU, EPOCHS_ON_CPU = 120, 2

Round = Callable[[], list[float]]
"""Trains once, from files to a file; gives the mean loss of each epoch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--epochs", type=int, help=f"{EPOCHS_ON_GPU} on a GPU, {EPOCHS_ON_CPU} on a CPU by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=7, help="of each changed plain loop")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch, in each process")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=RESULTS / "train.json")
    arguments = parser.parse_args()
    # Threads that wait by spinning keep the cores from those that they wait for; processes read this when they start.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    device = use(arguments.device)
    epochs = arguments.epochs or (EPOCHS_ON_GPU if device.type == "cuda" else EPOCHS_ON_CPU)
    config = TrainingConfig(("disk",), 2, (arguments.side, arguments.side), epochs=epochs, device=str(device))
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, arguments.images, arguments.side)
        rounds = measure(folder, config, arguments.threads, arguments.rounds)
    torch.set_num_threads(arguments.threads)
    result = {
        "command": f"python benchmarks/train.py {' '.join(sys.argv[1:])}".strip(),
        "hardware": (
            f"{hardware(device)}; load average {load_before:.1f} from other work when the run began, "
            f"{os.getloadavg()[0]:.1f} when it ended"
        ),
        "versions": {name: version(name) for name in ("torch", "monai", "monailabel")},
        "images": arguments.images,
        "config": config.to_dict(),
        "training": {way: summary(found, arguments.images * epochs) for way, found in rounds.items()},
        "floor": floor(config, device, arguments.images),
        "step_ms": steps(config, device, arguments.steps),
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    arguments.output.with_suffix(".md").write_text(table(result))
    print(table(result))


def write_images(folder: Path, n_images: int, side: int) -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] / side
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for index in range(n_images):
        row, column, radius = rng.uniform((0.3, 0.3, 0.1), (0.7, 0.7, 0.3))
        disk = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        pixels = (80 + 40 * disk + rng.normal(0, 20, disk.shape)).clip(0, 255).astype(np.uint8)
        Picture.fromarray(pixels).save(folder / "images" / f"{index:04d}.png")
        Picture.fromarray(disk.astype(np.uint8)).save(folder / "labels" / f"{index:04d}.png")


# The two trainings, each in a process of its own.


def measure(folder: Path, config: TrainingConfig, n_threads: int, n_rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Figures of each round, by way; the ways take turns, and the first round of each is not counted."""
    context = multiprocessing.get_context("spawn")
    processes, connections = [], {}
    for way in (OURS, STOCK):
        connections[way], theirs = context.Pipe()
        processes.append(context.Process(target=work, args=(theirs, way, folder, config, n_threads), daemon=True))
        processes[-1].start()
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in connections}
    for number in range(n_rounds + 1):
        for way, connection in connections.items():
            connection.send("round")
            figures = connection.recv()
            print(way, figures if number else "warm", flush=True)
            found[way] += [figures] if number else []
    for process in processes:
        process.terminate()
    return found


def work(connection: Connection, way: str, folder: Path, config: TrainingConfig, n_threads: int) -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(n_threads)
    use(config.device)
    on_gpu = config.device.startswith("cuda")
    rounds = {OURS: our_round, STOCK: stock_round}[way](folder, config)
    while connection.recv():
        run = next(rounds)
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        before = memory_mb("VmRSS")
        started, worked = time.perf_counter(), time.process_time()
        losses = run()
        if on_gpu:
            torch.cuda.synchronize()
        figures = {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - worked}
        figures |= {"process_mb": memory_mb("VmHWM"), "above_mb": memory_mb("VmHWM") - before}
        figures["gpu_mb"] = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else 0.0
        connection.send(figures | {"first_loss": losses[0], "last_loss": losses[-1]})


def our_round(folder: Path, config: TrainingConfig) -> Iterator[Round]:
    paths = sorted((folder / "images").glob("*.png"))
    samples = [Sample(path.stem, path, folder / "labels" / path.name, {1: 1}) for path in paths]

    def run() -> list[float]:
        model = train(samples, config, on_epoch=lambda report: None)
        save_model(model, folder / "ours" / "model.pt")
        return list(load_model(folder / "ours" / "model.pt", "cpu").metadata["losses"])

    while True:
        yield run


def stock_round(folder: Path, config: TrainingConfig) -> Iterator[Round]:
    for number in range(sys.maxsize):
        # a folder of its own, since stock goes on from a model that it finds
        task = StockTraining(folder / "stock" / str(number), config)

        def run(task: StockTraining = task) -> list[float]:
            torch.manual_seed(config.random_state)
            task({"device": config.device}, StockDatastore(folder))
            return task.epoch_losses(config.epochs)

        yield run


class StockDatastore:
    """What a stock training asks of a datastore."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def datalist(self) -> list[dict[str, str]]:
        paths = sorted((self._folder / "images").glob("*.png"))
        return [{"image": str(path), "label": str(self._folder / "labels" / path.name)} for path in paths]


class StockTraining(BasicTrainTask):
    """The least that `BasicTrainTask` needs, with this app's network, loss and optimiser."""

    def __init__(self, folder: Path, config: TrainingConfig) -> None:
        self._training = config
        self._losses: list[torch.Tensor] = []
        options = {"max_epochs": config.epochs, "train_batch_size": config.batch_size, "val_split": 0.0}
        options |= {"pretrained": False, "multi_gpu": False, "dataset": "CacheDataset"}
        options |= {"dataloader": "ThreadDataLoader", "tracking": "None"}
        super().__init__(str(folder), config=options, amp=config.device != "cpu", tracking=None)

    def network(self, context: Any) -> torch.nn.Module:
        return build_network(self._training)

    def optimizer(self, context: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(context.network.parameters(), lr=self._training.learning_rate)

    def loss_function(self, context: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        criterion = DiceCELoss(to_onehot_y=True, softmax=True)

        def loss_function(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            loss = criterion(logits.float(), labels)
            self._losses.append(loss.detach())
            return loss

        return loss_function

    def epoch_losses(self, n_epochs: int) -> list[float]:
        """Mean loss of each epoch."""
        return [float(losses.mean()) for losses in torch.stack(self._losses).as_tensor().chunk(n_epochs)]

    def train_pre_transforms(self, context: Any) -> list[Callable[..., Any]]:
        keys = ("image", "label")
        return [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            NormalizeIntensityd("image"),
            EnsureTyped(keys, device=context.device),
        ]

    def train_post_transforms(self, context: Any) -> list[Callable[..., Any]]:
        n_classes = self._training.n_classes
        return [
            Activationsd("pred", softmax=True),
            AsDiscreted(("pred", "label"), argmax=(True, False), to_onehot=(n_classes, n_classes)),
        ]

    def val_inferer(self, context: Any) -> SimpleInferer:
        return SimpleInferer()


def memory_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def summary(rounds: list[dict[str, Any]], n_images: int) -> dict[str, Any]:
    """Medians of the rounds, with the range of the seconds."""
    figures = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    seconds = [one["seconds"] for one in rounds]
    figures |= {"images_per_s": n_images / figures["seconds"], "fastest_s": min(seconds), "slowest_s": max(seconds)}
    return {key: round(value, 3) for key, value in figures.items()}


# How much time there has to be, and what a change of a step gains.


def floor(config: TrainingConfig, device: torch.device, n_images: int) -> dict[str, float]:
    """Operations and bytes of a training, and the least seconds that they take at this device's rates."""
    network = build_network(config).to(device).train()
    images = torch.randn(config.batch_size, 1, *config.spatial_size, device=device)
    with FlopCounterMode(display=False) as counter:
        network(images).sum().backward()
    n_steps = config.epochs * -(-n_images // config.batch_size)
    mixed = mixed_precision(config, device)
    weights = sum(parameter.nbytes for parameter in network.parameters())
    n_bytes = 2 * step_bytes(config, config.spatial_size, mixed) + 7 * weights
    can = rates(device, torch.float16 if mixed else torch.float32)
    tflop, gb = n_steps * counter.get_total_flops() / 1e12, n_steps * n_bytes / 1e9
    tflop_per_s, gb_per_s = can.flop_per_s / 1e12, can.bytes_per_s / 1e9
    figures = {"tflop": tflop, "gb": gb, "tflop_per_s": tflop_per_s, "gb_per_s": gb_per_s}
    figures |= {"operations_s": tflop / tflop_per_s, "bytes_s": gb / gb_per_s}
    return {key: round(value, 3) for key, value in figures.items()}


def steps(config: TrainingConfig, device: torch.device, n_steps: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a plain loop's step, as it is and with one change each time; they take turns."""
    changes: dict[str, dict[str, bool]] = {
        "plain": {},
        "new memory not filled with NaN": {"filled": False},
        "Adam fused": {"fused": True},
        "channels-last": {"channels_last": True},
    }
    jobs = {name: plain_step(config, device, **change) for name, change in changes.items()}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for number in range(n_steps + 1):
        for name, job in jobs.items():
            started, worked = time.perf_counter(), time.process_time()
            job()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - started, time.process_time() - worked
            taken[name] += [seconds] if number else []
    return {
        name: {
            "wall": round(1000 * statistics.median(wall for wall, _ in found), 1),
            "cpu": round(1000 * statistics.median(cpu for _, cpu in found), 1),
        }
        for name, found in taken.items()
    }


def plain_step(
    config: TrainingConfig,
    device: torch.device,
    *,
    filled: bool = True,
    fused: bool = False,
    channels_last: bool = False,
) -> Callable[[], None]:
    """One step of a plain loop on data that lie on the device, with the kernels that this app asks for."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = build_network(config).to(device, memory_format=layout).train()
    images = torch.randn(config.batch_size, 1, *config.spatial_size, device=device).to(memory_format=layout)
    labels = (images > 0).long()
    criterion = DiceCELoss(to_onehot_y=True, softmax=True)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=fused or None)
    mixed = mixed_precision(config, device)
    scaler = torch.amp.GradScaler(device.type, enabled=mixed)

    def step() -> None:
        if device.type == "cpu":
            torch.use_deterministic_algorithms(True, warn_only=True)
            deterministic.fill_uninitialized_memory = filled
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.float16, enabled=mixed):
            logits = network(images)
        scaler.scale(criterion(logits.float(), labels)).backward()
        scaler.step(optimiser)
        scaler.update()

    return step


def table(result: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    config, floor, training = result["config"], result["floor"], result["training"]
    grid = " x ".join(map(str, config["spatial_size"]))
    least = max(floor["operations_s"], floor["bytes_s"])
    lines = [
        "# Training",
        "",
        f"`{result['command']}` on {result['hardware']}. "
        + ", ".join(f"{name} {number}" for name, number in result["versions"].items())
        + f". {config['epochs']} epochs of {result['images']} images of {grid}, {config['batch_size']} in a step, from "
        "image files to a model file; both in one run, in turn; medians of the rounds.",
        "",
        "| what | s | fastest to slowest | images/s | CPU s | peak of the process (MB) | above what it had (MB) "
        "| peak on the GPU (MB) | loss, first epoch | last |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for way, row in training.items():
        gpu = f"{row['gpu_mb']:.0f}" if row["gpu_mb"] else "no GPU"
        lines.append(
            f"| {way} | {row['seconds']:.1f} | {row['fastest_s']:.1f} to {row['slowest_s']:.1f} "
            f"| {row['images_per_s']:.2f} | {row['cpu_s']:.1f} | {row['process_mb']:.0f} | {row['above_mb']:.0f} "
            f"| {gpu} | {row['first_loss']:.3f} | {row['last_loss']:.3f} |"
        )
    ours, stock = training[OURS], training[STOCK]
    lines += [
        "",
        f"This app takes {ours['seconds'] / stock['seconds']:.2f} of stock's seconds and "
        f"{ours['cpu_s'] / stock['cpu_s']:.2f} of its CPU seconds. CPU seconds count the work of the process's own "
        "threads, which other work on the machine disturbs less than the clock on the wall.",
        "",
        f"Floor: {floor['tflop']:.2f} Tflop at {floor['tflop_per_s']:.3f} Tflop/s take {floor['operations_s']:.1f} s, "
        f"{floor['gb']:.1f} GB at {floor['gb_per_s']:.1f} GB/s {floor['bytes_s']:.1f} s. This app takes "
        f"{ours['seconds'] / least:.1f} times the larger one. (The rates are the best of 20 short trials: beside other "
        "work, a whole training cannot come near.)",
        "",
        "| a plain loop's step | ms | CPU ms | CPU, ratio to plain |",
        "|---|---:|---:|---:|",
    ]
    plain = result["step_ms"]["plain"]
    for name, row in result["step_ms"].items():
        lines.append(f"| {name} | {row['wall']} | {row['cpu']} | {row['cpu'] / plain['cpu']:.3f} |")
    lines += [
        "",
        "Medians of few steps: beside other work a difference of some hundredths is noise. Channels-last drops other "
        "units on a CPU, so its loss curve is another one; this app does without it.",
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
