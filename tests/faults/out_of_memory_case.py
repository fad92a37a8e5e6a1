"""Work that runs out of memory for real: this process may take no more of it than it is told.

`python out_of_memory_case.py WORK FOLDER` prints, as JSON, what came of three runs, each with the batch sizes with
which it ran out: with a batch of `BATCH_SIZE` and too little memory for anything, with enough for half of it, and with
half of it and no limit. How much is enough for half differs between machines and runs, so it is looked for. A limit is
on the address space, above what the process takes before the run; what fails is torch's allocator.
"""

from __future__ import annotations

import json
import logging
import re
import resource
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from coldstart.campaign import Campaign, learning, vectors
from coldstart.embedding.encoder import Array, TorchEncoder
from coldstart.exceptions import ColdStartError
from coldstart.segmentation import (
    Sample,
    TrainingConfig,
    infer,
    load_model,
    predict_prepared,
    prepare_image,
    save_model,
    train,
)
from coldstart.settings import Settings

MB = 1 << 20
N_IMAGES = 8
BATCH_SIZE = 8
TOO_LITTLE_MB, PLENTY_MB = 60, 1200
SIDE = 256

Work = Callable[[int, int], dict[str, Any]]
"""From a number of images and a batch size to what came of it."""


class WideEncoder(TorchEncoder):
    """One convolution, of which each image takes 16 MB."""

    spatial_dims, n_features = 2, 64

    def __init__(self) -> None:
        super().__init__("wide", "1", torch.nn.Conv2d(1, self.n_features, 3, padding=1), torch.device("cpu"))

    def prepare(self, image: Array) -> Array:
        return image.mean(axis=0, keepdims=True)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.network(inputs).mean(dim=(2, 3))


def training(folder: Path, images: list[Path]) -> Work:
    def work(n: int, batch_size: int) -> dict[str, Any]:
        samples = [Sample(path.stem, path, path.with_name(f"label_{path.name}"), {1: 1}) for path in images[:n]]
        model = train(samples, make_config(batch_size))
        save_model(model, folder / "model.pt")
        requested = model.metadata["requested_batch_size"]
        return {"batch_size": model.config.batch_size, "requested": requested, "losses": model.metadata["losses"]}

    return work


def embedding(folder: Path, images: list[Path]) -> Work:
    def work(n: int, batch_size: int) -> dict[str, Any]:
        campaign = make_campaign(folder / uuid.uuid4().hex, images[:n], embed_batch_size=batch_size)
        return {"embedded": vectors.embed_images(campaign.store, campaign.settings, WideEncoder())}

    return work


def scoring(folder: Path, images: list[Path]) -> Work:
    training(folder, images)(1, 1)
    infer.CPU_PIXELS = N_IMAGES * SIDE**2  # all of a batch at once, as on a GPU

    def work(n: int, batch_size: int) -> dict[str, Any]:
        campaign = make_campaign(folder / uuid.uuid4().hex, images[:n], score_batch_size=batch_size)
        model = load_model(folder / "model.pt", "cpu")
        prepare, predict = partial(prepare_image, config=model.config), partial(predict_prepared, model)
        n_scored = learning.score_pool(
            campaign.store, campaign.settings, model.version, prepare=prepare, predict=predict
        )
        return {"scored": n_scored}

    return work


def make_config(batch_size: int) -> TrainingConfig:
    return TrainingConfig(
        label_names=("bright",),
        spatial_dims=2,
        spatial_size=(SIDE, SIDE),
        channels=(16, 32),
        epochs=1,
        batch_size=batch_size,
        device="cpu",
    )


def make_campaign(folder: Path, images: list[Path], **values: Any) -> Campaign:
    settings = Settings(labels={"bright": 1}, spatial_dims=2, spatial_size=(SIDE, SIDE), device="cpu", **values)
    campaign = Campaign(settings, folder)
    campaign.sync({path.stem: path for path in images}, {})
    return campaign


def write_images(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(N_IMAGES):
        pixels = np.random.default_rng(index).integers(0, 255, (SIDE, SIDE)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"i{index:02d}.png")
        Image.fromarray((pixels > 127).astype(np.uint8)).save(folder / f"label_i{index:02d}.png")
    return sorted(folder.glob("i*.png"))


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@contextmanager
def noted_sizes() -> Iterator[list[int]]:
    """Batch sizes with which memory runs out meanwhile, as the log tells them."""
    sizes: list[int] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            sizes.extend(
                int(size) for size in re.findall(r"ran out of memory with a batch size of (\d+):", record.getMessage())
            )

    handler = Handler()
    logging.getLogger("coldstart.memory").addHandler(handler)
    try:
        yield sizes
    finally:
        logging.getLogger("coldstart.memory").removeHandler(handler)


def run(work: Work, batch_size: int, limit: int) -> dict[str, Any]:
    with noted_sizes() as sizes:
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        try:
            outcome = work(N_IMAGES, batch_size)
        except ColdStartError as error:
            outcome = {"error": f"{type(error).__name__}: {error}"}
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return {**outcome, "ran_out_with": sizes}


def main(name: str, folder: Path) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    work = {"training": training, "embedding": embedding, "scoring": scoring}[name](folder, write_images(folder))
    work(1, 1)

    def limited(megabytes: int) -> dict[str, Any]:
        return run(work, BATCH_SIZE, address_space() + megabytes * MB)

    failed = limited(TOO_LITTLE_MB)
    low, high = TOO_LITTLE_MB, PLENTY_MB
    while high - low > 1:
        middle = (low + high) // 2
        halved = limited(middle)
        if "error" in halved:
            low = middle
        elif not halved["ran_out_with"]:
            high = middle
        else:
            break
    return [failed, halved, run(work, BATCH_SIZE // 2, resource.RLIM_INFINITY)]


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    name, folder = sys.argv[1:]
    print(json.dumps(main(name, Path(folder))))
