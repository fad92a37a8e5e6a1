import re
import warnings

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_info, threadpool_limits

from coldstart.exceptions import InvalidInputError
from coldstart.selection import Clusterings, choose_n_clusters, clusters
from coldstart.selection.silhouette import mean_silhouettes

CENTRES = np.array([[0, 0], [20, 0], [0, 20], [30, 30]])


def blobs(sizes, seed=0):
    generator = np.random.default_rng(seed)
    return np.concatenate([generator.normal(CENTRES[i], 1, size=(size, 2)) for i, size in enumerate(sizes)])


def test_choose_n_clusters_finds_separate_groups():
    result = choose_n_clusters(blobs([30, 10, 25, 5]), 10)
    assert result.n_clusters == 4
    assert sorted(np.bincount(result.labels)) == [5, 10, 25, 30]
    assert [len(set(part)) for part in np.split(result.labels, [30, 40, 65])] == [1, 1, 1, 1]


@pytest.mark.parametrize("n_dims", [1, 2, 5, 16, 17, 200])
def test_choose_n_clusters_equals_scikit_learn(n_dims):
    points = np.random.default_rng(n_dims).normal(size=(60, n_dims)) ** 3
    result = choose_n_clusters(points, 9, random_state=3)
    with threadpool_limits(1):
        labels = {k: KMeans(k, n_init=10, random_state=3).fit(points).labels_ for k in range(2, 10)}
    expected = {k: silhouette_score(points, labels[k]) for k in labels}
    assert result.silhouettes == pytest.approx(expected, abs=1e-9)
    assert result.n_clusters == max(expected, key=expected.get)
    np.testing.assert_array_equal(result.labels, labels[result.n_clusters])
    assert result.silhouette_sample_size == 60


@pytest.mark.parametrize(
    ("n_samples", "budget", "k_max", "tried"),
    [(40, 40, 15, range(2, 16)), (40, 6, 15, range(2, 7)), (40, 40, 4, range(2, 5)), (5, 5, 15, range(2, 5))],
)
def test_choose_n_clusters_tries_every_k_up_to_the_smallest_limit(n_samples, budget, k_max, tried):
    points = np.random.default_rng(0).normal(size=(n_samples, 2))
    assert list(choose_n_clusters(points, budget, k_max=k_max).silhouettes) == list(tried)


@pytest.mark.parametrize(
    ("points", "budget", "k_max"),
    [
        ([[1, 2]], 1, 15),
        ([[0, 0], [9, 9]], 2, 15),
        ([[0, 0], [0, 1], [9, 9]], 2, 15),
        ([[0, 0], [0, 1], [9, 9]], 3, 1),
        ([[4.2, 4.2]] * 30, 10, 15),
    ],
)
def test_choose_n_clusters_without_a_choice_is_one_cluster(points, budget, k_max):
    result = choose_n_clusters(points, budget, k_max=k_max)
    assert (result.n_clusters, result.silhouettes, result.silhouette_sample_size) == (1, {}, 0)
    assert result.labels.tolist() == [0] * len(points)


def test_choose_n_clusters_with_three_positions_tries_at_most_three_clusters():
    points = np.repeat([[0, 0], [5, 0], [0, 9]], [4, 2, 6], axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = choose_n_clusters(points, 10)
    assert list(result.silhouettes) == [2, 3]
    assert (result.n_clusters, result.silhouettes[3]) == (3, 1.0)


def test_choose_n_clusters_of_points_that_differ_by_rounding_only():
    points = np.array([[1e9, 0.0]] * 4 + [[-1e9, 0.0]] * 4)
    points[:, 1] = np.arange(8) * 1e-9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = choose_n_clusters(points, 8)
    assert result.n_clusters == 2
    assert len(np.unique(result.labels)) == 2


def test_choose_n_clusters_gives_ties_to_the_smaller_k(monkeypatch):
    monkeypatch.setattr(clusters, "mean_silhouettes", lambda points, labelings, rows: [0.1, 0.5, 0.5, 0.4])
    assert choose_n_clusters(blobs([9, 9]), 5).n_clusters == 3


def test_choose_n_clusters_groups_alike_when_permuted_and_scaled():
    points = blobs([12, 20, 8])
    order = np.random.default_rng(1).permutation(40)
    labels, other = choose_n_clusters(points, 8).labels, choose_n_clusters(points[order] * 0.37, 8).labels
    np.testing.assert_array_equal(labels[order][:, None] == labels[order], other[:, None] == other)


def test_k_means_runs_in_one_thread(monkeypatch):
    # From four threads on, scikit-learn adds up the centres in another order in each call.
    seen = []

    class Watched(KMeans):
        def fit(self, points):
            seen.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp")
            return super().fit(points)

    monkeypatch.setattr(clusters, "KMeans", Watched)
    with threadpool_limits(4, "openmp"):
        choose_n_clusters(blobs([9, 9]), 3)
    assert set(seen) == {1}


def test_silhouette_of_a_subset_is_stratified_seeded_and_close(monkeypatch):
    points = blobs([600, 300, 90, 10])
    exact = choose_n_clusters(points, 6)
    monkeypatch.setattr(clusters, "MAX_EXACT_SILHOUETTE", 500)
    monkeypatch.setattr(clusters, "SILHOUETTE_SAMPLE_SIZE", 200)
    drawn = []

    def record(points, labelings, rows):
        drawn.append(rows)
        return mean_silhouettes(points, labelings, rows)

    monkeypatch.setattr(clusters, "mean_silhouettes", record)
    sampled = choose_n_clusters(points, 6)
    assert (exact.silhouette_sample_size, sampled.silhouette_sample_size) == (1000, 200)
    assert sampled.silhouettes == pytest.approx(exact.silhouettes, abs=0.03)
    assert sampled.n_clusters == exact.n_clusters == 4
    groups = np.searchsorted([600, 900, 990], drawn[0], side="right")
    assert np.abs(np.bincount(groups) - [120, 60, 18, 2]).max() <= 2
    assert choose_n_clusters(points, 6).silhouettes == sampled.silhouettes
    np.testing.assert_array_equal(drawn[0], drawn[1])


def test_silhouette_subset_depends_on_the_seed_alone(monkeypatch):
    monkeypatch.setattr(clusters, "MAX_EXACT_SILHOUETTE", 50)
    monkeypatch.setattr(clusters, "SILHOUETTE_SAMPLE_SIZE", 20)
    labels = np.arange(100) % 4
    subsets = [clusters._silhouette_rows(labels, random_state).tolist() for random_state in (0, 0, 1)]
    assert subsets[0] == subsets[1] != subsets[2]
    assert [np.bincount(labels[rows]).tolist() for rows in subsets] == [[5] * 4] * 3


def test_mean_silhouettes_worked_out_by_hand():
    # Clusters {0, 1} and {5} on a line: 1 - 1/5, 1 - 1/4, and 0 for the one that is alone.
    points, labels = np.array([[0.0], [1.0], [5.0]]), np.array([0, 0, 1])
    assert mean_silhouettes(points, [labels], np.arange(3)) == pytest.approx([(0.8 + 0.75 + 0) / 3])
    assert mean_silhouettes(points, [labels, 1 - labels], np.array([1])) == pytest.approx([0.75, 0.75])


@pytest.mark.parametrize("max_exact", [20_000, 100])
@pytest.mark.parametrize("kind", ["blobs", "noise", "few distinct"])
def test_clusterings_asked_for_several_budgets_equal_those_found_anew(monkeypatch, max_exact, kind):
    monkeypatch.setattr(clusters, "MAX_EXACT_SILHOUETTE", max_exact)
    monkeypatch.setattr(clusters, "SILHOUETTE_SAMPLE_SIZE", 80)
    noise = np.random.default_rng(1).normal(size=(120, 2))
    points = {"blobs": blobs([50, 10, 45, 15]), "noise": noise, "few distinct": np.repeat(noise[:6], 20, axis=0)}[kind]
    kept = Clusterings(points, k_max=9, random_state=2)
    for budget in (120, 1, 5, 3, 9, 2, 7, 120):
        found, anew = kept.choose(budget), choose_n_clusters(points, budget, k_max=9, random_state=2)
        assert found.silhouettes == anew.silhouettes
        assert found.silhouette_sample_size == anew.silhouette_sample_size
        np.testing.assert_array_equal(found.labels, anew.labels)


def test_clusterings_compute_nothing_twice(monkeypatch):
    kept = Clusterings(blobs([50, 10, 45, 15]), k_max=9, random_state=2)
    kept.choose(120)
    for name in ("_k_means", "mean_silhouettes"):
        monkeypatch.setattr(clusters, name, lambda *_, name=name: pytest.fail(f"{name} was called again"))
    assert kept.choose(5).n_clusters == kept.choose(120).n_clusters == 4


def test_mean_silhouettes_of_coincident_clusters_is_zero():
    assert mean_silhouettes(np.ones((4, 2)), [np.array([0, 0, 1, 1])], np.arange(4)) == [0.0]


@pytest.mark.parametrize("n_dims", [2, 100])
def test_mean_silhouettes_equal_scikit_learn_across_chunks(monkeypatch, n_dims):
    monkeypatch.setattr("coldstart.selection._distances.CHUNK_BYTES", 8 * 300 * 7)
    generator = np.random.default_rng(0)
    points = generator.normal(size=(300, n_dims))
    labelings = [np.append(np.arange(k), generator.integers(0, k, size=300 - k)) for k in (2, 5, 9)]
    expected = [silhouette_score(points, labels) for labels in labelings]
    assert mean_silhouettes(points, labelings, np.arange(300)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 0}, "`budget` must be between 1 and the 4 images of the pool; got budget=0. Raise --conf budget."),
        ({"budget": 5}, "`budget` must be between 1 and the 4 images of the pool; got budget=5. Lower --conf budget."),
        ({"budget": True}, "`budget` must be an integer; got True."),
        ({"k_max": 0}, "`k_max` must be at least 1; got k_max=0."),
        ({"random_state": -1}, "`random_state` must be between 0 and 4294967295; got random_state=-1."),
        ({"random_state": None}, "`random_state` must be an integer; got None."),
        ({"points": [[np.nan, 0]]}, "`points` must be finite"),
    ],
)
def test_choose_n_clusters_refuses_bad_input(arguments, message):
    given = {"points": [[0, 0], [1, 1], [2, 2], [3, 3]], "budget": 3} | arguments
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        choose_n_clusters(given.pop("points"), given.pop("budget"), **given)
