"""The most central sample of each cluster, exactly, without computing all pairs in 2D.

The medoid (equation 2 of Levy et al. 2026, arXiv:2601.18532) has the smallest sum of distances to its cluster. Summing
for every member costs n^2 distances; most members are ruled out by a lower bound on their sum instead:

- The sum of distances f is a convex function of the position. So f(y) >= f(x) + g(x)(y - x) everywhere, with its
  gradient g: each sum that is computed bounds all others. In 2D some dozens of sums are enough, whatever n.
- In more dimensions such cuts rule out little. There the bounds come from approximate distances by matrix products,
  less their largest possible error.

The members whose bound does not exceed the smallest sum are then summed directly, so the result is that of the plain
definition.
"""

import numpy as np
import numpy.typing as npt

from coldstart.exceptions import InvalidInputError
from coldstart.selection._distances import SquaredDistances, chunks, distances
from coldstart.selection._validation import Floats, Indices, check_points, check_whole_numbers

ROUNDING = 1e-12
"""Relative; above the rounding error of a sum of 100,000 distances. Sums that differ by less are ties."""


def cluster_medoids(points: npt.ArrayLike, labels: npt.ArrayLike) -> Indices:
    """Pick the most central sample of each cluster.

    Parameters
    ----------
    points : array_like of shape (n_samples, n_dims), float
        Positions in the projection; unitless. With more than 2 dimensions at most 20,000 rows.
    labels : array_like of shape (n_samples,), int
        Cluster of each row of `points`: 0 to n_clusters - 1, none of them empty.

    Returns
    -------
    medoids : ndarray of shape (n_clusters,), int
        Row positions in `points`, one for each cluster, in cluster order.

    Raises
    ------
    InvalidInputError
        If `points` or `labels` have the wrong shape, or a cluster is empty.

    Notes
    -----
    Exact; sums equal within rounding (1e-12, relative) are ties, and ties go to the lowest index. Equation 2
    of [1]_.

    References
    ----------
    .. [1] Levy et al. (2026), arXiv:2601.18532.
    """
    array = check_points(points, all_pairs=True)
    cluster = check_whole_numbers(labels, "labels", minimum=0)
    if len(cluster) != len(array):
        raise InvalidInputError(
            f"`labels` must have one entry for each of the {len(array)} rows of `points`; got {len(cluster)}. "
            "Pass both for the same images."
        )
    present = np.unique(cluster)
    if len(present) != present[-1] + 1:
        empty = np.flatnonzero(present != np.arange(len(present)))[0]
        raise InvalidInputError(
            f"`labels` must use every cluster from 0 to {present[-1]}; got none in cluster {empty}. "
            "Number the clusters without gaps."
        )
    return _cluster_medoids(array, cluster, len(present))


def _cluster_medoids(points: Floats, labels: npt.NDArray[np.int64], n_clusters: int) -> Indices:
    medoids = np.empty(n_clusters, dtype=np.intp)
    for cluster in range(n_clusters):
        members = np.flatnonzero(labels == cluster)
        medoids[cluster] = members[_medoid(points[members])]
    return medoids


def _medoid(points: Floats) -> int:
    sums = np.full(len(points), np.inf)
    bounds = np.zeros(len(points)) if points.shape[1] <= 2 else _bound_sums(points)
    while True:
        smallest = sums.min()
        undecided = np.flatnonzero(np.isinf(sums) & (bounds <= smallest * (1 + ROUNDING)))
        if len(undecided) == 0:
            return int(np.flatnonzero(sums <= smallest * (1 + ROUNDING))[0])
        row = undecided[bounds[undecided].argmin()]
        to_row = distances(points, points[[row]])[:, 0]
        sums[to_row == 0] = to_row.sum()  # of all coincident points at once
        np.maximum(bounds, _cut(points, row, to_row), out=bounds)


def _cut(points: Floats, row: int, to_row: Floats) -> Floats:
    """Bound all sums from below by the tangent plane at one row, less what rounding may add to it."""
    offsets = points - points[row]
    inverse = np.divide(1.0, to_row, out=np.zeros_like(to_row), where=to_row > 0)
    plane: Floats = to_row.sum() - offsets @ (inverse @ offsets)
    plane -= ROUNDING * (to_row.sum() + len(points) * to_row)
    return plane


def _bound_sums(points: Floats) -> Floats:
    squares = SquaredDistances(points)
    bounds = np.empty(len(points))
    for chunk in chunks(len(points), len(points)):
        lowest = np.maximum(squares.rows(chunk) - squares.error, 0.0)
        bounds[chunk] = np.sqrt(lowest, out=lowest).sum(axis=1)
    return bounds
