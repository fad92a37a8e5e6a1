"""How a training shares a GPU: with the server that infers beside it, and with programs of other people.

The first by a cap on the memory that the training may take, the second by waiting until there is room for its smallest
step, or by going to the CPU. What was taken is given back when the training's process ends. Tested without a GPU; it
was not run on one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch

from coldstart.segmentation.config import TrainingConfig
from coldstart.segmentation.network import resolve_device
from coldstart.segmentation.training_memory import USABLE, free_bytes, mixed_precision, place, step_bytes

LOOK_EVERY_S = 30.0
"""How often a training that waits looks whether there is room."""

logger = logging.getLogger(__name__)

WhenTaken = Literal["wait", "cpu"]


def share_card(config: TrainingConfig, *, fraction: float, when_taken: WhenTaken) -> str:
    """Cap the memory of this process, and return the device to train on, after waiting for it where that is wanted.

    Parameters
    ----------
    config : TrainingConfig
        What is to be trained.
    fraction : float
        Share of the GPU's memory that this process may take, above 0 and up to 1.
    when_taken : {"wait", "cpu"}
        What to do while other programs hold the memory.
    """
    device = resolve_device(config.device)
    if device.type == "cpu":
        return config.device
    torch.cuda.set_per_process_memory_fraction(fraction, device)
    needed = least_bytes(config, mixed_precision=mixed_precision(config, device))
    total = int(fraction * torch.cuda.get_device_properties(device).total_memory)
    return config.device if get_room(needed, total, lambda: free_bytes(device), when_taken) else "cpu"


def least_bytes(config: TrainingConfig, *, mixed_precision: bool) -> int:
    """What the smallest step takes: one image, of the smallest patch."""
    smallest = replace(config, batch_size=1)
    patch_size = place(smallest, 0, 0, mixed_precision=mixed_precision).patch_size
    return int(step_bytes(smallest, patch_size, mixed_precision) / USABLE)


def get_room(
    needed: int,
    total: int,
    free: Callable[[], int],
    when_taken: WhenTaken,
    sleep: Callable[[float], object] = time.sleep,
) -> bool:
    """Tell whether there is room on the card, after waiting for it where that is wanted and may help.

    What never fits is let through: the training says so in its own words.
    """
    said = False
    while needed <= total and (there := free()) < needed:
        wanted = f"The training needs {needed >> 20} MB of the GPU's memory, of which {there >> 20} MB are free"
        if when_taken == "cpu":
            logger.warning("%s: it goes on on the CPU.", wanted)
            return False
        if not said:
            logger.warning("%s: it waits until other programs give some back.", wanted)
            said = True
        sleep(LOOK_EVERY_S)
    return True
