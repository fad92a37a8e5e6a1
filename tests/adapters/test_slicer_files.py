"""What an answer calls a 2D image, so that Slicer loads it alone."""

from __future__ import annotations

import re
from pathlib import Path

from datastore_case import open_datastore, write

from coldstart.adapters.slicer_files import alone


def names_without_numbers(names: list[str]) -> set[str]:
    """What names have in common for a reader of numbered series: each number may be any."""
    return {re.sub(r"\d+", "#", name) for name in names}


def test_numbered_images_are_called_by_names_that_are_no_series(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    for number in range(20):
        write(studies / f"chest_{number:03}.png", number)
    datastore = open_datastore(studies)
    infos = [datastore.get_image_info(image_id) for image_id in datastore.list_images()]
    assert len(names_without_numbers([info["name"] for info in infos])) == 20
    for image_id, info in zip(datastore.list_images(), infos, strict=True):
        path = Path(info["path"])
        assert path.samefile(studies / f"{image_id}.png") and path.name == f"{image_id}.png"
        assert [other.name for other in path.parent.iterdir()] == [path.name], "no neighbours"
        assert info["name"].startswith(f"{image_id}-") and info["name"].endswith(".png")
        assert datastore.get_image_info(image_id) == info
        assert datastore.get_image_uri(image_id) == str(studies / f"{image_id}.png")


def test_images_of_one_name_in_two_folders_are_downloaded_under_two_names(tmp_path: Path) -> None:
    one, other = (alone(tmp_path / folder / "a.nii.gz", "a", tmp_path / "state")["name"] for folder in ("x", "y"))
    assert one != other and one.endswith(".nii.gz")


def test_where_no_link_can_be_made_the_path_is_the_images_own(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    image = write(tmp_path / "a.png")
    assert alone(image, "a", tmp_path / "state")["path"] == str(image)
