"""Six annotators of different habits, each a thread that talks HTTP as 3D Slicer or OHIF does."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import requests
import SimpleITK as sitk  # noqa: N813
from scipy.ndimage import gaussian_filter

from soak.records import OK, Click, Journal, Save, hash_bytes, hash_voxels

if TYPE_CHECKING:
    from soak.places import Place

LIMIT_S = 120.0
TRY_AGAIN_S = 2.0
LEVEL = 100
"""Brighter pixels belong to the structure, in all images of the week."""


@dataclass(frozen=True)
class Habit:
    """How somebody works; the chances are those of one image.

    Attributes
    ----------
    images_a_day : float
        How many images this annotator gets through.
    viewer : str
        `slicer` gives its own client id and saves to the server; `ohif` gives none, asks for `random`, and exports to
        the archive where there is one.
    """

    name: str
    images_a_day: float
    viewer: str = "slicer"
    skips: float = 0.0
    leaves: float = 0.0
    saves_again: float = 0.0
    asks_for_a_start: float = 0.0


HABITS = (
    Habit("fast", 18, asks_for_a_start=0.3),
    Habit("slow", 4),
    Habit("leaves", 8, leaves=0.35),
    Habit("skips", 14, skips=0.5),
    Habit("saves_twice", 8, saves_again=0.7),
    Habit("ohif", 8, viewer="ohif"),
)


class Clock:
    """Seven days in so many minutes; people work in the first three quarters of a day.

    Parameters
    ----------
    minutes : float
        How long the week takes.
    """

    DAYS = 7
    WORK = 0.75

    def __init__(self, minutes: float):
        self.day_s = 60 * minutes / self.DAYS
        self.began = time.time()
        self.over = threading.Event()

    def begin(self, in_s: float) -> None:
        """The first morning is so many seconds from now."""
        self.began = time.time() + in_s

    @property
    def day(self) -> float:
        """Days since the beginning."""
        return (time.time() - self.began) / self.day_s

    def at(self, day: float) -> float:
        """When that is, in seconds since 1970."""
        return self.began + day * self.day_s

    def sleep_until(self, day: float) -> bool:
        """Wait; return whether the week goes on."""
        return not self.over.wait(max(0.0, self.at(day) - time.time()))

    def wait_for_work(self) -> bool:
        """Wait until people work; return whether the week goes on."""
        day = self.day
        if day >= self.DAYS or self.over.is_set():
            return False
        return self.sleep_until(int(day) + 1) and self.day < self.DAYS if day % 1 > self.WORK else True


class Annotator(threading.Thread):
    """One of them.

    Parameters
    ----------
    habit : Habit
    place : Place
        Where the images are, and the address of the server.
    clock : Clock
    journal : Journal
        What this annotator got and sent goes there.
    seed : int
        Of all that is left to chance.
    """

    def __init__(self, habit: Habit, place: Place, clock: Clock, journal: Journal, seed: int):
        super().__init__(name=habit.name, daemon=True)
        self._habit, self._place, self._clock, self._journal = habit, place, clock, journal
        self._rng = random.Random(f"{seed} {habit.name}")
        # Slicer opens a connection for each request. One that is kept can be closed by the server just when it is used
        # again, and then nobody could tell such a save from one that a kill cut off.
        self._session = requests.Session()
        self._session.headers["Connection"] = "close"
        self._done: list[tuple[str, bytes]] = []
        self.saving = threading.Event()

    def run(self) -> None:
        """Work until the week is over."""
        while self._clock.wait_for_work():
            try:
                self._label_one()
            except Exception as error:  # nobody else would notice that a thread has ended
                self._journal.failures.append(f"Annotator {self.name} stumbled: {type(error).__name__}: {error}")
                self._clock.over.wait(TRY_AGAIN_S)

    def _label_one(self) -> None:
        habit, rng = self._habit, self._rng
        click = self.click()
        if click.image is None:
            self._pause(0.1)
            return
        content = self._download(click.image)
        if content is None:  # the archive is away, or the image is gone since: the next one, please
            self._pause(0.3)
            return
        self._pause(rng.uniform(0.5, 1.5))
        if rng.random() < habit.skips:
            return
        if rng.random() < habit.leaves:
            self._clock.over.wait(rng.uniform(0.3, 0.9) * self._clock.day_s)
            if rng.random() < 0.6:
                return  # and never comes back to it
        if rng.random() < habit.asks_for_a_start:
            self._ask("post", f"infer/attention_unet?image={click.image}&output=json")
        label = self._place.paint(content, rng)
        self.save(click.image, label)
        if rng.random() < habit.saves_again:
            self._save_again(click.image, content, label)
        self._done.append((click.image, content))

    def _save_again(self, image: str, content: bytes, label: bytes) -> None:
        way = self._rng.randrange(3)
        if way == 0:  # a double click on the button
            with ThreadPoolExecutor(2) as pool:
                for _ in range(2):
                    pool.submit(self.save, image, label)
        elif way == 1:  # seen at once that it was wrong
            self._pause(0.2)
            self.save(image, self._place.paint(content, self._rng))
        elif self._done:  # a look at what was labelled before
            before, its_content = self._rng.choice(self._done)
            self.save(before, self._place.paint(its_content, self._rng))

    def _pause(self, share: float) -> None:
        """Part of what an image takes this annotator, in the hours of work."""
        self._clock.over.wait(share * self._clock.WORK * self._clock.day_s / self._habit.images_a_day)

    def click(self) -> Click:
        """Ask for the next sample."""
        is_ohif = self._habit.viewer == "ohif"
        body = {} if is_ohif else {"client_id": self.name}
        asked = time.time()
        answer = self._ask("post", f"activelearning/{'random' if is_ohif else 'coldstart_al'}", json=body)
        answered = time.time()
        got: dict[str, Any] = answer.json() if answer is not None and answer.status_code == OK else {}
        why = got.get("coldstart") or {}
        click = Click(
            self.name,
            body.get("client_id"),
            asked,
            answered if answer is not None else None,
            answer.status_code if answer is not None else None,
            got.get("id"),
            why.get("phase"),
            why.get("model_version"),
            answer.text[:300] if answer is not None and answer.status_code != OK else "",
        )
        self._journal.clicks.append(click)
        return click

    def save(self, image: str, label: bytes) -> None:
        """Save a label, again and again until the server has it, as people do; an image that is gone is let go."""
        way = self._place.way_of(self._habit.viewer)
        while True:
            self.saving.set()
            asked = time.time()
            try:
                answer = self._place.send(self._session, way, image, label)
            except requests.RequestException as error:
                status, said, answered = None, type(error).__name__, None
            else:
                status, said, answered = answer.status_code, answer.text[:300], time.time()
            self.saving.clear()
            voxels = hash_voxels(self._place.slices(label))
            self._journal.saves.append(
                Save(self.name, way, image, hash_bytes(label), voxels, asked, answered, status, said)
            )
            if status == OK or status in (400, 404) or self._clock.over.wait(TRY_AGAIN_S):
                return

    def _download(self, image: str) -> bytes | None:
        answer = self._ask("get", f"datastore/image?image={image}")
        return answer.content if answer is not None and answer.status_code == OK else None

    def _ask(self, method: str, path: str, **how: Any) -> requests.Response | None:
        try:
            return self._session.request(method, f"{self._place.url}/{path}", timeout=LIMIT_S, **how)
        except requests.RequestException:
            return None


def paint(content: bytes, suffix: str, rng: random.Random, folder: Path) -> bytes:
    """What somebody draws on a downloaded image: its bright structure, a little off; never twice the same file."""
    image = _read(content, suffix, folder)
    pixels = sitk.GetArrayFromImage(image).astype(float)
    smooth = gaussian_filter(pixels, [0] * (pixels.ndim - 2) + [1, 1])
    drawn = sitk.GetImageFromArray((smooth > LEVEL + rng.uniform(-8, 8)).astype(np.uint8))
    drawn.CopyInformation(image)
    drawn.SetMetaData("drawn", str(rng.random()))
    path = folder / f"{threading.get_ident()}.nrrd"
    sitk.WriteImage(drawn, str(path), useCompression=True)
    return path.read_bytes()


def values_of(content: bytes, folder: Path, on: sitk.Image | None = None) -> np.ndarray:
    """Slices, rows and columns of a label file, NRRD or NIfTI, or of another grid that it is brought onto."""
    label = _read(content, ".nrrd" if content.startswith(b"NRRD") else ".nii.gz", folder)
    if on is not None:
        label = sitk.Resample(label, on, sitk.Transform(), sitk.sitkNearestNeighbor)
    values = sitk.GetArrayFromImage(label)
    return values if values.ndim == 3 else values[None]


def _read(content: bytes, suffix: str, folder: Path) -> sitk.Image:
    path = folder / f"{threading.get_ident()}{suffix}"
    path.write_bytes(content)
    return sitk.ReadImage(str(path))
