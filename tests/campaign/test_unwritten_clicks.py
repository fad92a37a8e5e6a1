"""Clicks while the database cannot be written: answered, remembered, and written afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import campaign_case as case
import pytest
from campaign_case import N_POOL, click, clicks, label, planned, servings
from test_serving_brute_force import held

from coldstart.campaign import LabelFile
from coldstart.campaign.replay import decision_rows, replay
from coldstart.campaign.unwritten import UnwrittenServings
from coldstart.exceptions import StoreBusyError
from coldstart.store import engine

FULL_DISK = Path(__file__).parent / "full_disk.py"


@pytest.fixture
def patient_campaign(make_campaign, monkeypatch):
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_S", 0.05)
    return make_campaign()


def write_remembered(campaign):
    """Try until the pause after the try that failed is over."""
    deadline = time.monotonic() + 10
    while campaign._desk._unwritten:
        assert time.monotonic() < deadline
        campaign._desk.write_remembered()
        time.sleep(0.01)


def test_clicks_of_a_held_database_are_answered_and_written_afterwards(patient_campaign, caplog):
    campaign, expected = patient_campaign, planned(patient_campaign)
    with held(campaign):
        assert clicks(campaign, 2) == expected[:2]
        assert [click(campaign, annotator="anna").image_id for _ in range(2)] == expected[2:4]
        assert servings(campaign) == []
    assert "is not written yet, but remembered" in caplog.text
    assert "locked" in caplog.text
    write_remembered(campaign)
    wanted = [(expected[0], None), (expected[1], None), (expected[2], "skipped"), (expected[3], None)]
    assert servings(campaign) == wanted
    assert click(campaign).image_id == expected[4]
    write_remembered(campaign)
    assert len(servings(campaign)) == 5


def test_reasons_of_remembered_clicks_are_kept(patient_campaign):
    campaign = patient_campaign
    case.score(campaign, case.random_entropies())
    with held(campaign):
        samples = [click(campaign, "entropy_diversity", annotator=f"a{number}") for number in range(3)]
    write_remembered(campaign)
    assert [sample.why["rank"] for sample in samples] == [1, 2, 3]
    with campaign.store.reading() as session:
        rows = session.query(case.Serving).order_by(case.Serving.id).all()
    assert [row.why for row in rows] == [sample.why for sample in samples]
    assert [row.annotator for row in rows] == ["a0", "a1", "a2"]
    assert {row.scoring_id for row in rows} == {case.newest_scoring(campaign).id}
    assert click(campaign, "entropy_diversity").why["rank"] == 4


def test_threads_get_different_images_while_the_database_comes_and_goes(patient_campaign):
    campaign = patient_campaign
    stop = threading.Event()

    def come_and_go():
        while not stop.is_set():
            with held(campaign):
                time.sleep(0.1)
            time.sleep(0.02)

    other = threading.Thread(target=come_and_go)
    other.start()
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda index: click(campaign, annotator=f"a{index}").image_id, range(N_POOL)))
    stop.set()
    other.join()
    write_remembered(campaign)
    assert len(set(got)) == N_POOL
    assert sorted(image_id for image_id, _ in servings(campaign)) == sorted(got)


def test_label_saved_before_its_serving_could_be_written_ends_it(patient_campaign, monkeypatch):
    campaign = patient_campaign
    with monkeypatch.context() as patch:
        patch.setattr(UnwrittenServings, "try_to_write", lambda _: False)  # as in the pause after a try that failed
        first = click(campaign, annotator="anna").image_id
        label(campaign, first)
    write_remembered(campaign)
    assert servings(campaign) == [(first, "labelled")]


def test_remembered_click_of_an_image_that_is_unknown_by_now_is_let_go(patient_campaign):
    campaign, expected = patient_campaign, planned(patient_campaign)
    with held(campaign):
        clicks(campaign, 2)
    with campaign.store.writing() as session:
        session.delete(session.query(case.Image).filter_by(image_id=expected[0]).one())
    write_remembered(campaign)
    assert servings(campaign) == [(expected[1], None)]
    logged = [row for row in decision_rows(campaign.store) if row["kind"] == "click"]
    assert [(row["image_id"], row["details"]["serving"]) for row in logged] == [(expected[0], None), (expected[1], 1)]
    assert [one for one in replay(campaign.store) if one.kind == "click" and not one.same] == []


def test_label_and_look_at_the_folder_write_what_is_remembered(patient_campaign, pictures):
    campaign = patient_campaign
    for act in (lambda: label(campaign, "p00"), lambda: campaign.sync(case.list_files(pictures), {})):
        with held(campaign):
            click(campaign)
        before = len(servings(campaign))
        time.sleep(0.5)  # longer than the pause
        act()
        assert len(servings(campaign)) == before + 1


def test_clicks_are_spared_the_wait_of_the_one_before(make_campaign, monkeypatch):
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_S", 1.0)
    campaign = make_campaign()
    with held(campaign):
        started = time.monotonic()
        clicks(campaign, 5)
        assert time.monotonic() - started < 3  # and not five times one second
        with pytest.raises(StoreBusyError):
            label(campaign, "p00")


def test_labels_that_cannot_be_written_count_for_clicks_at_once(patient_campaign, pictures):
    campaign, expected = patient_campaign, planned(patient_campaign)
    images = case.list_files(pictures)
    campaign.sync(images, {})
    label(campaign, expected[0])
    with held(campaign):
        for image_id in expected[1:3]:
            with pytest.raises(StoreBusyError):
                label(campaign, image_id)
        assert clicks(campaign, 1) == expected[3:4]
        with pytest.raises(StoreBusyError):
            campaign.remove_label(expected[0])
        left = {image_id: path for image_id, path in images.items() if image_id != expected[4]}
        saved = {image_id: LabelFile(campaign.folder / "labels" / f"{image_id}.png") for image_id in expected[1:3]}
        with pytest.raises(StoreBusyError):
            campaign.sync(left, saved)
        assert campaign.status()["labelled"] == 1
        assert clicks(campaign, 2) == [expected[0], expected[5]]
    (campaign.folder / "labels" / f"{expected[0]}.png").unlink()
    time.sleep(0.3)  # longer than the pause
    campaign.sync(left, saved)
    assert campaign.status()["labelled"] == 2
    assert campaign._uncounted.states == {}
    assert label(campaign, expected[3]) is None


def test_labels_are_spared_the_wait_of_the_one_before(make_campaign, monkeypatch, pictures):
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_S", 1.0)
    campaign = make_campaign()
    with held(campaign):
        click(campaign)
        time.sleep(1.5)  # longer than the pause: what is remembered and the label are both due
        started = time.monotonic()
        for image_id in ("p00", "p01", "p02", "p03"):
            with pytest.raises(StoreBusyError, match="locked"):
                label(campaign, image_id)
        with pytest.raises(StoreBusyError, match="locked"):
            campaign.remove_label("p00")
        assert time.monotonic() - started < 3  # and not ten times one second
    with pytest.raises(StoreBusyError):
        label(campaign, "p04")
    campaign.sync(case.list_files(pictures), {})
    assert label(campaign, "p04") is None


def test_clicks_on_a_full_disk_are_answered_and_written_when_there_is_room(campaign, tmp_path):
    """In a process with a disk of its own: a small tmpfs in a mount namespace of its own."""
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this system does not let a user make a mount namespace")
    campaign.store.close()
    command = ["unshare", "-rm", sys.executable, str(FULL_DISK), str(campaign.folder), str(tmp_path / "disk")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(FULL_DISK.parent), os.environ.get("PYTHONPATH", "")]),
    }
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "ok"
