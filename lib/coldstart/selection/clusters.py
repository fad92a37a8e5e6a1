"""How many groups the points form, and which: k-means, with the number of clusters that the silhouette prefers.

Equation 1 of Levy et al. (2026), arXiv:2601.18532. Above 20,000 points the mean silhouette is taken over a random
subset, stratified by the finest clustering and the same for every k, so that the comparison is fair; each of its
points is still compared with all points.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

# scikit-learn's own handle on OpenMP; it has no public one.
from sklearn.utils.parallel import _get_threadpool_controller

from coldstart.selection._validation import (
    Floats,
    Indices,
    check_at_least,
    check_budget,
    check_points,
    check_random_state,
)
from coldstart.selection.apportionment import _apportion
from coldstart.selection.silhouette import mean_silhouettes

N_INIT = 10

MAX_EXACT_SILHOUETTE = 20_000
SILHOUETTE_SAMPLE_SIZE = 10_000
"""Above the former number of points, the mean is taken over this many: its standard error is then at most 0.01."""


@dataclass(frozen=True, eq=False)
class Clustering:
    """The clusters chosen, and what the choice rests on.

    Attributes
    ----------
    n_clusters : int
        At least 1.
    labels : ndarray of shape (n_samples,), int
        Cluster of each row of `points`, zero-based; no cluster is empty.
    silhouettes : dict of int to float
        Mean silhouette of every number of clusters tried, ascending; empty where only one cluster was possible.
    silhouette_sample_size : int
        Number of points over which the silhouettes are averaged; 0 where there was none to compute.
    """

    n_clusters: int
    labels: Indices
    silhouettes: dict[int, float]
    silhouette_sample_size: int


def choose_n_clusters(points: npt.ArrayLike, budget: int, *, k_max: int = 15, random_state: int = 0) -> Clustering:
    """Cluster the points by k-means, for the number of clusters with the highest mean silhouette.

    Parameters
    ----------
    points : array_like of shape (n_samples, n_dims), float
        Positions in the projection; unitless.
    budget : int
        Images to be labelled, between 1 and n_samples; there are never more clusters than that.
    k_max : int
        The largest number of clusters to try; at least 1.
    random_state : int
        Seed of k-means and of the silhouette's subset.

    Returns
    -------
    clustering : Clustering
        One cluster if all points coincide, or n_samples, `budget` or `k_max` leave no choice.

    Raises
    ------
    InvalidInputError
        If an argument has the wrong shape or range.

    Notes
    -----
    Every k in 2..min(k_max, budget, n_samples - 1) is tried, as far as there are as many distinct points; ties go to
    the smaller k. One cluster if n_samples or the budget is below 3. Equation 1 of [1]_.

    References
    ----------
    .. [1] Levy et al. (2026), arXiv:2601.18532.
    """
    array = check_points(points)
    return _choose_n_clusters(
        array,
        check_budget(budget, len(array)),
        check_at_least(k_max, "k_max", 1),
        check_random_state(random_state),
    )


def _choose_n_clusters(points: Floats, budget: int, k_max: int, random_state: int) -> Clustering:
    return Clusterings(points, k_max=k_max, random_state=random_state).choose(budget)


class Clusterings:
    """`choose_n_clusters` for the same points and one budget after another: nothing is computed twice.

    Parameters
    ----------
    points : ndarray of shape (n_samples, n_dims), float
        Positions in the projection; unitless.
    k_max : int
        The largest number of clusters to try.
    random_state : int
        Seed of k-means and of the silhouette's subset.
    """

    def __init__(self, points: Floats, *, k_max: int, random_state: int) -> None:
        self.points = points
        self.k_max = k_max
        self.random_state = random_state
        self._labelings: dict[int, Indices] = {}
        self._silhouettes: dict[int, dict[int, float]] = {}  # by the subset that they are averaged over

    def choose(self, budget: int) -> Clustering:
        """Return what `choose_n_clusters` does for this budget."""
        n_samples = len(self.points)
        finest = min(self.k_max, budget, n_samples - 1) if min(n_samples, budget) >= 3 else 1
        labelings: dict[int, Indices] = {}
        for k in range(2, finest + 1):
            labels = self._labels(k)
            if len(np.unique(labels)) == k:  # fewer where there are not as many distinct points
                labelings[k] = labels
        if not labelings:
            return Clustering(1, np.zeros(n_samples, dtype=np.intp), {}, 0)
        rows = _silhouette_rows(labelings[max(labelings)], self.random_state)
        silhouettes = self._mean_silhouettes(labelings, rows)
        best = max(silhouettes, key=lambda k: silhouettes[k])  # the first of equals, and k ascends
        return Clustering(best, labelings[best], silhouettes, len(rows))

    def _labels(self, k: int) -> Indices:
        if k not in self._labelings:
            self._labelings[k] = _k_means(self.points, k, self.random_state)
        return self._labelings[k]

    def _mean_silhouettes(self, labelings: dict[int, Indices], rows: Indices) -> dict[int, float]:
        # A subset of the points is that of the finest clustering, so the means over it are too.
        subset = 0 if len(rows) == len(self.points) else max(labelings)
        known = self._silhouettes.setdefault(subset, {})
        missing = [k for k in labelings if k not in known]
        if missing:
            means = mean_silhouettes(self.points, [labelings[k] for k in missing], rows)
            known.update(zip(missing, means, strict=True))
        return {k: known[k] for k in labelings}


def _k_means(points: Floats, n_clusters: int, random_state: int) -> Indices:
    model = KMeans(n_clusters=n_clusters, n_init=N_INIT, random_state=random_state)
    # With more threads the partial sums of the centres are added in the order in which the threads end: the last bits,
    # and with them ties between runs, would change from call to call.
    with _get_threadpool_controller().limit(limits=1, user_api="openmp"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer clusters than asked: the caller counts them
        labels: Indices = model.fit(points).labels_.astype(np.intp)
    return labels


def _silhouette_rows(labels: Indices, random_state: int) -> Indices:
    """Return all rows, or, if they are too many, a random subset with each cluster in proportion to its size."""
    if len(labels) <= MAX_EXACT_SILHOUETTE:
        return np.arange(len(labels))
    generator = np.random.default_rng(random_state)
    sizes = np.bincount(labels)
    drawn = [
        generator.choice(np.flatnonzero(labels == cluster), share, replace=False)
        for cluster, share in enumerate(_apportion(SILHOUETTE_SAMPLE_SIZE, sizes, sizes))
    ]
    return np.sort(np.concatenate(drawn))
