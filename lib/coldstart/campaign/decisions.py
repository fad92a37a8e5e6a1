"""The selection log: what was chosen, by whom, when, and everything it was chosen from.

One line holds what is needed to decide the same again without anything that can change since: settings, seeds,
versions, points, and what was labelled or with somebody. `coldstart.campaign.replay` does so. Each line is written in
the transaction of the decision itself: neither is ever there without the other.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import time
import zipfile
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import String, bindparam, select
from sqlalchemy.orm import Session

from coldstart.settings import Settings
from coldstart.store import Serving
from coldstart.store.schema import VECTOR_DTYPE, Base

Arrays = Mapping[str, NDArray[Any]]

LIBRARIES = ("coldstart-al", "numpy", "scipy", "scikit-learn", "openTSNE", "torch", "monai")
"""Whose version can change what is chosen."""
SETTINGS_OF_A_CHOICE = (
    *("budget", "alpha", "k_max", "encoder", "projection", "random_state", "reserve_minutes", "labels"),
    *("spatial_dims", "spatial_size"),
)
TAKEN_OVER = "taken_over"
"""Lines of servings that were decided in another database, whose log has how."""
WIDE = 8
"""Points of more dimensions than this are vectors: the log holds their hashes, the images the vectors themselves."""
HASH_BYTES = 16
_SEPARATOR = "\0"
"""Between ids in one array of bytes: no file name and no DICOM identifier holds it."""

# Built once, and on the table: a click takes longer to build a statement by mapped classes than to execute it.
_LINES = Base.metadata.tables["decisions"]
_INSERT = _LINES.insert().values(details=bindparam("text", type_=String))
_LAST_SEAL = select(_LINES.c.seal).order_by(_LINES.c.id.desc()).limit(1)


def record(
    session: Session,
    kind: str,
    details: Mapping[str, Any],
    *,
    who: str | None = None,
    image_id: str | None = None,
    arrays: Arrays | None = None,
    at: float | None = None,
) -> int:
    """Add a line to the log.

    Parameters
    ----------
    session : Session
        One that writes: nobody adds a line between the last one and this.
    kind : str
        What was decided; `coldstart.campaign.replay` knows how to decide most kinds again.
    details : mapping
        What was decided and from what, in plain JSON types.
    who : str, optional
        The annotator or the authenticated user.
    image_id : str, optional
        The image that it is about.
    arrays : mapping of str to ndarray, optional
        What is too large for `details`.
    at : float, optional
        When it was decided, where that was before now.

    Returns
    -------
    line : int
        The line's number.
    """
    line = Line(
        at=time.time() if at is None else at,
        kind=kind,
        who=who,
        image_id=image_id,
        text=json.dumps(details),
        arrays=pack(arrays) if arrays else None,
    )
    before = session.execute(_LAST_SEAL).scalar() or ""
    return int(session.connection().execute(_INSERT, {**line._asdict(), "seal": line.seal(before)}).lastrowid)


def record_taken_over(session: Session, servings: Mapping[str, Serving], source: str) -> None:
    """Write servings, by image id, that another database logged or none, and say in the log where they come from."""
    if not servings:
        return
    session.add_all(servings.values())
    session.flush()
    known = [
        {
            "serving": serving.id,
            "image_id": image_id,
            "served_at": serving.served_at,
            "annotator": serving.annotator,
            "strategy": serving.strategy,
            "answer": serving.why,
        }
        for image_id, serving in servings.items()
    ]
    record(session, TAKEN_OVER, {"source": source, "servings": known})


class Line(NamedTuple):
    """What a line of the log says; `text` are its details as JSON."""

    at: float
    kind: str
    who: str | None
    image_id: str | None
    text: str
    arrays: bytes | None

    def seal(self, before: str) -> str:
        """Return the hash of this line and of the seal before it."""
        digest = hashlib.sha256(json.dumps([before, *self[:-1]]).encode())
        digest.update(self.arrays or b"")
        return digest.hexdigest()


def pack(arrays: Arrays) -> bytes:
    """Return arrays as the content of an NPZ file.

    A click waits for it, so it is made as fast as that goes: floats, which hardly get smaller, are not compressed.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, values in arrays.items():
            part = io.BytesIO()
            np.save(part, np.ascontiguousarray(values), allow_pickle=False)
            method = zipfile.ZIP_STORED if values.dtype.kind == "f" else zipfile.ZIP_DEFLATED
            file.writestr(f"{name}.npy", part.getbuffer(), method, compresslevel=1)
    return buffer.getvalue()


def unpack(raw: bytes | None) -> dict[str, NDArray[Any]]:
    """Inverse of `pack`."""
    if raw is None:
        return {}
    with np.load(io.BytesIO(raw), allow_pickle=False) as file:
        return dict(file.items())


def pack_ids(ids: Iterable[str]) -> NDArray[np.uint8]:
    """Return ids, none of them empty, as one array."""
    return np.frombuffer(_SEPARATOR.join(ids).encode(), dtype=np.uint8)


def unpack_ids(packed: NDArray[np.uint8]) -> list[str]:
    """Inverse of `pack_ids`."""
    return packed.tobytes().decode().split(_SEPARATOR) if packed.size else []


def vector_hash(vector: bytes) -> bytes:
    """Return what tells one vector, as the database keeps it, from all others."""
    return hashlib.blake2b(vector, digest_size=HASH_BYTES).digest()


def pack_hashes(vectors: Iterable[bytes]) -> NDArray[np.uint8]:
    """Return the hash of each vector, as rows of bytes."""
    hashes = b"".join(vector_hash(vector) for vector in vectors)
    return np.frombuffer(hashes, dtype=np.uint8).reshape(-1, HASH_BYTES)


def pack_points(points: NDArray[np.float64]) -> NDArray[Any]:
    """Return points on a map; vectors, which are points without a projection, as their hashes."""
    if points.ndim == 2 and points.shape[1] > WIDE:
        return pack_hashes(row.tobytes() for row in points.astype(VECTOR_DTYPE))
    return points


def checksum(*parts: Iterable[str] | NDArray[Any]) -> str:
    """Return the SHA-256 of ids and arrays."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part if isinstance(part, np.ndarray) else pack_ids(part)).tobytes())
    return digest.hexdigest()


def settings_of_a_choice(settings: Settings) -> dict[str, Any]:
    """Return the settings that decide what is chosen, in plain JSON types."""
    return settings.model_dump(mode="json", include=set(SETTINGS_OF_A_CHOICE))


@cache
def software() -> dict[str, str]:
    """Return the versions of Python and of `LIBRARIES`."""
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
