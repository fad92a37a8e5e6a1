"""What the server, its tasks and the commands may take of the machine."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from coldstart.settings import Settings

GIB = 1 << 30


def keep_within_limits(settings: Settings) -> None:
    """Bound the cores and the memory of this process, and of all that it begins."""
    if settings.cores:
        _use_cores(settings.cores)
    if settings.memory_gb:
        # Of what it may write to, each process: an allocation beyond that fails, and the work is done again in smaller
        # parts or ends in a sentence, where the system would have killed the process.
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = int(settings.memory_gb * GIB)
        resource.setrlimit(resource.RLIMIT_DATA, (soft if hard < 0 else min(soft, hard), hard))


def _use_cores(wanted: int) -> None:
    """Keep every thread on the first so many cores of those that this process may use; new ones do as their maker."""
    allowed = sorted(os.sched_getaffinity(0))[:wanted]
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), allowed)
    threadpool_limits(len(allowed))
    torch.set_num_threads(min(len(allowed), torch.get_num_threads()))
