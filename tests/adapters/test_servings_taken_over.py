"""Who was served before the database was lost, with the server down, is not known any more; that somebody was, is."""

from __future__ import annotations

import json
import os
import time
from datetime import date
from pathlib import Path

import pytest
from datastore_case import RECORD, arrived, open_datastore, write, write_label

from coldstart.adapters.datastore import FolderDatastore
from coldstart.campaign.curve import day_counts
from coldstart.store import FILE_NAME

N_IMAGES = 6


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    for seed in range(N_IMAGES):
        write(folder / f"image_{seed}.png", seed)
    return folder


def click(datastore: FolderDatastore, served_at: float | None = None) -> str:
    """A click, and what MONAI Label notes of it."""
    sample = datastore._campaign.next_sample("coldstart_al")
    assert sample is not None
    noted = {"coldstart_al": {"ts": int(served_at or time.time()), "client_id": None}}
    datastore.update_image_info(sample.image_id, {"strategy": noted})
    return sample.image_id


def restart_without_database(datastore: FolderDatastore, studies: Path) -> FolderDatastore:
    datastore.flush()
    for file in (studies / "coldstart").glob(f"{FILE_NAME}*"):
        file.write_bytes(b"garbage" * 1000)
    return open_datastore(studies)


def test_what_was_served_stays_reserved_after_a_start_on_a_lost_database(studies: Path) -> None:
    datastore = open_datastore(studies)
    before = {click(datastore) for _ in range(N_IMAGES - 2)}
    again = restart_without_database(datastore, studies)
    after = [click(again) for _ in range(3)]
    assert not before & set(after[:2])
    assert after[2] in before, "what is reserved comes when nothing else is left"


def test_labels_keep_their_days_after_a_start_on_a_lost_database(studies: Path) -> None:
    """One label has its time from the record alone, as after a copy without times, and one from its file alone."""
    final = studies / "labels" / "final"
    final.mkdir(parents=True)
    now, days_ago = time.time(), {"image_0": 3, "image_1": 5}
    for name in days_ago:
        arrived(write_label(final / f"{name}.png"))
    os.utime(final / "image_0.png", (now - 3 * 86400,) * 2)
    noted = {"ext": ".png", "info": {"ts": int(now - 5 * 86400), "name": "image_1.png"}}
    entry = {"image": {"ext": ".png", "info": {}}, "labels": {"final": noted}}
    document = {"name": "", "description": "", "objects": {"image_1": entry}}
    (studies / RECORD).write_text(json.dumps(document))
    datastore = open_datastore(studies)
    for shown in (datastore, restart_without_database(datastore, studies)):
        days = {day.day: day.labels for day in day_counts(shown._campaign.store)}
        assert days == {date.fromtimestamp(now - ago * 86400).isoformat(): 1 for ago in days_ago.values()}


def test_what_was_served_long_ago_or_labelled_since_is_not_reserved(studies: Path, tmp_path: Path) -> None:
    datastore = open_datastore(studies)
    long_ago = click(datastore, served_at=time.time() - 3601)
    labelled = click(datastore)
    datastore.save_label(labelled, str(write_label(tmp_path / "label.png")), "final", {})
    again = restart_without_database(datastore, studies)
    after = {click(again) for _ in range(N_IMAGES - 1)}
    assert long_ago in after and labelled not in after


def test_what_the_database_knows_wins_over_what_was_noted(studies: Path) -> None:
    datastore = open_datastore(studies)
    sample = datastore._campaign.next_sample("coldstart_al", annotator="ann")
    assert sample is not None
    others = {f"image_{seed}" for seed in range(N_IMAGES)} - {sample.image_id}
    for image_id in others:
        datastore.update_image_info(image_id, {"strategy": {"coldstart_al": {"ts": int(time.time())}}})
    datastore.flush()
    again = open_datastore(studies)
    assert {click(again) for _ in others} == others


@pytest.mark.parametrize("noted", ["text", {"coldstart_al": "text"}, {"coldstart_al": {"ts": "now"}}, {}])
def test_odd_notes_are_passed_over(studies: Path, noted: object) -> None:
    datastore = open_datastore(studies)
    datastore.update_image_info("image_0", {"strategy": noted})
    again = restart_without_database(datastore, studies)
    assert len({click(again) for _ in range(N_IMAGES)}) == N_IMAGES
