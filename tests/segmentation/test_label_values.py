import numpy as np
import pytest
from segmentation_helpers import set_spacing, write

from coldstart.exceptions import InvalidInputError, LabelError
from coldstart.images import read_image
from coldstart.segmentation import check_label_file, class_names, map_values, value_of_class

PRESET = {"background": 0, "lung": 1, "heart": 5, "Clavicle": 3}


def info(**idx_of_name):
    return [{"name": name, "idx": idx} for name, idx in idx_of_name.items()]


def test_classes_are_numbered_in_the_presets_order_without_the_background():
    assert class_names(PRESET) == ("lung", "heart", "Clavicle")
    assert value_of_class(PRESET) == (0, 1, 5, 3)


@pytest.mark.parametrize("preset", [{"a": 1, "b": 1}, {"a": -1}])
def test_preset_with_unusable_values_is_refused(preset):
    with pytest.raises(InvalidInputError, match="must each have their own value, 1 or above"):
        class_names(preset)


@pytest.mark.parametrize(
    ("values", "label_info", "expected"),
    [
        ([0, 1, 5], None, {1: 1, 5: 2}),  # the preset's numbers
        ([0, 1, 5], [], {1: 1, 5: 2}),
        ([0, 1, 2], info(heart=1, lung=2), {1: 2, 2: 1}),  # by name, not by number
        ([0, 5], info(lung=5), {5: 1}),
        ([0, 1], info(lung=1, heart=2, spleen=9), {1: 1}),  # names of absent values do not matter
        ([0, 1, 2], info(HEART=1, clavicle=2), {1: 2, 2: 3}),
        ([0, 1], info(**{" Lung ": 1}), {1: 1}),
        ([0, 1, 7], info(heart=7), {1: 1, 7: 2}),  # what is not said comes from the preset
        ([0, 1, 4], [{"name": "lung", "idx": 1}, {"name": "lung", "idx": 4}], {1: 1, 4: 1}),
        ([0, 2], info(background=2), {2: 0}),
        ([0, 1], info(lung=1, heart=0), {1: 1}),  # 0 is the background, whatever is said
        ([0, 1], [{"name": "lung", "id": 1}], {1: 1}),
        ([0, 1], [{"name": "lung", "idx": "1", "color": [1, 2]}], {1: 1}),
        ([np.uint8(0), np.uint8(1)], None, {1: 1}),
        ([0], info(lung=1), {}),
        ([0], None, {}),
        ([], None, {}),
    ],
)
def test_values_get_their_class(values, label_info, expected):
    assert map_values(values, label_info, PRESET) == expected


def test_exact_name_wins_over_one_that_differs_in_case():
    preset = {"Node": 1, "node": 2}
    assert map_values([1, 2], info(node=1, Node=2), preset) == {1: 2, 2: 1}


@pytest.mark.parametrize(
    ("values", "label_info", "sentence"),
    [
        ([0, 2], None, r"holds the value 2, which neither .* explain \(lung = 1, heart = 5, Clavicle = 3\)"),
        ([0, 2, 9, 1], info(lung=1), "holds the values 2, 9, which neither"),
        ([0, 1], info(spleen=1), r"calls the value 1 'spleen', which is not among .* \(lung, heart, Clavicle\)"),
        ([0, 1, 2], info(lung=2, heart=3), "value 1 without a name.*'lung', was given to the value 2"),
        ([0, 1], info(LUNG=2), "value 1 without a name.*'lung', was given to the value 2"),
        (
            [0, 1],
            [{"name": "lung", "idx": 1}, {"name": "heart", "idx": 1}],
            "value 1 has two names, 'lung' and 'heart'",
        ),
        ([0, 1], [{"name": "lung"}], r"Each entry of `label_info` must be .* got \{'name': 'lung'\}"),
        ([0, 1], [{"name": "lung", "idx": 1.5}], "Each entry of `label_info` must be"),
        ([0, 1], [{"name": "", "idx": 1}], "Each entry of `label_info` must be"),
        ([0, 1], [{"name": "lung", "idx": True}], "Each entry of `label_info` must be"),
        ([0, 1], ["lung"], "Each entry of `label_info` must be .* got 'lung'"),
    ],
)
def test_values_without_one_meaning_are_refused(values, label_info, sentence):
    with pytest.raises(LabelError, match=sentence):
        map_values(values, label_info, PRESET)


class TestCheckLabelFile:
    @pytest.fixture
    def geometry(self, tmp_path):
        image = np.random.default_rng(0).integers(0, 255, (12, 16)).astype(np.uint8)
        return read_image(write(image, tmp_path / "image.png")).geometry

    def test_values_are_mapped(self, tmp_path, geometry):
        values = np.zeros((12, 16), np.uint8)
        values[2:4], values[6:8] = 1, 2
        path = write(values, tmp_path / "l.png")
        assert check_label_file(path, geometry, info(heart=1, lung=2), PRESET) == {1: 2, 2: 1}

    def test_empty_label_is_valid(self, tmp_path, geometry):
        path = write(np.zeros((12, 16), np.uint8), tmp_path / "l.png")
        assert check_label_file(path, geometry, None, PRESET) == {}

    def test_other_size_is_refused(self, tmp_path, geometry):
        path = write(np.zeros((16, 12), np.uint8), tmp_path / "l.png")
        with pytest.raises(LabelError, match=r"label has 16 x 12 pixels .*, while its image has 12 x 16"):
            check_label_file(path, geometry, None, PRESET)

    def test_other_geometry_is_refused(self, tmp_path):
        volume = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
        image = read_image(write(volume, tmp_path / "i.nii.gz"))
        path = write(np.zeros((8, 8, 8), np.uint8), tmp_path / "l.nii.gz")
        set_spacing(path, (1, 1, 2))
        with pytest.raises(LabelError, match=r"spacing.* 1 x 1 x 2 mm"):
            check_label_file(path, image.geometry, None, PRESET)

    def test_unknown_value_is_refused(self, tmp_path, geometry):
        path = write(np.full((12, 16), 77, np.uint8), tmp_path / "l.png")
        with pytest.raises(LabelError, match="holds the value 77, which neither"):
            check_label_file(path, geometry, info(lung=1), PRESET)

    def test_unreadable_file_is_refused(self, tmp_path, geometry):
        path = tmp_path / "l.png"
        path.write_bytes(b"nothing")
        with pytest.raises(LabelError, match=r"l.png cannot be used"):
            check_label_file(path, geometry, None, PRESET)
