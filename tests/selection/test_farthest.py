import re
from math import dist

import numpy as np
import pytest

from coldstart.exceptions import InvalidInputError
from coldstart.selection import farthest_points


def by_definition(points, start, n):
    taken, picks, gaps = list(start), [], []
    rows = [[float(value) for value in row] for row in points]
    for _ in range(n):
        left = [row for row in range(len(rows)) if row not in taken]
        gap, pick = max((min(dist(rows[i], rows[j]) for j in taken), -i) for i in left)
        taken.append(-pick)
        picks.append(-pick)
        gaps.append(gap)
    return picks, gaps


def test_farthest_points_on_a_line_worked_out_by_hand():
    # From 0: 10 is at 10; then 4 is at min(4, 6) = 4; then 1 at min(1, 3) = 1, 9 at 1: the lower index.
    indices, distances = farthest_points([[0], [1], [4], [9], [10]], [0], 4)
    assert indices.tolist() == [4, 2, 1, 3]
    assert distances.tolist() == [10, 4, 1, 1]


def test_farthest_points_keep_away_from_every_start():
    indices, distances = farthest_points([[0, 0], [10, 0], [6, 0], [0, 3]], [0, 1], 2)
    assert (indices.tolist(), distances.tolist()) == ([2, 3], [4, 3])


def test_farthest_points_take_coincident_points_once_each_in_order():
    indices, distances = farthest_points(np.ones((5, 2)), [3], 4)
    assert (indices.tolist(), distances.tolist()) == ([0, 1, 2, 4], [0, 0, 0, 0])


def test_farthest_points_of_none_is_empty():
    indices, distances = farthest_points([[0, 0]], [0], 0)
    assert indices.shape == distances.shape == (0,)


@pytest.mark.parametrize("seed", range(10))
def test_farthest_points_equal_the_definition_on_random_data(seed):
    generator = np.random.default_rng(seed)
    points = generator.integers(0, 6, size=(40, 2)) if seed % 2 else generator.normal(size=(40, 5))
    start = generator.choice(40, size=3, replace=False)
    indices, distances = farthest_points(points, start, 20)
    picks, gaps = by_definition(points, start.tolist(), 20)
    assert indices.tolist() == picks
    np.testing.assert_allclose(distances, gaps, rtol=1e-12)


def test_farthest_points_one_by_one_equal_all_at_once():
    points = np.random.default_rng(0).normal(size=(50, 2))
    taken = [7, 3]
    for _ in range(10):
        taken.append(int(farthest_points(points, taken, 1)[0][0]))
    assert taken[2:] == farthest_points(points, [3, 7], 10)[0].tolist()


@pytest.mark.parametrize(
    ("start", "n", "message"),
    [
        ([], 1, "`start` must hold at least one row position; got none."),
        ([0], 3, "`n` must be at most the 2 points not taken yet; got n=3."),
        ([0], -1, "`n` must be at least 0; got n=-1."),
        ([3], 1, "`start` must be row positions between 0 and 2; got 3."),
        ([1, 1], 1, "`start` must name each row once; got 1 more than once."),
    ],
)
def test_farthest_points_refuses_bad_input(start, n, message):
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        farthest_points([[0, 0], [1, 1], [2, 2]], start, n)
