"""Looks at the server from outside: its memory and handles, and what a monitoring system and an open page ask for."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import requests

from soak.places import Place
from soak.records import Journal, Sample

EVERY_S = 2.0
MB = 2**20
INFER = "infer/attention_unet"
ASKED = ("coldstart/metrics", "coldstart/health", "coldstart/api/state", "coldstart/api/campaign", "info/", INFER)


class Watch(threading.Thread):
    """Samples the server's process while the week lasts, and asks what others than annotators ask.

    Parameters
    ----------
    place : Place
    journal : Journal
    starts : callable
        How often the server was started.
    over : threading.Event
        Ends it.
    """

    def __init__(self, place: Place, journal: Journal, starts: Callable[[], int], over: threading.Event):
        super().__init__(name="watch", daemon=True)
        self._place, self._journal, self._starts, self._over = place, journal, starts, over
        self._session = requests.Session()
        self._labelled = 0
        self._inferred, self._inferred_by = 0, 0
        self._model: str | None = None

    def run(self) -> None:
        """Look until the week is over."""
        turn = 0
        while not self._over.wait(EVERY_S):
            turn += 1
            with contextlib.suppress(psutil.Error):
                self._sample()
            with contextlib.suppress(requests.RequestException, ValueError, KeyError):
                self._ask(ASKED[turn % len(ASKED)])

    def _sample(self) -> None:
        server = self._place.server
        if server is None:
            return
        start = self._starts()
        process = psutil.Process(server.pid)
        memory = process.memory_info()
        tasks = 0
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                tasks += child.memory_info().rss
        sample = Sample(
            at=time.time(),
            start=start,
            inferred=self._inferred if start == self._inferred_by else 0,
            memory_mb=round((memory.rss - memory.shared) / MB, 2),
            rss_mb=round(memory.rss / MB, 2),
            handles=process.num_fds(),
            threads=process.num_threads(),
            tasks_mb=round(tasks / MB, 1),
            labelled=self._labelled,
        )
        if memory.rss and start == self._starts():
            self._journal.samples.append(sample)

    def _ask(self, path: str) -> None:
        start = self._starts()
        if path == INFER:
            image = self._place.held_out[self._inferred % len(self._place.held_out)]
            answer = self._session.post(f"{self._place.url}/{path}?image={image}&output=json", timeout=120)
            if answer.ok and start == self._starts():
                self._inferred = self._inferred + 1 if start == self._inferred_by else 1
                self._inferred_by = start
            return
        answer = self._session.get(f"{self._place.url}/{path}", timeout=60)
        if path == "info/" and answer.ok:
            self._note(answer.json()["coldstart"])

    def _note(self, state: dict[str, Any]) -> None:
        self._labelled = state["labelled"]
        if state["scored_model_version"] != self._model:
            self._model = state["scored_model_version"]
            self._journal.note("model", f"next samples come from model {self._model}", labelled=self._labelled)
