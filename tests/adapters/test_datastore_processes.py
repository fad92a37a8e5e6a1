"""Several threads, several processes, kills and a full disk: nothing that was saved is lost."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datastore_case as case
import pytest
from datastore_case import RECORD, open_datastore, record, write, write_label
from monailabel.datastore.local import LocalDatastoreModel

N_KILLS = 22
LIMIT_S = 60

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["coldstart.adapters.datastore"])


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    return folder


def test_kills_at_any_moment_lose_no_label_that_was_acknowledged(studies: Path, tmp_path: Path) -> None:
    for number in range(7):
        write(studies / f"p{number}.png")
    acknowledged = tmp_path / "acknowledged"
    acknowledged.touch()
    chance = random.Random(0)
    for number in range(N_KILLS):
        first, size = 1_000_000 * (number + 1), acknowledged.stat().st_size
        process = processes.Process(target=case.label_and_click, args=(studies, tmp_path, first, acknowledged))
        process.start()
        deadline = time.monotonic() + LIMIT_S
        while acknowledged.stat().st_size == size and number % 5:  # every fifth is killed while it starts
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.25))
        process.kill()
        process.join()
        last = dict(line.split() for line in acknowledged.read_text().splitlines())
        if (studies / RECORD).exists():
            LocalDatastoreModel.model_validate_json((studies / RECORD).read_bytes())
        for image_id, least in last.items():
            saved = int((studies / "labels" / "final" / f"{image_id}.png").read_bytes())
            noted = record(studies)[image_id]["labels"]["final"]["info"]["number"]
            assert saved >= int(least) and noted >= int(least)
    assert len(last) == 7, "too few labels were saved to say anything"
    datastore = open_datastore(studies)
    assert datastore._campaign.status()["labelled"] == 7
    assert not list(studies.glob("*damaged*"))


def test_two_processes_lose_nothing_of_each_other(studies: Path, tmp_path: Path) -> None:
    images = [f"p{number:03}" for number in range(100)]
    for image_id in [*images, "shared"]:
        write(studies / f"{image_id}.png")
    open_datastore(studies)
    workers = [
        processes.Process(target=case.label_own_half, args=(studies, tmp_path, name, mine, tag))
        for name, mine, tag in (
            ("ann", images[::2], "final"),
            ("bob", images[1::2], "final"),
            ("eve", images, "original"),
        )
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LIMIT_S)
        assert worker.exitcode == 0
    entries = record(studies)
    for name, mine, tag in (("ann", images[::2], "final"), ("bob", images[1::2], "final"), ("eve", images, "original")):
        for number, image_id in enumerate(mine):
            info = entries[image_id]["labels"][tag]["info"]
            assert (info["client_id"], info["number"], info["by"]) == (name, number, name)
            assert [entries[image_id]["image"]["info"].get(f"{name}_{key}") for key in "abc"] == [number] * 3
            assert entries["shared"]["image"]["info"][f"{name}_{number}"] == number
    assert open_datastore(studies)._campaign.status()["labelled"] == 100


def test_eighty_labels_at_once_beside_a_sync_and_another_process(studies: Path, tmp_path: Path) -> None:
    images = [f"p{number:02}" for number in range(80)]
    for image_id in [*images, "shared"]:
        write(studies / f"{image_id}.png")
    datastore = open_datastore(studies)
    label = write_label(tmp_path / "label.png")
    other = processes.Process(target=case.label_own_half, args=(studies, tmp_path, "eve", images[:30], "original"))
    other.start()
    saved: set[str] = set()
    missing: list[set[str]] = []
    done = threading.Event()

    def sync() -> None:
        while not done.is_set():
            datastore.sync()

    def watch() -> None:
        while not done.is_set():
            before = set(saved)
            missing.append(before - set(datastore.get_labeled_images()))
            missing.append(before - {i for i in before if datastore.get_label_info(i, "final").get("number") == i})

    def save(image_id: str) -> None:
        datastore.update_image_info(image_id, {"click": image_id})
        datastore.save_label(image_id, str(label), "final", {"number": image_id, "label_info": []})
        saved.add(image_id)

    helpers = [threading.Thread(target=sync), threading.Thread(target=watch)]
    for helper in helpers:
        helper.start()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(save, images))
    other.join(LIMIT_S)
    done.set()
    for helper in helpers:
        helper.join()
    assert other.exitcode == 0
    assert len(missing) > 10 and not any(missing), "a saved label was away for a while"
    datastore.sync()
    datastore.flush()
    entries = record(studies)
    assert all(entries[i]["labels"]["final"]["info"]["number"] == i for i in images)
    assert all(entries[i]["image"]["info"]["click"] == i for i in images)
    assert all(entries[i]["labels"]["original"]["info"]["by"] == "eve" for i in images[:30])
    assert datastore._campaign.status()["labelled"] == 80


def test_full_or_read_only_disk_leaves_what_was_there_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    alone = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk: unshare --map-root-user --mount is refused")
    script = f"mount -t tmpfs -o size=256k none {studies} && exec {sys.executable} {case.__file__} {studies}"
    ended = subprocess.run([*alone, "sh", "-c", script], capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.returncode == 0, ended.stderr
    seen = json.loads(ended.stdout.splitlines()[-1])
    status, sentence = seen["refused"]
    assert status == 507 and "The label of image 'p0' cannot be written: No space left on device" in sentence
    assert seen["unchanged"] and seen["left over"] == []
    assert seen["label without record"] and seen["record then"] == []
    assert seen["record later"] == ["bob", "7"] and seen["labelled"] == 2
    assert [status for status, _ in seen["read-only"]] == [503, 503] and seen["still served"] == 5
    assert all("cannot be written: Read-only file system" in sentence for _, sentence in seen["read-only"])
    assert all("Mount it writable, then try again." in sentence for _, sentence in seen["read-only"])
