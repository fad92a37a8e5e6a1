"""Read NIfTI-1 with ITK's geometry and our own values, and write an sform that ITK cannot express.

ITK's reader fills a file that is cut off with zeros, and turns NaN and infinity into zero, both without a word: the
values are therefore read here. No more is inflated than the header announces.
"""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import replace
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coldstart.images.formats import image_suffix
from coldstart.images.itk import read_header
from coldstart.images.limits import require_room, require_three_dimensions
from coldstart.images.stored import Stored, UnusableError

_HEAD_BYTES = 348
_MAX_OFFSET = 1 << 26
"""Where the values begin at the latest; what lies before them is text."""
_MAX_SURPLUS = 1 << 16
"""Bytes that may follow the values in a compressed file: some pad. Reading to the end checks the whole file."""
_MAX_INFLATION = 1032
"""No byte of a gzip file stands for more bytes than this."""
_DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_COMPLEX = (32, 1792, 2048)
_COLOURS = {128: 3, 2304: 4}
_LPS_OF_RAS = np.array([-1.0, -1.0, 1.0])


def load_nifti(path: Path) -> Stored:
    """Read a NIfTI file as it is stored, its values rescaled as its header says."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        n_at_most = path.stat().st_size * (_MAX_INFLATION if packed else 1)
        with gzip.open(raw) if packed else raw as file:
            head = file.read(_HEAD_BYTES)
            order = _byte_order(head)
            if order is None:
                raise UnusableError(_stranger(head))
            values = _values(file, head, order, n_at_most)
            if packed and len(file.read(_MAX_SURPLUS + 1)) > _MAX_SURPLUS:
                raise UnusableError("it holds more than its header announces; export it again")
    header = read_header(path, "NIfTI", physical=True)
    if math.prod(header.array.shape) != values.size:
        raise UnusableError("the file is damaged: its header contradicts itself; export it again")
    stored = header.holding(values.reshape(header.array.shape, order="F"))
    sform = _sform(head, order)
    return stored if sform is None or _expresses(stored, sform) else replace(stored, nifti_sform=sform)


def write_sform(path: Path, sform: tuple[float, ...]) -> None:
    """Put an sform (its code, then 12 entries, RAS) into a NIfTI-1 file; everything else stays."""
    packed = image_suffix(path) == ".nii.gz"
    content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    order = _byte_order(content)
    if order is None:
        raise OSError("the header just written is not NIfTI-1")
    struct.pack_into(f"{order}h", content, 254, int(sform[0]))
    struct.pack_into(f"{order}12f", content, 280, *sform[1:])
    path.write_bytes(gzip.compress(bytes(content), mtime=0) if packed else bytes(content))


def _byte_order(content: bytes | bytearray) -> Literal["<", ">"] | None:
    """Byte order of a single-file NIfTI-1; None for anything else."""
    if len(content) >= _HEAD_BYTES and content[344:347] == b"n+1":
        if struct.unpack_from("<i", content)[0] == _HEAD_BYTES:
            return "<"
        if struct.unpack_from(">i", content)[0] == _HEAD_BYTES:
            return ">"
    return None


def _stranger(head: bytes) -> str:
    """Say what a file is that does not begin as single-file NIfTI-1 does."""
    if head[4:7] == b"n+2":
        return "it is NIfTI-2, which few viewers read; save it as NIfTI-1"
    if head[344:347] == b"ni1":
        return "its values are in another file (.img); save it as one .nii or .nii.gz file"
    return "the file is damaged, incomplete or not NIfTI (it does not begin as NIfTI does); export or copy it again"


def _values(file: BufferedIOBase, head: bytes, order: Literal["<", ">"], n_at_most: int) -> NDArray[Any]:
    """Read the values that follow the header, rescaled; (n,), for colours those of red first, then green and blue."""
    dims = struct.unpack_from(f"{order}8h", head, 40)
    datatype = struct.unpack_from(f"{order}h", head, 70)[0]
    offset, slope, intercept = struct.unpack_from(f"{order}3f", head, 108)
    size = tuple(max(n, 1) for n in dims[1 : 1 + max(0, min(dims[0], 7))])
    require_three_dimensions(size)
    if datatype in _COMPLEX:
        raise UnusableError("its values are complex numbers; export the magnitude instead")
    if datatype not in _DTYPES | _COLOURS:
        raise UnusableError(f"its values are of NIfTI type {datatype}; save it with whole numbers or 32-bit floats")
    if not _HEAD_BYTES <= offset <= _MAX_OFFSET:
        raise UnusableError(f"the file is damaged: its values would begin at byte {offset:g}; export it again")
    n_colours = _COLOURS.get(datatype, 1)
    dtype = np.dtype(_DTYPES.get(datatype, "u1")).newbyteorder(order)
    require_room(size, n_colours, dtype.itemsize)
    n_bytes = math.prod(size) * n_colours * dtype.itemsize
    n_there = max(0, n_at_most - int(offset))
    if n_bytes <= n_there:
        file.seek(int(offset))
        content = np.empty(n_bytes, dtype=np.uint8)
        n_there = _fill(file, content)
    if n_there < n_bytes:
        raise UnusableError(
            f"the file is cut off: at most {n_there} of {n_bytes} bytes of pixels are there; copy it again"
        )
    values = content.view(dtype).astype(dtype.newbyteorder("="), copy=False)
    if slope and math.isfinite(slope) and math.isfinite(intercept) and (slope, intercept) != (1.0, 0.0):
        values = values * np.float32(slope) + np.float32(intercept)
    return values.reshape(-1, n_colours).ravel(order="F")


def _fill(file: BufferedIOBase, content: NDArray[np.uint8]) -> int:
    """Read until an array is full or the file ends; give the number of bytes read."""
    view, n_read = content.data, 0
    while n_read < len(view) and (n := file.readinto(view[n_read:])):
        n_read += n
    return n_read


def _sform(content: bytes, order: Literal["<", ">"]) -> tuple[float, ...] | None:
    code = struct.unpack_from(f"{order}h", content, 254)[0]
    return (float(code), *struct.unpack_from(f"{order}12f", content, 280)) if code > 0 else None


def _expresses(stored: Stored, sform: tuple[float, ...]) -> bool:
    """Whether ITK's spacing, origin and direction give the sform, to a thousandth of a voxel at the farthest corner."""
    n_dims = len(stored.spacing)
    ours = np.zeros((3, 4))
    ours[:n_dims, :n_dims] = np.reshape(stored.direction, (n_dims, n_dims)) * np.array(stored.spacing)
    ours[:n_dims, 3] = stored.origin
    ours *= _LPS_OF_RAS[:, None]
    reach = np.array([*stored.array.shape[:-1], *([0] * (3 - n_dims)), 1], dtype=np.float64)
    away = np.abs(ours - np.reshape(sform[1:], (3, 4))) @ reach
    return bool(away.max() <= 1e-3 * min(stored.spacing))
