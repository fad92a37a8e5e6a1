"""What a kill at any moment and a damaged file do to the campaign's database: with real processes and a real server."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import fault_case as fault
import requests
import store_case as case
from sqlalchemy import select, text

from coldstart.adapters.server import Server
from coldstart.store import FILE_NAME, Image, Label, Serving, Store, state_folder

N_KILLS = 32
MOST_SAID = 40
"""Lines that a process may say before it is killed: its life is counted in what it does, not in seconds."""
LONGEST_WAIT_S = 0.03


def run_and_kill(context: Any, studies: Path, state: Path, seed: int) -> list[list[Any]]:
    """Let a process work, kill it at a random moment, and return what it had said."""
    generator = random.Random(seed)
    reading, writing = os.pipe()
    process = context.Process(target=case.work_until_killed, args=(studies, state, seed, writing))
    process.start()
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as report:
        said = [json.loads(line) for line in islice(report, generator.randrange(MOST_SAID))]
        time.sleep(generator.uniform(0, LONGEST_WAIT_S))
        process.kill()
        process.join(30)
        said += [json.loads(line) for line in report]
    assert process.exitcode == -9, f"the process with seed {seed} ended by itself"
    return said


class Expected:
    """What must be in the database, by what the killed processes said."""

    def __init__(self) -> None:
        self.clicks: dict[str, str] = {}
        self.labels: dict[str, str] = {}
        self.images_known = False

    def learn(self, said: list[list[Any]]) -> None:
        """Take over what was said; the label of an image that a process was at when it was killed may be anything."""
        for kind, image_id, who, state in said:
            if state != "done":
                continue
            if kind == "click" and image_id is not None:
                self.clicks[who] = image_id
            elif kind == "label":
                self.labels[image_id] = who
            elif kind == "unlabel":
                self.labels.pop(image_id, None)
            elif kind in ("sync", "replace"):
                self.images_known = True
        if said and said[-1][3] == "begun" and said[-1][0] in ("label", "unlabel"):
            self.labels.pop(said[-1][1], None)


def test_database_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    """After each of 32 kills it opens, is whole, and holds every change whose call had returned."""
    studies, state = tmp_path / "studies", tmp_path / "state"
    studies.mkdir()
    for number in range(case.N_IMAGES):
        case.draw(studies / f"i{number:02}.png", number)
    context = multiprocessing.get_context("fork")  # a spawned one imports torch first, for many seconds
    expected, moments = Expected(), set()
    for seed in range(N_KILLS):
        said = run_and_kill(context, studies, state, seed)
        expected.learn(said)
        moments.add((said[-1][0], said[-1][3]) if said else ("opening", "begun"))
        store = Store(state)
        try:
            require_whole(store, expected)
        finally:
            store.close()
    assert list(state.glob("*.damaged-*")) == []
    assert len(expected.clicks) > N_KILLS and expected.labels
    assert len(moments) >= 5, f"too few kinds of moments were hit: {moments}"


def require_whole(store: Store, expected: Expected) -> None:
    with store.reading() as session:
        assert session.scalar(text("PRAGMA integrity_check")) == "ok"
        assert session.execute(text("PRAGMA foreign_key_check")).all() == []
        served = select(Serving.annotator, Image.image_id).join(Image)
        clicks = dict(session.execute(served).tuples().all())
        labels = dict(session.execute(select(Image.image_id, Label.annotator).join(Label)).tuples().all())
        images = session.scalars(select(Image.image_id)).all()
    assert expected.clicks.items() <= clicks.items()
    assert expected.labels.items() <= labels.items()
    if expected.images_known:
        assert len(images) == case.N_IMAGES


N_IMAGES = 30


def prepare(studies: Path) -> list[str]:
    """A campaign with a plan, two clicks and their labels; return the labelled ids."""
    fault.write_images(studies, N_IMAGES)
    campaign = fault.open_campaign(studies)
    fault.sync(campaign, studies)
    campaign.embed()
    served = [sample.image_id for _ in range(2) if (sample := campaign.next_sample("coldstart_al", annotator="ann"))]
    fault.label_in_folder(studies, *served)
    fault.sync(campaign, studies)
    campaign.store.close()
    return served


def settle(path: Path) -> None:
    """Let everything of a database go into its one file: what is still in its log repairs it."""
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(random.Random(0).randbytes(path.stat().st_size))


def cut_off(path: Path) -> None:
    os.truncate(path, 5000)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def remove_with_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def kept_aside(path: Path) -> list[Path]:
    return [file for file in path.parent.glob(f"{FILE_NAME}.damaged-*") if not file.name.endswith(("-wal", "-shm"))]


def click_until_answered(server: Server, limit_s: float = 20) -> str:
    """Click, and click again where a sentence says so; return the image's id."""
    deadline = time.monotonic() + limit_s
    while True:
        url = f"{server.url}/activelearning/coldstart_al"
        answer = requests.post(url, json={"client_id": f"who{time.monotonic_ns()}"}, timeout=30)
        if answer.status_code == 200:
            assert "id" in answer.json(), "an answer without an image while there are some"
            return str(answer.json()["id"])
        assert answer.status_code == 503 and "Try again" in answer.json()["detail"], answer.text
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)


def wait_for_labels(server: Server, studies: Path) -> dict[str, Any]:
    """The campaign's numbers once they hold every image and every label that the folder has."""
    n_labels = len(list((studies / "labels" / "final").glob("*.png")))

    def reached() -> dict[str, Any] | None:
        state = fault.state(server)
        return state if (state["images"], state["labelled"]) == (N_IMAGES, n_labels) else None

    found: dict[str, Any] = fault.wait_for(f"{N_IMAGES} images, {n_labels} labels", reached, server, limit_s=30)
    return found


def save_label(server: Server, studies: Path, image_id: str) -> requests.Response:
    with (fault.truth_of(studies) / f"{image_id}.png").open("rb") as file:
        url = f"{server.url}/datastore/label?image={image_id}"
        return requests.put(url, data={"params": "{}"}, files={"label": (f"{image_id}.png", file)}, timeout=30)


def test_server_goes_on_whatever_happens_to_its_database(start: Callable[..., Server], tmp_path: Path) -> None:
    """Garbage at the start and while it runs, cut off, emptied, removed with its folder: all is there again."""
    studies = tmp_path / "studies"
    labelled = set(prepare(studies))
    path = state_folder(studies) / FILE_NAME
    overwrite(path)
    server = start(studies)
    assert len(kept_aside(path)) == 1
    wait_for_labels(server, studies)
    handed_out: set[str] = set()
    for n_kept, damage in ((2, overwrite), (3, cut_off), (4, empty), (0, remove_with_folder)):
        settle(path)
        damage(path)
        served = click_until_answered(server)
        assert served not in labelled | handed_out, "a label counts although the database that knew it is gone"
        assert save_label(server, studies, served).status_code == 200
        labelled.add(served)
        reserved = click_until_answered(server)
        assert reserved not in labelled | handed_out, "who got an image is known although the database is gone"
        handed_out.add(reserved)
        fault.wait_for(f"{n_kept} kept", lambda n=n_kept: len(kept_aside(path)) == n and path.is_file(), server, 30)
        wait_for_labels(server, studies)
    fault.wait_for("a plan", lambda: fault.state(server)["planned"] == fault.BUDGET, server)
    assert "Traceback" not in server.log.read_text()
