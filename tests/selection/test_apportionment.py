import re
from fractions import Fraction
from math import floor

import numpy as np
import pytest

from coldstart.exceptions import InvalidInputError
from coldstart.selection import apportion


def by_fractions(total, sizes, capacities):
    """The rule of the design in exact fractions, one pick at a time."""
    shares = [0] * len(sizes)
    left = total
    while left:
        roomy = [c for c in range(len(sizes)) if shares[c] < capacities[c]]
        quotas = {c: Fraction(left * sizes[c], sum(sizes[u] for u in roomy)) for c in roomy}
        wanted = {c: floor(quota) for c, quota in quotas.items()}
        by_remainder = sorted(roomy, key=lambda c: (wanted[c] - quotas[c], c))
        for c in by_remainder[: left - sum(wanted.values())]:
            wanted[c] += 1
        for c in roomy:
            for _ in range(wanted[c]):
                if shares[c] < capacities[c]:
                    shares[c] += 1
                    left -= 1
    return shares


@pytest.mark.parametrize(
    ("total", "sizes", "expected"),
    [
        (0, [6, 3, 1], [0, 0, 0]),
        (5, [6, 3, 1], [3, 2, 0]),  # quotas 3, 1.5, 0.5: the tied remainders go to the lower cluster
        (4, [3, 3], [2, 2]),
        (3, [4, 4], [2, 1]),  # quotas 1.5, 1.5
        (1, [5, 5, 5], [1, 0, 0]),
        (2, [1, 1, 8], [0, 0, 2]),  # quotas 0.2, 0.2, 1.6
        (5, [7, 1, 1, 1], [5, 0, 0, 0]),  # quotas 3.5, .5, .5, .5: cluster 1 wins a tie and has no room
        (7, [1, 2, 7], [0, 1, 6]),  # everything that fits
    ],
)
def test_apportion_gives_shares_worked_out_by_hand(total, sizes, expected):
    assert apportion(total, sizes).tolist() == expected


def test_apportion_shares_overflow_by_the_same_rule():
    # Quotas 3.33, 3.33, 3.33 -> 4, 3, 3; the first takes 1 of them. The 3 left: 1.5, 1.5 -> 2, 1.
    assert apportion(10, [5, 5, 5], capacities=[1, 9, 9]).tolist() == [1, 5, 4]


def test_apportion_equals_exact_fractions_on_random_data():
    generator = np.random.default_rng(0)
    for _ in range(500):
        sizes = generator.integers(1, 12, size=generator.integers(1, 8)).tolist()
        capacities = [size - 1 for size in sizes]
        total = int(generator.integers(0, sum(capacities) + 1))
        shares = apportion(total, sizes)
        assert shares.tolist() == by_fractions(total, sizes, capacities)
        assert shares.sum() == total


def test_apportion_decides_by_remainders_that_floats_cannot_tell_apart():
    # Quotas of a third that differ by 3e-19.
    sizes = [10**18, 10**18 + 1, 10**18 + 2]
    assert sizes[0] / sum(sizes) == sizes[2] / sum(sizes)
    assert apportion(1, sizes).tolist() == [0, 0, 1]
    assert apportion(2, sizes).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, [4, 4]), "`total` must be at most the 6 that the clusters can take; got total=8. Lower it."),
        ((-1, [4, 4]), "`total` must be at least 0; got total=-1."),
        ((1.0, [4, 4]), "`total` must be an integer; got 1.0."),
        ((1, [4, 0]), "`sizes` must be at least 1 everywhere; got 0 at position 1."),
        ((1, []), "`sizes` must be a 1D array of integers with at least one entry; got dtype float64, shape (0,)."),
        ((1, [4.0, 2.0]), "`sizes` must be a 1D array of integers"),
    ],
)
def test_apportion_refuses_bad_input(arguments, message):
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        apportion(*arguments)


def test_apportion_refuses_capacities_of_other_clusters():
    with pytest.raises(InvalidInputError, match=r"`capacities` must have one entry for each of the 2 `sizes`; got 3"):
        apportion(1, [4, 4], capacities=[1, 1, 1])
    with pytest.raises(InvalidInputError, match=r"`capacities` must be at least 0 everywhere; got -1 at position 0"):
        apportion(1, [4, 4], capacities=[-1, 1])
