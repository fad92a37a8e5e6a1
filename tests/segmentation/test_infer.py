import numpy as np
import pytest
import torch
from segmentation_helpers import image_of

from coldstart.exceptions import ImageError, InvalidInputError
from coldstart.images import read_image, read_label
from coldstart.segmentation import predict_prepared, predict_probabilities, prepare_image, segment
from coldstart.segmentation.metrics import image_dice


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [image_of(rng.normal(size=(1, 30 + 5 * i, 60 - 5 * i))) for i in range(5)]


def test_probabilities_are_a_softmax_on_the_networks_grid(disk_model, images):
    result = predict_probabilities(disk_model, images)
    assert result.shape == (5, 2, 32, 32)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.sum(axis=1), 1, atol=1e-6)
    assert result.min() >= 0


def test_one_by_one_equals_all_at_once(disk_model, images):
    expected = predict_probabilities(disk_model, images, batch_size=5)
    for batch_size in (1, 2, 16):
        np.testing.assert_allclose(
            predict_probabilities(disk_model, images, batch_size=batch_size), expected, atol=1e-5
        )


def test_prepared_and_unprepared_predictions_are_equal(disk_model, images):
    inputs = [prepare_image(image, disk_model.config) for image in images]
    prepared = predict_prepared(disk_model, inputs)
    assert prepared.device == disk_model.device
    np.testing.assert_array_equal(prepared.numpy(), predict_probabilities(disk_model, images))


def test_prediction_is_in_evaluation_mode_and_draws_nothing(disk_model, images):
    disk_model.network.train()
    torch.manual_seed(0)
    first = predict_probabilities(disk_model, images)
    assert np.array_equal(first, predict_probabilities(disk_model, images))
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    predict_probabilities(disk_model, images)
    assert torch.equal(torch.rand(2), expected)


def test_no_image_gives_no_prediction(disk_model):
    assert predict_probabilities(disk_model, []).shape == (0, 2, 32, 32)


def test_batch_size_below_one_is_refused(disk_model, images):
    with pytest.raises(InvalidInputError, match="`batch_size` must be at least 1; got 0"):
        predict_probabilities(disk_model, images, batch_size=0)


def test_segmentation_lies_on_the_images_own_grid(disk_model, disks):
    image, label = read_image(disks[12].image), read_label(disks[12].label).values
    result = segment(disk_model, image)
    assert result.shape == label.shape == (40, 48)
    assert result.dtype == np.uint8
    assert image_dice(result, label != 0) > 0.9
    # in place, not only in shape
    assert image_dice(result[::-1], label != 0) < 0.9 or abs(np.argwhere(label).mean(axis=0)[0] - 19.5) < 1


def test_volume_for_a_2d_model_is_refused(disk_model):
    with pytest.raises(ImageError, match="segments 2D images; this one is 3D"):
        segment(disk_model, image_of(np.random.default_rng(0).normal(size=(1, 8, 8, 8))))
