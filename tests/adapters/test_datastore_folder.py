"""What lies in a studies folder: odd names, links, pipes, twins, and files that are still being copied."""

from __future__ import annotations

import logging
import os
import time
import unicodedata
from pathlib import Path

import pytest
from datastore_case import arrived, open_datastore, record, sync_until, write, write_label
from sqlalchemy import select

from coldstart.adapters.datastore import FolderDatastore
from coldstart.adapters.datastore_folder import LOOKS_APART_S
from coldstart.adapters.errors import AppError
from coldstart.store import Image


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    return folder


def served(datastore: FolderDatastore) -> list[str]:
    """Ids that the campaign may serve."""
    with datastore._campaign.store.reading() as session:
        return sorted(session.scalars(select(Image.image_id).where(Image.present)))


@pytest.mark.parametrize(
    "image_id",
    [
        "with a space",
        'it\'s "quoted"',
        "a..b",
        "a..",
        "x" * 200,
        unicodedata.normalize("NFC", "Müller é"),
        unicodedata.normalize("NFD", "Müller é"),
        "画像",
        "no-break\u202fspace",
        "a%2fb",
        "back\\slash",
        "a.png",
        "[1]*?",
        "-rf",
        "{}",
    ],
)
def test_odd_name_is_served_labelled_and_removed(studies: Path, tmp_path: Path, image_id: str) -> None:
    write(studies / f"{image_id}.png")
    write(studies / "other.png")
    datastore = open_datastore(studies)
    assert served(datastore) == sorted([image_id, "other"])
    assert Path(datastore.get_image_uri(image_id)).read_bytes() == (studies / f"{image_id}.png").read_bytes()
    datastore.save_label(image_id, str(write_label(tmp_path / "label.png")), "final", {})
    datastore.sync()
    assert datastore._campaign.status()["labelled"] == 1 and datastore.get_labeled_images() == [image_id]
    assert record(studies)[image_id]["labels"]["final"]["ext"] == ".png"
    datastore.remove_image(image_id)
    datastore.sync()
    assert served(datastore) == ["other"] and not list((studies / "labels" / "final").iterdir())


def test_names_in_either_unicode_form_are_two_images(studies: Path) -> None:
    for form in ("NFC", "NFD"):
        write(studies / f"{unicodedata.normalize(form, 'é')}.png", seed=len(form))
    datastore = open_datastore(studies)
    assert len(served(datastore)) == 2


def test_what_is_no_image_is_left_out_with_one_warning_each(
    studies: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(studies / "good.png")
    (studies / "folder.png").mkdir()
    os.mkfifo(studies / "pipe.png")
    (studies / "nowhere.png").symlink_to("gone.png")
    (studies / "loop.png").symlink_to("loop.png")
    (studies / "linked_folder.png").symlink_to(tmp_path)
    write(studies / "line\nbreak.png")
    (Path(os.fsdecode(os.fsencode(studies) + b"/latin\xe9.png"))).write_bytes(b"x")
    for hidden in ("._good.png", ".png", ".hidden.nii.gz", "notes.txt", "png"):
        (studies / hidden).write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        datastore = open_datastore(studies)
        datastore.sync()
        datastore.sync()
    assert served(datastore) == ["good"] == datastore.list_images()
    left_out = [entry.getMessage() for entry in caplog.records if "is left out" in entry.getMessage()]
    assert len(left_out) == 7 and all("\n" not in sentence for sentence in left_out)
    for name, reason in [
        ("folder", "it is not a file"),
        ("pipe", "it is not a file"),
        ("nowhere", "leads nowhere"),
        ("loop", "leads nowhere"),
        ("linked_folder", "it is not a file"),
        ("line\\nbreak", "control characters"),
        ("latin\\udce9", "not UTF-8"),
    ]:
        assert [sentence for sentence in left_out if f"{name}.png" in sentence and reason in sentence], name
        assert reason in datastore.left_out()[f"{name}.png"]
    assert len(datastore.left_out()) == 7
    (studies / "folder.png").rmdir()
    write(studies / "gone.png")
    datastore.sync()
    assert len(datastore.left_out()) == 5 and served(datastore) == ["gone", "good", "nowhere"]


def test_label_that_is_a_link_out_of_the_folder_is_not_looked_at(studies: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(studies / f"{name}.png")
    finals = studies / "labels" / "final"
    finals.mkdir(parents=True)
    write(tmp_path / "secret.png")
    write(studies / "labels" / "drawn.png")
    (finals / "a.png").symlink_to(tmp_path / "secret.png")
    (finals / "b.png").symlink_to("../drawn.png")
    datastore = open_datastore(studies)
    assert datastore.get_label_uri("a", "final") == "" and datastore.get_labeled_images() == ["b"]
    assert datastore._campaign.status()["labelled"] == 1
    assert "link out of the studies folder" in datastore.left_out()["labels/final/a.png"]


def test_suffix_in_any_case_is_served(studies: Path) -> None:
    for name in ("a.PNG", "b.Png", "c.NII.gz", "d.Jpg"):
        arrived(studies / name) if (studies / name).write_bytes(b"x") else None
    datastore = open_datastore(studies)
    assert served(datastore) == ["a", "b", "c", "d"]


def test_link_out_of_the_folder_is_served_and_its_target_is_never_touched(studies: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "archive"
    elsewhere.mkdir()
    (studies / "labels" / "final").mkdir(parents=True)
    image, label = write(elsewhere / "image.png"), write_label(studies / "labels" / "drawn.png")
    before = image.read_bytes(), label.read_bytes()
    (studies / "linked.png").symlink_to(image)
    (studies / "twice.png").symlink_to("linked.png")
    (studies / "labels" / "final" / "linked.png").symlink_to(label)
    arrived(label)
    datastore = open_datastore(studies)
    assert served(datastore) == ["linked", "twice"] and datastore.get_labeled_images() == ["linked"]
    assert datastore.get_image_uri("linked") == str(studies / "linked.png")
    datastore.save_label("linked", str(write_label(tmp_path / "mine.png", 2)), "final", {})
    datastore.add_image("twice", str(write(tmp_path / "new.png", seed=3)), {})
    assert not (studies / "labels" / "final" / "linked.png").is_symlink() and not (studies / "twice.png").is_symlink()
    datastore.remove_label("linked", "final")
    datastore.remove_image("linked")
    assert not (studies / "linked.png").is_symlink()
    assert (image.read_bytes(), label.read_bytes()) == before


def test_twin_that_arrives_later_does_not_take_the_place_of_a_known_image(studies: Path) -> None:
    write(studies / "a.png")
    datastore = open_datastore(studies)
    datastore.update_image_info("a", {"ward": "7"})
    datastore.flush()
    arrived(studies / "a.nii.gz") if (studies / "a.nii.gz").write_bytes(b"x") else None
    for opened in (datastore, open_datastore(studies)):
        opened.sync()
        assert Path(opened.get_image_uri("a")).name == "a.png" and opened.get_image_info("a")["ward"] == "7"


def test_newest_of_two_label_files_counts(studies: Path) -> None:
    write(studies / "a.png")
    datastore = open_datastore(studies)
    final = studies / "labels" / "final"
    arrived(write_label(final / "a.png"))
    os.utime(write_label(final / "a.tif"), (1, 1))
    datastore.sync()
    assert Path(datastore.get_label_uri("a", "final")).name == "a.png"


def test_file_that_is_being_copied_waits_and_then_is_served(studies: Path) -> None:
    whole = write(studies / "a.png").read_bytes()
    datastore = open_datastore(studies)
    with (studies / "b.png").open("wb", buffering=0) as copied:
        until = time.monotonic() + 2 * LOOKS_APART_S
        while time.monotonic() < until:
            copied.write(whole[:10])
            datastore.sync()
            assert served(datastore) == ["a"] and datastore.list_images() == ["a"]
            time.sleep(0.1)
    (studies / "b.png").write_bytes(whole)
    sync_until(datastore, lambda: served(datastore) == ["a", "b"])
    assert datastore.list_images() == ["a", "b"]


def test_image_that_is_being_replaced_is_not_served_meanwhile_and_keeps_its_info_and_label(
    studies: Path, tmp_path: Path
) -> None:
    write(studies / "a.png")
    write(studies / "b.png")
    datastore = open_datastore(studies)
    datastore.update_image_info("a", {"ward": "7"})
    datastore.save_label("a", str(write_label(tmp_path / "label.png")), "final", {"client_id": "ann"})
    with datastore._campaign.store.reading() as session:
        signature = session.scalar(select(Image.signature).where(Image.image_id == "a"))
    (studies / "a.png").write_bytes(b"half of the new")
    datastore.sync()
    assert served(datastore) == ["b"]
    write(studies / "a.png", seed=9)
    sync_until(datastore, lambda: served(datastore) == ["a", "b"])
    with datastore._campaign.store.reading() as session:
        assert session.scalar(select(Image.signature).where(Image.image_id == "a")) != signature
    assert datastore.get_image_info("a")["ward"] == "7" and datastore.get_labeled_images() == ["a"]
    assert datastore._campaign.status()["labelled"] == 1


def test_file_from_a_clock_that_is_ahead_is_served_after_two_looks(studies: Path) -> None:
    os.utime(write(studies / "a.png"), (time.time() + 3600, time.time() + 3600))
    datastore = open_datastore(studies)
    assert served(datastore) == []
    sync_until(datastore, lambda: served(datastore) == ["a"])


def test_label_that_is_being_copied_waits(studies: Path) -> None:
    write(studies / "a.png")
    datastore = open_datastore(studies)
    write_label(studies / "labels" / "final" / "a.png")
    datastore.sync()
    assert datastore._campaign.status()["labelled"] == 0
    sync_until(datastore, lambda: datastore._campaign.status()["labelled"] == 1)


def test_label_removed_from_the_folder_frees_its_image(studies: Path, tmp_path: Path) -> None:
    write(studies / "a.png")
    datastore = open_datastore(studies)
    datastore.save_label("a", str(write_label(tmp_path / "label.png")), "final", {})
    (studies / "labels" / "final" / "a.png").unlink()
    datastore.sync()
    assert datastore._campaign.status()["labelled"] == 0 and datastore.get_labeled_images() == []


def test_ten_thousand_files_are_looked_at_without_opening_one(studies: Path) -> None:
    for number in range(10_000):
        path = studies / f"case_{number:05}.png"
        path.touch()
        os.utime(path, (1, 1))
    datastore = open_datastore(studies)
    assert len(datastore.list_images()) == 10_000 == len(served(datastore))
    handed = datastore._handed_at
    datastore.sync()
    assert datastore._handed_at == handed, "the campaign was handed everything again although nothing changed"
    write(studies / "case_00007.png")
    datastore.sync()
    assert datastore._handed_at != handed and len(served(datastore)) == 9_999, "a file replaced in place was missed"


def test_link_is_handed_out_only_if_it_leads_to_an_image(studies: Path, tmp_path: Path) -> None:
    (tmp_path / "passwords").write_text("root:x:0:0")
    arrived(tmp_path / "passwords")
    (studies / "secret.png").symlink_to(tmp_path / "passwords")
    (studies / "real.png").symlink_to(write(tmp_path / "elsewhere.png"))
    datastore = open_datastore(studies)
    for _ in range(2):
        assert datastore.get_image_uri("real") == str(studies / "real.png")
        with pytest.raises(AppError, match=r"secret\.png") as refused:
            datastore.get_image_uri("secret")
        assert refused.value.status_code == 404
        datastore._campaign.embed()
