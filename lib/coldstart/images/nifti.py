"""What ITK leaves out about NIfTI-1: a check that the file is whole, and an sform that is not orthonormal."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Literal

import numpy as np

from coldstart.images.formats import image_suffix
from coldstart.images.itk import load_itk
from coldstart.images.stored import Stored, UnusableError

_CHUNK_BYTES = 1 << 20
_LPS_OF_RAS = np.array([-1.0, -1.0, 1.0])


def load_nifti(path: Path) -> Stored:
    """Read NIfTI with ITK, after checking that it is whole: ITK fills what is missing with zeros and says nothing."""
    head, n_present = _nifti_head(path)
    order = _byte_order(head)
    if order is not None:
        dims = struct.unpack_from(f"{order}8h", head, 40)
        bits, offset = struct.unpack_from(f"{order}h", head, 72)[0], struct.unpack_from(f"{order}f", head, 108)[0]
        n_values = int(np.prod([max(n, 1) for n in dims[1 : 1 + max(0, min(dims[0], 7))]], dtype=np.int64))
        n_required = int(offset) + n_values * bits // 8
        if head[344:347] == b"n+1" and n_present < n_required:
            raise UnusableError(f"the file is cut off: {n_present} of {n_required} bytes are there; copy it again")
    stored = load_itk(path, physical=True)
    sform = _sform(head, order)
    if sform is None or _expresses(stored, sform):
        return stored
    return Stored(stored.array, stored.spacing, stored.origin, stored.direction, True, sform, stored.metadata)


def _nifti_head(path: Path) -> tuple[bytes, int]:
    """Give the first 348 bytes and the number of bytes in all, uncompressed; a broken stream raises."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if not packed:
        with path.open("rb") as file:
            return file.read(348), path.stat().st_size
    with gzip.open(path, "rb") as stream:
        head = stream.read(348)
        n_bytes = len(head)
        while chunk := stream.read(_CHUNK_BYTES):
            n_bytes += len(chunk)
    return head, n_bytes


def _byte_order(head: bytes) -> Literal["<", ">"] | None:
    """Byte order of a NIfTI-1 header; None for anything else (ITK judges NIfTI-2 on its own)."""
    if len(head) == 348:
        if struct.unpack_from("<i", head)[0] == 348:
            return "<"
        if struct.unpack_from(">i", head)[0] == 348:
            return ">"
    return None


def _sform(head: bytes, order: Literal["<", ">"] | None) -> tuple[float, ...] | None:
    if order is None:
        return None
    code = struct.unpack_from(f"{order}h", head, 254)[0]
    return (float(code), *struct.unpack_from(f"{order}12f", head, 280)) if code > 0 else None


def _expresses(stored: Stored, sform: tuple[float, ...]) -> bool:
    """Whether ITK's spacing, origin and direction give the sform, to a thousandth of a voxel at the farthest corner."""
    n_dims = len(stored.spacing)
    ours = np.zeros((3, 4))
    ours[:n_dims, :n_dims] = np.reshape(stored.direction, (n_dims, n_dims)) * np.array(stored.spacing)
    ours[:n_dims, 3] = stored.origin
    ours *= _LPS_OF_RAS[:, None]
    theirs = np.reshape(sform[1:], (3, 4))
    size = np.array([*stored.array.shape[:-1], 1][:3], dtype=np.float64)
    reach = np.abs(ours - theirs) @ np.append(size if n_dims == 3 else [*size[:2], 0.0], 1.0)
    return bool(reach.max() <= 1e-3 * min(stored.spacing))


def write_sform(path: Path, sform: tuple[float, ...]) -> None:
    """Put an sform (its code, then 12 entries, RAS) into a NIfTI-1 file; everything else stays."""
    packed = image_suffix(path) == ".nii.gz"
    content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    order = _byte_order(bytes(content[:348]))
    if order is None:
        raise OSError("the header just written is not NIfTI-1")
    struct.pack_into(f"{order}h", content, 254, int(sform[0]))
    struct.pack_into(f"{order}12f", content, 280, *sform[1:])
    path.write_bytes(gzip.compress(bytes(content), mtime=0) if packed else bytes(content))
