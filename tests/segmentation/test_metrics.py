import math

import numpy as np
import pytest

from coldstart.segmentation.metrics import class_score, diagonal, image_dice


def mask(shape, *points):
    result = np.zeros(shape, dtype=bool)
    for point in points:
        result[point] = True
    return result


def test_dice_by_hand():
    # 2 * 2 / (4 + 3)
    first, second = np.zeros((6, 6), bool), np.zeros((6, 6), bool)
    first[1, 1:5] = True
    second[1, 3:6] = True
    assert class_score(first, second, (1, 1)).dice == pytest.approx(4 / 7)


@pytest.mark.parametrize(
    ("spacing", "expected"), [((1, 1), 5.0), ((2, 0.5), math.hypot(6, 2)), ((1, 2), math.hypot(3, 8))]
)
def test_distance_of_two_pixels_by_hand(spacing, expected):
    # three rows and four columns apart
    score = class_score(mask((9, 9), (2, 2)), mask((9, 9), (5, 6)), spacing)
    assert score.hd95 == pytest.approx(expected)
    assert score.dice == 0
    assert score.in_prediction
    assert score.in_label


def test_distance_of_two_voxels_by_hand():
    score = class_score(mask((5, 5, 5), (0, 1, 1)), mask((5, 5, 5), (1, 3, 4)), (3, 2, 1))
    assert score.hd95 == pytest.approx(math.sqrt(3**2 + 4**2 + 3**2))


def test_95th_percentile_passes_over_a_few_outliers():
    # 100 boundary pixels that agree and 4 far away: those are 4 of 104, beyond the percentile; 10 of 110 are not
    label = np.zeros((60, 120), bool)
    label[5, 10:110] = True
    few, many = label.copy(), label.copy()
    few[45, 10:14] = True
    many[45, 10:20] = True
    assert class_score(few, label, (1, 1)).hd95 == 0
    assert class_score(many, label, (1, 1)).hd95 == pytest.approx(40)


def test_larger_of_the_two_directions_counts():
    label = np.zeros((40, 40), bool)
    label[5, 5:15] = True
    more = label.copy()
    more[30, 5:15] = True
    assert class_score(more, label, (1, 1)).hd95 == class_score(label, more, (1, 1)).hd95 == 25


def test_identical_masks_are_perfect():
    square = np.zeros((20, 20), bool)
    square[4:9, 6:15] = True
    score = class_score(square, square, (0.7, 0.7))
    assert (score.dice, score.hd95) == (1, 0)


def test_shifted_square_by_hand():
    # 10 x 10 moved by 3: 70 of 100 in common; every boundary pixel is at most 3 from the other boundary
    square = np.zeros((30, 30), bool)
    square[10:20, 10:20] = True
    score = class_score(np.roll(square, 3, axis=1), square, (1, 2))
    assert score.dice == pytest.approx(0.7)
    assert score.hd95 == pytest.approx(6)


def test_masks_that_fill_the_image_are_perfect():
    full = np.ones((6, 6), bool)
    assert class_score(full, full, (1, 1)).hd95 == 0


def test_both_empty_is_perfect_and_said():
    score = class_score(mask((4, 5)), mask((4, 5)), (1, 1))
    assert (score.dice, score.hd95, score.in_prediction, score.in_label) == (1, 0, False, False)


@pytest.mark.parametrize("prediction_is_empty", [True, False])
def test_one_empty_counts_as_the_diagonal(prediction_is_empty):
    pair = (mask((4, 5)), mask((4, 5), (0, 0)))
    score = class_score(*(pair if prediction_is_empty else pair[::-1]), (2, 0.5))
    assert score.dice == 0
    assert score.hd95 == pytest.approx(math.hypot(3 * 2, 4 * 0.5))
    assert score.in_prediction is not prediction_is_empty
    assert score.in_label is prediction_is_empty


def test_no_distance_exceeds_the_diagonal():
    corners = class_score(mask((7, 9), (0, 0)), mask((7, 9), (6, 8)), (1.5, 2))
    assert corners.hd95 == pytest.approx(diagonal((7, 9), (1.5, 2)))


def test_image_dice_by_hand():
    # foreground 3 and 4 pixels, of which 2 are the same class
    prediction = np.array([[1, 1, 2, 0, 0]])
    label = np.array([[1, 2, 2, 2, 0]])
    assert image_dice(prediction, label) == pytest.approx(2 * 2 / (3 + 4))
    assert image_dice(label * 0, label) == 0
    assert image_dice(label * 0, label * 0) == 1
