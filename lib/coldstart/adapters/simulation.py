"""A whole campaign against a real server over HTTP, with ground truth in the annotator's place.

MONAI Label's own client plays the viewer: cold-start samples until the budget, a training, the scoring, active samples,
a second training.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from monailabel.client import MONAILabelClient

from coldstart.adapters.app import MODEL_NAME
from coldstart.adapters.datastore_folder import split_name
from coldstart.campaign import read_held_out
from coldstart.exceptions import ColdStartError, InvalidInputError
from coldstart.images import image_suffix

POLL_S = 0.5
STRATEGY = "coldstart_al"
FAILED = ("ERROR", "STOPPED")


class SimulationError(ColdStartError):
    """A simulated campaign cannot go on."""


class Observer(Protocol):
    """Who watches a simulated campaign: the terminal, or a test."""

    def served(self, number: int, sample: dict[str, Any]) -> None:
        """Called when an image was served, before its label is saved."""

    def trained(self, number: int, stats: dict[str, Any]) -> None:
        """Called when a training has ended, with its stats."""

    def waiting(self, what: str) -> Any:
        """Return a context manager that gives a callable to report (done, total) to."""


@dataclass
class CampaignLog:
    """What happened, as plain JSON types."""

    served: list[dict[str, Any]] = field(default_factory=list)
    trainings: list[dict[str, Any]] = field(default_factory=list)
    campaign: dict[str, Any] = field(default_factory=dict)


def connect(url: str, client_id: str = "simulated-annotator") -> MONAILabelClient:
    """MONAI Label's own client of a server, under a name of its own."""
    return MONAILabelClient(url, client_id=client_id)


def copy_studies(images: Path, labels: Path, held_out: Path | None, output: Path) -> Path:
    """Copy the images, and of the labels only those of held-out images: the annotator gives the others.

    Parameters
    ----------
    images, labels : Path
        Folders; neither they nor `held_out` may lie in `output`.
    held_out : Path or None
        File with the ids of the held-out images.
    output : Path
        Folder that is emptied first, if a simulation wrote it.

    Returns
    -------
    studies : Path
        Folder of the copies.

    Raises
    ------
    InvalidInputError
        If there are no images, or `output` must not be emptied.
    """
    files = sorted(path for path in images.iterdir() if path.is_file() and image_suffix(path))
    if not files:
        raise InvalidInputError(f"{images} must hold images; it holds none. Name the folder that has the files in it.")
    for source in (images, labels, *([held_out] if held_out is not None else [])):
        if source.resolve().is_relative_to(output.resolve()):
            raise InvalidInputError(
                f"--output must be a folder that may be emptied; got {output}, and {source} lies in it. Name another "
                "--output."
            )
    marker = output / ".coldstart-simulation"
    if output.exists() and any(output.iterdir()) and not marker.exists():
        raise InvalidInputError(
            f"{output} is not empty and was not written by a simulation, so it is left alone. Name another --output."
        )
    ids = read_held_out(held_out)
    shutil.rmtree(output, ignore_errors=True)
    studies, final = output / "studies", output / "studies" / "labels" / "final"
    final.mkdir(parents=True)
    marker.touch()
    for file in files:
        shutil.copyfile(file, studies / file.name)
        if split_name(file.name)[0] in ids and (label := label_of(labels, file.name)) is not None:
            shutil.copyfile(label, final / label.name)
    return studies


def label_of(labels: Path, image_name: str) -> Path | None:
    """Find the label of an image in a folder: the file of the same name, else the first of the same id."""
    if (same := labels / image_name).is_file():
        return same
    image_id = split_name(image_name)[0]
    of_id = (path for path in labels.iterdir() if split_name(path.name)[0] == image_id and path.is_file())
    return min(of_id, default=None)


class SimulatedAnnotator:
    """Asks for samples and labels them from a folder of ground truth.

    Parameters
    ----------
    client : MONAILabelClient
        Of the server, or what has its methods, such as the client in 3D Slicer's plugin.
    labels : Path
        Folder with one label file for each image, of the same name but for the suffix.
    observer : Observer
        Is told what happens.
    """

    def __init__(self, client: MONAILabelClient, labels: Path, observer: Observer):
        self._client = client
        self._labels = labels
        self._observer = observer
        self.log = CampaignLog()

    def play(self, n_active: int) -> CampaignLog:
        """Play the whole campaign: the budget, a training, `n_active` active samples, a second training."""
        self.wait_until("the images are embedded", "embedding", lambda state: state["planned"] is not None)
        self.label(int(self._state()["planned"]))
        self.train()
        self.wait_until(
            "the unlabelled images are scored",
            "entropy",
            lambda state: state["scored_model_version"] == state["model_version"],
        )
        self.label(n_active)
        self.train()
        self.log.campaign = self._state()
        return self.log

    def label(self, n: int) -> None:
        """Ask for `n` samples, one after the other, and save the label of each."""
        for _ in range(n):
            started = time.monotonic()
            sample = self._client.next_sample(STRATEGY, {})
            if not sample:
                raise SimulationError("The server has no image left to label. Ask for fewer active samples.")
            number = len(self.log.served) + 1
            self._observer.served(number, sample)
            milliseconds = round(1000 * (time.monotonic() - started))
            self.log.served.append({"id": sample["id"], "answered_ms": milliseconds, **sample["coldstart"]})
            answer = self._client.save_label(sample["id"], str(self._label_of(sample)))
            if warning := answer.get("coldstart", {}).get("warning"):
                raise SimulationError(str(warning))

    def train(self) -> None:
        """Train and wait for the end; the stats go into the log."""
        task = self._client.train_start(MODEL_NAME, {})
        with self._observer.waiting("training") as report:
            while True:
                state = self._train_status(task["id"])
                stats = self._client.info()["train_stats"][MODEL_NAME]
                if "epoch" in stats and "total_time" not in stats:
                    report(stats["epoch"], stats["total_epochs"])
                if state["status"] in FAILED:
                    raise SimulationError(f"The training failed: {' | '.join(state['details'][-3:])}")
                if state["status"] == "DONE":
                    break
                time.sleep(POLL_S)
        self.log.trainings.append({"n_labelled": len(self.log.served), **stats})
        self._observer.trained(len(self.log.trainings), stats)

    def wait_until(self, what: str, task: str, reached: Callable[[dict[str, Any]], bool]) -> None:
        """Wait for a task that the server starts by itself."""
        with self._observer.waiting(what) as report:
            while not reached(state := self._state()):
                if state["tasks"].get(task) in FAILED:
                    raise SimulationError(f"The task '{task}' failed; the server's log says why.")
                progress = state["progress"].get(task)
                if progress is not None:
                    report(progress["done"], progress["total"])
                time.sleep(POLL_S)

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._client.info()["coldstart"]
        return state

    def _train_status(self, task_id: str) -> dict[str, Any]:
        status: dict[str, Any] = self._client.train_status()
        return status if status.get("id") == task_id else {"status": "SUBMITTED", "details": []}

    def _label_of(self, sample: dict[str, Any]) -> Path:
        name = Path(sample["path"]).name
        if (label := label_of(self._labels, name)) is None:
            raise SimulationError(f"{self._labels} has no label for image '{sample['id']}'. Add {name}.")
        return label


class SilentObserver:
    """Watches without a word."""

    def served(self, number: int, sample: dict[str, Any]) -> None:
        """Say nothing."""

    def trained(self, number: int, stats: dict[str, Any]) -> None:
        """Say nothing."""

    @contextmanager
    def waiting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Say nothing."""
        yield lambda done, total: None
