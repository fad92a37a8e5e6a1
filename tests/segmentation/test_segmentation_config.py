import json

import pytest

from coldstart.exceptions import InvalidInputError
from coldstart.segmentation import TrainingConfig

PAPER = (32, 64, 128, 256, 512)


def test_config_survives_json(small_config):
    config = small_config(intensity_range=(-200.0, 300.0), dropout=0.1)
    assert TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_number_of_classes_counts_the_background(small_config):
    assert small_config(label_names=("a", "b")).n_classes == 3


@pytest.mark.parametrize("size", [(32, 32), (48, 32), (256, 256)])
def test_spatial_size_that_halves_four_times_is_accepted(small_config, size):
    assert small_config(channels=PAPER, spatial_size=size).spatial_size == size


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"label_names": ()}, r"`label_names` must hold at least one name.*got \(\)"),
        ({"label_names": ("a", " ")}, "`label_names` must hold at least one name, none of them empty"),
        ({"label_names": ("a", "a")}, "`label_names` must all differ"),
        ({"spatial_dims": 4}, "`spatial_dims` must be 2 or 3; got 4"),
        ({"spatial_size": (32, 32, 32)}, "`spatial_size` must have 2 numbers, one for each axis; got 3"),
        (
            {"channels": PAPER, "spatial_size": (16, 32)},
            r"at least 32 and a multiple of 16.*got \(16, 32\).*works is \(32, 32\)",
        ),
        ({"channels": PAPER, "spatial_size": (40, 100)}, r"multiple of 16.*got \(40, 100\).*works is \(32, 96\)"),
        ({"channels": (8,)}, "`channels` must hold at least 2 levels"),
        ({"intensity_range": (5.0, 5.0)}, r"`intensity_range` must be \(lowest, highest\)"),
        ({"epochs": 0}, "`epochs` must be at least 1; got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1; got 0"),
        ({"learning_rate": 0.0}, "`learning_rate` must be above 0"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be above 0"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\); got 1.0"),
        ({"random_state": -1}, "`random_state` must be 0 or above; got -1"),
    ],
)
def test_bad_value_is_named(small_config, changes, sentence):
    with pytest.raises(InvalidInputError, match=sentence):
        small_config(**changes)
