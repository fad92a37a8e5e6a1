import resource

import psutil
import pytest
import torch

from coldstart.exceptions import ModelError
from coldstart.segmentation import TrainingConfig, evaluate, train, training_memory
from coldstart.segmentation.training_memory import Placement, place, step_bytes

MB = 1 << 20
VOLUME = {"label_names": ("ball",), "spatial_dims": 3}


def needed(config: TrainingConfig, grid: tuple[int, ...]) -> int:
    """Free bytes from which a step of this grid fits beside nothing else."""
    return int(step_bytes(config, grid, False) / training_memory.USABLE) + 1


def test_step_takes_what_its_layers_keep():
    # 1 to 2 channels: each of the two levels keeps at least what its first convolution and normalisation put out
    config = TrainingConfig(("a",), 2, (64, 64), channels=(2, 4), batch_size=3)
    least = 3 * 4 * (2 * 64 * 64 + 4 * 32 * 32) * 2
    assert least < step_bytes(config, (64, 64), False) < 20 * least


def test_step_grows_with_batch_and_grid_and_halves_with_mixed_precision():
    def config(batch_size: int) -> TrainingConfig:
        return TrainingConfig(("a",), 3, (64, 64, 64), batch_size=batch_size)

    weights = 4 * 23_625_000 * 4  # of the paper's network in 3D, with gradients and Adam's two means
    one = step_bytes(config(1), (64, 64, 64), False) - weights
    assert step_bytes(config(2), (64, 64, 64), False) - weights == pytest.approx(2 * one, rel=0.01)
    assert step_bytes(config(1), (64, 64, 128), False) - weights == pytest.approx(2 * one, rel=0.01)
    assert step_bytes(config(1), (64, 64, 64), True) - weights == pytest.approx(one / 2, rel=0.01)


def test_set_lies_on_the_device_only_where_it_fits_beside_a_step(small_config):
    config = small_config()
    enough = needed(config, (32, 32))
    assert place(config, 0, enough, mixed_precision=False) == Placement(True, (32, 32))
    assert place(config, MB, enough, mixed_precision=False) == Placement(False, (32, 32))
    assert place(config, MB, enough + 2 * MB, mixed_precision=False) == Placement(True, (32, 32))


def test_longest_axis_is_halved_until_a_step_fits(small_config):
    config = small_config(**VOLUME, spatial_size=(128, 80, 32), channels=(8, 16))
    for patch_size in [(128, 80, 32), (64, 80, 32), (64, 40, 32), (32, 40, 32), (32, 32, 32)]:
        assert place(config, 0, needed(config, patch_size), mixed_precision=False) == Placement(True, patch_size)
    assert place(config, 0, 0, mixed_precision=False) == Placement(False, (32, 32, 32))


def test_pictures_are_never_cut(small_config):
    assert place(small_config(spatial_size=(64, 64)), 0, 0, mixed_precision=False).patch_size == (64, 64)


def test_free_memory_of_a_cpu_is_the_machines():
    free = training_memory.free_bytes(torch.device("cpu"))
    assert 0 < free < psutil.virtual_memory().total


@pytest.fixture
def little_left():
    """Has this process take no more than 300 MB beyond what it has."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (psutil.Process().memory_info().data + 300 * MB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


def test_free_memory_of_a_cpu_is_what_the_limit_of_the_process_leaves(little_left):
    assert 200 * MB < training_memory.free_bytes(torch.device("cpu")) <= 301 * MB


@pytest.mark.parametrize(("n_learnt", "n_judged", "side"), [(100, 0, 1024), (1, 8, 4096)])
def test_images_that_do_not_fit_into_memory_end_in_a_sentence(
    disks, small_config, little_left, n_learnt, n_judged, side
):
    config = small_config(spatial_size=(side, side), epochs=1)
    with pytest.raises(ModelError, match=r"Loading the images of the training ran out of memory .* published"):
        train([disks[0]] * n_learnt, config, validation=[disks[0]] * n_judged)


def test_volumes_too_large_for_the_device_train_by_patches(balls, small_config, monkeypatch, caplog):
    config = small_config(**VOLUME, spatial_size=(64, 32, 32), epochs=4)
    limit = needed(config, (32, 32, 32)) + MB
    assert limit < needed(config, (64, 32, 32))
    monkeypatch.setattr(training_memory, "free_bytes", lambda device: limit)
    model = train(balls[:3], config)
    assert model.metadata["patch_size"] == [32, 32, 32]
    assert "of 2 volumes of 64 x 32 x 32 does not fit into the" in caplog.text
    assert "learns from random patches of 32 x 32 x 32" in caplog.text
    assert evaluate(model, balls[3:]).dice > 0.8
    assert train(balls[:3], config).metadata["losses"] == model.metadata["losses"]


def test_volumes_that_fit_train_whole(balls, small_config, caplog):
    config = small_config(**VOLUME, spatial_size=(32, 32, 32), epochs=1)
    assert train(balls[:1], config).metadata["patch_size"] == [32, 32, 32]
    assert "patches" not in caplog.text


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU on this machine."),
        ),
    ],
)
def test_set_in_the_hosts_memory_trains_as_one_on_the_device(disks, small_config, monkeypatch, device):
    config = small_config(device=device, epochs=2)
    on_device = train(disks[:5], config).metadata["losses"]
    monkeypatch.setattr(training_memory, "free_bytes", lambda device: 0)
    model = train(disks[:5], config)
    assert model.metadata["losses"] == pytest.approx(on_device, rel=0 if device == "cpu" else 1e-2)
