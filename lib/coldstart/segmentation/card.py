"""How a training shares a GPU: with the server that infers beside it, and with programs of other people.

The first by a cap on the memory that the training may take. The second by looking, before a training, between its
epochs and when memory runs out in a step, whether what others leave of the card holds a step. What the training has
there itself counts as left to it: it goes on beside a newcomer as long as it can. Where a step does not fit, it gives
all of that back, and waits for room or goes on on the CPU, from the step where it was.

`read_card` is all that is asked of the card; the rest was tested with other answers from it, and not run on a GPU.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, NamedTuple

import torch

from coldstart.segmentation.config import TrainingConfig
from coldstart.segmentation.training_memory import USABLE, free_and_total, mixed_precision, place, step_bytes

LOOK_EVERY_S = 30.0
"""How often a training that waits looks whether there is room."""

logger = logging.getLogger(__name__)

WhenTaken = Literal["wait", "cpu"]


class CardMemory(NamedTuple):
    """Bytes of a card that this process has or could have now, may have at most, and used at most so far."""

    obtainable: int
    allowed: int
    peak: int = 0


def read_card(device: torch.device) -> CardMemory | None:
    """Tell how much of a card's memory this process can have; None for a CPU, which nobody takes away."""
    if device.type != "cuda":
        return None
    free, total = free_and_total(device)
    allowed = int(torch.cuda.get_per_process_memory_fraction(device) * total)
    obtainable = min(free + torch.cuda.memory_reserved(device), allowed)
    return CardMemory(obtainable, allowed, torch.cuda.max_memory_allocated(device))


@contextmanager
def capped(device: torch.device, fraction: float) -> Iterator[None]:
    """Let this process take no more than a share of a card's memory until the block ends, and see what it uses."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_per_process_memory_fraction(device)
    torch.cuda.set_per_process_memory_fraction(fraction, device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, device)


class Card:
    """The device of a training, as long as others leave it to the training.

    Parameters
    ----------
    device : torch.device
        Where the training is wanted.
    when_taken : {"wait", "cpu"}, optional
        What to do while other programs hold a GPU's memory; without it nobody looks.
    on_wait : callable, optional
        Called with a sentence when a wait begins, and with None when it is over.

    Attributes
    ----------
    device : torch.device
        Where the training is to be: the one wanted, or the CPU once it left that.
    is_shared : bool
        Whether others may still take the device.
    waited_s : float
        Seconds waited in all.
    """

    def __init__(
        self,
        device: torch.device,
        when_taken: WhenTaken | None = None,
        on_wait: Callable[[str | None], object] | None = None,
    ) -> None:
        self.device = device
        self.is_shared = when_taken is not None and read_card(device) is not None
        self.waited_s = 0.0
        self._when_taken = when_taken
        self._on_wait = on_wait or (lambda sentence: None)

    def is_taken(self, needed: int, to_spare: int = 0) -> bool:
        """Tell whether so many bytes do not fit because of others; what never fits is not their fault.

        `to_spare` bytes are to be left over, unless that is more than this process may have at all.
        """
        memory = read_card(self.device) if self.is_shared else None
        if memory is None or needed > memory.allowed:
            return False
        wanted = needed + to_spare
        return memory.obtainable < (wanted if wanted <= memory.allowed else needed)

    def peak(self) -> int:
        """Return the bytes that this process used of the card at most so far; 0 where that is not known."""
        memory = read_card(self.device) if self.is_shared else None
        return 0 if memory is None else memory.peak

    def find_room(self, step: int) -> None:
        """Wait until there is room for a step of so many bytes, or leave the card for the CPU where that is wanted."""
        to_spare = int(step / USABLE) - step
        if not self.is_taken(step, to_spare):
            return
        wanted = f"The training needs {step >> 20} MB of the GPU's memory, which other programs hold"
        if self._when_taken == "cpu":
            logger.warning("%s: it goes on on the CPU.", wanted)
            self.device, self.is_shared = torch.device("cpu"), False
            return
        sentence = f"{wanted}: it waits until they give some back."
        logger.warning("%s", sentence)
        self._on_wait(sentence)
        began = time.monotonic()
        while self.is_taken(step, to_spare):
            time.sleep(LOOK_EVERY_S)
        waited_s = time.monotonic() - began
        self.waited_s += waited_s
        logger.info("There is room on the GPU again, after %.0f s: the training goes on.", waited_s)
        self._on_wait(None)


def least_bytes(config: TrainingConfig, device: torch.device) -> int:
    """What the smallest step takes: one image, of the smallest patch."""
    smallest = replace(config, batch_size=1)
    amp = mixed_precision(config, device)
    patch_size = place(smallest, 0, 0, mixed_precision=amp).patch_size
    return step_bytes(smallest, patch_size, amp)
