"""What befalls the server in a week: images come and change, it is killed, its disk is full, the archive goes away."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import requests

from soak.annotators import Annotator, Clock
from soak.places import Place
from soak.records import Journal

ORPHANS_LIMIT_S = 120.0
MODEL = "attention_unet"


class Host:
    """Starts the server, and starts it again.

    Parameters
    ----------
    place : Place
        Has the server.
    journal : Journal
    logs : Path
        One file for each start.
    """

    def __init__(self, place: Place, journal: Journal, logs: Path):
        self._place, self._journal, self._logs = place, journal, logs
        self.starts = 0

    @property
    def pid(self) -> int:
        """Of the server that runs."""
        return self._server.pid

    @property
    def _server(self) -> Any:
        if self._place.server is None:
            raise RuntimeError("the place has no server")
        return self._place.server

    @property
    def log(self) -> Path:
        """What the server that runs, and its tasks, have said."""
        return Path(self._server.log)

    def start(self) -> None:
        """Start it at the address that it had."""
        self.starts += 1
        self._server.log = self._logs / f"server-{self.starts}.log"
        began = time.monotonic()
        self._server.__enter__()
        self._journal.note("start", f"server started for the {self.starts}. time in {time.monotonic() - began:.0f} s")

    def kill(self, when: str) -> None:
        """End it as a power cut does, see that its tasks end by themselves, and start it again."""
        children = psutil.Process(self.pid).children(recursive=True)
        os.kill(self.pid, signal.SIGKILL)
        self._server.stop()
        self._journal.note("kill", f"kill -9 {when}, with {len(children)} child processes", when=when)
        deadline = time.monotonic() + ORPHANS_LIMIT_S
        while alive := [child for child in children if _lives(child)]:
            if time.monotonic() > deadline:
                self._journal.failures.append(f"{len(alive)} children lived on after the kill {when}.")
                break
            time.sleep(0.1)
        self.start()

    def stop(self) -> int:
        """End it as Ctrl-C does."""
        code: int = self._server.stop()
        self._journal.note("stop", f"server ended with {code}")
        return code


class Fate:
    """Plays what happens at its time; every method is one thing, and ends when it is over.

    Parameters
    ----------
    place, clock, journal, host
        Of the week.
    annotators : sequence of Annotator
        A kill in the middle of a save waits for one of theirs.
    seed : int
        Of the moments.
    """

    def __init__(
        self, place: Place, clock: Clock, journal: Journal, host: Host, annotators: Sequence[Annotator], seed: int
    ):
        self._place, self._clock, self._journal, self._host = place, clock, journal, host
        self._annotators = annotators
        self._rng = random.Random(seed)

    def images_arrive(self) -> None:
        """Some come, and some are replaced by others."""
        arrived = self._place.add(4)
        in_use = {click.image for click in self._journal.clicks if click.image is not None}
        replaced = self._place.replace(3, in_use)
        sentence = f"{len(arrived)} images arrived, {len(replaced)} were replaced"
        self._journal.note("images", sentence, arrived=arrived, replaced=replaced)

    def kill_in_mid_training(self) -> None:
        """At a random moment of a training; one is asked for if none begins by itself within half a day."""
        until, asked = self._clock.day + 0.5, False
        while (worker := self._training()) is None:
            if self._clock.day > until and not asked:
                requests.post(f"{self._place.url}/train/{MODEL}", json={}, timeout=60)
                asked = True
            if self._clock.over.wait(0.1):
                return
        seen = self._host.log.stat().st_size
        while _lives(worker) and b"Epoch " not in self._host.log.read_bytes()[seen:]:
            time.sleep(0.05)
        time.sleep(self._rng.uniform(0, 0.5))
        if not _lives(worker):
            return self.kill_in_mid_training()
        self._host.kill("in the middle of a training")

    def kill_in_mid_save(self) -> None:
        """At a random moment of a save, which is stopped first to see that it has not been answered."""
        while not self._clock.over.is_set():
            saving = next((one for one in self._annotators if one.saving.is_set()), None)
            if saving is None:
                time.sleep(0.001)
                continue
            time.sleep(self._rng.uniform(0, 0.03))
            os.kill(self._host.pid, signal.SIGSTOP)
            time.sleep(0.3)
            if saving.saving.is_set():
                self._host.kill("in the middle of a save")
                return
            os.kill(self._host.pid, signal.SIGCONT)
            self._clock.over.wait(1)

    def kill_between(self) -> None:
        """While nobody saves and no training runs; where one always runs, on a busy machine, beside it."""
        until = self._clock.day + 0.7
        while (trains := self._training() is not None and self._clock.day < until) or self._is_saving():
            if self._clock.over.wait(0.5 if trains else 0.01):
                return
        self._host.kill("between saves" + (", while a training runs" if self._training() is not None else ""))

    def place_is_away(self) -> None:
        """The archive ends, or the folder is not there, while people go on."""
        self._place.go_away()
        self._journal.note("away", f"the {self._place.name} is away")
        self._clock.over.wait(0.25 * self._clock.day_s)
        self._place.come_back()
        self._journal.note("back", f"the {self._place.name} is back")

    def disk_is_full(self) -> None:
        """Not a byte is left, also when the server makes room, while people go on."""
        filler = self._place.disk / "filler"
        self._journal.note("full", "the disk is full")
        until = time.monotonic() + 0.3 * self._clock.day_s
        while time.monotonic() < until:
            fill(filler)
            if self._clock.over.wait(0.5):
                break
        filler.unlink()
        self._journal.note("room", "the disk has room again")

    def _is_saving(self) -> bool:
        return any(one.saving.is_set() for one in self._annotators)

    def _training(self) -> psutil.Process | None:
        try:
            for process in psutil.Process(self._host.pid).children():
                command = process.cmdline()
                if "monailabel.interfaces.utils.app" in command and "train" in command:
                    return process
        except psutil.Error:
            pass
        return None


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def fill(filler: Path) -> None:
    """Use the last byte of a disk."""
    with filler.open("ab", buffering=0) as file:
        size = 1 << 24
        while size:
            try:
                file.write(b"x" * size)
            except OSError:
                size //= 2


Deed = tuple[float, Callable[[], None]]
"""A day and what happens then."""


def week_of(fate: Fate, rng: random.Random, *, faults: bool, disk: bool) -> list[Deed]:
    """What happens when, in days; each at a random moment of its part of the week."""
    deeds: list[Deed] = [(day + 0.1 + 0.5 * rng.random(), fate.images_arrive) for day in range(7)]
    if faults:
        deeds += [
            (1.0 + 0.3 * rng.random(), fate.kill_in_mid_training),
            (1.9 + 0.4 * rng.random(), fate.place_is_away),
            (2.4 + 0.2 * rng.random(), fate.kill_in_mid_save),
            (3.0 + 0.3 * rng.random(), fate.kill_between),
            (4.1 + 0.3 * rng.random(), fate.place_is_away),
        ]
        if disk:
            deeds.append((5.0 + 0.3 * rng.random(), fate.disk_is_full))
    return sorted(deeds, key=lambda deed: deed[0])
