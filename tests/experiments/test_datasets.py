"""Datasets of a benchmark: pairs of files, what is left out, and the split into pool and test set."""

from pathlib import Path

import numpy as np
import pytest
from bench_case import write_dataset, write_pair, write_picture

from coldstart.exceptions import InvalidInputError
from coldstart.experiments.datasets import Dataset, list_left_out, read_dataset, read_groups, split
from coldstart.segmentation import Sample


def read(folder: Path, **options: object) -> Dataset:
    return read_dataset("tiny", folder / "images", folder / "labels", **options)  # type: ignore[arg-type]


def of_size(n: int, groups: tuple[str, ...] | None = None) -> Dataset:
    names = [f"case_{number:03d}" for number in range(n)]
    samples = tuple(Sample(name, Path(name), Path(name), {1: 1}) for name in names)
    return Dataset("d", samples, groups or tuple(names), ("a",), 2, (32, 32), {}, "digest")


def test_images_and_labels_are_paired_by_name_whatever_the_suffix(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, 2)
    write_pair(folder, "other", 7, suffix=".nrrd")
    (folder / "labels" / "other.nrrd").rename(folder / "labels" / "OTHER.tmp")
    write_picture(np.eye(32, dtype=np.uint8), folder / "labels" / "other.png")
    (folder / "images" / "notes.txt").write_text("not an image")
    (folder / "images" / "._case_00.png").write_bytes(b"of another system")
    dataset = read(folder)
    assert [sample.image_id for sample in dataset.samples] == ["case_00", "case_01", "other"]
    assert dataset.samples[2].image.name == "other.nrrd"
    assert dataset.samples[2].label.name == "other.png"
    assert dataset.left_out == {}


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, 4)
    (folder / "labels" / "case_00.png").unlink()
    (folder / "images" / "case_01.png").write_bytes(b"\x89PNG broken")
    write_picture(np.ones((16, 16), np.uint8), folder / "labels" / "case_02.png")
    write_picture(np.ones((32, 32), np.uint8), folder / "labels" / "alone.png")
    dataset = read(folder)
    assert [sample.image_id for sample in dataset.samples] == ["case_03"]
    assert dataset.left_out["case_00"] == "it has no label"
    assert "case_01.png" in dataset.left_out["case_01"]
    assert "16" in dataset.left_out["case_02"]
    assert dataset.left_out["alone"] == "the label has no image"


def test_many_reasons_are_told_in_few_sentences() -> None:
    left_out = {f"case_{number}": "it has no label" for number in range(5)} | {"x": "it is 3D"}
    assert list_left_out(left_out) == ["case_0, case_1, case_2 and 2 more: it has no label", "x: it is 3D"]


def test_structures_are_the_values_that_occur_where_nobody_named_them(tmp_path: Path) -> None:
    dataset = read(write_dataset(tmp_path, 3))
    assert dataset.label_names == ("label 1", "label 2")
    assert dataset.samples[0].class_of_value == {1: 1, 2: 2}


def test_named_structures_give_the_classes_their_order(tmp_path: Path) -> None:
    dataset = read(write_dataset(tmp_path, 3), structures={"dot": 2, "disc": 1})
    assert dataset.label_names == ("dot", "disc")
    assert dataset.samples[0].class_of_value == {2: 1, 1: 2}


def test_a_label_with_a_value_that_is_not_named_is_left_out(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, 3)
    write_picture(np.full((32, 32), 9, np.uint8), folder / "labels" / "case_01.png")
    assert "value 9" in read(folder, structures={"disc": 1, "dot": 2}).left_out["case_01"]


def test_a_structure_that_no_label_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"'heart' \(value 3\) is in none.*values are 1, 2"):
        read(write_dataset(tmp_path, 2), structures={"disc": 1, "dot": 2, "heart": 3})


def test_pictures_as_labels_are_refused(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, 2)
    for number in range(2):
        write_picture(np.arange(1024, dtype=np.uint8).reshape(32, 32), folder / "labels" / f"case_{number:02d}.png")
    with pytest.raises(InvalidInputError, match="hold 255"):
        read(folder)


def test_the_kind_of_most_images_is_used_and_the_others_left_out(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, 2, (32, 32, 32), ".nii.gz")
    write_pair(folder, "flat", 5)
    dataset = read(folder)
    assert dataset.spatial_dims == 3
    assert dataset.median_shape == (32, 32, 32)
    assert "it is 2D" in dataset.left_out["flat"]
    assert [sample.image_id for sample in read(folder, spatial_dims=2).samples] == ["flat"]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "images").rename(folder / "x"), "images must be in a folder that is there"),
        (lambda folder: [path.unlink() for path in (folder / "labels").iterdir()], "must hold labels; it holds none"),
        (
            lambda folder: [path.rename(path.with_stem(f"{path.stem}_seg")) for path in (folder / "labels").iterdir()],
            "same name but for the suffix; none of the 2 images",
        ),
        (lambda folder: write_pair(folder, "case_00", 1, suffix=".nrrd"), "case_00.nrrd and case_00.png"),
        (
            lambda folder: [path.write_bytes(b"") for path in (folder / "images").iterdir()],
            "None of the 2 images .* can be used. case_00: .*0 bytes",
        ),
    ],
)
def test_folders_that_give_nothing_are_refused(tmp_path: Path, spoil: object, sentence: str) -> None:
    folder = write_dataset(tmp_path, 2)
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(InvalidInputError, match=sentence):
        read(folder)


def test_the_digest_follows_the_content_of_images_and_labels(tmp_path: Path) -> None:
    first, second = write_dataset(tmp_path / "a", 3), write_dataset(tmp_path / "b", 3)
    assert read(first).digest == read(second).digest
    write_pair(second, "case_01", 99)
    changed = read(second).digest
    assert changed != read(first).digest
    assert read(first, structures={"disc": 1, "dot": 2}).digest != read(first).digest
    write_picture(np.eye(32, dtype=np.uint8), second / "labels" / "case_02.png")
    assert read(second).digest != changed


@pytest.mark.parametrize(("n", "n_test"), [(138, 28), (131, 26), (300, 60), (2, 1), (10, 2)])
def test_a_fifth_is_the_test_set_as_in_the_paper(n: int, n_test: int) -> None:
    parts = split(of_size(n), 43, 0.2)
    assert len(parts.test) == n_test
    assert sorted([*parts.pool, *parts.test]) == list(range(n))


def test_a_split_depends_on_the_seed_alone() -> None:
    drawn = {tuple(split(of_size(50), seed, 0.2).test) for seed in range(43, 54)}
    assert len(drawn) == 11
    assert tuple(split(of_size(50), 43, 0.2).test) in drawn


def test_every_image_is_in_a_test_set_sooner_or_later() -> None:
    counts = np.zeros(20)
    for seed in range(400):
        counts[split(of_size(20), seed, 0.2).test] += 1
    assert counts.sum() == 400 * 4
    assert counts.min() > 45
    assert counts.max() < 120


def test_a_group_is_never_both_in_the_pool_and_in_the_test_set() -> None:
    groups = tuple(f"patient {number % 10}" for number in range(47))
    for seed in range(20):
        parts = split(of_size(47, groups), seed, 0.2)
        in_test = {groups[row] for row in parts.test}
        assert len(in_test) == 2
        assert not in_test & {groups[row] for row in parts.pool}


def test_a_split_that_leaves_no_pool_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="1 of 1 groups leaves none"):
        split(of_size(3, ("a", "a", "a")), 43, 0.2)


def test_groups_come_from_a_column_of_the_manifest(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, 3)
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("case,patient\ncase_00,p1\ncase_01,p1\n")
    dataset = read(folder, groups=read_groups(manifest, "patient"))
    assert dataset.groups == ("p1", "p1")
    assert dataset.left_out["case_02"] == "the manifest does not name its group"


def test_rows_without_a_group_name_none(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("case,patient\ncase_00,p1\ncase_01\ncase_02,\ncase_03, \ncase_04,p2\n")
    groups = read_groups(manifest, "patient")
    assert groups == {"case_00": "p1", "case_04": "p2"}
    dataset = read(write_dataset(tmp_path, 5), groups=groups)
    assert dataset.left_out == dict.fromkeys(["case_01", "case_02", "case_03"], "the manifest does not name its group")
    assert len(split(dataset, 43, 0.2).test) == 1


def test_an_image_may_be_listed_twice_but_not_with_two_groups(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("case,patient\ncase_00,p1\ncase_00,p1\ncase_00,\n")
    assert read_groups(manifest, "patient") == {"case_00": "p1"}
    manifest.write_text("case,patient\ncase_00,p1\ncase_01,p1\ncase_00,p2\n")
    with pytest.raises(InvalidInputError, match="one group for case_00; got 'p1' and 'p2'"):
        read_groups(manifest, "patient")


def test_a_manifest_without_the_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("case,patient\n")
    with pytest.raises(InvalidInputError, match="with case, patient; got 'scan'"):
        read_groups(tmp_path / "manifest.csv", "scan")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_groups(tmp_path / "absent.csv", "scan")
