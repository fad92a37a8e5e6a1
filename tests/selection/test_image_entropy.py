import re
from math import log

import numpy as np
import pytest

from coldstart.exceptions import InvalidInputError
from coldstart.selection import image_entropy


def test_image_entropy_of_even_odds_is_the_logarithm_of_the_number_of_classes():
    assert image_entropy(np.full((4, 3, 5), 0.25)) == pytest.approx(log(4), abs=1e-7)


def test_image_entropy_of_certainty_is_zero():
    certain = np.zeros((3, 4, 4, 2))
    certain[1] = 1
    assert image_entropy(certain) == pytest.approx(0, abs=1e-7)


def test_image_entropy_worked_out_by_hand():
    # Two pixels: (1, 0) with none, (0.5, 0.5) with ln 2.
    assert image_entropy([[1.0, 0.5], [0.0, 0.5]]) == pytest.approx(log(2) / 2, abs=1e-7)


def test_image_entropy_follows_equations_5_and_6_to_the_epsilon():
    p = [[0.7, 0.2, 1.0], [0.3, 0.8, 0.0]]
    eps = 1e-3
    expected = sum(-p[c][u] * log(p[c][u] + eps) for c in range(2) for u in range(3)) / 3
    assert image_entropy(p, eps=eps) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("spatial", [(7,), (8, 9), (4, 5, 6)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_image_entropy_equals_the_mean_over_pixels(spatial, dtype):
    logits = np.random.default_rng(0).normal(size=(5, *spatial)) * 3
    softmax = (np.exp(logits) / np.exp(logits).sum(axis=0)).astype(dtype)
    pixels = softmax.astype(float).reshape(5, -1).T.tolist()
    expected = sum(-sum(p * log(p + 1e-8) for p in pixel) for pixel in pixels) / len(pixels)
    assert image_entropy(softmax) == pytest.approx(expected, rel=1e-12)


def test_image_entropy_does_not_depend_on_the_order_of_pixels_or_classes():
    softmax = np.random.default_rng(1).dirichlet([1, 2, 3], size=(6, 6)).transpose(2, 0, 1)
    assert image_entropy(softmax[::-1, :, ::-1]) == pytest.approx(image_entropy(softmax), rel=1e-14)


def test_image_entropy_leaves_its_input_alone():
    softmax = np.full((2, 3, 3), 0.5)
    softmax.flags.writeable = False
    assert type(image_entropy(softmax)) is float


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([0.5, 0.5], "with at least 2 classes and 1 pixel; got dtype float64, shape (2,)."),
        (np.ones((1, 4, 4)), "with at least 2 classes and 1 pixel; got dtype float64, shape (1, 4, 4)."),
        (np.ones((2, 0, 4)), "with at least 2 classes and 1 pixel; got dtype float64, shape (2, 0, 4)."),
        ([["a", "b"], ["c", "d"]], "`probabilities` must be numbers of shape (n_classes, *spatial)"),
        ([[0.5, np.nan], [0.5, 0.5]], "`probabilities` must be finite and not negative; got values from nan to nan."),
        ([[1.2, 1.0], [-0.2, 0.0]], "`probabilities` must be finite and not negative; got values from -0.2 to 1.2."),
        ([[0.9, 0.5], [0.8, 0.5]], "`probabilities` must sum to 1 over the classes in each pixel; got sums from 1 to"),
        ([[0.4, 0.5], [0.4, 0.5]], "got sums from 0.8 to 1. Apply a softmax over all classes, background included."),
    ],
)
def test_image_entropy_refuses_what_is_no_softmax(probabilities, message):
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        image_entropy(probabilities)


@pytest.mark.parametrize("eps", [0, -1e-8])
def test_image_entropy_refuses_an_epsilon_that_does_not_help(eps):
    with pytest.raises(InvalidInputError, match=r"`eps` must be above 0; got eps="):
        image_entropy([[0.5], [0.5]], eps=eps)
