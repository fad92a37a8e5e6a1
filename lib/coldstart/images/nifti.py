"""Read NIfTI-1 with ITK's geometry and our own values, and write an sform that ITK cannot express.

ITK's reader fills a file that is cut off with zeros, and turns NaN and infinity into zero, both without a word: the
values are therefore read here. Anything unusual (NIfTI-2, colour, vectors, complex numbers) is left to ITK.
"""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coldstart.images.formats import image_suffix
from coldstart.images.itk import load_itk, read_header
from coldstart.images.stored import Stored, UnusableError

_HEAD_BYTES = 348
_DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_LPS_OF_RAS = np.array([-1.0, -1.0, 1.0])


def load_nifti(path: Path) -> Stored:
    """Read a NIfTI file as it is stored, its values rescaled as its header says."""
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    order = _byte_order(content)
    if order is None:
        return load_itk(path, physical=True)
    header = read_header(path, physical=True)
    values = _values(content, order, header.array.shape)
    stored = load_itk(path, physical=True) if values is None else header.holding(values)
    sform = _sform(content, order)
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


def _values(content: bytes, order: Literal["<", ">"], shape: tuple[int, ...]) -> NDArray[Any] | None:
    """Take the values out of the file, rescaled; None where ITK has to do it."""
    dims = struct.unpack_from(f"{order}8h", content, 40)
    datatype = struct.unpack_from(f"{order}h", content, 70)[0]
    offset, slope, intercept = struct.unpack_from(f"{order}3f", content, 108)
    n_values = math.prod(max(n, 1) for n in dims[1 : 1 + max(0, min(dims[0], 7))])
    if datatype not in _DTYPES or n_values != math.prod(shape) or shape[-1] != 1:
        return None
    dtype = np.dtype(_DTYPES[datatype]).newbyteorder(order)
    n_required = int(offset) + n_values * dtype.itemsize
    if len(content) < n_required:
        raise UnusableError(f"the file is cut off: {len(content)} of {n_required} bytes are there; copy it again")
    raw = np.frombuffer(content, dtype, n_values, int(offset)).reshape(shape, order="F")
    values = raw.astype(dtype.newbyteorder("="))
    if slope and math.isfinite(slope) and math.isfinite(intercept) and (slope, intercept) != (1.0, 0.0):
        values = values * np.float32(slope) + np.float32(intercept)
    return values


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
