import copy

import numpy as np
import pytest
import torch
from segmentation_helpers import image_of

from coldstart.exceptions import ImageError, InvalidInputError
from coldstart.images import read_image, read_label
from coldstart.scoring import batch_entropy
from coldstart.segmentation import (
    Model,
    build_network,
    faster,
    infer,
    predict_prepared,
    predict_probabilities,
    predict_with_dropout,
    prepare_image,
    segment,
)
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


def test_faster_form_predicts_the_same_and_leaves_the_model(disk_model, images):
    before = copy.deepcopy(disk_model.network.state_dict())
    expected = predict_probabilities(disk_model, images)
    quick = faster(disk_model)
    np.testing.assert_allclose(predict_probabilities(quick, images), expected, atol=1e-5)
    assert expected.std() > 0.1
    assert np.array_equal(predict_probabilities(disk_model, images), expected)
    after = disk_model.network.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert (quick.version, quick.config) == (disk_model.version, disk_model.config)


def test_faster_form_of_a_2d_network_lies_channels_last(disk_model):
    weights = faster(disk_model).network.state_dict()
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in weights.values() if value.ndim == 4)


def test_faster_form_of_a_network_in_training_predicts(disk_model, images):
    training = Model(copy.deepcopy(disk_model.network).train(), disk_model.metadata)
    np.testing.assert_allclose(
        predict_probabilities(faster(training), images), predict_probabilities(disk_model, images), atol=1e-5
    )
    assert training.network.training


def test_large_batches_go_through_in_parts_on_a_cpu(disk_model, images, monkeypatch):
    inputs = [prepare_image(image, disk_model.config) for image in images]
    expected = predict_prepared(disk_model, inputs)
    sizes = []
    monkeypatch.setattr(infer, "CPU_PIXELS", 2 * 32 * 32 + 1)
    with disk_model.network.register_forward_pre_hook(lambda _layer, batch: sizes.append(len(batch[0]))):
        torch.testing.assert_close(predict_prepared(disk_model, inputs), expected, atol=1e-5, rtol=0)
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize("pixels", [1, 10**6])
def test_parts_have_no_effect_on_what_is_dropped(small_config, images, monkeypatch, pixels):
    config = small_config(dropout=0.4)
    model = Model(build_network(config), {"config": config.to_dict()})
    inputs = [prepare_image(image, config) for image in images]
    expected = torch.stack(list(predict_with_dropout(model, inputs, n_draws=3)))
    monkeypatch.setattr(infer, "CPU_PIXELS", pixels)
    found = torch.stack(list(predict_with_dropout(model, inputs, n_draws=3)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("quick", [False, True])
def test_mixed_precision_on_a_gpu_is_near_float32_on_the_cpu(disk_model, images, quick):
    expected = predict_probabilities(disk_model, images)
    model = Model(copy.deepcopy(disk_model.network).cuda(), disk_model.metadata)
    found = predict_prepared(
        faster(model) if quick else model, [prepare_image(image, model.config) for image in images]
    )
    assert found.is_cuda
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.cpu().numpy(), expected, atol=2e-2)


def test_half_precision_moves_an_images_entropy_by_less_than_a_thousandth(disk_model, disks, monkeypatch):
    """What autocast does on a GPU, done on the CPU: the tolerance that mixed precision is used with."""
    inputs = [prepare_image(read_image(sample.image), disk_model.config) for sample in disks]
    expected = batch_entropy(predict_prepared(disk_model, inputs))
    for model in (disk_model, faster(disk_model)):
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.float16):
            logits = model.network(torch.stack(inputs))
        assert logits.dtype == torch.float16
        found = batch_entropy(torch.softmax(logits.float(), dim=1))
        assert np.abs(found - expected).max() < 1e-3
        assert np.abs(found - expected).max() > 0
    assert np.ptp(expected) > 0.02
