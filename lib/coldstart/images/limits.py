"""How large an image may be: judged from its header, before anything of it is decompressed or allocated."""

from __future__ import annotations

import math
import resource
from collections.abc import Sequence

import psutil

from coldstart.images.stored import UnusableError, times

MAX_PLANE_PIXELS = 1 << 27
"""Pixels of the largest plane, 11,585 x 11,585: a radiograph has 50 million, and beyond this lie zip bombs."""

MAX_MEMORY = 16 << 30
"""Bytes that an image may take, as stored and as float32 together: 1024 x 1024 x 1500 voxels of 16 bits take 9 GiB."""

MEMORY_SHARE = 0.5
"""Part of the memory that one image may take; the rest is for another one, and for the server."""


def require_three_dimensions(size: Sequence[int]) -> None:
    """Refuse an image of more dimensions, unless the others have length 1."""
    if math.prod(size[3:]) > 1:
        raise UnusableError(
            f"it has {len(size)} dimensions ({times(tuple(size))}), such as a time series or vectors; export one volume"
        )


def require_room(size: Sequence[int], n_components: int, bytes_per_value: int) -> None:
    """Refuse an image that is too large to be read.

    Parameters
    ----------
    size : sequence of int
        Pixels along each axis.
    n_components : int
        Values of each pixel.
    bytes_per_value : int
        Of a value as stored.

    Raises
    ------
    UnusableError
        If a plane exceeds `MAX_PLANE_PIXELS`, or reading needs more than `MAX_MEMORY` or this machine's share.
    """
    lengths = times(tuple(size))
    if math.prod(sorted(size)[-2:]) > MAX_PLANE_PIXELS:
        raise UnusableError(
            f"its {lengths} pixels are too many; a plane may have {MAX_PLANE_PIXELS} (MAX_PLANE_PIXELS). "
            "Export it smaller"
        )
    needed = math.prod(size) * n_components * (bytes_per_value + 4)
    limit = min(MAX_MEMORY, int(_memory() * MEMORY_SHARE))
    if needed > limit:
        raise UnusableError(
            f"its {lengths} pixels are too many; reading them takes {needed / (1 << 30):.1f} GiB of memory, "
            f"and an image may take {limit / (1 << 30):.1f} GiB on this machine (MAX_MEMORY). Export it smaller"
        )


def _memory() -> int:
    """Bytes of this machine's memory, or what this process may allocate of it."""
    total, (allowed, _) = int(psutil.virtual_memory().total), resource.getrlimit(resource.RLIMIT_DATA)
    return total if allowed == resource.RLIM_INFINITY else min(total, allowed)
