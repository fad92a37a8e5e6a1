"""The course of one training: its epochs, how far it is, and what it does when others take the card in the middle."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import distributed

from coldstart.exceptions import ModelError
from coldstart.memory import give_back, ran_out_of_memory
from coldstart.segmentation.card import Card
from coldstart.segmentation.config import TrainingConfig
from coldstart.segmentation.fitting import Fitting
from coldstart.segmentation.training_memory import Placement, fits, free_bytes, mixed_precision, step_bytes
from coldstart.segmentation.training_set import Batches, Pick, TrainingSet
from coldstart.segmentation.validation import Validation


@dataclass(frozen=True)
class EpochReport:
    """How far a training is.

    Parameters
    ----------
    epoch, epochs : int
        Epochs finished, and in all.
    loss : float
        Mean of the epoch's steps; lower is better.
    elapsed_s, remaining_s : float
        Since the first epoch began, and until the last one ends. That goes by the speed so far, since the training
        moved to the CPU if it did; waits for the card do not count.
    dice : float or None
        Of the validation, in [0, 1], higher is better; None where the network was not judged after this epoch.
    """

    epoch: int
    epochs: int
    loss: float
    elapsed_s: float
    remaining_s: float
    dice: float | None


class Course:
    """One training from its first step to its last.

    Parameters
    ----------
    data : TrainingSet
        In the host's memory.
    config : TrainingConfig
        Of the training; its batch size may be smaller than the one wanted.
    placement : Placement
        How the training is laid out at the beginning.
    card : Card
        Where it runs.
    validation : Validation
        What it is judged on.
    rank, world_size : int
        Of this process in a distributed training.

    Attributes
    ----------
    fitting : Fitting
        What is trained.
    losses : list of float
        Of each epoch, once all have run.
    dice : dict of str to float
        Of the validation, by epoch, which is text as in JSON.
    moved_in : int or None
        Epoch in which the training left the card for the CPU.
    """

    def __init__(
        self,
        data: TrainingSet,
        config: TrainingConfig,
        placement: Placement,
        card: Card,
        validation: Validation,
        rank: int,
        world_size: int,
    ) -> None:
        self._data, self._config, self._card, self._validation = data, config, card, validation
        self._patch_size = placement.patch_size
        self._batches = Batches(data, config, placement.patch_size, card.device, rank, world_size)
        self._place(on_device=placement.on_device)
        self._pace = _Pace(len(self._batches) * config.epochs)
        self._epoch, self._seen = 0, 0
        self.fitting = Fitting(config, card.device, distributes=world_size > 1)
        self.losses: list[float] = []
        self.dice: dict[str, float] = {}
        self.moved_in: int | None = None

    def run(self, on_epoch: Callable[[EpochReport], None] | None) -> None:
        """Run all epochs.

        Raises
        ------
        ModelError
            If the loss or the weights are no longer finite.
        """
        epochs, distributes = self._config.epochs, self._batches.world_size > 1
        losses = []
        self._pace.start()
        for self._epoch in range(1, epochs + 1):
            if self._is_squeezed():
                self._yield()
            losses.append(self._run_epoch())
            loss = None
            if on_epoch is not None or distributes:
                loss = float(losses[-1])  # waits for the device
                self._require_finite(loss, self._epoch)
            dice = self._judge()
            if not self._seen:
                self._seen = max(0, self._card.peak() - self._placed_bytes)
            if on_epoch is not None and loss is not None and self._batches.rank == 0:
                on_epoch(EpochReport(self._epoch, epochs, loss, *self._pace.read(), dice))
        self.losses = torch.stack([one.to(self.fitting.device) for one in losses]).tolist()
        for epoch, loss in enumerate(self.losses, start=1):
            self._require_finite(loss, epoch)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self.fitting.network.state_dict().values()):
            self._require_finite(math.nan, epochs)

    def _run_epoch(self) -> torch.Tensor:
        """Take the steps of an epoch and return their mean loss, which a GPU may still be computing."""
        mean = torch.zeros((), device=self.fitting.device)
        for pick in self._batches.picks():
            loss = self._step(pick)
            mean = mean.to(loss.device) + loss
            self._pace.count_step()
        mean /= len(self._batches)
        if self._batches.world_size > 1:
            # the mean over all processes: they also stop together when it is not finite
            distributed.all_reduce(mean)
            mean /= self._batches.world_size
        return mean

    def _step(self, pick: Pick) -> torch.Tensor:
        """Take a step on a batch; when others took the memory for it, after the card was yielded."""
        if not self._card.is_shared:
            return self.fitting.step(*self._batches.take(pick))
        again = False
        while True:
            undo = self.fitting.before_a_step()
            try:
                return self.fitting.step(*self._batches.take(pick))
            except (RuntimeError, MemoryError) as failure:
                taken = self._is_squeezed()
                if not ran_out_of_memory(failure) or (again and not taken):
                    raise
            # only here, where the failure and the frames that it kept alive are gone, can their memory be given back
            undo()
            give_back()
            again = not taken
            if taken:
                self._yield()

    def _judge(self) -> float | None:
        if not self._validation.is_due(self._epoch):
            return None
        dice = self._validation.dice(self.fitting.network, self.fitting.device)
        if dice is not None:
            self.dice[str(self._epoch)] = dice
        return dice

    @cached_property
    def _estimate(self) -> int:
        return step_bytes(self._config, self._patch_size, mixed_precision(self._config, self._card.device))

    @property
    def _needed(self) -> int:
        """What a step takes beside the set, weights and all: as estimated, or less where that was seen."""
        return min(self._estimate, self._seen or self._estimate)

    def _is_squeezed(self) -> bool:
        """Tell whether others hold so much of the card that the training has no room there as it lies."""
        return self._card.is_shared and self._card.is_taken(self._needed + self._placed_bytes)

    def _yield(self) -> None:
        """Leave the card with all that can be moved, and go on when there is room for a step, or on the CPU."""
        began, card = time.monotonic(), self._card
        self._batches.move(self._data, torch.device("cpu"))
        self.fitting.move(torch.device("cpu"))
        give_back()
        card.find_room(self._needed)
        self.fitting.move(card.device)
        self._place(on_device=fits(self._data.nbytes + self._needed, free_bytes(card.device)))
        self._pace.skip(time.monotonic() - began)
        if not card.is_shared:
            self.moved_in = self._epoch
            self._pace.start_anew()

    def _place(self, *, on_device: bool) -> None:
        """Put the set where it is to lie; that has no effect on the result."""
        self._batches.move(self._data.to(self._card.device) if on_device else self._data, self._card.device)
        self._placed_bytes = self._data.nbytes if on_device else 0

    def _require_finite(self, loss: float, epoch: int) -> None:
        if not math.isfinite(loss):
            raise ModelError(
                f"The training diverged: its loss or weights were no longer finite in epoch {epoch} of "
                f"{self._config.epochs}; nothing was published. Lower the learning rate (now "
                f"{self._config.learning_rate:g}), or look for labels that are not of their image."
            )


class _Pace:
    """How long a training has run, and how long it still takes at its speed."""

    def __init__(self, n_steps: int) -> None:
        self._n_left = n_steps

    def start(self) -> None:
        self.start_anew()
        self._began = self._since

    def start_anew(self) -> None:
        """Forget the speed so far."""
        self._since, self._n_timed = time.monotonic(), 0

    def count_step(self) -> None:
        self._n_left -= 1
        self._n_timed += 1

    def skip(self, seconds: float) -> None:
        """Leave out time that was no work."""
        self._since += seconds

    def read(self) -> tuple[float, float]:
        """Return the seconds since the start, and those left."""
        now = time.monotonic()
        return now - self._began, (now - self._since) / self._n_timed * self._n_left
