"""What comes with requests: ids, tags, file names and info; and labels while the database is out of order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datastore_case import open_datastore, record, write, write_label
from sqlalchemy import delete

from coldstart.adapters.datastore import FolderDatastore
from coldstart.adapters.datastore_checks import MAX_INFO_CHARACTERS
from coldstart.adapters.errors import AppError
from coldstart.exceptions import StoreBusyError
from coldstart.store import Label

HOSTILE = [
    "../../escaped",
    "../studies/a",
    "/etc/passwd",
    "/tmp/escaped",
    "..",
    ".",
    "",
    "a\x00b",
    "a\nb",
    "\ud800",
    ".hidden",
    "a/b",
    "a\\..\\b",
    "x" * 5000,
    "é" * 150,
]


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    write(folder / "a.png")
    write(folder / "b.png")
    return folder


@pytest.fixture
def datastore(studies: Path) -> FolderDatastore:
    return open_datastore(studies)


def files(folder: Path) -> dict[Path, bytes]:
    """Everything but the campaign's database and the lock."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "coldstart" not in path.parts and path.name != ".lock"
    }


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name[:12]))
def test_hostile_id_or_tag_touches_no_file(datastore: FolderDatastore, tmp_path: Path, name: str) -> None:
    label, image = str(write_label(tmp_path / "label.png")), str(write(tmp_path / "image.png"))
    before = files(tmp_path)
    asked: list[Callable[[], Any]] = [
        lambda: datastore.save_label(name, label, "final", {}),
        lambda: datastore.save_label("a", label, name, {}),
        lambda: datastore.remove_label(name, "final"),
        lambda: datastore.remove_label("a", name),
        lambda: datastore.remove_image(name),
        lambda: datastore.update_image_info(name, {}),
        lambda: datastore.update_label_info(name, "final", {}),
        lambda: datastore.update_label_info("a", name, {}),
    ]
    if name:  # an upload without an id gets that of its file
        asked.append(lambda: datastore.add_image(name, image, {}))
    for ask in asked:
        with pytest.raises(AppError) as caught:
            ask()
        assert caught.value.status_code in (400, 404) and len(caught.value.detail) < 400
    assert datastore.get_image_uri(name) == "" == datastore.get_label_uri(name, "final")
    assert datastore.get_label_uri("a", name) == ""
    assert datastore.get_image_info(name) == {} == datastore.get_label_info(name, name)
    assert files(tmp_path) == before


def test_unknown_label_answers_not_found(datastore: FolderDatastore) -> None:
    for image_id, sentence in (("nobody", "no image 'nobody'"), ("a", "Image 'a' has no label with the tag 'final'")):
        with pytest.raises(AppError, match=sentence) as caught:
            datastore.remove_label(image_id, "final")
        assert caught.value.status_code == 404


@pytest.mark.parametrize("name", ["label.txt", "label", "label.jpg", "label.png.exe", "label.nii.zip", ".png"])
def test_label_that_is_no_label_format_is_refused(datastore: FolderDatastore, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    before = files(tmp_path)
    with pytest.raises(AppError, match=r"A label must be a file with one of the suffixes \.nii\.gz"):
        datastore.save_label("a", str(tmp_path / name), "final", {})
    assert files(tmp_path) == before


def test_uploaded_image_is_served_at_the_next_sync(datastore: FolderDatastore, studies: Path, tmp_path: Path) -> None:
    upload = write(tmp_path / "tmp1234.png", seed=3)
    assert datastore.add_image("new one", str(upload), {"ward": "7", "path": "/etc/passwd", "ts": 0}) == "new one"
    assert (studies / "new one.png").read_bytes() == upload.read_bytes()
    datastore.sync()
    assert datastore._campaign.status()["images"] == 3
    info = datastore.get_image_info("new one")
    assert info["ward"] == "7" and info["ts"] > 0 and Path(info["path"]).samefile(studies / "new one.png")
    assert datastore.add_image("", str(upload), {}) == "tmp1234"


@pytest.mark.parametrize("name", ["upload.txt", "upload", "upload.dcm.exe", "upload.gz"])
def test_uploaded_file_that_we_do_not_read_is_refused(datastore: FolderDatastore, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    before = files(tmp_path)
    with pytest.raises(AppError, match="An image must be a file with one of the suffixes"):
        datastore.add_image("new", str(tmp_path / name), {})
    assert files(tmp_path) == before


def test_upload_takes_no_other_images_id(datastore: FolderDatastore, studies: Path, tmp_path: Path) -> None:
    (tmp_path / "upload.nii.gz").write_bytes(b"x")
    before = files(studies)
    with pytest.raises(AppError, match=r"Image 'a' is there as a\.png") as caught:
        datastore.add_image("a", str(tmp_path / "upload.nii.gz"), {})
    assert caught.value.status_code == 409 and files(studies) == before


def test_upload_under_the_same_name_replaces_the_image_and_keeps_its_label(
    datastore: FolderDatastore, studies: Path, tmp_path: Path
) -> None:
    datastore.save_label("a", str(write_label(tmp_path / "label.png")), "final", {})
    upload = write(tmp_path / "upload.png", seed=3)
    datastore.add_image("a", str(upload), {})
    datastore.sync()
    assert (studies / "a.png").read_bytes() == upload.read_bytes()
    assert datastore.get_labeled_images() == ["a"] and datastore._campaign.status()["labelled"] == 1


# Info


def test_info_of_a_request_can_neither_take_our_keys_nor_spoil_an_answer(datastore: FolderDatastore) -> None:
    datastore.update_image_info(
        "a",
        {
            "coldstart": "mine",
            "id": "b",
            "path": "/etc/passwd",
            "ts": "never",
            "name": "other.png",
            "strategy": "a text where MONAI Label adds to an object",
            "score": float("nan"),
            "inf": [float("inf")],
            "half": "\ud800",
            "ward": "7",
        },
    )
    datastore.flush()
    info = datastore.get_image_info("a")
    assert not {"coldstart", "id", "strategy"} & info.keys()
    assert Path(info["path"]).samefile(datastore.get_image_uri("a")) and isinstance(info["ts"], int)
    assert (info["score"], info["inf"], info["half"]) == (None, [None], "\N{REPLACEMENT CHARACTER}")
    json.dumps(info, allow_nan=False).encode()
    info["ward"] = "changed by who was given it"
    assert datastore.get_image_info("a")["ward"] == "7"


@pytest.mark.parametrize("info", [[1], "text", None, 5, {"long": "x" * MAX_INFO_CHARACTERS}], ids=str)
def test_info_that_is_no_object_or_too_long_is_refused(datastore: FolderDatastore, info: Any) -> None:
    with pytest.raises(AppError, match="`info` must be"):
        datastore.update_image_info("a", info)


def test_info_that_is_nested_too_deeply_is_refused(datastore: FolderDatastore) -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(AppError, match="not nested deeply"):
        datastore.update_image_info("a", deep)


def test_info_does_not_grow_without_bound(datastore: FolderDatastore) -> None:
    with pytest.raises(AppError, match=f"at most {MAX_INFO_CHARACTERS} characters"):
        for number in range(100):
            datastore.update_image_info("a", {f"key{number}": "x" * (MAX_INFO_CHARACTERS // 20)})
    assert len(json.dumps(datastore.get_image_info("a"))) < MAX_INFO_CHARACTERS + 200


def test_nobody_labels_in_anothers_name(datastore: FolderDatastore, studies: Path, tmp_path: Path) -> None:
    label = str(write_label(tmp_path / "label.png"))
    datastore.save_label("a", label, "final", {"client_id": "ann", "annotator": "bob"})
    datastore.update_label_info("a", "final", {"annotator": "eve", "checked": True})
    datastore.flush()
    info = record(studies)["a"]["labels"]["final"]["info"]
    assert info["annotator"] == "ann" and info["checked"] is True


def test_archive_of_nothing_is_refused_with_a_sentence(datastore: FolderDatastore) -> None:
    with pytest.raises(AppError, match="no image with a final label yet"):
        datastore.get_dataset_archive(None)


# The database is out of order


def test_label_is_saved_while_the_database_cannot_be_written_and_counts_once_it_can(
    datastore: FolderDatastore, studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = datastore._campaign
    with monkeypatch.context() as out_of_order:

        def refuse(*_: object) -> None:
            raise StoreBusyError("The database cannot be written: the disk is full.")

        out_of_order.setattr(campaign, "save_label", refuse)
        out_of_order.setattr(campaign, "remove_label", refuse)
        info = {"client_id": "ann", "label_info": [{"name": "left lung", "idx": 1}]}
        datastore.save_label("a", str(write_label(tmp_path / "label.png")), "final", info)
        warning = datastore.label_warning("a")
        assert warning is not None and "The label is saved" in warning and "the disk is full" in warning
        assert (studies / "labels" / "final" / "a.png").is_file() and campaign.status()["labelled"] == 0
    datastore.sync()
    assert campaign.status()["labelled"] == 1
    assert "The label is saved" not in (datastore.label_warning("a") or "")
    with monkeypatch.context() as out_of_order:
        out_of_order.setattr(campaign, "remove_label", refuse)
        datastore.remove_label("a", "final")
    assert campaign.status()["labelled"] == 1
    datastore.sync()
    assert campaign.status()["labelled"] == 0


@pytest.mark.parametrize(
    "sent", [("l.png", b""), ("l.nii.gz", b"\x89PNG\r\n\x1a\n" + b"0" * 30)], ids=["empty", "garbage"]
)
def test_file_that_is_no_label_does_not_take_the_place_of_one_that_is(
    datastore: FolderDatastore, studies: Path, tmp_path: Path, sent: tuple[str, bytes]
) -> None:
    good, broken = write_label(tmp_path / "label.png"), tmp_path / sent[0]
    broken.write_bytes(sent[1])
    datastore.save_label("a", str(good), "final", {})
    with pytest.raises(AppError, match="The label that was there is kept") as refused:
        datastore.save_label("a", str(broken), "final", {})
    assert refused.value.status_code == 400
    assert [path.read_bytes() for path in (studies / "labels/final").iterdir()] == [good.read_bytes()]
    assert datastore.label_warning("a") is None
    datastore.save_label("b", str(broken), "final", {})
    assert "stays out of training" in (datastore.label_warning("b") or "")
    datastore.save_label("b", str(good), "final", {})
    assert datastore.label_warning("b") is None


def test_database_that_lost_its_rows_or_itself_is_filled_again_by_the_next_sync(
    datastore: FolderDatastore, studies: Path, tmp_path: Path
) -> None:
    campaign = datastore._campaign
    datastore.save_label("a", str(write_label(tmp_path / "label.png")), "final", {"client_id": "ann"})
    datastore.sync()
    with campaign.store.writing() as session:
        session.execute(delete(Label))
    assert campaign.status()["labelled"] == 0
    datastore.sync()
    assert campaign.status()["labelled"] == 1
    for path in (studies / "coldstart").glob("coldstart.sqlite*"):
        path.unlink()
    datastore.sync()
    assert (campaign.status()["images"], campaign.status()["labelled"]) == (2, 1)


def test_prediction_takes_the_place_of_no_final_label_that_was_saved_meanwhile(
    datastore: FolderDatastore, studies: Path, tmp_path: Path
) -> None:
    open_datastore(studies).save_label("a", str(write_label(tmp_path / "drawn.png", 1)), "final", {})  # elsewhere
    drawn, prediction = (studies / "labels" / "final" / "a.png").read_bytes(), str(write_label(tmp_path / "p.png", 2))
    with pytest.raises(AppError, match="a prediction does not take its place") as caught:
        datastore.save_prediction("a", prediction, "final", {})
    assert caught.value.status_code == 409 and (studies / "labels" / "final" / "a.png").read_bytes() == drawn
    assert datastore.save_prediction("a", prediction, "original", {}) == "a"
    assert datastore.save_prediction("b", prediction, "final", {}) == "b"
