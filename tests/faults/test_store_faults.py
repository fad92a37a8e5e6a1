"""What a kill at any moment and a damaged file do to the campaign's database: with real processes and a real server."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import store_case as case
from sqlalchemy import select, text

from coldstart.store import Image, Label, Serving, Store, file_signature

N_KILLS = 36
LONGEST_LIFE_S = 0.7


def run_and_kill(context: Any, studies: Path, state: Path, seed: int) -> list[list[Any]]:
    """Let a process work, kill it at a random moment, and return what it had said."""
    reading, writing = os.pipe()
    process = context.Process(target=case.work_until_killed, args=(studies, state, seed, writing))
    process.start()
    os.close(writing)
    time.sleep(random.Random(seed).uniform(0, LONGEST_LIFE_S))
    process.kill()
    process.join(30)
    with os.fdopen(reading, encoding="utf-8") as report:
        said = [json.loads(line) for line in report]
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
    """After each of 36 kills it opens, is whole, and holds every change whose call had returned."""
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
