"""What is kept while a selection changes is what would be computed from the start."""

import re

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from coldstart.exceptions import InvalidInputError
from coldstart.selection import Spread, acquire, acquire_next


def mask(n_samples, rows):
    found = np.zeros(n_samples, dtype=bool)
    found[list(rows)] = True
    return found


def steps(generator, n_samples):
    """Selections and candidates that grow, shrink, and now and then change altogether; some points are neither."""
    selected, skipped = set(), set()
    for _ in range(60):
        event = generator.random()
        row = int(generator.integers(n_samples))
        if event < 0.5:
            selected.add(row)
        elif event < 0.8 and selected:
            selected.discard(int(generator.choice(sorted(selected))))
        elif event < 0.95:
            skipped ^= {row}
        else:
            selected = set(generator.choice(n_samples, generator.integers(n_samples), replace=False).tolist())
        skipped -= selected
        if len(selected) + len(skipped) < n_samples:
            taken = mask(n_samples, selected)
            yield taken, ~taken & ~mask(n_samples, skipped)


def test_spread_worked_out_by_hand():
    spread = Spread([[0.0], [1.0], [4.0], [6.0], [10.0]])
    spread.follow(mask(5, []), mask(5, [0, 1, 2, 3, 4]))
    assert np.isinf(spread.nearest).all()
    assert spread.diameter() == 10
    spread.follow(mask(5, [0, 3]), mask(5, [1, 2, 4]))
    assert spread.nearest.tolist() == [0, 1, 2, 0, 4]
    assert spread.diameter() == 9
    spread.follow(mask(5, [4]), mask(5, [0, 2]))  # 0 may be selected again, 1 and 3 are neither
    assert spread.nearest.tolist() == [10, 9, 6, 4, 0]
    assert spread.diameter() == 4
    spread.follow(mask(5, []), mask(5, [2]))
    assert np.isinf(spread.nearest).all()
    assert spread.diameter() == 0


@pytest.mark.parametrize("n_dims", [1, 2, 5])
@pytest.mark.parametrize("seed", range(6))
def test_spread_equals_what_is_computed_from_the_start(n_dims, seed):
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(40, n_dims)) if seed % 2 else generator.integers(0, 4, (40, n_dims)).astype(float)
    spread = Spread(points)
    for selected, candidates in steps(generator, 40):
        spread.follow(selected, candidates)
        expected = cdist(points, points[selected]).min(axis=1) if selected.any() else np.full(40, np.inf)
        assert spread.nearest.tolist() == expected.tolist()
        assert spread.diameter() == pytest.approx(pdist(points[candidates]).max(initial=0), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_acquire_next_picks_what_acquire_picks(seed):
    generator = np.random.default_rng(seed)
    points, entropy = generator.normal(size=(40, 2)), generator.uniform(size=40)
    spread = Spread(points)
    for selected, candidates in steps(generator, 40):
        rows = np.flatnonzero(selected | candidates)
        spread.follow(selected, candidates)
        options = {"alpha": 0.7, "first_by_entropy": bool(generator.random() < 0.3), "entropy_range": (0, 1)}
        one = acquire_next(spread, entropy, **options)
        whole = acquire(points[rows], entropy[rows], np.flatnonzero(selected[rows]), 1, **options)
        assert one.indices.tolist() == rows[whole.indices].tolist()
        for name in ("entropy", "distance", "score"):
            assert getattr(one, name).tolist() == getattr(whole, name).tolist()


def test_acquire_next_takes_the_range_from_candidates_alone():
    spread = Spread([[0.0], [1.0], [2.0], [3.0]])
    spread.follow(mask(4, [0]), mask(4, [1, 2]))
    assert acquire_next(spread, [9, 2, 4, -9]).entropy == pytest.approx(1)


def test_masks_that_change_afterwards_have_no_effect():
    selected, candidates = mask(4, [0]), mask(4, [1, 2, 3])
    spread = Spread([[0.0], [1.0], [2.0], [3.0]])
    spread.follow(selected, candidates)
    selected[3], candidates[3] = True, False
    spread.follow(selected, candidates)
    assert spread.nearest.tolist() == [0, 1, 1, 0]
    assert spread.diameter() == 1


def test_spread_refuses_points_that_are_not_finite():
    with pytest.raises(InvalidInputError, match=re.escape("`points` must be finite")):
        Spread([[0.0], [np.nan]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 1.5}, "`alpha` must be between 0 (entropy alone) and 1 (distance alone); got alpha=1.5."),
        ({"entropy": [0, 1]}, "`entropy` must have one value for each of the 3 rows of `points`; got shape (2,)."),
        ({"entropy_range": (1, 0)}, "`entropy_range` must be (min, max) with min <= max; got (1.0, 0.0)."),
        ({"candidates": []}, "`spread` must have a candidate; got none."),
    ],
)
def test_acquire_next_refuses_bad_input(changes, message):
    given = {"entropy": [0, 1, 2], "candidates": [1, 2]} | changes
    spread = Spread([[0.0], [1.0], [2.0]])
    spread.follow(mask(3, [0]), mask(3, given.pop("candidates")))
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        acquire_next(spread, given.pop("entropy"), **given)


def test_acquire_next_refuses_too_many_points_beyond_two_dimensions():
    spread = Spread(np.zeros((20_001, 3)))
    spread.follow(mask(20_001, []), mask(20_001, [0]))
    with pytest.raises(InvalidInputError, match="must have at most 20000 rows"):
        acquire_next(spread, np.zeros(20_001))
