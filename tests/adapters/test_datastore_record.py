"""`datastore_v2.json`: when it is written, what becomes of other programs' changes, and its recovery when damaged."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from datastore_case import RECORD, open_campaign, open_datastore, record, sync_until, write, write_label
from filelock import FileLock
from monailabel.datastore.local import LocalDatastore

from coldstart.adapters import datastore_base, datastore_file
from coldstart.adapters.datastore import FolderDatastore
from coldstart.adapters.errors import AppError
from coldstart.exceptions import SettingsError
from coldstart.store import Label


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    for image_id in ("a", "b", "c"):
        write(folder / f"{image_id}.png")
    return folder


def used(studies: Path, label: Path) -> None:
    """A record that was written several times: a label of a, a note of b."""
    datastore = open_datastore(studies)
    datastore.update_image_info("b", {"ward": "7"})
    datastore.save_label("a", str(write_label(label)), "final", {"client_id": "ann", "label_info": []})
    datastore.update_image_info("c", {"ward": "9"})
    datastore.flush()


def replaced_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replaced_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "truncated": truncate,
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a list": lambda path: path.write_text("[]"),
    "objects of another type": lambda path: path.write_text('{"name": "x", "description": "", "objects": [1]}'),
    "too deep": lambda path: path.write_text("[" * 100_000),
    "removed": lambda path: path.unlink(),
    "a folder": replaced_by_folder,
    "a pipe": replaced_by_pipe,
}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]


# Damage


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_record_is_recovered_from_the_last_good_copy_at_the_start(
    studies: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], Any]
) -> None:
    used(studies, tmp_path / "label.png")
    damage(studies / RECORD)
    with caplog.at_level(logging.WARNING):
        datastore = open_datastore(studies)
    (sentence,) = warnings(caplog)
    assert "Recovered from datastore_v2.json.bak" in sentence
    assert "3 images, 1 labels, and what was noted of 2 of them" in sentence
    assert datastore.get_image_info("b")["ward"] == "7"
    assert datastore.get_label_info("a", "final")["client_id"] == "ann"
    assert sorted(record(studies)) == ["a", "b", "c"], "the record was not written again"
    if damage is not DAMAGES["removed"]:
        (aside,) = studies.glob("datastore_v2.damaged-*.json")
        assert aside.name in sentence


def test_record_and_copy_damaged_images_and_labels_are_found_by_their_files(
    studies: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    used(studies, tmp_path / "label.png")
    truncate(studies / RECORD)
    truncate(studies / f"{RECORD}.bak")
    with caplog.at_level(logging.WARNING):
        datastore = open_datastore(studies)
    assert "datastore_v2.json.bak is missing or damaged too" in warnings(caplog)[0]
    assert sorted(datastore.list_images()) == ["a", "b", "c"]
    assert datastore._campaign.status()["labelled"] == 1
    sync_until(datastore, lambda: datastore.get_labeled_images() == ["a"])
    with datastore._campaign.store.reading() as session:
        kept = session.query(Label).one()
    assert (kept.annotator, kept.label_info) == ("ann", []), "the database knew what the viewer had said"


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_record_damaged_while_the_server_runs_loses_nothing(
    studies: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], Any]
) -> None:
    used(studies, tmp_path / "label.png")
    datastore = open_datastore(studies)
    datastore.update_image_info("c", {"not written": 1})
    damage(studies / RECORD)
    with caplog.at_level(logging.WARNING):
        datastore.save_label("b", str(tmp_path / "label.png"), "final", {"client_id": "bob"})
        datastore.sync()
    assert len([sentence for sentence in warnings(caplog) if "Recovered" in sentence]) == 1
    entries = record(studies)
    assert entries["a"]["labels"]["final"]["info"]["client_id"] == "ann"
    assert entries["b"]["labels"]["final"]["info"]["client_id"] == "bob"
    assert entries["c"]["image"]["info"]["ward"] == "9" and entries["c"]["image"]["info"]["not written"] == 1


def test_child_process_reads_past_a_damaged_record_and_leaves_it(studies: Path, tmp_path: Path) -> None:
    used(studies, tmp_path / "label.png")
    truncate(studies / RECORD)
    before = {path: path.lstat().st_mtime_ns for path in studies.rglob("*") if "coldstart" not in path.parts}
    child = FolderDatastore(str(studies), open_campaign(studies))
    assert child.get_image_info("b")["ward"] == "7"
    assert before == {path: path.lstat().st_mtime_ns for path in studies.rglob("*") if "coldstart" not in path.parts}


# Other programs


def test_what_another_program_wrote_stays_and_what_was_changed_here_wins(studies: Path, tmp_path: Path) -> None:
    datastore = open_datastore(studies)
    datastore.update_image_info("a", {"both": "before", "theirs": "before"})
    datastore.flush()
    datastore.update_image_info("a", {"both": "ours"})
    edited = json.loads((studies / RECORD).read_text())
    edited["objects"]["a"]["image"]["info"].update({"both": "theirs", "theirs": "edited", "new": 1})
    edited["objects"]["b"]["image"]["info"]["new"] = 2
    (studies / RECORD).write_text(json.dumps(edited, indent=2))
    datastore.flush()
    info = record(studies)["a"]["image"]["info"]
    assert (info["both"], info["theirs"], info["new"]) == ("ours", "edited", 1)
    assert record(studies)["b"]["image"]["info"]["new"] == 2 == datastore.get_image_info("b")["new"]


def test_edit_of_the_record_is_noticed_by_the_next_sync(studies: Path) -> None:
    datastore = open_datastore(studies)
    edited = json.loads((studies / RECORD).read_text())
    edited["objects"]["a"]["image"]["info"]["ward"] = "7"
    del edited["objects"]["b"]
    edited["objects"]["ghost"] = edited["objects"]["c"]
    edited["objects"]["../../ghost"] = edited["objects"]["c"]
    (studies / RECORD).write_text(json.dumps(edited))
    datastore.sync()
    assert datastore.get_image_info("a")["ward"] == "7"
    assert sorted(datastore.list_images()) == ["a", "b", "c"], "files decide what is there"


def test_what_one_server_removed_does_not_come_back_from_the_other(studies: Path, tmp_path: Path) -> None:
    one, other = open_datastore(studies), open_datastore(studies)
    one.save_label("a", str(write_label(tmp_path / "label.png")), "final", {})
    other.sync()
    one.remove_label("a", "final")
    one.remove_image("b")
    other.update_image_info("c", {"ward": "7"})
    other.flush()
    one.sync()
    other.sync()
    for datastore in (one, other):
        assert sorted(datastore.list_images()) == ["a", "c"] and datastore.get_labeled_images() == []
    assert sorted(record(studies)) == ["a", "c"] and record(studies)["a"]["labels"] == {}


def test_stock_and_we_read_each_others_record(studies: Path, tmp_path: Path) -> None:
    stock = LocalDatastore(str(studies), extensions=["*.png"])
    stock.save_label("a", str(write_label(tmp_path / "label.png")), "final", {"client_id": "ann"})
    stock.update_image_info("b", {"score": float("nan"), "half": "\ud83d", "ward": "7"})
    datastore = open_datastore(studies)
    assert datastore.get_label_info("a", "final")["client_id"] == "ann"
    info = datastore.get_image_info("b")
    assert (info["score"], info["half"], info["ward"]) == (None, "\N{REPLACEMENT CHARACTER}", "7")
    assert not list(studies.glob("*damaged*"))
    datastore.update_image_info("c", {"ward": "9"})
    datastore.flush()
    again = LocalDatastore(str(studies), extensions=["*.png"], read_only=True)
    assert again.get_image_info("c")["ward"] == "9" and again.get_label_info("a", "final")["client_id"] == "ann"


# When it is written


def test_click_is_not_written_at_once_but_by_the_next_label_and_by_a_sync_that_is_due(
    studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datastore = open_datastore(studies)
    before = (studies / RECORD).stat()
    for number in range(100):
        datastore.update_image_info("a", {"clicks": number})
        datastore.sync()
    assert (studies / RECORD).stat().st_ino == before.st_ino, "a click wrote the record"
    assert datastore.get_image_info("a")["clicks"] == 99
    datastore.save_label("b", str(write_label(tmp_path / "label.png")), "original", {})
    assert record(studies)["a"]["image"]["info"]["clicks"] == 99
    datastore.update_image_info("a", {"clicks": 100})
    monkeypatch.setattr(datastore_base, "WRITE_EVERY_S", 0.1)
    time.sleep(0.1)
    datastore.sync()
    assert record(studies)["a"]["image"]["info"]["clicks"] == 100


def test_signal_that_ends_the_server_writes_what_waits(studies: Path) -> None:
    datastore = open_datastore(studies)
    datastore.update_image_info("a", {"clicks": 1})
    came: list[int] = []
    before = signal.signal(signal.SIGUSR1, datastore.flushing_before(lambda number, frame: came.append(number)))
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert came == [signal.SIGUSR1] and record(studies)["a"]["image"]["info"]["clicks"] == 1


def test_readers_never_see_half_of_a_change(studies: Path) -> None:
    for number in range(300):
        (studies / f"p{number:03}.png").symlink_to("a.png")
    datastore = open_datastore(studies)
    done = threading.Event()

    def read() -> set[int]:
        counts = set()
        while not done.is_set():
            counts |= {len(datastore.list_images()), len(datastore.get_unlabeled_images()), datastore.status()["total"]}
        return counts

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(1) as pool:
            reader = pool.submit(read)
            for _ in range(10):
                (studies / "a.png").rename(studies / "z.png")  # 301 images go, one comes
                datastore.look()
                (studies / "z.png").rename(studies / "a.png")
                datastore.look()
            done.set()
            assert reader.result() <= {303, 3}, "the list was seen half full"
    finally:
        done.set()
        sys.setswitchinterval(interval)


# Trouble


def test_lock_that_cannot_be_had_ends_in_a_sentence_and_the_label_before_stays(
    studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datastore_file, "LOCK_LIMIT_S", 0.2)
    datastore = open_datastore(studies)
    datastore.save_label("a", str(write_label(tmp_path / "label.png")), "final", {})
    before = (studies / "labels" / "final" / "a.png").read_bytes()
    with FileLock(studies / ".lock"):
        with pytest.raises(AppError, match=r"another program has held .*\.lock for 0.2 s") as caught:
            datastore.save_label("a", str(write_label(tmp_path / "label.png", 2)), "final", {})
        datastore.update_image_info("a", {"clicks": 1})
        datastore.flush()
    assert caught.value.status_code == 503
    assert (studies / "labels" / "final" / "a.png").read_bytes() == before
    assert not list((studies / "labels" / "final").glob(".*"))
    datastore.flush()
    assert record(studies)["a"]["image"]["info"]["clicks"] == 1


def test_folder_that_cannot_be_written_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "studies").write_text("a file where a folder is meant")
    with pytest.raises(SettingsError, match="must be one that the server can write to"):
        FolderDatastore(str(tmp_path / "studies"), open_campaign(tmp_path / "other"))


def test_what_killed_processes_left_is_removed_once_it_is_old(studies: Path) -> None:
    final = studies / "labels" / "final"
    final.mkdir(parents=True)
    for folder in (studies, final):
        for name, age_s in ((".coldstart-old.part", 7200), (".coldstart-young.part", 0)):
            (folder / name).write_bytes(b"x")
            os.utime(folder / name, (time.time() - age_s, time.time() - age_s))
    open_datastore(studies)
    assert sorted(path.name for path in studies.rglob(".coldstart-*")) == [".coldstart-young.part"] * 2
