from collections.abc import Callable, Iterator

import numpy as np
import pytest
from segmentation_helpers import threads, write

from coldstart.segmentation import Model, Sample, TrainingConfig, train

SMALL = {"channels": (8, 16, 32), "learning_rate": 1e-2, "device": "cpu"}
"""A network and a step that learn a disk in seconds; the paper's take minutes on a CPU."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads on a busy machine make networks as small as these slower by far."""
    with threads(1):
        yield


@pytest.fixture(scope="session")
def disks(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Bright disks of different size and place in noise: what an untrained network gets wrong."""
    folder = tmp_path_factory.mktemp("disks")
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :48]
    samples = []
    for i in range(14):
        centre, radius = rng.uniform(13, 27, 2), rng.uniform(6, 11)
        disk = ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2).astype(np.uint8)
        image = (60 + 80 * disk + rng.normal(0, 15, disk.shape)).clip(0, 255).astype(np.uint8)
        samples.append(
            Sample(f"disk{i}", write(image, folder / f"i{i}.png"), write(disk * 7, folder / f"l{i}.png"), {7: 1})
        )
    return samples


@pytest.fixture(scope="session")
def balls(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("balls")
    rng = np.random.default_rng(1)
    x, y, z = np.mgrid[:36, :32, :20]
    samples = []
    for i in range(4):
        centre = rng.uniform((13, 12, 8), (23, 20, 12))
        squared = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (1.6 * (z - centre[2])) ** 2
        ball = (squared < rng.uniform(7, 10) ** 2).astype(np.uint8)
        image = (100 * ball + rng.normal(0, 20, ball.shape)).astype(np.float32)
        samples.append(
            Sample(f"ball{i}", write(image, folder / f"i{i}.nii.gz"), write(ball, folder / f"l{i}.nii.gz"), {1: 1})
        )
    return samples


@pytest.fixture
def small_config() -> Callable[..., TrainingConfig]:
    def make(**changes: object) -> TrainingConfig:
        values: dict = {
            "label_names": ("disk",),
            "spatial_dims": 2,
            "spatial_size": (32, 32),
            "epochs": 2,
        }
        return TrainingConfig(**(values | SMALL | changes))

    return make


@pytest.fixture(scope="session")
def disk_model(disks: list[Sample]) -> Model:
    """A model that was really trained: 10 disks, 15 epochs."""
    config = TrainingConfig(label_names=("disk",), spatial_dims=2, spatial_size=(32, 32), epochs=15, **SMALL)
    with threads(1):
        return train(disks[:10], config)
