import re
import warnings
from collections import Counter
from fractions import Fraction
from math import dist, floor, fsum, isnan

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits

from coldstart.exceptions import InvalidInputError
from coldstart.selection import choose_n_clusters, plan_cold_start

# Three groups: rows 0-4 around (2, 0), 5-7 around (50, 1), 8-9 at (0, 90).
TINY = np.array(
    [[0, 0], [1, 0], [2, 0], [3, 0], [5, 0], [50, 0], [50, 1], [50, 3], [0, 90], [1, 90]],
    dtype=float,
)


def groups(seed=0, sizes=(40, 25, 12, 3), n_dims=2):
    generator = np.random.default_rng(seed)
    centres = np.zeros((len(sizes), n_dims))
    centres[:, :2] = [[0, 0], [60, 0], [0, 60], [90, 90]][: len(sizes)]
    return np.concatenate([generator.normal(c, 4, size=(s, n_dims)) for c, s in zip(centres, sizes, strict=True)])


def reference(points, budget, selected=(), k_max=15, random_state=0):
    """The plan by its definition: no shared code, exact fractions, plain loops. Returns [(index, distance)]."""
    points = np.asarray(points, dtype=float)
    n = len(points)
    labels, best = [0] * n, -2.0
    if min(n, budget) >= 3 and len(np.unique(points, axis=0)) > 1:
        for k in range(2, min(k_max, budget, n - 1) + 1):
            with threadpool_limits(1):
                found = KMeans(k, n_init=10, random_state=random_state).fit(points).labels_
            if silhouette_score(points, found) > best:
                labels, best = found.tolist(), silhouette_score(points, found)
    k = max(labels) + 1
    rows = points.tolist()
    members = [[i for i in range(n) if labels[i] == c] for c in range(k)]
    held = [[i for i in members[c] if i in selected] for c in range(k)]
    size = [len(m) for m in members]

    def share(total, among):
        shares, left = dict.fromkeys(among, 0), total
        while left > 0:
            roomy = [c for c in among if shares[c] < size[c] - 1]
            quota = {c: Fraction(left * size[c], sum(size[u] for u in roomy)) for c in roomy}
            wanted = {c: floor(quota[c]) for c in roomy}
            for c in sorted(roomy, key=lambda c: (wanted[c] - quota[c], c))[: left - sum(wanted.values())]:
                wanted[c] += 1
            for c in roomy:
                taken = min(wanted[c], size[c] - 1 - shares[c])
                shares[c] += taken
                left -= taken
        return shares

    rest = budget - k
    given = {c: max(0, len(held[c]) - 1) for c in range(k)}
    order = [c for c in sorted(range(k), key=lambda c: -size[c]) if not held[c]][: budget - len(selected)]
    if len(order) < budget - len(selected):
        among, shares = list(range(k)), {}
        while True:
            shares |= share(rest - sum(given[c] for c in range(k) if c not in among), among)
            over = [c for c in among if given[c] > shares[c]]
            if not over:
                break
            among = [c for c in among if c not in over]
            shares |= {c: given[c] for c in over}
        assert sum(shares.values()) == rest
        for t in range(sum(given.values()) + 1, rest + 1):
            chosen = max(range(k), key=lambda c: (Fraction(shares[c] * t, rest) - given[c], -c))
            given[chosen] += 1
            order.append(chosen)

    picks, taken = [], [list(h) for h in held]
    for c in order:
        if not taken[c]:
            pick = min(members[c], key=lambda i: fsum(dist(rows[i], rows[j]) for j in members[c]))
            picks.append((pick, float("nan")))
        else:
            left = [i for i in members[c] if i not in taken[c]]
            gap, pick = max((min(dist(rows[i], rows[j]) for j in taken[c]), -i) for i in left)
            pick = -pick
            picks.append((pick, gap))
        taken[c].append(pick)
    return picks


def assert_contract(plan, points, budget, selected=()):
    n_samples = len(points)
    assert plan.indices.shape == (budget - len(selected),)
    assert len(set(plan.indices.tolist())) == len(plan.indices)
    assert set(plan.indices.tolist()) <= set(range(n_samples)) - set(selected)
    assert plan.labels.shape == (n_samples,)
    assert sorted(set(plan.labels.tolist())) == list(range(plan.n_clusters))
    assert plan.labels[plan.medoids].tolist() == list(range(plan.n_clusters))
    assert [pick.index for pick in plan.picks] == plan.indices.tolist()
    assert [pick.rank for pick in plan.picks] == list(range(1, len(plan.picks) + 1))
    sizes = np.bincount(plan.labels)
    for pick in plan.picks:
        assert (pick.cluster, pick.cluster_size) == (plan.labels[pick.index], sizes[pick.cluster])
        assert (pick.role == "medoid") == isnan(pick.distance) == (pick.index in plan.medoids[[pick.cluster]])


def test_plan_worked_out_by_hand():
    plan = plan_cold_start(TINY, 8)
    # R = 8 - 3 = 5: quotas 2.5, 1.5, 1.0 -> floors 2, 1, 1, and one more at the tied remainder. Which of the two
    # clusters is the lower is k-means' numbering.
    big, middle, small = plan.labels[[0, 5, 8]]
    assert plan.n_clusters == 3
    assert plan.medoids[[big, middle, small]].tolist() == [2, 6, 8]
    # Farthest: from 2 (x = 2) row 4 at 3, then row 0 at 2, then 1 and 3 at 1 (the lower); from row 6, row 7 at 2.
    of = {big: [4, 0, 1], middle: [7, 5], small: [9]}
    shares = {big: 3, middle: 1, small: 1} if big < middle else {big: 2, middle: 2, small: 1}
    given, expected = Counter(), [2, 6, 8]
    for t in range(1, 6):
        c = max(shares, key=lambda c: (shares[c] * t - given[c] * 5, -c))
        expected.append(of[c][given[c]])
        given[c] += 1
    assert plan.indices.tolist() == expected
    distance = {2: np.nan, 6: np.nan, 8: np.nan, 4: 3, 0: 2, 1: 1, 7: 2, 5: 1, 9: 1}
    np.testing.assert_array_equal([p.distance for p in plan.picks], [distance[p.index] for p in plan.picks])
    assert [p.role for p in plan.picks] == ["medoid"] * 3 + ["farthest"] * 5


def test_plan_of_one_cluster_worked_out_by_hand():
    # Sums 19, 13, 11, 17 and 20: the medoid is row 2 (x = 4). Farthest: x = 10 at 6, x = 0 at 4, x = 2 at 2.
    plan = plan_cold_start([[0], [2], [4], [7], [10]], 4, k_max=1)
    assert plan.indices.tolist() == [2, 4, 0, 3]
    assert [pick.distance for pick in plan.picks][1:] == [6, 4, 3]


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 7, 20, 50, 79, 80])
def test_plan_keeps_the_contract_at_every_budget(budget):
    points = groups()
    assert_contract(plan_cold_start(points, budget), points, budget)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n_dims", [1, 2, 3, 20])
def test_plan_equals_its_definition_on_random_data(seed, n_dims):
    generator = np.random.default_rng(100 * seed + n_dims)
    points = generator.normal(size=(45, n_dims)) ** (1 if seed % 2 else 3)
    budget = int(generator.integers(1, 46))
    plan = plan_cold_start(points, budget, k_max=9, random_state=seed)
    assert_contract(plan, points, budget)
    expected = reference(points, budget, k_max=9, random_state=seed)
    assert plan.indices.tolist() == [index for index, _ in expected]
    np.testing.assert_allclose([pick.distance for pick in plan.picks], [gap for _, gap in expected], rtol=1e-12)


@pytest.mark.parametrize("seed", range(24))
def test_plan_with_selected_equals_its_definition_on_random_data(seed):
    generator = np.random.default_rng(seed)
    points = groups(seed, sizes=(20, 10, 6, 4)) if seed % 2 else generator.normal(size=(40, 2))
    budget = int(generator.integers(3, 41))
    n_selected = int(generator.integers(0, budget + 1))
    if seed % 3:
        selected = generator.choice(40, size=n_selected, replace=False).tolist()
    else:  # all in one corner, so that a cluster holds more than its share
        selected = np.argsort(points[:, 0])[:n_selected].tolist()
    plan = plan_cold_start(points, budget, selected=selected, k_max=8, random_state=seed)
    expected = reference(points, budget, selected, k_max=8, random_state=seed)
    assert plan.indices.tolist() == [index for index, _ in expected]
    np.testing.assert_allclose([pick.distance for pick in plan.picks], [gap for _, gap in expected], rtol=1e-12)
    assert_contract_with_selected(plan, points, budget, selected)


def assert_contract_with_selected(plan, points, budget, selected):
    assert plan.indices.shape == (budget - len(selected),)
    assert not set(plan.indices.tolist()) & set(selected)
    assert len(set(plan.indices.tolist())) == len(plan.indices)
    holding = set(plan.labels[selected].tolist())
    for pick in plan.picks:
        assert (pick.role == "medoid") == isnan(pick.distance)
        if pick.role == "medoid":
            assert pick.cluster not in holding
            assert pick.index == plan.medoids[pick.cluster]


@pytest.mark.parametrize("n_taken", range(0, 21, 2))
def test_plan_cut_anywhere_and_continued_gives_the_same_images_in_the_same_order(n_taken):
    points = groups(3)
    whole = plan_cold_start(points, 20).indices.tolist()
    rest = plan_cold_start(points, 20, selected=reversed(whole[:n_taken])).indices.tolist()
    assert rest == whole[n_taken:]


def test_plan_one_by_one_equals_all_at_once():
    points = groups(4)
    taken = []
    for _ in range(12):
        taken.append(int(plan_cold_start(points, 12, selected=taken).indices[0]))
    assert taken == plan_cold_start(points, 12).indices.tolist()


def test_plan_gives_a_cluster_that_holds_more_than_its_share_nothing():
    # All of the smallest group is labelled. The other 16 go to the others: 3 medoids, and 13 by size.
    points = groups()
    plan = plan_cold_start(points, 19, selected=[77, 78, 79])
    counts = Counter(pick.cluster for pick in plan.picks)
    sizes = np.bincount(plan.labels)
    assert sorted((int(sizes[c]), counts[c]) for c in counts) == [(12, 3), (25, 5), (40, 8)]  # 1 + 2.03, 4.2, 6.75


def test_plan_with_too_little_budget_for_every_medoid_serves_the_largest_clusters():
    points = groups()
    plan = plan_cold_start(points, 10, selected=[40, 41, 42, 43, 44, 45, 46, 47])
    assert plan.n_clusters == 4
    assert [(pick.cluster_size, pick.role) for pick in plan.picks] == [(40, "medoid"), (12, "medoid")]


def test_plan_serves_farthest_points_from_what_is_selected():
    # One cluster on a line: from 3 alone the farthest is 10, not the medoid 4.
    plan = plan_cold_start([[0], [3], [4], [7], [10]], 2, selected=[1])
    assert plan.indices.tolist() == [4]
    assert plan.picks[0].distance == 7
    assert plan.medoids.tolist() == [2]


def test_plan_is_empty_when_the_budget_is_used_up():
    plan = plan_cold_start(groups(), 4, selected=[0, 9, 50, 79])
    assert plan.indices.shape == (0,)
    assert plan.indices.dtype.kind == "i"
    assert plan.picks == ()


def test_plan_does_not_depend_on_the_order_of_selected():
    points = groups()
    plans = [plan_cold_start(points, 15, selected=s).indices.tolist() for s in ([3, 60, 9], (60, 9, 3), {9, 3, 60})]
    assert plans[0] == plans[1] == plans[2]


def test_every_beginning_of_a_plan_is_in_proportion():
    points = groups()
    plan = plan_cold_start(points, 40)
    total = Counter(pick.cluster for pick in plan.picks[4:])
    given = Counter()
    for t, pick in enumerate(plan.picks[4:], start=1):
        given[pick.cluster] += 1
        assert all(abs(total[c] * t / 36 - given[c]) < 1 for c in range(4))


def test_plan_starts_with_medoids_by_descending_cluster_size():
    plan = plan_cold_start(groups(), 10)
    assert [pick.cluster_size for pick in plan.picks[:4]] == [40, 25, 12, 3]
    assert [pick.role for pick in plan.picks] == ["medoid"] * 4 + ["farthest"] * 6


def test_plan_covers_groups_that_random_choice_misses():
    points = groups(sizes=(60, 20, 5, 3))
    group = np.repeat(np.arange(4), (60, 20, 5, 3))
    assert set(group[plan_cold_start(points, 6).indices]) == {0, 1, 2, 3}
    generator = np.random.default_rng(0)
    drawn = [len(set(group[generator.choice(88, 6, replace=False)])) for _ in range(200)]
    assert np.mean(drawn) < 3


def test_plan_is_the_same_for_the_same_seed():
    points = np.random.default_rng(0).normal(size=(300, 2))
    first, second = (plan_cold_start(points, 20, random_state=5) for _ in range(2))
    assert repr(first.picks) == repr(second.picks)
    assert first.silhouettes == second.silhouettes


def test_plan_picks_the_same_points_when_rows_are_permuted():
    points = groups()
    order = np.random.default_rng(1).permutation(len(points))
    plan, permuted = plan_cold_start(points, 17), plan_cold_start(points[order], 17)
    # Shares can tie between clusters, whose numbers depend on the rows; here they do not.
    assert set(order[permuted.indices].tolist()) == set(plan.indices.tolist())
    assert order[permuted.indices[:4]].tolist() == plan.indices[:4].tolist()


@pytest.mark.parametrize("factor", [0.25, 1024, 3.7])
def test_plan_picks_the_same_rows_when_scaled(factor):
    points = groups()
    plan, scaled = plan_cold_start(points, 17), plan_cold_start(points * factor, 17)
    assert scaled.indices.tolist() == plan.indices.tolist()
    np.testing.assert_allclose(
        [pick.distance for pick in scaled.picks], [pick.distance * factor for pick in plan.picks], rtol=1e-12
    )


def test_plan_takes_no_copy_while_other_points_are_left():
    points = groups(sizes=(12, 8, 6, 4))
    copies = np.repeat(points, 3, axis=0)
    plan = plan_cold_start(copies, 20)
    assert_contract(plan, copies, 20)
    assert len(set((plan.indices // 3).tolist())) == 20
    assert (plan.indices[:4] % 3).tolist() == [0] * 4


@pytest.mark.parametrize("budget", [1, 2, 3, 6])
def test_plan_of_equal_points_serves_them_in_order(budget):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = plan_cold_start(np.full((6, 2), 3.3), budget)
    assert plan.indices.tolist() == list(range(budget))
    assert plan.n_clusters == 1
    assert [pick.distance for pick in plan.picks[1:]] == [0.0] * (budget - 1)


@pytest.mark.parametrize("n_samples", [1, 2, 3, 4])
def test_plan_of_a_whole_tiny_pool_serves_everything(n_samples):
    points = np.random.default_rng(n_samples).normal(size=(n_samples, 2))
    plan = plan_cold_start(points, n_samples)
    assert sorted(plan.indices.tolist()) == list(range(n_samples))
    assert_contract(plan, points, n_samples)


def test_plan_takes_integers_lists_and_single_precision_and_changes_nothing():
    points = np.round(groups())
    kept = points.copy()
    points.flags.writeable = False
    selected = np.array([5, 2])
    expected = plan_cold_start(points, 9, selected=selected).indices.tolist()
    for same in (points.astype(int), points.tolist(), points.astype(np.float32), np.asfortranarray(points)):
        assert plan_cold_start(same, np.int64(9), selected=[2, 5]).indices.tolist() == expected
    np.testing.assert_array_equal(points, kept)
    assert selected.tolist() == [5, 2]


def test_plan_says_which_numbers_of_clusters_were_tried():
    plan = plan_cold_start(groups(), 10)
    assert list(plan.silhouettes) == list(range(2, 11))
    assert plan.n_clusters == max(plan.silhouettes, key=plan.silhouettes.get) == 4
    assert plan.silhouette_sample_size == 80


@pytest.mark.parametrize(
    ("points", "budget", "options", "message"),
    [
        (TINY, 0, {}, "`budget` must be between 1 and the 10 images of the pool; got budget=0. Raise --conf budget."),
        (TINY, 11, {}, "`budget` must be between 1 and the 10 images of the pool; got budget=11. Lower --conf budget."),
        (TINY, 2.5, {}, "`budget` must be an integer; got 2.5."),
        (TINY, "5", {}, "`budget` must be an integer; got '5'."),
        ([], 1, {}, "`points` must hold at least one row and one column; got shape (0,)."),
        ([[0, np.nan]], 1, {}, "`points` must be finite and at most 1e+100; got nan in row 0."),
        (TINY[:, 0], 1, {}, "`points` must have the shape (n_samples, n_dims); got shape (10,)."),
        (np.zeros((20_001, 3)), 5, {}, "`points` with more than 2 columns must have at most 20000 rows"),
        (TINY, 5, {"selected": [10]}, "`selected` must be row positions between 0 and 9; got 10."),
        (TINY, 5, {"selected": [-1]}, "`selected` must be row positions between 0 and 9; got -1."),
        (TINY, 5, {"selected": [3, 1, 3]}, "`selected` must name each row once; got 3 more than once."),
        (TINY, 5, {"selected": [True, False]}, "`selected` must be integer row positions; got [True, False]. Turn a"),
        (TINY, 5, {"selected": [1.0]}, "`selected` must be integer row positions; got [1.0]."),
        (TINY, 5, {"selected": 3}, "`selected` must be integer row positions; got 3."),
        (TINY, 5, {"selected": [[1, 2]]}, "`selected` must be integer row positions; got [[1, 2]]."),
        (TINY, 2, {"selected": [1, 2, 3]}, "at most as many images as the budget of 2, which counts them; got 3."),
        (TINY, 5, {"k_max": 0}, "`k_max` must be at least 1; got k_max=0."),
        (TINY, 5, {"random_state": 2**32}, "`random_state` must be between 0 and 4294967295"),
    ],
)
def test_plan_cold_start_refuses_bad_input(points, budget, options, message):
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        plan_cold_start(points, budget, **options)


def test_plan_cold_start_with_a_known_clustering_is_the_same_plan():
    points = groups()
    known = plan_cold_start(points, 12, clustering=choose_n_clusters(points, 12))
    anew = plan_cold_start(points, 12)
    assert repr(known.picks) == repr(anew.picks)  # a medoid's distance is NaN, which equals nothing
    assert known.silhouettes == anew.silhouettes


def test_plan_cold_start_refuses_the_clustering_of_other_points():
    message = "`clustering` must have one label for each of the 80 rows of `points`; got 10. Cluster the same points."
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        plan_cold_start(groups(), 5, clustering=choose_n_clusters(TINY, 5))
