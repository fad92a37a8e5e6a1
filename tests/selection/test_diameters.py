import re
from itertools import combinations
from math import dist, sqrt

import numpy as np
import pytest

from coldstart.exceptions import InvalidInputError
from coldstart.selection import diameter
from coldstart.selection._distances import SquaredDistances


def by_definition(points):
    return max((dist(a, b) for a, b in combinations(np.asarray(points, dtype=float).tolist(), 2)), default=0.0)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([[3, 4]], 0.0),
        ([[0, 0], [3, 4]], 5.0),
        ([[0, 0], [3, 4], [0, 1]], 5.0),
        ([[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5]], sqrt(2)),
        ([[2, 2]] * 9, 0.0),
        ([[2, 2]] * 9 + [[2, 5]], 3.0),
        ([[i, 2 * i] for i in (3, 0, 7, 5, 1)], 7 * sqrt(5)),  # on a line
        ([[4], [-1], [2], [0]], 5.0),
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], sqrt(2)),
        ([[7, 7, 7]] * 4, 0.0),
    ],
)
def test_diameter_worked_out_by_hand(points, expected):
    assert diameter(points) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("n_dims", [1, 2, 3, 30, 300])
@pytest.mark.parametrize("seed", range(6))
def test_diameter_equals_the_largest_of_all_pairs(n_dims, seed):
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(generator.integers(2, 80), n_dims)) * generator.uniform(0.001, 10, size=n_dims)
    assert diameter(points) == pytest.approx(by_definition(points), rel=1e-14)


@pytest.mark.parametrize("width", [0.0, 1e-300, 1e-18, 1e-14, 1e-12, 1e-9])
def test_diameter_of_nearly_collinear_points(width):
    generator = np.random.default_rng(0)
    along, across = generator.normal(size=60), width * generator.normal(size=60)
    turned = np.column_stack([along + across, along - across])
    assert diameter(turned) == pytest.approx(by_definition(turned), rel=1e-12)


def test_diameter_far_from_the_origin():
    # Where Qhull's own tolerance would leave out vertices.
    angles = np.random.default_rng(4).uniform(0, 2 * np.pi, size=200)
    points = 1e12 + np.column_stack([np.cos(angles), 0.8 * np.sin(angles)])
    assert diameter(points) == pytest.approx(by_definition(points), rel=1e-14)


def test_diameter_of_an_integer_grid_with_many_equal_ends():
    points = np.random.default_rng(2).integers(0, 5, size=(300, 2))
    assert diameter(points) == pytest.approx(by_definition(points), rel=1e-15)


def test_diameter_of_a_circle_where_every_point_is_on_the_hull():
    angles = np.random.default_rng(3).uniform(0, 2 * np.pi, size=500)
    points = np.column_stack([np.cos(angles), np.sin(angles)])
    assert diameter(points) == pytest.approx(by_definition(points), rel=1e-14)


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
def test_diameter_in_many_dimensions_is_decided_on_direct_distances(monkeypatch, seed):
    monkeypatch.setattr("coldstart.selection.diameters.SquaredDistances", Inaccurate)
    points = np.random.default_rng(seed).normal(size=(60, 5))
    assert diameter(points) == pytest.approx(by_definition(points), rel=1e-14)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "`points` must hold at least one row and one column; got shape (0,). Embed at least one usable image"),
        (np.empty((0, 2)), "`points` must hold at least one row and one column; got shape (0, 2)."),
        ([1, 2, 3], "`points` must have the shape (n_samples, n_dims); got shape (3,)."),
        ([[0, 0], [np.nan, 1]], "`points` must be finite and at most 1e+100; got nan in row 1."),
        ([[0, 0], [1, np.inf]], "`points` must be finite and at most 1e+100; got inf in row 1."),
        ([[0, 0], [1, -1e200]], "`points` must be finite and at most 1e+100; got -1e+200 in row 1."),
        ([[0, 0], [1]], "`points` must be a regular array of shape (n_samples, n_dims); got rows of unequal length."),
        ([["a", "b"]], "`points` must hold real numbers in an array of shape (n_samples, n_dims); got dtype <U1"),
        ([[1j, 0]], "`points` must hold real numbers in an array of shape (n_samples, n_dims); got dtype complex128"),
        (np.zeros((20_001, 3)), "must have at most 20000 rows; got shape (20001, 3). Project the embeddings to 2D"),
    ],
)
def test_diameter_refuses_bad_points(points, message):
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        diameter(points)
