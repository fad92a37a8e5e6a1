"""The Dice in the middle of a training: what it is, when it is told, and that the training does not notice."""

import numpy as np
import pytest
import torch
from segmentation_helpers import write

from coldstart.segmentation import Sample, build_network, evaluate, train
from coldstart.segmentation.validation import N_IMAGES, Validation, class_mean_dice

CPU = torch.device("cpu")


def on_the_networks_grid(disks, folder) -> list[Sample]:
    """Images and labels of the network's own size: there the validation and `evaluate` see the same pixels."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:32, :32]
    samples = []
    for i in range(4):
        disk = ((rows - rng.uniform(10, 22)) ** 2 + (columns - rng.uniform(10, 22)) ** 2 < 36).astype(np.uint8)
        pixels = (60 + 80 * disk + rng.normal(0, 15, disk.shape)).clip(0, 255).astype(np.uint8)
        image, label = write(pixels, folder / f"g{i}.png"), write(disk * 7, folder / f"m{i}.png")
        samples.append(Sample(f"g{i}", image, label, {7: 1}))
    return samples


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("listens", [False, True])
def test_validation_leaves_weights_statistics_and_losses_as_they_are_to_the_last_bit(
    disks, small_config, dropout, listens
):
    config = small_config(epochs=12, dropout=dropout)
    on_epoch = (lambda report: None) if listens else None
    alone = train(disks[:3], config, on_epoch=on_epoch)
    judged = train(disks[:3], config, on_epoch=on_epoch, validation=disks[5:8])
    assert judged.metadata["losses"] == alone.metadata["losses"]
    weights, others = alone.network.state_dict(), judged.network.state_dict()
    assert weights.keys() == others.keys() and any("running_var" in key for key in weights)
    assert all(torch.equal(weights[key], others[key]) for key in weights)
    assert judged.version.split("-")[1] == alone.version.split("-")[1], "the hash of weights, config and images"
    assert alone.metadata["validation"] is None and len(judged.metadata["validation"]["dice"]) == 6


def test_validation_leaves_a_training_on_volumes_as_it_is(balls, small_config):
    config = small_config(label_names=("ball",), spatial_dims=3, spatial_size=(32, 32, 32), epochs=2)
    alone, judged = train(balls[:2], config), train(balls[:2], config, validation=balls[2:])
    assert judged.metadata["losses"] == alone.metadata["losses"]
    weights, others = alone.network.state_dict(), judged.network.state_dict()
    assert all(torch.equal(weights[key], others[key]) for key in weights)


def test_last_dice_is_that_of_the_model(disks, small_config, tmp_path):
    held_out = on_the_networks_grid(disks, tmp_path)
    model = train(disks[:6], small_config(epochs=10), validation=held_out)
    validation = model.metadata["validation"]
    assert sorted(validation["images"]) == ["g0", "g1", "g2", "g3"]
    assert validation["dice"]["10"] == pytest.approx(evaluate(model, held_out).dice)
    assert validation["dice"]["10"] > validation["dice"]["1"] != 0


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(1, [1]), (4, [1, 2, 3, 4]), (15, [2, 4, 6, 8, 10, 12, 14, 15]), (120, list(range(12, 121, 12)))],
)
def test_network_is_judged_every_tenth_of_the_epochs_and_at_the_last(disks, small_config, epochs, expected):
    validation = Validation(disks[:1], small_config(epochs=epochs))
    assert [epoch for epoch in range(1, epochs + 1) if validation.is_due(epoch)] == expected


def test_dice_is_reported_in_its_epochs_and_kept_by_them(disks, small_config):
    reports = []
    model = train(disks[:1], small_config(epochs=15), on_epoch=reports.append, validation=disks[5:7])
    told = {str(report.epoch): report.dice for report in reports if report.dice is not None}
    assert told == model.metadata["validation"]["dice"]
    assert list(told) == ["2", "4", "6", "8", "10", "12", "14", "15"]


def test_few_images_are_taken_and_most_stay_when_others_come(disks, small_config):
    def chosen(samples):
        return set(Validation(samples, small_config()).image_ids)

    few = chosen(disks[:10])
    assert len(few) == N_IMAGES == len(chosen(disks))
    assert chosen(list(reversed(disks[:10]))) == few
    assert chosen(disks[:11]) - few <= {"disk10"}


def test_without_a_usable_image_there_is_no_dice(disks, small_config, tmp_path, caplog):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    broken = Sample("broken", tmp_path / "broken.png", disks[0].label, {7: 1})
    reports = []
    model = train(disks[:1], small_config(), on_epoch=reports.append, validation=[broken])
    assert model.metadata["validation"] is None
    assert [report.dice for report in reports] == [None, None]
    assert "broken is left out of the validation" in caplog.text


def test_validation_that_runs_out_of_memory_does_not_end_the_training(disks, small_config, monkeypatch, caplog):
    config = small_config(epochs=3)
    alone = train(disks[:2], config)

    def lacks(self, network, device, row):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(Validation, "_dice", lacks)
    model = train(disks[:2], config, validation=disks[5:6])
    assert model.metadata["losses"] == alone.metadata["losses"] and model.metadata["validation"] is None
    assert "The memory is not enough to judge the model now; the training goes on without." in caplog.text


def test_judging_an_untrained_network_leaves_it_in_training(disks, small_config):
    network = build_network(small_config()).train()
    dice = Validation(disks[:2], small_config()).dice(network, CPU)
    assert 0 <= dice <= 1 and all(module.training for module in network.modules())


def test_dice_of_classes_by_hand():
    label = np.array([[0, 1, 1, 2]])
    prediction = np.array([[0, 1, 2, 2]])
    # class 1: 2 * 1 / (1 + 2); class 2: 2 * 1 / (2 + 1); class 3 is in neither; class 4 does not exist
    assert class_mean_dice(prediction, label, 4) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert class_mean_dice(0 * label, label, 3) == 0
    assert class_mean_dice(0 * label, 0 * label, 2) == 1
