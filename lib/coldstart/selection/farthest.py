"""Farthest-point sampling: always the point farthest from all those taken already.

The greedy selection that fills each cluster's share in Levy et al. (2026), arXiv:2601.18532, section 3.1.5. It needs
one column of distances for each pick.
"""

from collections.abc import Iterable
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from coldstart.exceptions import InvalidInputError
from coldstart.selection._distances import distances, nearest_distances
from coldstart.selection._validation import Floats, Indices, check_at_least, check_points, check_rows


def farthest_points(points: npt.ArrayLike, start: Iterable[SupportsIndex], n: int) -> tuple[Indices, Floats]:
    """Pick `n` points, each the farthest from `start` and from those picked before it.

    Parameters
    ----------
    points : array_like of shape (n_samples, n_dims), float
        Positions in the projection; unitless.
    start : iterable of int
        Row positions that are taken already, in any order; at least one.
    n : int
        Number of points to pick; between 0 and the rows that are not in `start`.

    Returns
    -------
    indices : ndarray of shape (n,), int
        Row positions in `points`, in the order of picking.
    distances : ndarray of shape (n,), float
        Distance of each pick to the nearest point taken before it; never increasing.

    Raises
    ------
    InvalidInputError
        If an argument has the wrong shape or range, or `start` is empty.

    Notes
    -----
    Ties go to the lowest index.
    """
    array = check_points(points)
    taken = check_rows(start, "start", len(array))
    number = check_at_least(n, "n", 0)
    if len(taken) == 0:
        raise InvalidInputError("`start` must hold at least one row position; got none. Start from a medoid.")
    if number > len(array) - len(taken):
        raise InvalidInputError(
            f"`n` must be at most the {len(array) - len(taken)} points not taken yet; got n={number}. Lower it."
        )
    return _farthest_points(array, taken, number)


def _farthest_points(points: Floats, taken: Indices, n: int) -> tuple[Indices, Floats]:
    picks = np.empty(n, dtype=np.intp)
    gaps = np.empty(n)
    nearest = nearest_distances(points, points[taken])
    nearest[taken] = -1.0  # below every distance, so that a coincident point is not taken twice
    for step in range(n):
        pick = int(nearest.argmax())
        picks[step], gaps[step] = pick, nearest[pick]
        np.minimum(nearest, distances(points, points[[pick]])[:, 0], out=nearest)
        nearest[pick] = -1.0
    return picks, gaps
