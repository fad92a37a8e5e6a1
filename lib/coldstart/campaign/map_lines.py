"""Lines of the selection log that say where each image lies on the map: what it was made from, and with what.

The vectors themselves are too large for the log, which holds the hash of each, and a checksum over the ids, the
signatures and the vectors of all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import String, select, type_coerce
from sqlalchemy.orm import Session

from coldstart.campaign.decisions import (
    Arrays,
    checksum,
    pack_hashes,
    pack_ids,
    pack_points,
    record,
    software,
    unpack,
    vector_hash,
)
from coldstart.embedding import Encoder
from coldstart.embedding.preprocessing import HIGH_PERCENTILE, LOW_PERCENTILE, SLICES_PER_AXIS
from coldstart.embedding.weights import PREPROCESSING_VERSION
from coldstart.projection import tsne
from coldstart.settings import Settings
from coldstart.store import FormerPoint, Image, ImageMap
from coldstart.store.schema import Base

MAP, PLACED = "map", "placed"

_LINES = Base.metadata.tables["decisions"]
_MAPS = select(_LINES.c.id, type_coerce(_LINES.c.details, String), _LINES.c.arrays).where(_LINES.c.kind == MAP)


def record_map(
    session: Session,
    made: ImageMap,
    rows: Sequence[Image],
    points: NDArray[np.float64],
    encoder: Encoder,
    settings: Settings,
) -> None:
    """Log a map with the images that made it, in the order of `rows`."""
    details = {
        "map": made.id,
        "encoder": {
            "name": encoder.name,
            "weights": encoder.version,
            "n_features": encoder.n_features,
            "spatial_dims": encoder.spatial_dims,
            "configured": made.configured,
        },
        "preprocessing": {
            "version": PREPROCESSING_VERSION,
            "spatial_dims": settings.spatial_dims,
            "percentiles": [LOW_PERCENTILE, HIGH_PERCENTILE],
            "slices_per_axis": SLICES_PER_AXIS if settings.spatial_dims > encoder.spatial_dims else None,
        },
        "projection": {"method": made.method, "random_state": made.random_state, **_parameters(made.method, len(rows))},
        **_about(rows),
    }
    record(session, MAP, details, arrays={**_images(rows), "points": pack_points(points)})


def record_placed(
    session: Session,
    current: ImageMap,
    rows: Sequence[Image],
    basis: Sequence[Image | FormerPoint],
    points: NDArray[np.float64],
) -> None:
    """Log images that were placed on a map later, by the images and former images in `basis`."""
    line, places = _places(session, current, basis)
    details = {"map": current.id, "line": line, "method": current.method, **_about(rows)}
    arrays = {**_images(rows), "points": pack_points(points)}
    if places is not None:
        arrays["basis"] = np.diff(places, prepend=0)  # almost all 1: compresses to almost nothing
    record(session, PLACED, details, arrays=arrays)


def basis_of(arrays: Arrays) -> NDArray[np.intp]:
    """Return for a line of placed images where the images that placed them are among those of the map's line."""
    return np.cumsum(arrays["basis"]).astype(np.intp)


def _parameters(method: str, n_images: int) -> dict[str, Any]:
    if method != "tsne":
        return {}
    return {
        "pca_dims": tsne.MAX_PCA_DIMS,
        "perplexity": tsne.perplexity_of(n_images),
        "iterations": [tsne.EARLY_ITERATIONS, tsne.ITERATIONS],
        "early_exaggeration": tsne.EARLY_EXAGGERATION,
    }


def _about(rows: Sequence[Image]) -> dict[str, Any]:
    vectors = [np.frombuffer(row.vector or b"", dtype=np.uint8) for row in rows]
    total = checksum([row.image_id for row in rows], [row.signature for row in rows], *vectors)
    return {"n_images": len(rows), "checksum": total, "software": software()}


def _images(rows: Sequence[Image]) -> dict[str, NDArray[Any]]:
    return {
        "ids": pack_ids(row.image_id for row in rows),
        "signatures": pack_ids(row.signature for row in rows),
        "vectors": pack_hashes(row.vector or b"" for row in rows),
    }


def _places(
    session: Session, current: ImageMap, basis: Sequence[Image | FormerPoint]
) -> tuple[int | None, NDArray[np.int64] | None]:
    """The line of a map, and where each of the basis is in it; None where it was made before there was a log."""
    for line, text, raw in session.execute(_MAPS.order_by(_LINES.c.id.desc())).tuples():
        if json.loads(text)["map"] == current.id:
            arrays = unpack(raw)
            # Images with the same vector can lie next to each other; without a projection the vector is the point.
            on_map = arrays["points"].dtype != np.uint8
            points = [point.tobytes() if on_map else b"" for point in arrays["points"]]
            known = {key: index for index, key in enumerate(zip(map(bytes, arrays["vectors"]), points, strict=True))}
            found = [known.get((vector_hash(row.vector or b""), row.point if on_map else b"")) for row in basis]
            places = [place for place in found if place is not None]
            return line, np.array(places, dtype=np.int64) if len(places) == len(found) else None
    return None, None
