"""A small study: its images, their labels, and the settings of a server on it."""

from pathlib import Path

import numpy as np
from PIL import Image

from coldstart.images import read_image, write_label

N_POOL, N_HELD_OUT, BUDGET = 14, 3, 4
CONF = {
    "preset": "chest_xray",
    "labels": "disk:1,square:2",
    "encoder": "descriptor",
    "spatial_size": "32,32",
    "epochs": "2",
    "budget": str(BUDGET),
    "prelabel": "0",
    "retrain_at_budget": "false",
    "publish_margin": "1",
}


def write_case(studies: Path, truth: Path, name: str, seed: int) -> None:
    """An image with a bright disk and a dark square, in one of two looks, and its label."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:48, :40]
    disk = (rows - rng.uniform(12, 20)) ** 2 + (columns - rng.uniform(12, 28)) ** 2 < rng.uniform(5, 8) ** 2
    square = (abs(rows - 36) < rng.uniform(3, 6)) & (abs(columns - rng.uniform(12, 28)) < 5)
    pixels = 90 + 60 * disk - 50 * square + rng.normal(0, 4, disk.shape) + (60 * columns / 40 if seed % 2 else 0)
    path = studies / f"{name}.png"
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    write_label(np.where(disk, 1, np.where(square, 2, 0)), read_image(path).geometry, truth / path.name)


def write_cases(folder: Path, n_cases: int = 8) -> Path:
    """Write as many cases into `folder`; return its folder of studies, beside which their labels lie in `truth`."""
    studies, truth = folder / "studies", folder / "truth"
    studies.mkdir()
    truth.mkdir()
    for index in range(n_cases):
        write_case(studies, truth, f"case_{index:02d}", index)
    return studies
