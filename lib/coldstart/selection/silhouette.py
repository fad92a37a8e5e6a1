"""Mean silhouettes of several clusterings of the same points, in one pass over the distances.

The silhouette (Rousseeuw 1987) compares a point's mean distance to its own cluster with that to the nearest other
one. All it needs are sums of distances from each point to each cluster: the product of a chunk of the distance matrix
with the clusters' indicator columns, for every clustering at once.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from coldstart.selection._distances import SquaredDistances, chunks, distances
from coldstart.selection._validation import Floats, Indices

MAX_DIRECT_DIMS = 16
"""From here on the matrix product is several times as fast; a mean of distances hides its lost digits."""


def mean_silhouettes(points: Floats, labelings: Sequence[npt.NDArray[np.intp]], rows: Indices) -> list[float]:
    """Return the mean silhouette of each labeling, over some of the points.

    Parameters
    ----------
    points : ndarray of shape (n_samples, n_dims), float
        Positions in the projection; unitless.
    labelings : sequence of ndarray of shape (n_samples,), int
        Clusterings of all points, each with at least 2 clusters, zero-based and none empty.
    rows : ndarray of shape (n_rows,), int
        The points to average over. Each is compared with all points, so its silhouette is exact.

    Returns
    -------
    means : list of float
        In [-1, 1], higher is better; one for each labeling.

    Notes
    -----
    A point alone in its cluster, or at no distance from its own and another cluster, has the silhouette 0.
    """
    n_clusters = [int(labels.max()) + 1 for labels in labelings]
    starts = np.cumsum([0, *n_clusters])
    indicators = np.zeros((len(points), starts[-1]))
    for start, labels in zip(starts, labelings, strict=False):
        indicators[np.arange(len(points)), start + labels] = 1.0
    sizes = indicators.sum(axis=0)

    values = np.empty((len(labelings), len(rows)))
    for chunk, block in _distance_blocks(points, rows):
        sums = block @ indicators
        for index, labels in enumerate(labelings):
            columns = slice(starts[index], starts[index + 1])
            values[index, chunk] = _silhouettes(sums[:, columns], sizes[columns], labels[rows[chunk]])
    return [float(mean) for mean in values.mean(axis=1)]


def _distance_blocks(points: Floats, rows: Indices) -> Iterator[tuple[slice, Floats]]:
    direct = points.shape[1] <= MAX_DIRECT_DIMS
    squares = None if direct else SquaredDistances(points)
    for chunk in chunks(len(rows), len(points)):
        if squares is None:
            yield chunk, distances(points[rows[chunk]], points)
        else:
            block = squares.rows(rows[chunk])
            block[np.arange(len(block)), rows[chunk]] = 0.0  # of each point to itself
            yield chunk, np.sqrt(np.maximum(block, 0.0, out=block), out=block)


def _silhouettes(sums: Floats, sizes: Floats, own: npt.NDArray[np.intp]) -> Floats:
    row = np.arange(len(own))
    within = sums[row, own] / np.maximum(sizes[own] - 1, 1)
    means = sums / sizes
    means[row, own] = np.inf
    nearest_other = means.min(axis=1)
    larger = np.maximum(within, nearest_other)
    defined = (sizes[own] > 1) & (larger > 0)
    return np.divide(nearest_other - within, larger, out=np.zeros(len(own)), where=defined)
