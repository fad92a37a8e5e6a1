import logging
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coldstart.adapters.datastore import FolderDatastore
from coldstart.adapters.errors import AppError
from coldstart.adapters.server import APP_FOLDER
from coldstart.campaign import Campaign
from coldstart.images import read_image, write_label
from coldstart.settings import load_settings


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    return folder


def write(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 48), dtype=np.uint8)).save(path)
    arrived(path)


def arrived(path: Path) -> None:
    """As it is some time after it was copied."""
    os.utime(path, (time.time() - 60, time.time() - 60))


def open_datastore(studies: Path) -> FolderDatastore:
    campaign = Campaign(load_settings({"encoder": "descriptor"}, APP_FOLDER / "configs"), studies / "coldstart")
    datastore = FolderDatastore(str(studies), campaign)
    datastore.sync()
    return datastore


def test_serves_every_format_and_no_hidden_file(studies: Path) -> None:
    names = [
        "a.png",
        "b.jpg",
        "c.jpeg",
        "d.tif",
        "e.tiff",
        "f.dcm",
        "g.nii",
        "h.nii.gz",
        "i.nrrd",
        "j.PNG",
        "k.v1.2.nrrd",
    ]
    for name in [*names, "._a.png", ".hidden.png", "notes.txt", "table.csv"]:
        (studies / name).write_bytes(b"x")
        arrived(studies / name)
    datastore = open_datastore(studies)
    assert sorted(datastore.list_images()) == ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k.v1.2"]
    assert {Path(datastore.get_image_uri(image_id)).name for image_id in datastore.list_images()} == set(names)


def test_two_files_with_one_id_are_named_and_the_first_is_used(studies: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(studies / "a.png")
    (studies / "a.nii.gz").write_bytes(b"x")
    arrived(studies / "a.nii.gz")
    with caplog.at_level(logging.WARNING):
        datastore = open_datastore(studies)
        datastore.refresh()
    sentences = [record.getMessage() for record in caplog.records if "would get the same id 'a'" in record.getMessage()]
    assert len(sentences) == 1 and "a.nii.gz" in sentences[0] and "a.png" in sentences[0]
    assert Path(datastore.get_image_uri("a")).name == "a.nii.gz"


def test_only_final_labels_count_and_removing_one_frees_the_image(studies: Path, tmp_path: Path) -> None:
    write(studies / "a.png")
    label = tmp_path / "label.png"
    Image.fromarray(np.ones((48, 48), dtype=np.uint8)).save(label)
    datastore = open_datastore(studies)
    status = datastore._campaign.status
    datastore.save_label("a", str(label), "original", {})
    assert status()["labelled"] == 0
    datastore.save_label("a", str(label), "final", {"client_id": "ann"})
    assert status()["labelled"] == 1
    datastore.remove_label("a", "final")
    assert status()["labelled"] == 0 and datastore.list_images() == ["a"]


def test_label_copied_into_the_folder_is_noticed(studies: Path) -> None:
    write(studies / "a.png")
    datastore = open_datastore(studies)
    Image.fromarray(np.ones((48, 48), dtype=np.uint8)).save(studies / "labels" / "final" / "a.png")
    arrived(studies / "labels" / "final" / "a.png")
    datastore.sync()
    assert datastore._campaign.status()["labelled"] == 1


def test_info_cannot_hold_keys_of_an_answer(studies: Path) -> None:
    write(studies / "a.png")
    datastore = open_datastore(studies)
    datastore.update_image_info("a", {"coldstart": "mine", "id": "other", "ward": "7"})
    info = datastore.get_image_info("a")
    assert info["ward"] == "7" and not {"coldstart", "id"} & set(info)


def test_child_process_writes_nothing(studies: Path) -> None:
    write(studies / "a.png")
    datastore = open_datastore(studies)
    config = studies / "datastore_v2.json"
    before = config.read_bytes(), config.stat().st_mtime_ns
    write(studies / "b.png")
    FolderDatastore(str(studies), datastore._campaign)  # what a child builds: it never calls sync
    assert (config.read_bytes(), config.stat().st_mtime_ns) == before


def test_label_in_another_format_replaces_the_one_before(studies: Path, tmp_path: Path) -> None:
    write(studies / "a.png")
    label = tmp_path / "label.png"
    Image.fromarray(np.ones((48, 48), dtype=np.uint8)).save(label)
    datastore = open_datastore(studies)
    final = studies / "labels" / "final"
    write_label(np.ones((48, 48), dtype=int), read_image(studies / "a.png").geometry, tmp_path / "label.nrrd")
    datastore.save_label("a", str(tmp_path / "label.nrrd"), "final", {})
    datastore.save_label("a", str(label), "final", {})
    assert [path.name for path in final.iterdir()] == ["a.png"]
    datastore.remove_label("a", "final")
    datastore.sync()
    assert list(final.iterdir()) == [] and datastore._campaign.status()["labelled"] == 0


@pytest.mark.parametrize(
    ("image_id", "tag", "info", "sentence"),
    [
        ("b", "final", {}, "no image 'b'"),
        ("../a", "final", {}, "no image '../a'"),
        ("a", "../../evil", {}, "tag must be of the letters"),
        ("a", "final", [1], "must be a JSON object"),
    ],
)
def test_hostile_label_is_refused_in_a_sentence(
    studies: Path, tmp_path: Path, image_id: str, tag: str, info: object, sentence: str
) -> None:
    write(studies / "a.png")
    write(tmp_path / "label.png")
    datastore = open_datastore(studies)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(AppError) as caught:
        datastore.save_label(image_id, str(tmp_path / "label.png"), tag, info)  # type: ignore[arg-type]
    assert sentence in caught.value.detail and caught.value.status_code in (400, 404)
    assert sorted(tmp_path.rglob("*")) == before
