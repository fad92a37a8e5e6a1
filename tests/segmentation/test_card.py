"""Waiting for a GPU that others use, or leaving it to them; told without a GPU."""

from __future__ import annotations

import pytest
import torch

from coldstart.segmentation import TrainingConfig
from coldstart.segmentation.card import get_room, least_bytes, share_card
from coldstart.segmentation.training_memory import step_bytes

CONFIG = TrainingConfig(label_names=("a",), spatial_dims=3, spatial_size=(128, 128, 128), batch_size=4, device="cpu")


@pytest.mark.parametrize("n_looks", [0, 1, 3])
def test_training_waits_until_there_is_room(n_looks: int, caplog: pytest.LogCaptureFixture) -> None:
    free, slept = iter([10 << 20] * n_looks + [200 << 20]), []
    assert get_room(100 << 20, 1 << 30, lambda: next(free), "wait", slept.append)
    assert len(slept) == n_looks
    said = "The training needs 100 MB of the GPU's memory, of which 10 MB are free: it waits"
    assert sum(said in record.message for record in caplog.records) == min(1, n_looks)


def test_training_leaves_a_taken_card_at_once_where_that_is_wanted() -> None:
    assert not get_room(100, 1000, lambda: 99, "cpu", pytest.fail)
    assert get_room(100, 1000, lambda: 100, "cpu", pytest.fail)


def test_what_never_fits_is_not_waited_for() -> None:
    assert get_room(1001, 1000, lambda: 0, "wait", pytest.fail)


def test_least_is_one_image_of_the_smallest_patch() -> None:
    least = least_bytes(CONFIG, mixed_precision=False)
    assert step_bytes(CONFIG, (32, 32, 32), False) / 4 < least < step_bytes(CONFIG, (64, 32, 32), False)


def test_cpu_is_shared_without_a_word() -> None:
    before = torch.cuda.is_initialized()
    assert share_card(CONFIG, fraction=0.5, when_taken="wait") == "cpu"
    assert torch.cuda.is_initialized() == before
