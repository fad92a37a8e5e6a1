"""What a model took is the machine's again when nobody uses it any more."""

from __future__ import annotations

import ctypes

import numpy as np
import psutil
import pytest

from coldstart.memory import give_back

N_WEIGHTS, WEIGHT_BYTES = 640, 100_000


def allocated_mb() -> float:
    """What this process has allocated and written."""
    memory = psutil.Process().memory_info()
    return float(memory.rss - memory.shared) / 1e6


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library is not glibc")
def test_memory_below_what_is_still_used_is_given_back() -> None:
    give_back()
    before = allocated_mb()
    weights = [np.ones(WEIGHT_BYTES, dtype=np.uint8) for _ in range(N_WEIGHTS)]
    last = weights[-1]
    taken = allocated_mb() - before
    assert taken > 0.5 * N_WEIGHTS * WEIGHT_BYTES / 1e6
    del weights
    give_back()
    assert allocated_mb() - before < 0.25 * taken
    assert last.all()
