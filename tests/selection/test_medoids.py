import re
from math import dist, fsum

import numpy as np
import pytest

from coldstart.exceptions import InvalidInputError
from coldstart.selection import cluster_medoids
from coldstart.selection._distances import SquaredDistances


def by_definition(points, labels):
    """Equation 2, with correctly rounded sums; `min` returns the first of equals."""
    rows = [[float(value) for value in row] for row in points]
    medoids = []
    for cluster in range(max(labels) + 1):
        members = [row for row in range(len(rows)) if labels[row] == cluster]
        medoids.append(min(members, key=lambda i: fsum(dist(rows[i], rows[j]) for j in members)))
    return medoids


def one_cluster(points):
    return cluster_medoids(points, np.zeros(len(points), dtype=int)).tolist()


def test_medoid_is_the_middle_of_a_line():
    # Sums of distances: 0+1+2+10=13, 1+0+1+9=11, 2+1+0+8=11, 10+9+8+0=27.
    assert one_cluster([[0, 0], [1, 0], [2, 0], [10, 0]]) == [1]
    assert one_cluster([[10, 0], [2, 0], [1, 0], [0, 0], [-1, 0]]) == [2]


def test_medoids_come_in_cluster_order_with_pool_positions():
    points = [[9, 9], [0, 0], [9, 8], [1, 0], [9, 10], [2, 0]]
    assert cluster_medoids(points, [1, 0, 1, 0, 1, 0]).tolist() == [3, 0]


@pytest.mark.parametrize(
    "points",
    [
        [[0, 0], [0, 1], [1, 0], [1, 1]],  # a square: every sum is 2 + sqrt 2
        [[np.cos(angle), np.sin(angle)] for angle in np.arange(7) * 2 * np.pi / 7],  # equal but for rounding
        [[5.5, -3.0]] * 6,
        [[1, 2], [3, 4]],
        [[1, 2]],
    ],
)
def test_medoid_of_equal_sums_is_the_lowest_index(points):
    assert one_cluster(points) == [0]


@pytest.mark.parametrize("n_dims", [1, 2, 3, 40])
@pytest.mark.parametrize("seed", range(5))
def test_medoids_equal_the_definition_on_random_data(n_dims, seed):
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(90, n_dims)) * generator.uniform(0.01, 100, size=n_dims) + 1e4
    labels = np.concatenate([np.arange(4), generator.integers(0, 4, size=86)])
    assert cluster_medoids(points, labels).tolist() == by_definition(points, labels)


@pytest.mark.parametrize("n_dims", [2, 3])
@pytest.mark.parametrize("seed", range(20))
def test_medoids_equal_the_definition_among_ties_and_outliers(n_dims, seed):
    generator = np.random.default_rng(seed)
    points = generator.integers(0, 4, size=(40, n_dims)).astype(float)
    points[:3] *= 1000
    assert one_cluster(points) == by_definition(points, [0] * 40)


def test_medoid_is_exact_where_a_thousand_sums_are_nearly_equal():
    generator = np.random.default_rng(1)
    angles = generator.uniform(0, 2 * np.pi, size=800)
    points = np.column_stack([np.cos(angles), np.sin(angles)])
    sums = np.sqrt(((points[:, None] - points) ** 2).sum(axis=2)).sum(axis=1)
    assert one_cluster(points) == [int(sums.argmin())]


class Inaccurate(SquaredDistances):
    """Off by as much as it says, which is a lot: what is decided on it alone is wrong."""

    def __init__(self, points):
        super().__init__(points)
        self._generator = np.random.default_rng(0)
        self.error = 5.0

    def rows(self, rows):
        squares = super().rows(rows)
        return squares + self._generator.choice([-self.error, self.error], size=(len(squares), 1))


@pytest.mark.parametrize("seed", range(5))
def test_medoid_in_many_dimensions_is_decided_on_direct_distances(monkeypatch, seed):
    monkeypatch.setattr("coldstart.selection.medoids.SquaredDistances", Inaccurate)
    points = np.random.default_rng(seed).normal(size=(60, 5)) * 3
    assert one_cluster(points) == by_definition(points, [0] * 60)


def test_medoids_follow_their_rows_when_permuted_and_scaled():
    generator = np.random.default_rng(2)
    points = generator.normal(size=(60, 2))
    order = generator.permutation(60)
    assert order[one_cluster(points[order] * 7.3)].tolist() == one_cluster(points)


def test_medoid_of_duplicated_points_is_the_first_copy():
    points = np.random.default_rng(3).normal(size=(30, 2))
    assert one_cluster(np.repeat(points, 3, axis=0)) == [3 * one_cluster(points)[0]]


@pytest.mark.parametrize(
    ("points", "labels", "message"),
    [
        ([[0, 0], [1, 1]], [0], "`labels` must have one entry for each of the 2 rows of `points`; got 1."),
        ([[0, 0], [1, 1]], [0, 2], "`labels` must use every cluster from 0 to 2; got none in cluster 1."),
        ([[0, 0], [1, 1]], [1, 1], "`labels` must use every cluster from 0 to 1; got none in cluster 0."),
        ([[0, 0], [1, 1]], [0, -1], "`labels` must be at least 0 everywhere; got -1 at position 1."),
        ([[0, 0], [1, 1]], [0.0, 1.0], "`labels` must be a 1D array of integers"),
        (np.zeros((20_001, 3)), [0], "`points` with more than 2 columns must have at most 20000 rows"),
    ],
)
def test_cluster_medoids_refuses_bad_input(points, labels, message):
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        cluster_medoids(points, labels)
