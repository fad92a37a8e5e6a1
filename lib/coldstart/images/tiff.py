"""Read TIFF with ITK, after a look at what ITK does not check.

ITK fills strips that are missing with zeros, gives the pages that it finds of a file that is cut off, and knows neither
half floats nor that in some files the largest value is black.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile

from coldstart.images.itk import load_itk
from coldstart.images.limits import require_room
from coldstart.images.stored import Stored, UnusableError

MAX_PAGES = 1 << 14


def load_tiff(path: Path, *, indices: bool) -> Stored:
    """Read a TIFF file; `indices` asks for the numbers in it instead of the grey levels they mean."""
    n_bytes = path.stat().st_size
    with path.open("rb") as file:
        _follow_pages(file, n_bytes)
        file.seek(0)
        with tifffile.TiffFile(file) as tiff:
            pages = [page.aspage() for page in tiff.pages]
            page = pages[0]
            dtype, white_is_zero = np.dtype(page.dtype), page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
            size = (page.imagewidth, page.imagelength, len(pages))
            require_room(size, page.samplesperpixel, dtype.itemsize)
            require_room((page.tilewidth, page.tilelength), page.samplesperpixel, dtype.itemsize)
            for number, each in enumerate(pages, start=1):
                if (each.imagewidth, each.imagelength) != size[:2]:
                    raise UnusableError(f"page {number} differs in size from the first; export one image or one volume")
                _require_strips(each, n_bytes)
    if dtype == np.float16:
        raise UnusableError("it holds 16-bit floats; save it with 32-bit floats or whole numbers")
    stored = load_itk(path, "TIFF", physical=False)
    if white_is_zero and not indices and dtype.kind == "u" and stored.array.dtype == dtype:
        return stored.holding(np.iinfo(dtype).max - stored.array)
    return stored


def _follow_pages(file: BinaryIO, n_bytes: int) -> None:
    """Follow the chain of pages to its end; a loop in it, or a page beyond the end of the file, is damage."""
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = len(head) == 16 and struct.unpack(f"{order}H", head[2:4])[0] == 43
    count, tag_bytes, link = (f"{order}Q", 20, f"{order}Q") if big else (f"{order}H", 12, f"{order}I")
    start = 8 if big else 4
    (offset,) = struct.unpack_from(link, head, start)
    seen: set[int] = set()
    while offset:
        if offset in seen or offset >= n_bytes or len(seen) == MAX_PAGES:
            raise UnusableError("the file is damaged or cut off: a page that it announces is not there; copy it again")
        seen.add(offset)
        file.seek(offset)
        (n_tags,) = struct.unpack(count, file.read(struct.calcsize(count)))
        file.seek(min(n_tags * tag_bytes, n_bytes), 1)
        (offset,) = struct.unpack(link, file.read(struct.calcsize(link)))


def _require_strips(page: tifffile.TiffPage, n_bytes: int) -> None:
    """Refuse a page whose strips or tiles are not all in the file."""
    counts, offsets = page.databytecounts, page.dataoffsets
    n_strips = int(np.prod(page.chunked)) if page.chunked else 0
    there = sum(0 < offset and 0 < count <= n_bytes - offset for offset, count in zip(offsets, counts, strict=False))
    if there < max(n_strips, 1):
        raise UnusableError(f"the file is cut off: {there} of {n_strips} strips of a page are there; copy it again")
    whole = page.compression == tifffile.COMPRESSION.NONE and page.bitspersample % 8 == 0
    if whole and sum(counts) < page.nbytes:
        raise UnusableError(
            f"the file is cut off: {sum(counts)} of {page.nbytes} bytes of a page are there; copy it again"
        )
