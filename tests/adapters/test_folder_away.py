"""A studies folder that drops away while the server runs, as a share does: what is saved then would be lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from datastore_case import open_datastore, write, write_label

from coldstart.adapters.datastore import FolderDatastore
from coldstart.adapters.errors import AppError
from coldstart.exceptions import ImageError, StoreBusyError


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    for name in ("a", "b"):
        write(folder / f"{name}.png")
    return folder


def everything_is_refused(datastore: FolderDatastore, label: Path, image: Path) -> None:
    datastore.update_image_info("a", {"ward": "7"})
    for ask in (
        lambda: datastore.save_label("a", str(label), "final", {"client_id": "ann"}),
        lambda: datastore.add_image("c", str(image), {}),
        datastore.require_folder,
    ):
        with pytest.raises(AppError, match="mount that again") as refused:
            ask()
        assert refused.value.status_code == 503
    for ask in (lambda: datastore.remove_label("b", "final"), lambda: datastore.remove_image("b")):
        with pytest.raises(AppError) as refused:
            ask()
        assert refused.value.status_code == 503
    with pytest.raises(ImageError, match="mount that again"):
        datastore.sync()
    with pytest.raises(StoreBusyError, match="mount that again"):
        datastore._campaign.status()
    datastore.flush()


def test_nothing_is_saved_or_made_where_the_share_was(studies: Path, tmp_path: Path) -> None:
    datastore = open_datastore(studies)
    first, second = write_label(tmp_path / "first.png"), write_label(tmp_path / "second.png", 2)
    datastore.save_label("b", str(first), "final", {"client_id": "ann"})
    away = studies.rename(tmp_path / "away")

    everything_is_refused(datastore, second, first)
    assert not studies.exists()

    studies.mkdir()
    everything_is_refused(datastore, second, first)
    write(studies / "someone else's.png")
    everything_is_refused(datastore, second, first)
    assert [path.name for path in studies.iterdir()] == ["someone else's.png"]

    shutil.rmtree(studies)
    shutil.copytree(away, studies)  # mounted again, and another device or inode than before
    datastore.sync()
    datastore.save_label("a", str(second), "final", {"client_id": "ann"})
    assert (studies / "labels/final/a.png").read_bytes() == second.read_bytes()
    assert datastore._campaign.status()["labelled"] == 2
    assert datastore.get_image_info("a")["ward"] == "7"


def test_label_of_an_image_whose_file_went_away_is_refused(studies: Path, tmp_path: Path) -> None:
    datastore = open_datastore(studies)
    (studies / "a.png").unlink()
    with pytest.raises(AppError, match=r"a\.png is not there") as refused:
        datastore.save_label("a", str(write_label(tmp_path / "label.png")), "final", {})
    assert refused.value.status_code == 503
    assert not [path for path in (studies / "labels").rglob("*") if path.is_file()]


def test_state_folder_that_somebody_deleted_is_made_anew(studies: Path) -> None:
    datastore = open_datastore(studies)
    shutil.rmtree(studies / "coldstart")
    datastore.sync()
    assert datastore._campaign.status()["images"] == 2
