"""A network and its optimiser, one training step at a time, on a device that may change between two steps."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import torch
from monai.losses import DiceCELoss
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from coldstart.segmentation.config import TrainingConfig
from coldstart.segmentation.network import build_network
from coldstart.segmentation.training_memory import mixed_precision


class Fitting:
    """An untrained network that steps make better.

    Parameters
    ----------
    config : TrainingConfig
        Of the training.
    device : torch.device
        Where to begin.
    distributes : bool
        Whether other processes take the same steps on their share of the images.
    """

    def __init__(self, config: TrainingConfig, device: torch.device, *, distributes: bool = False) -> None:
        self.network: nn.Module = build_network(config).to(device).train()
        self._parallel = self.network
        if distributes:
            self._parallel = DistributedDataParallel(
                self.network, device_ids=[device] if device.type == "cuda" else None
            )
        self._config = config
        self._criterion = DiceCELoss(to_onehot_y=True, softmax=True)
        self._optimiser = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, fused=True)
        self._scalers: dict[str, torch.amp.GradScaler] = {}
        self._settle(device)

    def _settle(self, device: torch.device) -> None:
        self.device = device
        self._amp = mixed_precision(self._config, device)
        self._scaler = self._scalers.setdefault(device.type, torch.amp.GradScaler(device.type, enabled=self._amp))

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Take a step on a batch and return its loss, which a GPU may still be computing."""
        self._optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self._amp):
            logits = self._parallel(images)
        loss: torch.Tensor = self._criterion(logits.float(), labels.long())
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.step(self._optimiser)
        self._scaler.update()
        return loss.detach()

    def before_a_step(self) -> Callable[[], None]:
        """Keep what a step changes until it may run out of memory; return what puts it back.

        That is before the weights change, which no memory is needed for any more: the statistics of the batch
        normalisations, the generators that dropout draws from, and what the optimiser begins its first step with.
        """
        buffers = sorted(self.network.buffers(), key=lambda buffer: str(buffer.dtype))
        groups = [list(group) for _, group in groupby(buffers, key=lambda buffer: buffer.dtype)]
        kept = [torch.cat([buffer.reshape(-1) for buffer in group]) for group in groups]
        drawn = torch.get_rng_state()
        drawn_there = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None

        def undo() -> None:
            self._optimiser.zero_grad(set_to_none=True)
            for parameter, means in list(self._optimiser.state.items()):
                if "exp_avg_sq" not in means:  # Adam makes it last, and takes what is there for complete
                    del self._optimiser.state[parameter]
            for left_there in ("grad_scale", "found_inf"):  # by the scaler, which would multiply with it once more
                vars(self._optimiser).pop(left_there, None)
            for group, values in zip(groups, kept, strict=True):
                parts = torch.split(values, [buffer.numel() for buffer in group])
                for buffer, part in zip(group, parts, strict=True):
                    buffer.copy_(part.reshape(buffer.shape))
            torch.set_rng_state(drawn)
            if drawn_there is not None:
                torch.cuda.set_rng_state(drawn_there, self.device)

        return undo

    def move(self, device: torch.device) -> None:
        """Go on on another device: weights and the optimiser's means go along, to the last bit."""
        self._optimiser.zero_grad(set_to_none=True)
        self.network.to(device)
        for state in self._optimiser.state.values():
            state.update({key: value.to(device) for key, value in state.items()})
        self._settle(device)
