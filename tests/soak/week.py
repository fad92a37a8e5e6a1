"""One week: a server, six annotators, what befalls them, and what is true in the end."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import requests

from coldstart.adapters.server import Server
from coldstart.campaign.replay import decision_rows
from coldstart.store import Store
from soak.annotators import HABITS, Annotator, Clock
from soak.archive_place import ArchivePlace
from soak.checks import (
    NOTICED_WITHIN_S,
    Verdict,
    check_flat,
    check_labels,
    check_log,
    check_played,
    check_replay,
    check_reservations,
    check_well,
)
from soak.faults import Fate, Host, week_of
from soak.folder_place import FolderPlace
from soak.places import Place
from soak.records import Journal, hash_bytes, hash_voxels
from soak.watch import Watch

N_IMAGES = 500
N_HELD_OUT = 12
EMBED_LIMIT_S = 900.0
REST_LIMIT_S = 600.0
STILL_FOR_S = NOTICED_WITHIN_S
START_S = 40.0
"""What a start of the server takes on a machine that is busy."""
DISK_MB = 2048
PLACES: dict[str, type[Place]] = {"folder": FolderPlace, "archive": ArchivePlace}
CONF = {
    "preset": "sample",
    "labels": "disk:1",
    "spatial_size": "32,32",
    "encoder": "descriptor",
    "budget": "20",
    "epochs": "4",
    "batch_size": "16",
    "retrain_every": "40",
    "keep_models": "3",
    "modalities": "CT",
    "device": "cpu",
    "log_mb": "1",
}
"""A small campaign: a training takes some seconds beside the start of its process."""


@dataclass
class Options:
    """How a week is played.

    Attributes
    ----------
    disk : Path or None
        A small disk that may be filled; None where there is none.
    faults : bool
        Whether anything goes wrong at all.
    """

    minutes: float
    seed: int
    output: Path
    disk: Path | None
    faults: bool = True


@dataclass
class Week:
    """What came out."""

    place: str
    options: Options
    journal: Journal
    verdicts: list[Verdict]
    began: float
    day_s: float
    conf: dict[str, str]
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Whether all is true that has to be."""
        return all(verdict.is_true for verdict in self.verdicts)


def play(kind: str, options: Options) -> Week:
    """Play the week on a folder or on an archive, and judge it."""
    other = options.output / kind
    shutil.rmtree(other, ignore_errors=True)
    other.mkdir(parents=True)
    disk = options.disk / kind if options.disk is not None else other / "disk"
    disk.mkdir(parents=True, exist_ok=True)
    if options.disk is not None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", str(disk)], check=True)
    (other / "logs").mkdir()
    journal = Journal(kind)
    place: Place = PLACES[kind](disk, other, options.seed)
    with place.open():
        place.add(N_IMAGES - N_HELD_OUT)
        place.held_out = place.add(N_HELD_OUT)
        (other / "heldout.txt").write_text("\n".join(place.held_out))
        (disk / "tmp").mkdir()
        os.environ |= {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(disk / "cache"), "TMPDIR": str(disk / "tmp")}
        clock = Clock(options.minutes)
        conf = {**CONF, "heldout": str(other / "heldout.txt"), "state_dir": str(place.state)}
        annotators = [Annotator(habit, place, clock, journal, options.seed) for habit in HABITS]
        try:
            _begin(place, annotators[0], conf, other / "logs" / "before.log")
            clock.begin(START_S)
            conf |= _in_time(clock)
            place.server = Server(place.studies, conf, other / "logs" / "server.log")
            week = _play(place, clock, journal, annotators, options, conf)
        finally:
            if place.server is not None:
                place.server.stop()
            for name in ("state/coldstart.sqlite", "state/logs"):
                _keep(disk / name, other)
            (other / "records.json").write_text(json.dumps(journal.document()))
    return week


def _begin(place: Place, annotator: Annotator, conf: dict[str, str], log: Path) -> None:
    """Before the week: the images are embedded and planned, and those that models are judged on are labelled."""
    with Server(place.studies, conf, log) as place.server:
        _wait("the plan", lambda: _info(place)["planned"], EMBED_LIMIT_S)
        for image in place.held_out:
            content = requests.get(f"{place.url}/datastore/image?image={image}", timeout=60).content
            annotator.save(image, place.paint(content, random.Random(image)))


def _play(
    place: Place,
    clock: Clock,
    journal: Journal,
    annotators: list[Annotator],
    options: Options,
    conf: dict[str, str],
) -> Week:
    host = Host(place, journal, options.output / place.name / "logs")
    host.start()
    watch = Watch(place, journal, lambda: host.starts, watched := threading.Event())
    fate = Fate(place, clock, journal, host, annotators, options.seed)
    clock.sleep_until(0)
    for thread in (watch, *annotators):
        thread.start()
    for day, deed in week_of(fate, random.Random(options.seed), faults=options.faults, disk=options.disk is not None):
        if clock.sleep_until(day):
            try:
                deed()
            except Exception as error:  # what follows is played all the same
                journal.failures.append(f"{deed.__name__} failed: {type(error).__name__}: {error}")
    clock.sleep_until(clock.DAYS)
    clock.over.set()
    for annotator in annotators:
        annotator.join(150)
    _rest(place)
    well = check_well(_info(place), requests.get(f"{place.url}/coldstart/health", timeout=60).json(), journal.failures)
    served = place.served_labels(sorted({save.image for save in journal.saves}))
    watched.set()
    watch.join(60)
    host.stop()
    verdicts = _judge(place, journal, place.kept(), served, conf, well, options)
    return Week(place.name, options, journal, verdicts, clock.began, clock.day_s, conf)


def _judge(
    place: Place,
    journal: Journal,
    kept: Any,
    served: dict[str, bytes],
    conf: dict[str, str],
    well: Verdict,
    options: Options,
) -> list[Verdict]:
    code, replayed = _replay(place)
    clicks, saves = journal.clicks, journal.saves
    exported = {save.image for save in saves if save.way == "stow"}
    put = {image: hash_bytes(content) for image, content in served.items() if image not in exported}
    read = {image: hash_voxels(place.slices(content)) for image, content in served.items() if image in exported}
    store = Store(place.state)
    try:
        lines = [row for row in decision_rows(store)]
    finally:
        store.close()
    played = {
        "kill -9 in the middle of a training": _killed(journal, "in the middle of a training"),
        "kill -9 in the middle of a save": _killed(journal, "in the middle of a save"),
        "kill -9 between saves": _killed(journal, "between"),
        "disk full": len(journal.of_kind("room")),
        f"{place.name} away": len(journal.of_kind("back")),
        "images arrived and replaced": len(journal.of_kind("images")),
        "saves without an answer": sum(save.is_open for save in saves),
        "trainings after labels": _trainings(lines, "labels"),
        "trainings at night": _trainings(lines, "time"),
        "models used": len(journal.of_kind("model")),
    }
    least = {"images arrived and replaced": 7, "trainings after labels": 1, "trainings at night": 2, "models used": 2}
    if options.faults:
        least |= {name: 1 for name in list(played)[:3]} | {f"{place.name} away": 2, "saves without an answer": 1}
    if options.faults and options.disk is not None:
        least |= {"disk full": 1}
    came_as_seg = [save for save in saves if save.image in exported]
    return [
        check_labels(saves, kept, place.compared, f"in the {place.name}"),
        check_labels(
            [save for save in saves if save.image not in exported],
            put,
            "file",
            "as the server gives them",
        ),
        *([check_labels(came_as_seg, read, "voxels", "as the server gives OHIF's")] if came_as_seg else []),
        check_reservations(clicks, saves, 60 * float(conf["reserve_minutes"])),
        check_replay(replayed, code),
        check_log(clicks, [row for row in lines if row["kind"] == "click"]),
        check_flat(journal.samples),
        check_played(played, least),
        well,
    ]


def _in_time(clock: Clock) -> dict[str, str]:
    """What depends on the length of a day: when the nights' trainings begin, and how long an image is kept."""
    nights = [datetime.fromtimestamp(clock.at(day + clock.WORK) + 59) for day in range(clock.DAYS)]
    times = sorted({f"{night:%H:%M}" for night in nights})
    return {"retrain_at": ",".join(times), "reserve_minutes": f"{clock.day_s / 60 / 2:.3f}"}


def _info(place: Place) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{place.url}/info/", timeout=60).json()
    state: dict[str, Any] = {**found["coldstart"], "datastore": found.get("datastore", {})}
    return state


def _rest(place: Place) -> None:
    """Wait until the server has nothing to do for a while: no task, and no label on its way to the archive."""
    still_since = time.monotonic()
    deadline = time.monotonic() + REST_LIMIT_S
    while time.monotonic() - still_since < STILL_FOR_S and time.monotonic() < deadline:
        state = _info(place)
        busy = any(one in ("SUBMITTED", "RUNNING") for one in state["tasks"].values())
        if busy or state["datastore"].get("not_in_archive"):
            still_since = time.monotonic()
        time.sleep(1)


def _wait(what: str, reached: Any, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not reached within {limit_s:g} s: {what}")
        time.sleep(0.5)


def _replay(place: Place) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "coldstart", "replay", str(place.state), "--all", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    return done.returncode, json.loads(done.stdout)


def _killed(journal: Journal, when: str) -> int:
    return sum(str(event.details["when"]).startswith(when) for event in journal.of_kind("kill"))


def _trainings(lines: list[dict[str, Any]], trigger: str) -> int:
    return sum(row["kind"].startswith("training") and row["details"].get("trigger") == trigger for row in lines)


def _keep(path: Path, folder: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
    elif path.exists():
        shutil.copy(path, folder)
