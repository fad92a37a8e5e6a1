"""What a simulated campaign makes of its input; a whole one is played in tests/server."""

from __future__ import annotations

from pathlib import Path

import pytest

from coldstart.adapters.simulation import copy_studies
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


def test_folder_of_an_earlier_simulation_is_emptied(tmp_path: Path) -> None:
    images = made(tmp_path / "images", "a.png")
    copy_studies(images, images, None, tmp_path / "out")
    (tmp_path / "out" / "studies" / "old.png").touch()
    studies = copy_studies(images, images, None, tmp_path / "out")
    assert [path.name for path in studies.glob("*.png")] == ["a.png"]
