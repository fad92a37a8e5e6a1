"""The first images to label, before any label exists.

Cold start of Levy et al. (2026), arXiv:2601.18532, section 3.1: k-means clusters on the map, the medoid of each, and
for the rest of the budget farthest points within each cluster, in proportion to its size. Beyond the paper: images
that are labelled already count as picks, and the picks come in an order that keeps every part of it proportional.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, SupportsIndex, get_args

import numpy as np
import numpy.typing as npt

from coldstart.exceptions import InvalidInputError
from coldstart.selection._distances import distances, nearest_distances
from coldstart.selection._validation import (
    Floats,
    Indices,
    check_at_least,
    check_budget,
    check_points,
    check_random_state,
    check_rows,
)
from coldstart.selection.apportionment import _apportion
from coldstart.selection.clusters import Clustering, _choose_n_clusters
from coldstart.selection.farthest import _farthest_points
from coldstart.selection.medoids import _cluster_medoids

Role = Literal["medoid", "farthest", "neighbour"]
Fill = Literal["farthest", "farthest_of_all", "neighbours"]
_Choice = tuple[int, Role, float]
"""Index, role and distance of a pick."""


@dataclass(frozen=True)
class Pick:
    """Why an image is in the plan.

    Attributes
    ----------
    index : int
        Row position in `points`, zero-based.
    rank : int
        Place in the serving order of this plan; 1 is served first.
    cluster : int
        Cluster of the image, zero-based.
    cluster_size : int
        Number of images in that cluster.
    role : {"medoid", "farthest", "neighbour"}
        The most central image of its cluster, or the one that the plan's `fill` gave.
    distance : float
        In units of `points`: of a farthest point to the nearest earlier pick (or `selected` image) of its cluster, or
        of all; of a neighbour to the medoid; NaN for a medoid.
    """

    index: int
    rank: int
    cluster: int
    cluster_size: int
    role: Role
    distance: float


@dataclass(frozen=True, eq=False)
class ColdStartPlan:
    """The images to label first, in serving order, and how they were found.

    Attributes
    ----------
    indices : ndarray of shape (budget - n_selected,), int
        Row positions in `points`, in serving order.
    labels : ndarray of shape (n_samples,), int
        Cluster of each row of `points`, zero-based.
    n_clusters : int
        Number of clusters.
    silhouettes : dict of int to float
        Mean silhouette of every number of clusters tried; empty where only one was possible.
    medoids : ndarray of shape (n_clusters,), int
        Row position of the most central image of each cluster, in cluster order, whether it is in the plan or not.
    silhouette_sample_size : int
        Number of points over which the silhouettes are averaged; 0 where there was none to compute.
    picks : tuple of Pick
        One record for each of `indices`, in the same order.
    """

    indices: Indices
    labels: Indices
    n_clusters: int
    silhouettes: dict[int, float]
    medoids: Indices
    silhouette_sample_size: int
    picks: tuple[Pick, ...]


def plan_cold_start(
    points: npt.ArrayLike,
    budget: int,
    *,
    selected: Iterable[SupportsIndex] = (),
    k_max: int = 15,
    random_state: int = 0,
    fill: Fill = "farthest",
    clustering: Clustering | None = None,
) -> ColdStartPlan:
    """Choose the first images to label, and the order in which to serve them.

    Parameters
    ----------
    points : array_like of shape (n_samples, n_dims), float
        Positions of the whole pool in the projection; unitless. With more than 2 dimensions at most 20,000 rows.
    budget : int
        Images to be labelled in all, those in `selected` included; between 1 and n_samples.
    selected : iterable of int
        Row positions of images that are labelled or served already, in any order; at most `budget`.
    k_max : int
        The largest number of clusters to try.
    random_state : int
        Seed of every random step. The same input and seed give the same plan.
    fill : {"farthest", "farthest_of_all", "neighbours"}
        What a cluster's share is filled with: the point farthest from the cluster's picks, as in the paper; the point
        of the cluster that is farthest from the picks of all clusters; or the point nearest to its medoid.
    clustering : Clustering, optional
        What `choose_n_clusters` gave for the same points, budget, `k_max` and seed, where that is known already.

    Returns
    -------
    plan : ColdStartPlan
        Of budget - len(selected) images.

    Raises
    ------
    InvalidInputError
        If an argument has the wrong shape, type or range.

    Notes
    -----
    Clusters by `choose_n_clusters`, one medoid each by `cluster_medoids` (equation 2 of [1]_), the rest R = budget - k
    shared by `apportion` (equations 3 and 4), and filled by `farthest_points` from the medoid. Medoids are served
    first, by descending cluster size; then, for t = 1..R, the next point of the cluster with the largest
    r_c t / R - given_c. All ties go to the lower cluster or index.

    Images in `selected` stand in for picks of this same plan. The first that a cluster holds takes the place of its
    medoid, the others are part of its share r_c and of given_c, and t starts after them; the cluster's farthest points
    start from all of them. A cluster that holds more than its share gets nothing; the rest of the budget is then
    shared anew, by the same rule, among the others. Where the budget does not suffice for every medoid still needed,
    the largest clusters get theirs. So a plan cut anywhere and continued with what was taken as `selected`, all else
    equal, gives the same images in the same order.

    The shares and the order are the same whatever fills them. Neighbours are always those of the medoid, which comes
    first among them where the cluster holds other images.

    References
    ----------
    .. [1] Levy et al. (2026), arXiv:2601.18532.
    """
    array = check_points(points, all_pairs=True)
    total = check_budget(budget, len(array))
    taken = np.sort(check_rows(selected, "selected", len(array)))
    if len(taken) > total:
        raise InvalidInputError(
            f"`selected` must hold at most as many images as the budget of {total}, which counts them; got "
            f"{len(taken)}. Raise --conf budget to {len(taken)} or more."
        )
    if fill not in get_args(Fill):
        raise InvalidInputError(
            f"`fill` must be one of {', '.join(map(repr, get_args(Fill)))}; got {fill!r}. The default is 'farthest'."
        )
    largest, seed = check_at_least(k_max, "k_max", 1), check_random_state(random_state)
    if clustering is None:
        clustering = _choose_n_clusters(array, total, largest, seed)
    elif len(clustering.labels) != len(array):
        raise InvalidInputError(
            f"`clustering` must have one label for each of the {len(array)} rows of `points`; got "
            f"{len(clustering.labels)}. Cluster the same points."
        )
    return _plan(array, total, taken, clustering, fill)


def _plan(points: Floats, budget: int, selected: Indices, clustering: Clustering, fill: Fill) -> ColdStartPlan:
    labels, n_clusters = clustering.labels, clustering.n_clusters
    medoids = _cluster_medoids(points, labels, n_clusters)
    sizes = np.bincount(labels)
    order = list(_serving_order(budget, sizes, held=np.bincount(labels[selected], minlength=n_clusters)))
    nearest = np.full(len(points), np.inf)
    if fill == "farthest_of_all" and len(selected) > 0:
        nearest = nearest_distances(points, points[selected])
        nearest[selected] = -1.0  # below every distance, so that a coincident point is not taken twice
    candidates: dict[int, Iterator[_Choice]] = {}
    for cluster, number in zip(*np.unique(order, return_counts=True), strict=True):
        members, medoid = np.flatnonzero(labels == cluster), medoids[cluster]
        if fill == "farthest":
            candidates[cluster] = _farthest_picks(points, members, medoid, selected, number)
        elif fill == "farthest_of_all":
            candidates[cluster] = _farthest_of_all_picks(points, members, medoid, selected, nearest)
        else:
            candidates[cluster] = _neighbour_picks(points, members, medoid, selected)
    picks = []
    for rank, cluster in enumerate(order, start=1):
        index, role, distance = next(candidates[cluster])
        picks.append(Pick(index, rank, cluster, int(sizes[cluster]), role, distance))
    return ColdStartPlan(
        indices=np.array([pick.index for pick in picks], dtype=np.intp),
        labels=labels,
        n_clusters=n_clusters,
        silhouettes=clustering.silhouettes,
        medoids=medoids,
        silhouette_sample_size=clustering.silhouette_sample_size,
        picks=tuple(picks),
    )


def _serving_order(budget: int, sizes: Indices, held: Indices) -> Iterator[int]:
    """Yield the cluster of each pick still to make: medoids first, then farthest points in proportion."""
    left = budget - held.sum()
    seeded = [int(cluster) for cluster in np.argsort(-sizes, kind="stable") if held[cluster] == 0]
    yield from seeded[:left]
    if left <= len(seeded):
        return
    rest = budget - len(sizes)
    given = np.maximum(held - 1, 0)  # the first that a cluster holds is in its medoid's place
    shares = _shares(rest, sizes, given)
    for step in range(given.sum() + 1, rest + 1):
        cluster = int(np.argmax(shares * step - given * rest))  # the sign and order of r_c t / R - given_c
        given[cluster] += 1
        yield cluster


def _shares(rest: int, sizes: Indices, given: Indices) -> npt.NDArray[np.int64]:
    """Share the farthest points, those given included, so that no cluster's share is below what it was given."""
    shares = given.astype(np.int64)
    sharing = np.ones(len(sizes), dtype=bool)
    while True:
        open_sizes = sizes[sharing]
        shares[sharing] = _apportion(rest - int(given[~sharing].sum()), open_sizes, open_sizes - 1)
        exceeded = given > shares
        if not exceeded.any():
            return shares
        shares[exceeded] = given[exceeded]
        sharing &= ~exceeded


def _farthest_picks(
    points: Floats, members: Indices, medoid: np.intp, selected: Indices, number: int
) -> Iterator[_Choice]:
    """Yield the next `number` picks of one cluster."""
    start = np.flatnonzero(np.isin(members, selected))
    if len(start) == 0:
        yield int(medoid), "medoid", float("nan")
        start = np.flatnonzero(members == medoid)
        number -= 1
    picks, gaps = _farthest_points(points[members], start, number)
    for pick, gap in zip(picks, gaps, strict=True):
        yield int(members[pick]), "farthest", float(gap)


def _farthest_of_all_picks(
    points: Floats, members: Indices, medoid: np.intp, selected: Indices, nearest: Floats
) -> Iterator[_Choice]:
    """Yield picks of one cluster; all share `nearest`, each point's distance to what is taken, or -1 where it is."""
    role: Role = "farthest" if np.isin(members, selected).any() else "medoid"
    while True:
        pick = medoid if role == "medoid" else members[nearest[members].argmax()]
        gap = float("nan") if role == "medoid" else float(nearest[pick])
        np.minimum(nearest, distances(points, points[[pick]])[:, 0], out=nearest)
        nearest[pick] = -1.0
        yield int(pick), role, gap
        role = "farthest"


def _neighbour_picks(points: Floats, members: Indices, medoid: np.intp, selected: Indices) -> Iterator[_Choice]:
    """Yield picks of one cluster: the medoid, of coincident points the lowest, is nearest to itself."""
    left = members[~np.isin(members, selected)]
    gaps = distances(points[left], points[[medoid]])[:, 0]
    for row in np.argsort(gaps, kind="stable"):
        if left[row] == medoid:
            yield int(medoid), "medoid", float("nan")
        else:
            yield int(left[row]), "neighbour", float(gaps[row])
