"""What happens when memory runs out: the same work once more in smaller batches, then a sentence."""

from __future__ import annotations

import ctypes
import gc
import logging
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psutil
import torch

from coldstart.exceptions import ColdStartError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

SIGNS = (
    "out of memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "could not create a primitive",
    "bad_alloc",
    "STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "unable to find an engine",
    "Unable to find a valid cuDNN algorithm",
)
"""What torch says on a GPU, its allocator on a CPU, the operating system, oneDNN for its buffers, and C++; then cuBLAS
and cuDNN on a full card. The last two are said of a card that cuDNN does not support as well, so an error quotes them.
"""


def ran_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on a GPU or of the machine."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError) and any(sign in str(error) for sign in SIGNS)
    )


@contextmanager
def enough_memory(*, what: str, remedy: str, error: type[ColdStartError]) -> Iterator[None]:
    """Turn running out of memory into an error of the given type, whose sentence begins with `what`."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as failure:
        if not ran_out_of_memory(failure):
            raise
        raise error(f"{what} ran out of memory ({_first_line(failure)}). {remedy}") from None


_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""Of glibc, which keeps what a model took when another takes its place: ten of them would cost 350 MB."""


def give_back() -> None:
    """Free what nobody uses any more, for others on the device, in this process, and on the machine."""
    gc.collect()
    torch.cuda.empty_cache()
    if _trim is not None:
        _trim(0)


def available_memory(control_groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process can still have: of the machine, of its container or unit of systemd, of its own limit.

    Parameters
    ----------
    control_groups : Path
        Where Linux shows them (version 2).
    """
    free = min(int(psutil.virtual_memory().available), _left_by_the_limit())
    try:
        own = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2].lstrip("/")
        folder = next(one for one in (control_groups / own, control_groups) if (one / "memory.max").is_file())
        limit = (folder / "memory.max").read_text().strip()
        if limit == "max":
            return free
        used = int((folder / "memory.current").read_text())
        numbers = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError, StopIteration):
        return free
    # What was read from files counts as used there, and is given up as soon as somebody needs the room.
    return min(free, int(limit) - used + int(numbers.get("inactive_file", 0)))


def _left_by_the_limit() -> int:
    """Bytes that `ulimit -d` leaves; what a process reads from files and shares does not count there."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return sys.maxsize if limit == resource.RLIM_INFINITY else max(0, limit - psutil.Process().memory_info().data)


def halved(batch_size: int) -> tuple[int, ...]:
    """Batch sizes to try: the one wanted, then half of it where there is a half."""
    return (batch_size, batch_size // 2) if batch_size > 1 else (batch_size,)


def in_smaller_batches(
    run: Callable[[int], Result], sizes: Sequence[int], *, what: str, remedy: str, error: type[ColdStartError]
) -> Result:
    """Run with the first batch size for which the memory is enough.

    Parameters
    ----------
    run : callable
        Called with a batch size; when memory runs out, it is called again from the beginning with the next one.
    sizes : sequence of int
        At least one.
    what, remedy : str
        Who ran out of memory, with its grid or network; and what to change.
    error : type of ColdStartError
        What is raised in the end.

    Raises
    ------
    ColdStartError
        Of the given type, when memory ran out with every size. All other errors of `run` pass.
    """
    for size in sizes:
        try:
            return run(size)
        except (RuntimeError, MemoryError, OSError) as failure:
            if not ran_out_of_memory(failure):
                raise
            reason = _first_line(failure)
        # Only here, where the failure and the frames that it kept alive are gone, can their memory be freed.
        give_back()
        logger.warning("%s ran out of memory with a batch size of %d: %s", what, size, reason)
    raise error(
        f"{what} ran out of memory with a batch size of {' and of '.join(map(str, sizes))} ({reason}). {remedy}"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
