import re
from itertools import combinations
from math import dist

import numpy as np
import pytest

from coldstart.exceptions import InvalidInputError
from coldstart.selection import acquire

LINE = [[0.0], [1.0], [4.0], [6.0], [10.0]]


def pool(seed=0, n_samples=40, n_dims=2):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n_samples, n_dims)), generator.uniform(0.1, 0.9, size=n_samples)


def reference(points, entropy, selected, n, alpha=0.3, first_by_entropy=True, entropy_range=None):
    """Equations 7 to 10 in plain loops. Returns [(index, entropy, distance, score)]."""
    rows, taken, picks = np.asarray(points, dtype=float).tolist(), list(selected), []
    candidates = [i for i in range(len(rows)) if i not in taken]
    low, high = entropy_range or (min(entropy[i] for i in candidates), max(entropy[i] for i in candidates))
    normalised = [(value - low) / (high - low + 1e-8) for value in entropy]
    for step in range(n):
        largest = max((dist(rows[p], rows[q]) for p, q in combinations(candidates, 2)), default=0.0)
        near = {i: min((dist(rows[i], rows[j]) for j in taken), default=0.0) / (largest + 1e-8) for i in candidates}
        score = {i: alpha * near[i] + (1 - alpha) * normalised[i] for i in candidates}
        key = dict(enumerate(normalised)) if not taken or (step == 0 and first_by_entropy) else score
        pick = max(candidates, key=lambda i: (key[i], -i))
        picks.append((pick, normalised[pick], near[pick], score[pick]))
        taken.append(pick)
        candidates.remove(pick)
    return picks


def assert_equal(acquisition, picks):
    index, entropy, distance, score = zip(*picks, strict=True)
    assert acquisition.indices.tolist() == list(index)
    np.testing.assert_allclose(acquisition.entropy, entropy, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(acquisition.distance, distance, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(acquisition.score, score, rtol=1e-12, atol=1e-15)


def test_acquire_worked_out_by_hand():
    # Row 0 is labelled. First: row 3, the highest entropy. Then D_max of {1, 4, 10} is 9, the distances to {0, 6} are
    # 1, 2, 4, and the entropies 0, 0.5, 0.25: scores 0.5/9 = 0.06, 1/9 + 0.25 = 0.36, 2/9 + 0.125 = 0.35.
    result = acquire(LINE, [9.0, 0.0, 2.0, 4.0, 1.0], [0], 2, alpha=0.5)
    assert result.indices.tolist() == [3, 2]
    np.testing.assert_allclose(result.entropy, [1, 0.5], rtol=1e-8)
    np.testing.assert_allclose(result.distance, [6 / 9, 2 / 9], rtol=1e-8)
    np.testing.assert_allclose(result.score, [0.5 * 6 / 9 + 0.5, 1 / 9 + 0.25], rtol=1e-8)


def test_acquire_by_score_from_the_first():
    # D_max of {1, 4, 6, 10} is 9; row 4: 0.5 * 10/9 + 0.125 = 0.68; row 3: 0.5 * 6/9 + 0.5 = 0.83.
    assert acquire(LINE, [9, 0, 2, 4, 1], [0], 1, alpha=0.5, first_by_entropy=False).indices.tolist() == [3]
    assert acquire(LINE, [9, 0, 2, 4, 1], [0], 1, alpha=0.9, first_by_entropy=False).indices.tolist() == [4]


def test_acquire_normalises_by_the_candidates_left_not_by_all():
    # Without the ends, D_max is 2: scores 0.3 * 50/2 + 0 = 7.5 and 0.3 * 48/2 + 0.7 * 0.1 = 7.27. With the D_max of
    # all, 100, they would be 0.15 and 0.21.
    points, entropy = [[0], [100], [50], [52]], [0.5, 0.5, 0.0, 0.1]
    result = acquire(points, entropy, [0, 1], 1, first_by_entropy=False, entropy_range=(0, 1))
    assert result.indices.tolist() == [2]
    assert result.distance[0] == pytest.approx(50 / 2)


def test_acquire_with_alpha_zero_follows_the_entropy():
    points, entropy = pool()
    expected = [i for i in np.argsort(-entropy).tolist() if i not in (3, 8)][:10]
    assert acquire(points, entropy, [3, 8], 10, alpha=0).indices.tolist() == expected


def test_acquire_with_alpha_one_is_farthest_first_after_the_first():
    # After the highest entropy at 4, the farthest: 10 at 6, then 0 at 4, then 6 at 2, then 1 at 1.
    assert acquire(LINE, [0, 0, 1, 0, 0], [], 5, alpha=1).indices.tolist() == [2, 4, 0, 3, 1]


@pytest.mark.parametrize("n_dims", [1, 2, 3, 40])
@pytest.mark.parametrize("alpha", [0, 0.3, 0.8, 1])
@pytest.mark.parametrize("first_by_entropy", [True, False])
def test_acquire_equals_the_equations_on_random_data(n_dims, alpha, first_by_entropy):
    for seed in range(3):
        points, entropy = pool(seed, 25, n_dims)
        selected = np.random.default_rng(seed).choice(25, size=4 * seed, replace=False).tolist()
        options = {"alpha": alpha, "first_by_entropy": first_by_entropy}
        n = 25 - len(selected)
        assert_equal(
            acquire(points, entropy, selected, n, **options), reference(points, entropy, selected, n, **options)
        )


@pytest.mark.parametrize("seed", range(10))
def test_acquire_equals_the_equations_among_ties(seed):
    generator = np.random.default_rng(seed)
    points, entropy = generator.integers(0, 3, size=(30, 2)), generator.integers(0, 3, size=30)
    selected = generator.choice(30, size=seed, replace=False).tolist()
    assert_equal(acquire(points, entropy, selected, 12), reference(points, entropy, selected, 12))


def test_acquire_uses_the_range_given():
    points, entropy = pool()
    result = acquire(points, entropy, [0], 6, entropy_range=(0.0, 2.0))
    assert_equal(result, reference(points, entropy, [0], 6, entropy_range=(0.0, 2.0)))
    np.testing.assert_allclose(result.entropy, entropy[result.indices] / 2, rtol=1e-8)


def test_acquire_takes_the_range_from_candidates_alone():
    points, entropy = pool()
    outliers = entropy.copy()
    outliers[[5, 6]] = 1e6, -1e6
    assert_equal(acquire(points, outliers, [5, 6], 9), reference(points, entropy, [5, 6], 9))


@pytest.mark.parametrize("alpha", [0, 0.3, 1])
@pytest.mark.parametrize("selected", [[], [4, 17, 30]])
def test_acquire_one_by_one_equals_all_at_once(alpha, selected):
    points, entropy = pool(5)
    bounds = (float(np.delete(entropy, selected).min()), float(np.delete(entropy, selected).max()))
    taken, scores = list(selected), []
    for click in range(40 - len(selected)):
        one = acquire(points, entropy, taken, 1, alpha=alpha, first_by_entropy=click == 0, entropy_range=bounds)
        taken.append(int(one.indices[0]))
        scores.append(one.score[0])
    together = acquire(points, entropy, selected, 40 - len(selected), alpha=alpha)
    assert together.indices.tolist() == taken[len(selected) :]
    np.testing.assert_allclose(together.score, scores, rtol=1e-12)


def test_acquire_with_nothing_selected_starts_with_the_highest_entropy():
    points, entropy = pool()
    for alpha in (0, 0.3, 1):
        for first_by_entropy in (True, False):
            result = acquire(points, entropy, [], 2, alpha=alpha, first_by_entropy=first_by_entropy)
            assert result.indices[0] == entropy.argmax()
            assert result.distance[0] == 0
            assert result.distance[1] > 0


def test_acquire_keeps_the_contract():
    points, entropy = pool(n_samples=60)
    result = acquire(points, entropy, [1, 50, 20], 57)
    assert sorted([*result.indices.tolist(), 1, 50, 20]) == list(range(60))
    for values in (result.entropy, result.distance, result.score):
        assert values.shape == (57,)
        assert np.isfinite(values).all()
    again = acquire(points, entropy, (20, 1, 50), 57)
    assert again.indices.tobytes() == result.indices.tobytes()
    assert again.score.tobytes() == result.score.tobytes()


def test_acquire_follows_its_rows_when_permuted():
    points, entropy = pool()
    order = np.random.default_rng(1).permutation(40)
    selected = [2, 9]
    permuted = acquire(points[order], entropy[order], np.flatnonzero(np.isin(order, selected)), 15)
    assert order[permuted.indices].tolist() == acquire(points, entropy, selected, 15).indices.tolist()


@pytest.mark.parametrize("factor", [1e-3, 8, 1e6])
def test_acquire_does_not_depend_on_the_scale_of_either(factor):
    points, entropy = pool()
    expected = acquire(points, entropy, [2, 9], 15)
    for scaled in (acquire(points * factor, entropy, [2, 9], 15), acquire(points, entropy * factor, [2, 9], 15)):
        assert scaled.indices.tolist() == expected.indices.tolist()
        np.testing.assert_allclose(scaled.score, expected.score, rtol=1e-4)


def test_acquire_prefers_a_new_place_to_a_copy_of_equal_entropy():
    points, entropy = pool(n_samples=20)
    result = acquire(np.tile(points, (2, 1)), np.tile(entropy, 2), [0], 20, alpha=1)
    assert len(set((result.indices[1:] % 20).tolist())) == 19


def test_acquire_from_equal_points_and_entropies_goes_by_position():
    result = acquire(np.ones((5, 2)), np.full(5, 0.4), [2], 4)
    assert result.indices.tolist() == [0, 1, 3, 4]
    assert result.entropy.tolist() == result.distance.tolist() == result.score.tolist() == [0, 0, 0, 0]


def test_acquire_of_a_single_candidate_is_finite():
    result = acquire([[0, 0], [3, 4]], [0.1, 0.2], [0], 1)
    assert result.indices.tolist() == [1]
    assert result.distance[0] == pytest.approx(5 / 1e-8)  # equation 9 with a D_max of 0


def test_acquire_takes_integers_lists_and_single_precision_and_changes_nothing():
    points, entropy = np.random.default_rng(0).integers(0, 50, size=(30, 2)), np.arange(30) % 7
    for array in (points, entropy):
        array.flags.writeable = False
    expected = acquire(points, entropy, [3], 9).indices.tolist()
    assert acquire(points.tolist(), entropy.tolist(), {3}, 9).indices.tolist() == expected
    assert acquire(points.astype(np.float32), entropy.astype(np.float16), (3,), 9).indices.tolist() == expected


def test_acquire_computes_the_diameter_again_only_when_an_end_of_it_is_taken(monkeypatch):
    from coldstart.selection import spread

    calls = []
    original = spread.farthest_pair
    monkeypatch.setattr(spread, "farthest_pair", lambda points: calls.append(len(points)) or original(points))
    # The ends, rows 0 and 1, have the lowest entropy, so the first five picks leave them.
    points, entropy = pool(n_samples=10)
    points[0], points[1] = [50, 50], [-50, -50]
    entropy[:2] = 0
    assert_equal(acquire(points, entropy, [9], 9, alpha=0), reference(points, entropy, [9], 9, alpha=0))
    assert calls == [9, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": -0.1}, "`alpha` must be between 0 (entropy alone) and 1 (distance alone); got alpha=-0.1."),
        ({"alpha": 1.1}, "`alpha` must be between 0 (entropy alone) and 1 (distance alone); got alpha=1.1."),
        ({"alpha": np.nan}, "`alpha` must be a finite number; got nan."),
        ({"alpha": "0.3"}, "`alpha` must be a finite number; got '0.3'."),
        ({"n": 0}, "`n` must be at least 1; got n=0."),
        ({"n": 5}, "`n` must be at most the 4 candidates, the images not in `selected`; got n=5."),
        ({"n": 1, "selected": range(5)}, "`n` must be at most the 0 candidates, the images not in `selected`; got n=1"),
        ({"n": 1.5}, "`n` must be an integer; got 1.5."),
        ({"selected": [5]}, "`selected` must be row positions between 0 and 4; got 5."),
        ({"selected": [0, 0]}, "`selected` must name each row once; got 0 more than once."),
        ({"selected": np.array([True] * 5)}, "`selected` must be integer row positions; got array([ True"),
        ({"selected": None}, "`selected` must be integer row positions; got None."),
        ({"entropy": [0, 0, 0]}, "`entropy` must have one value for each of the 5 rows of `points`; got shape (3,)."),
        ({"entropy": [[0]] * 5}, "`entropy` must have one value for each of the 5 rows of `points`; got shape (5, 1)."),
        ({"entropy": [0, 1, np.nan, 3, 4]}, "`entropy` must be finite and at most 1e+100; got nan in row 2."),
        ({"entropy": [None] * 5}, "`entropy` must hold real numbers in an array of shape (n_samples,); got dtype"),
        ({"points": [[0], [1], [2], [3], [np.inf]]}, "`points` must be finite and at most 1e+100; got inf in row 4."),
        ({"points": []}, "`points` must hold at least one row and one column; got shape (0,)."),
        ({"entropy_range": (1, 0)}, "`entropy_range` must be (min, max) with min <= max; got (1.0, 0.0)."),
        ({"entropy_range": (0, np.nan)}, "`entropy_range` must be a finite number; got nan."),
        ({"entropy_range": 3}, "`entropy_range` must be a pair (min, max); got 3."),
        ({"entropy_range": (0, 1, 2)}, "`entropy_range` must be a pair (min, max); got (0, 1, 2)."),
    ],
)
def test_acquire_refuses_bad_input(changes, message):
    given = {"points": LINE, "entropy": [0, 1, 2, 3, 4], "selected": [0], "n": 1} | changes
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        acquire(given.pop("points"), given.pop("entropy"), given.pop("selected"), given.pop("n"), **given)
