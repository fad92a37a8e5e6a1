"""What a device can do, for the floors of `train.py` and `score.py`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from coldstart.segmentation import resolve_device

N_TRIALS = 20
"""Of which the best rate counts: what the device can, whatever runs beside."""
SIDE = 2048
MEGABYTES = 256


class Rates(NamedTuple):
    """Floating-point operations a second, and bytes read or written a second."""

    flop_per_s: float
    bytes_per_s: float


def use(name: str) -> torch.device:
    """The device of this name, as the one that torch's own counters and waits are about."""
    device = resolve_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def rates(device: torch.device, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter) -> Rates:
    """Rates of a large matrix product or convolution, whichever is faster, and of a copy, by a clock of seconds."""
    square, planes = (torch.rand(*size, device=device, dtype=dtype) for size in ((SIDE, SIDE), (16, 128, 64, 64)))
    # on some processors a convolution is through with its operations sooner than a matrix product
    convolve = torch.nn.Conv2d(128, 128, 3, padding=1, bias=False, device=device, dtype=dtype).requires_grad_(False)
    planes, convolve = (one.to(memory_format=torch.channels_last) for one in (planes, convolve))
    source = torch.ones(MEGABYTES << 18, device=device)

    def least_s(job: Callable[[], Any]) -> float:
        taken = []
        for number in range(N_TRIALS + 1):
            started = clock()
            job()
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken += [clock() - started] if number else []
        return min(taken)

    products = 2 * SIDE**3 / least_s(lambda: square @ square)
    convolutions = 2 * 9 * 128 * planes.numel() / least_s(lambda: convolve(planes))
    return Rates(max(products, convolutions), 2 * (MEGABYTES << 20) / least_s(source.clone))
