"""Principal components, worked out by hand and beside scikit-learn."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from coldstart.projection.pca import fit_components


def test_components_of_a_cross() -> None:
    # Along x the spread is 3, along y 1; the mean is (10, 20).
    vectors = np.array([[7.0, 20], [13, 20], [10, 19], [10, 21]])

    pca = fit_components(vectors, 2)

    assert pca.mean.tolist() == [10, 20]
    assert pca.components == pytest.approx(np.eye(2))
    assert pca.transform(np.array([[12.0, 17]])) == pytest.approx(np.array([[2, -3]]))


def test_sign_is_fixed_by_the_largest_entry() -> None:
    vectors = np.outer([-1.0, 0, 1], [0.6, -0.8])

    assert fit_components(vectors, 1).components == pytest.approx(np.array([[-0.6, 0.8]]))
    assert fit_components(-vectors, 1).components == pytest.approx(np.array([[-0.6, 0.8]]))


@pytest.mark.parametrize("shape", [(30, 8), (8, 30), (12, 12)])
def test_points_are_those_of_scikit_learn(shape: tuple[int, int]) -> None:
    vectors = np.random.default_rng(0).normal(size=shape) * np.linspace(3, 1, shape[1]) + 7
    expected = PCA(5, svd_solver="full").fit_transform(vectors)

    points = fit_components(vectors, 5).transform(vectors)

    signs = np.sign((points * expected).sum(axis=0))
    assert np.allclose(points, expected * signs)


def test_components_stop_where_the_vectors_span_no_more() -> None:
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(20, 2)) @ rng.normal(size=(2, 9)) + 0.1

    assert len(fit_components(plane, 5).components) == 2
    assert len(fit_components(plane[:7], 5).components) == 2
    assert len(fit_components(np.full((6, 4), 0.1), 5).components) == 0
    assert len(fit_components(np.ones((1, 4)), 5).components) == 0


def test_a_row_alone_lands_where_it_lands_among_others() -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 300))
    pca = fit_components(vectors, 50)

    assert np.array_equal(pca.transform(vectors[7:8]), pca.transform(vectors)[7:8])
