"""What the annotators of a week asked, got and sent, by their own clocks, and what happened to the server meanwhile."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

OK = 200


@dataclass(frozen=True)
class Click:
    """One "Next Sample"; `answered` is None where the connection broke before an answer, `image` where none was given.

    `who` is the annotator, and `client_id` what the server was told of it: OHIF says nothing.
    """

    who: str
    client_id: str | None
    asked: float
    answered: float | None
    status: int | None
    image: str | None
    phase: str | None = None
    model_version: str | None = None
    said: str = ""


@dataclass(frozen=True)
class Save:
    """One attempt to save a label; `way` is `put` as 3D Slicer saves, or `stow` as OHIF exports to the archive.

    `file` is the hash of the bytes that were sent, `voxels` that of the values in them.
    """

    who: str
    way: str
    image: str
    file: str
    voxels: str
    asked: float
    answered: float | None
    status: int | None
    said: str = ""

    @property
    def is_taken(self) -> bool:
        """Whether the server said that it has the label."""
        return self.status == OK

    @property
    def is_open(self) -> bool:
        """Whether nobody can tell: the connection broke before an answer."""
        return self.answered is None


@dataclass(frozen=True)
class Sample:
    """The server's process at one moment.

    Attributes
    ----------
    start : int
        How often the server was started.
    memory_mb : float
        What the process has allocated and written: its anonymous pages. Those of libraries, which it shares with
        whatever else runs on the machine, come and go with that.
    rss_mb : float
        Both together.
    inferred : int
        How many segmentations this process has answered.
    """

    at: float
    start: int
    inferred: int
    memory_mb: float
    rss_mb: float
    handles: int
    threads: int
    tasks_mb: float
    labelled: int


@dataclass(frozen=True)
class Event:
    """What was done to the server, or noticed of it."""

    at: float
    kind: str
    sentence: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Journal:
    """All of it; lists are only ever added to, by many threads."""

    place: str = ""
    clicks: list[Click] = field(default_factory=list)
    saves: list[Save] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def note(self, kind: str, sentence: str, **details: Any) -> None:
        """Write down an event, and say it."""
        self.events.append(Event(time.time(), kind, sentence, details))
        print(f"{time.strftime('%H:%M:%S')}  {self.place:<8} {kind:<7} {sentence}\n", end="", flush=True)

    def of_kind(self, kind: str) -> list[Event]:
        """Events of one kind."""
        return [event for event in self.events if event.kind == kind]

    def document(self) -> dict[str, Any]:
        """Everything in plain JSON types."""
        names = ("clicks", "saves", "samples", "events")
        return {name: [asdict(one) for one in getattr(self, name)] for name in names} | {"failures": self.failures}


def hash_bytes(content: bytes) -> str:
    """Tell one file from another."""
    return hashlib.sha256(content).hexdigest()[:16]


def hash_voxels(slices: np.ndarray) -> str:
    """Tell one label from another, whatever file it is in; slices, rows and columns as the image has them."""
    values = np.ascontiguousarray(slices, dtype=np.uint16)
    return hash_bytes(repr(values.shape).encode() + values.tobytes())
