"""The server's child processes: begun where there is work, tried again when they fail, ended with the server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from types import FrameType
from typing import Any

import psutil
from monailabel.utils.async_tasks import task as async_task
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import (
    background_executors,
    background_processes,
    stop_background_task,
    tasks,
)

from coldstart.adapters.chain import OPEN, STOP_LIMIT_S, TRIGGER, Chain
from coldstart.adapters.errors import AppError
from coldstart.campaign import Campaign

RETRY_AFTER_S = (5.0, 60.0, 600.0)
"""How long after the beginning of its first, second, ... try work that failed is tried again; the last holds for good.

Ten minutes are often enough for what does not pass by itself, and soon enough when a disk has room again. A training
has as many tries as there are times: what kills it each time does so an hour later too."""
SERVER_PID = "COLDSTART_SERVER_PID"
"""Environment variable by which a child process knows its server."""
LOOK_FOR_SERVER_EVERY_S = 0.5
NICENESS = 10
"""Of the child processes: while both want a core, the server has ten times the time of a task on it."""

KINDS = ("scoring", "train")
"""MONAI Label's kinds of tasks that this app has."""
_NAMES = {"embedding": "embedding", "entropy": "entropy scoring", "prelabel": "pre-labelling", "train": "training"}
_KEPT = {
    "embedding": "what was embedded is kept, and the rest is tried again by itself",
    "entropy": "the scoring before stays in use, and it is tried again by itself",
    "prelabel": "the images come without the model's segmentation until then, and it is tried again by itself",
    "train": "nothing was published, and the model before, if there is one, stays in use",
}
STATES = {"SUBMITTED": "waiting", "RUNNING": "running", "DONE": "done", "ERROR": "failed", "STOPPED": "stopped"}
LOG_LINES = 10
_LOGGED = re.compile(r"\[[\d-]+ (?P<time>[\d:]+)[\d,]*\] (\[[^]]*\] )*(\([\w.<>]+:\d+\) - )?(?P<text>.*)")
_RAISED = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Warning): (?:\d{3}: )?(?P<sentence>.+)")
"""The last line of a traceback, with the status that an error has for a viewer."""


@dataclass(frozen=True)
class _Tries:
    fingerprint: str
    count: int
    last: float


class _Processes(dict[str, "subprocess.Popen[str]"]):
    """MONAI Label's table of running processes, which forgets how they ended; `known` does not.

    A process gets here as soon as it is started, and from then on leaves the processor to the server. Once the server
    is `ending` it is killed: while it was being started nobody could.
    """

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, subprocess.Popen[str]] = {}
        self.ending = False

    def __setitem__(self, task_id: str, process: subprocess.Popen[str]) -> None:
        with suppress(OSError):  # it has just ended, or the system is stricter
            own = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, process.pid, own + NICENESS)  # before it has threads, which do as it does
        self.known[task_id] = process
        super().__setitem__(task_id, process)
        if self.ending:
            process.kill()

    def have_ended(self) -> bool:
        """Whether MONAI Label waits for none of them: one that it was told to stop is in the table no more."""
        return all(process.returncode is not None for process in list(self.known.values()))


class Tasks:
    """Begins what the campaign has to do in child processes, and says what became of them.

    Parameters
    ----------
    campaign : Campaign
        It says what there is to do.
    chain : Chain
        It says when to train, and begins that.
    """

    def __init__(self, campaign: Campaign, chain: Chain):
        self._campaign = campaign
        self._chain = chain
        self._tries: dict[str, _Tries] = {}
        self._waiting: set[str] = set()
        self._ending = False
        self._turn = threading.Lock()  # a training being stopped is due again until that is noted
        self._processes = {kind: _Processes() for kind in KINDS}
        background_processes.update(self._processes)
        async_task.stop_background_task = self._stop

    def begin(self) -> dict[str, Any]:
        """Queue what has something to do, is neither waiting nor running, and did not fail a moment ago."""
        with self._turn:
            return {} if self._ending else self._begin()

    def _begin(self) -> dict[str, Any]:
        self._give_up_lost()
        queued: dict[str, Any] = {}
        failure = self.errors().get("train")
        to_do = {str(name): found for name, found in self._campaign.tasks_to_do().items()} | self._chain.due(failure)
        self._tries = {name: tries for name, tries in self._tries.items() if name in to_do}  # the rest has succeeded
        for name, fingerprint in to_do.items():
            tries = self._tries.get(name)
            if tries is None or tries.fingerprint != fingerprint:
                tries = _Tries(fingerprint, 0, 0.0)
            wait_s = RETRY_AFTER_S[min(tries.count, len(RETRY_AFTER_S)) - 1] if tries.count else 0.0
            if self._ending or name in _open_names() or time.monotonic() - tries.last < wait_s:
                continue
            self._tries[name] = _Tries(fingerprint, tries.count + 1, time.monotonic())
            if name == "train":
                if tries.count < len(RETRY_AFTER_S) or not self._chain.give_up(failure):
                    self._chain.begin()
            else:
                queued[name], _ = AsyncTask.run("scoring", request={"method": name}, enqueue=True)
        return queued

    def states(self) -> dict[str, str]:
        """State of the newest task of each name."""
        return {name: task["status"] for name, task in _newest().items()}

    def errors(self) -> dict[str, str]:
        """One sentence for each name whose newest task failed or was stopped."""
        return {
            name: self._sentence(name, task)
            for name, task in _newest().items()
            if task["status"] in ("ERROR", "STOPPED")
        }

    def shown(self) -> list[dict[str, Any]]:
        """The newest task of each name for people: its state, its error if there is one, and its last lines."""
        errors = self.errors()
        return [
            {
                "name": name,
                "title": _NAMES.get(name, name).capitalize(),
                "state": STATES.get(task["status"], "running"),
                "error": errors.get(name),
                "started_at": datetime.strptime(task["start_ts"], "%Y-%m-%d %H:%M:%S").timestamp(),
                "log": [_without_source(line) for line in list(task.get("details", ()))[-LOG_LINES:]],
            }
            for name, task in _newest().items()
        ]

    def end_before(self, handler: Any) -> Callable[[int, FrameType | None], None]:
        """End the running tasks, then do what `handler` does: a server ends only when the threads of its tasks do.

        Nothing is begun from then on, and nothing that ends now is taken for failed: the next server begins it again.
        """

        def handle(number: int, frame: FrameType | None) -> None:
            self._ending = True
            for known in self._processes.values():
                known.ending = True
            for kind, executor in list(background_executors.items()):
                executor.shutdown(wait=False, cancel_futures=True)
                with suppress(psutil.NoSuchProcess):  # it has just ended by itself
                    stop_background_task(kind)
            if callable(handler):
                handler(number, frame)

        return handle

    def _stop(self, kind: str) -> dict[str, Any] | None:
        """Stop the running task, in the place of MONAI Label's function of this name.

        Slicer's plugin reads the last line of what a stopped task said, which in its first seconds has said nothing.
        """
        if kind != "train":
            return _stopped(kind)
        if not self._turn.acquire(timeout=STOP_LIMIT_S):  # on the event loop, where everybody else waits too
            raise AppError("The server is beginning work just now. Stop it again in a minute.", 503)
        try:
            if (task := _stopped(kind)) is not None:
                self._chain.note_stopped(task)
            return task
        finally:
            self._turn.release()

    def _give_up_lost(self) -> None:
        """Call a task failed whose process could not be started: in MONAI Label it stays SUBMITTED for good.

        It is one when, at two looks in a row, it waits although no other runs before it.
        """
        idle = [kind for kind in KINDS if self._processes[kind].have_ended()]
        waiting = [task for kind in idle for task in tasks(kind) if task["status"] == "SUBMITTED"]
        for task in waiting:
            if task["id"] in self._waiting:
                task["status"] = "ERROR"
        self._waiting = {task["id"] for task in waiting}

    def _sentence(self, name: str, task: dict[str, Any]) -> str:
        what = f"The {_NAMES.get(name, name)}"
        kept = _KEPT.get(name, "ask for it again")
        if name == "train" and self._is_tried_again(task):
            kept += ", and it is tried again by itself"
        if task["status"] == "STOPPED":
            return f"{what} was stopped; {kept}."
        process = self._processes["train" if name == "train" else "scoring"].known.get(task["id"])
        code = process.returncode if process is not None else None
        if code is not None and code < 0:
            cause = ", perhaps for lack of memory" if -code == signal.SIGKILL else ""
            return f"{what} was killed (signal {-code}){cause}; {kept}."
        lines = list(task.get("details", ()))
        if not lines:
            return f"{what} could not be started, or ended at once; {kept}. The server's log says more."
        raised = [match["sentence"] for line in lines if (match := _RAISED.match(line))]
        return raised[-1] if raised else f"{what} ended with '{lines[-1]}'; {kept}. The server's log says more."

    def _is_tried_again(self, task: dict[str, Any]) -> bool:
        """Whether a training that failed is begun again: not what a viewer asked for, and not for good."""
        tries, trigger = self._tries.get("train"), task["request"].get(TRIGGER)
        if tries is None or trigger is None or task["status"] != "ERROR":
            return False
        return trigger == "check" or tries.count < len(RETRY_AFTER_S)


def _stopped(kind: str) -> dict[str, Any] | None:
    task: dict[str, Any] | None = stop_background_task(kind)
    if task is not None and not task.get("details"):
        task["details"] = ["Stopped before it said anything."]
    return task


def end_with_server() -> None:
    """In a child process of a server: end as soon as the server is gone, however it ended.

    Otherwise a training would go on beside the one that the next server starts. The kernel's own signal for this
    (PR_SET_PDEATHSIG) comes when the thread that started the child ends, not the process, so a thread looks instead.
    """
    server = os.environ.get(SERVER_PID)
    if server is not None and int(server) != os.getpid():
        threading.Thread(target=_wait_for_the_end_of, args=(int(server),), name="look-for-server", daemon=True).start()


def _wait_for_the_end_of(server: int) -> None:
    while os.getppid() == server:
        time.sleep(LOOK_FOR_SERVER_EVERY_S)
    os._exit(1)


def _newest() -> dict[str, dict[str, Any]]:
    newest = {task["request"]["method"]: task for task in tasks("scoring")}
    if trainings := tasks("train"):
        newest["train"] = trainings[-1]
    return newest


def _without_source(line: str) -> str:
    """The time of day and what is said, of a line of the log that also names process, thread and module."""
    match = _LOGGED.match(line)
    return line if match is None else f"{match['time']} {match['text']}"


def _open_names() -> set[str]:
    """Names of which a task waits or runs."""
    names = {task["request"]["method"] for task in tasks("scoring") if task["status"] in OPEN}
    return names | {"train" for task in tasks("train") if task["status"] in OPEN}
