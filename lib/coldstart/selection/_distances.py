"""Euclidean distances in chunks: never an n x n matrix in memory.

Two kinds. `distances` is direct: exact to the last bits, and fast in few dimensions. `SquaredDistances` goes through
one matrix product, ten times as fast in hundreds of dimensions; it loses digits where points nearly coincide, but
states how many, so that a kernel can use it as a bound and decide on direct distances alone.
"""

from collections.abc import Iterator

import numpy as np
from scipy.spatial.distance import cdist

from coldstart.selection._validation import Floats, Indices

CHUNK_BYTES = 16 * 2**20
"""Of distances at a time: larger ones only leave the processor's cache."""


def chunks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Cut the rows of an (n_rows, n_columns) matrix of float64 into slices of about `CHUNK_BYTES`."""
    step = max(1, CHUNK_BYTES // (8 * n_columns))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def distances(rows: Floats, columns: Floats) -> Floats:
    """Return all distances between two sets of points, shape (len(rows), len(columns))."""
    if len(columns) < len(rows):  # SciPy takes a long row four times as fast as a long column
        return distances(columns, rows).T
    result: Floats = cdist(rows, columns)
    return result


def nearest_distances(points: Floats, others: Floats) -> Floats:
    """Return the distance of each point to the nearest of `others`, shape (len(points),)."""
    nearest = np.empty(len(points))
    for chunk in chunks(len(points), len(others)):
        nearest[chunk] = distances(points[chunk], others).min(axis=1)
    return nearest


class SquaredDistances:
    """Squared distances within one set of points, each off by at most `error`."""

    def __init__(self, points: Floats) -> None:
        self._centred = points - points.mean(axis=0)  # the error grows with the norms
        self._norms: Floats = np.einsum("ij,ij->i", self._centred, self._centred)
        n_dims = points.shape[1]
        # A dot product of d terms is off by at most d eps/2 |x||y|, and (|x| + |y|)^2 is at most 4 max |x|^2;
        # centring and the two additions add a few eps. Twice that, to be on the safe side.
        self.error = 4 * (n_dims + 8) * np.finfo(np.float64).eps * float(self._norms.max())

    def rows(self, rows: slice | Indices) -> Floats:
        """Return the squares between some of the points and all of them; rounding can leave them negative."""
        squares: Floats = self._centred[rows] @ (-2 * self._centred.T)
        squares += self._norms[rows, None]
        squares += self._norms
        return squares
