"""What a simulated campaign makes of its input; a whole one is played in tests/server."""

from __future__ import annotations

from pathlib import Path

import pytest

from coldstart.adapters.simulation import copy_studies, label_of
from coldstart.exceptions import InvalidInputError


def made(folder: Path, *names: str) -> Path:
    """A folder of files that hold their names."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(name)
    return folder


def ids(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "heldout.txt").write_text("\n".join(names))
    return folder / "heldout.txt"


@pytest.mark.parametrize("inside", ["images", "labels", "heldout", "a link"])
def test_folder_that_the_input_lies_in_is_not_emptied(tmp_path: Path, inside: str) -> None:
    output = tmp_path / "earlier"
    copy_studies(made(tmp_path / "first", "a.png"), tmp_path, None, output)
    images = made((output if inside in ("images", "a link") else tmp_path) / "images", "a.png")
    labels = made((output if inside == "labels" else tmp_path) / "labels", "a.png")
    held_out = ids(output if inside == "heldout" else tmp_path, "a")
    if inside == "a link":
        (tmp_path / "link").symlink_to(images)
        images = tmp_path / "link"
    before = sorted(output.rglob("*"))
    with pytest.raises(InvalidInputError, match=r"lies in it\. Name another --output\."):
        copy_studies(images, labels, held_out, output)
    assert sorted(output.rglob("*")) == before


def test_held_out_labels_of_another_file_type_are_copied_by_their_ids(tmp_path: Path) -> None:
    images = made(tmp_path / "images", "a[1].png", "b.PNG", "c.png", "c.d.png", "e.png")
    labels = made(tmp_path / "labels", "a[1].nii.gz", "b.nrrd", "c.png", "c.tif", "c.d.nii.gz", "e.nii.gz", "a1.png")
    held_out = ids(tmp_path, "a[1]", "b", "c")
    studies = copy_studies(images, labels, held_out, tmp_path / "out")
    copied = sorted(path.name for path in (studies / "labels" / "final").iterdir())
    assert copied == ["a[1].nii.gz", "b.nrrd", "c.png"]


def test_label_is_found_by_the_id_of_its_image_and_by_no_other(tmp_path: Path) -> None:
    labels = made(tmp_path / "labels", "a1.png", "a[1].nii.gz", "c.d.png", "c.nrrd", "c.tif", "notes.txt")
    assert label_of(labels, "a[1].png") == labels / "a[1].nii.gz"
    assert label_of(labels, "c.png") == labels / "c.nrrd"
    assert label_of(labels, "c.tif") == labels / "c.tif"
    assert label_of(labels, "notes.png") is None


def test_folder_of_an_earlier_simulation_is_emptied(tmp_path: Path) -> None:
    images = made(tmp_path / "images", "a.png")
    copy_studies(images, images, None, tmp_path / "out")
    (tmp_path / "out" / "studies" / "old.png").touch()
    studies = copy_studies(images, images, None, tmp_path / "out")
    assert [path.name for path in studies.glob("*.png")] == ["a.png"]
