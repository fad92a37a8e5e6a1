"""Where the images of a week are, and how viewers save what is drawn on them."""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import requests

from coldstart.adapters.server import Server
from soak.annotators import paint, values_of

LABEL_INFO = [{"name": "disk", "idx": 1}]
SIDE = 64
LIMIT_S = 120.0


class Place(ABC):
    """Images, and the server on them.

    Parameters
    ----------
    disk : Path
        Where the server keeps what is its own; it may fill up.
    other : Path
        Another disk.
    seed : int
        Of the images.
    """

    name: str
    image_suffix: str
    compared: Literal["file", "voxels"]

    def __init__(self, disk: Path, other: Path, seed: int):
        self.disk, self.other = disk, other
        self.state = disk / "state"
        self._scratch = other / "scratch"
        self._scratch.mkdir(parents=True)
        self._rng = np.random.default_rng(seed)
        self._n_made = 0
        self.server: Server | None = None
        self.held_out: list[str] = []

    @property
    def url(self) -> str:
        """Address of the server, which stays the same when it is started again."""
        if self.server is None:
            raise RuntimeError("the server was never started")
        return self.server.url

    def paint(self, content: bytes, rng: random.Random) -> bytes:
        """A label of a downloaded image, as a file."""
        return paint(content, self.image_suffix, rng, self._scratch)

    def slices(self, label: bytes) -> np.ndarray:
        """What is in a label that was sent, or is given back."""
        return values_of(label, self._scratch)

    def send(self, session: requests.Session, way: str, image: str, label: bytes) -> requests.Response:
        """Save a label as a viewer does."""
        return session.put(
            f"{self.url}/datastore/label?image={image}",
            data={"params": json.dumps({"label_info": LABEL_INFO})},
            files={"label": (f"{image}.nrrd", label)},
            timeout=LIMIT_S,
        )

    def way_of(self, viewer: str) -> str:
        """How labels of a viewer come."""
        return "put"

    def served_labels(self, images: list[str]) -> dict[str, bytes]:
        """The final labels that the server gives, for those of `images` that have one."""
        found = {}
        for image in images:
            answer = requests.get(f"{self.url}/datastore/label?label={image}&tag=final", timeout=LIMIT_S)
            if answer.ok:
                found[image] = answer.content
        return found

    @property
    @abstractmethod
    def studies(self) -> str:
        """What the server is started on."""

    @abstractmethod
    def add(self, n: int) -> list[str]:
        """Have so many images arrive; return their ids."""

    @abstractmethod
    def replace(self, n: int, in_use: set[str]) -> list[str]:
        """Put others in the place of so many images; return the ids of those that were replaced."""

    @abstractmethod
    def go_away(self) -> None:
        """Be out of reach, with all that was stored."""

    @abstractmethod
    def come_back(self) -> None:
        """Be there again."""

    @abstractmethod
    def kept(self) -> Mapping[str, str]:
        """Hash of the label that is kept of each image, as `compared` says."""

    @contextmanager
    def open(self) -> Iterator[Place]:
        """Have it there."""
        yield self
