"""What a training needs of its device's memory, and what it does where that is not enough.

The rule: nine tenths of the memory that is free when a training begins may be used. Volumes of which a step of
`batch_size` does not fit are trained on by patches: the longest axis of the grid is halved until a step fits. The
training set lies on the device where it fits there beside a step, else in the host's memory. Where it lies has no
effect on the result; patches have.

A step takes the weights, their gradients and Adam's two means, and what the network keeps for the way back. That is
counted, without running it, by a network on PyTorch's meta device; on a CPU a step was seen to take 17 % more at its
highest (oneDNN's buffers, gradients on their way), for which a quarter is added.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import distributed

from coldstart.memory import available_memory, ran_out_of_memory
from coldstart.segmentation.config import SMALLEST_AXIS, TrainingConfig
from coldstart.segmentation.network import STRIDE, build_network

USABLE = 0.9
"""Part of the free memory that a training may take."""
IN_PASSING = 1.25
"""A step's peak over what the network keeps for the way back."""
COPIES_OF_WEIGHTS = 4
"""The weights, their gradients, and two means of Adam."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """How a training is laid out in memory.

    Parameters
    ----------
    on_device : bool
        Whether the whole training set lies on the device; else each batch goes there from the host.
    patch_size : tuple of int
        Grid of what goes through the network; the config's `spatial_size` unless that does not fit.
    """

    on_device: bool
    patch_size: tuple[int, ...]


def find_placement(config: TrainingConfig, set_bytes: int, device: torch.device, world_size: int) -> Placement:
    """Decide by the free memory of the device; the same in all processes of a distributed training."""
    free = free_bytes(device)
    if world_size > 1:
        least = torch.tensor(free, device=device)
        distributed.all_reduce(least, distributed.ReduceOp.MIN)
        free = int(least)
    placement = place(config, set_bytes, free, mixed_precision=mixed_precision(config, device))
    if placement.patch_size != config.spatial_size:
        logger.warning(
            "A training step of %d volumes of %s does not fit into the %d MB that are free: it learns from random "
            "patches of %s. Free memory, or lower --conf batch_size or --conf spatial_size, for whole volumes.",
            config.batch_size,
            _grid(config.spatial_size),
            free >> 20,
            _grid(placement.patch_size),
        )
    return placement


def mixed_precision(config: TrainingConfig, device: torch.device) -> bool:
    """Tell whether a training on this device computes in half precision where that is safe."""
    return config.amp and device.type == "cuda"


def place(config: TrainingConfig, set_bytes: int, free: int, *, mixed_precision: bool) -> Placement:
    """Apply the rule to a number of free bytes."""
    patch_size = config.spatial_size
    while not fits(needed := step_bytes(config, patch_size, mixed_precision), free) and config.spatial_dims == 3:
        smaller = _halved(patch_size, STRIDE ** (len(config.channels) - 1))
        if smaller == patch_size:
            break
        patch_size = smaller
    return Placement(fits(set_bytes + needed, free), patch_size)


def fits(needed: int, free: int) -> bool:
    """Tell whether a training may take so many of the free bytes."""
    return needed <= int(USABLE * free)


def step_bytes(config: TrainingConfig, grid: Sequence[int], mixed_precision: bool) -> int:
    """Estimate what a training step of `batch_size` images of this grid takes of the device's memory at its highest."""
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.device("meta"):
        network = build_network(config).train()
        image = torch.empty(1, 1, *grid)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network(image)
    of_an_image = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) + 4 * logits.nbytes
    if mixed_precision:
        of_an_image //= 2
    weights = sum(parameter.nbytes for parameter in network.parameters())
    return int(IN_PASSING * config.batch_size * of_an_image) + COPIES_OF_WEIGHTS * weights


def free_bytes(device: torch.device) -> int:
    """Memory of a device that nothing uses and this process may take; for a CPU `available_memory`."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device)
        free, total = free_and_total(device)
        allowed = int(torch.cuda.get_per_process_memory_fraction(device) * total) - reserved
        return int(min(free, allowed)) + reserved - torch.cuda.memory_allocated(device)
    return available_memory()


def free_and_total(device: torch.device) -> tuple[int, int]:
    """Bytes of a GPU that nobody uses, and all that it has. To look takes some memory: where that is not there, 0."""
    try:
        return torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        if not ran_out_of_memory(error):
            raise
        return 0, int(torch.cuda.get_device_properties(device).total_memory)


def _halved(grid: tuple[int, ...], multiple: int) -> tuple[int, ...]:
    """Half of the longest axis, on a size that the network takes; the grid itself where no axis can be halved."""
    longest = max(range(len(grid)), key=grid.__getitem__)
    half = max(SMALLEST_AXIS, 2 * multiple, -(-grid[longest] // (2 * multiple)) * multiple)
    return (*grid[:longest], min(half, grid[longest]), *grid[longest + 1 :])


def n_patches(grid: Sequence[int], patch_size: Sequence[int]) -> int:
    """How many patches it takes to cover a grid."""
    return prod(-(-whole // part) for whole, part in zip(grid, patch_size, strict=True))


def _grid(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
