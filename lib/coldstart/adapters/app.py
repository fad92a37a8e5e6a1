"""The MONAI Label app: builds the campaign and its adapters, and watches for work while the server runs."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import background_executors, tasks

from coldstart.adapters.datastore import FolderDatastore
from coldstart.adapters.errors import AppError, answered
from coldstart.adapters.inference import AttentionUnetInference
from coldstart.adapters.scoring import EmbeddingScoring, EntropyScoring
from coldstart.adapters.strategies import strategies
from coldstart.adapters.training import AttentionUnetTraining
from coldstart.adapters.users import note_users
from coldstart.campaign import BEFORE_EMBEDDING, Campaign
from coldstart.exceptions import ColdStartError, SettingsError
from coldstart.segmentation import resolve_device
from coldstart.settings import load_settings
from coldstart.store import state_folder

logger = logging.getLogger(__name__)

MODEL_NAME = "attention_unet"
WATCH_EVERY_S = 2.0
"""How often the server looks for new files and for work; nothing is spawned unless there is some."""

ATTEMPTS = 3
RETRY_AFTER_S = 60.0
"""How often, and how long after the last time, work that failed is tried again."""

_OPEN_STATES = ("SUBMITTED", "RUNNING")


class ColdStartApp(MONAILabelApp):  # type: ignore[misc]
    """Which scan to label next: cold start, then active learning, on one studies folder."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]):
        try:
            self.campaign = _open_campaign(Path(app_dir), studies, conf)
        except ColdStartError as error:
            logger.critical("%s", error)
            sys.tracebacklimit = 0  # the start ends here: what follows is the sentence again, not forty frames
            raise
        self._attempted: dict[tuple[str, str], tuple[int, float]] = {}
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf={},
            name="coldstart_al",
            description="Tells which image to label next: cold start, then active learning",
            version=version("coldstart-al"),
            labels=sorted(self.campaign.settings.labels, key=self.campaign.settings.labels.__getitem__),
        )

    def init_datastore(self) -> FolderDatastore:
        """Open the studies folder."""
        return FolderDatastore(self.studies, self.campaign)

    def init_infers(self) -> dict[str, InferTask]:
        """One model, listed once it is trained."""
        return {MODEL_NAME: AttentionUnetInference(self.campaign)}

    def init_trainers(self) -> dict[str, TrainTask]:
        """One trainer."""
        return {MODEL_NAME: AttentionUnetTraining(self.campaign)}

    def init_strategies(self) -> dict[str, Strategy]:
        """All strategies, ours first."""
        return strategies(self.campaign)

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """Embedding and entropy."""
        return {"embedding": EmbeddingScoring(self.campaign), "entropy": EntropyScoring(self.campaign)}

    def info(self) -> dict[str, Any]:
        """What MONAI Label says of an app and, under `coldstart`, the campaign in numbers."""
        info: dict[str, Any] = super().info()
        info["coldstart"] = {
            **self.campaign.status(),
            "tasks": self._task_states(),
            "task_errors": self._task_errors(),
        }
        return info

    def infer(self, request: dict[str, Any], datastore: FolderDatastore | None = None) -> dict[str, Any]:
        """Segment an image, after a look at what was asked for."""
        if request.get("model") not in self._infers:
            raise AppError(f"There is no model '{request.get('model')}'. Choose one of {', '.join(self._infers)}.", 404)
        image = request.get("image", "")
        if not Path(image).is_file() and not self._datastore.get_image_uri(image):
            raise AppError(f"The server has no image '{image}'. Choose one that it lists.", 404)
        result: dict[str, Any] = super().infer(request, datastore)
        return result

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a click; unlike the base class it queues nothing, since the watch does where there is work."""
        strategy = self._strategies.get(request.get("strategy"))
        if strategy is None:
            raise AppError(
                f"There is no strategy '{request.get('strategy')}'. Choose one of {', '.join(self._strategies)}.", 404
            )
        answer: dict[str, Any] = strategy(request, self._datastore)
        if answer:
            if answer["coldstart"]["phase"] == BEFORE_EMBEDDING and (error := self._task_errors().get("embedding")):
                answer["coldstart"]["reason"] += f"; embedding them failed: {error}"
            answer["path"] = self._datastore.get_image_uri(answer["id"])
        return answer

    def on_save_label(self, image_id: str, label_id: str) -> dict[str, Any]:
        """Answer a saved label; `warning` says why it stays out of training, where it does."""
        problem = self.campaign.label_problem(image_id)
        return {"coldstart": {"warning": problem}} if problem else {}

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run a training in this process; the watch of the server notices the new model and has it scored."""
        result: dict[str, Any] = self._trainers[request["model"]](dict(request), self._datastore)
        return result

    def bundle_path(self, model: str | None) -> None:
        """Refuse a task that is bound to fail.

        The server asks this before it spawns a child process for a task: the only place where a request can still be
        answered with a sentence instead of a log that nobody reads.
        """
        if model is not None and model not in self._trainers:
            raise AppError(f"There is no model '{model}'. Choose one of {', '.join(self._trainers)}.", 404)
        if model is not None and not self._infers[model].is_valid():
            self._datastore.sync()
            with answered(409):
                self.campaign.require_training_images()

    def async_scoring(self, method: str | None, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Queue what was named or, without a name, what has something to do and is neither waiting nor running.

        Work that failed is tried `ATTEMPTS` times, and then not again until there is something else to do.
        """
        if method is not None:
            return super().async_scoring(method, params)  # type: ignore[no-any-return]
        queued: dict[str, Any] = {}
        for name, fingerprint in self.campaign.tasks_to_do().items():
            tried, last = self._attempted.get((name, fingerprint), (0, 0.0))
            if _is_open(name) or tried == ATTEMPTS or (tried and time.monotonic() - last < RETRY_AFTER_S):
                continue
            self._attempted[name, fingerprint] = tried + 1, time.monotonic()
            queued[name], _ = AsyncTask.run("scoring", request={"method": name}, enqueue=True)
        return queued

    def on_init_complete(self) -> None:
        """Begin to watch for files, finished trainings and work; called in the server only."""
        note_users(sys.modules["monailabel.app"].app)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop_tasks_before(signal.getsignal(number)))
        self._datastore.sync()
        super().on_init_complete()
        threading.Thread(target=self._watch, name="coldstart-watch", daemon=True).start()

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(WATCH_EVERY_S):
            try:
                self._datastore.sync()
                self.async_scoring(None)
            except Exception:
                logger.exception("The watch for new files and work failed; it goes on in %g s.", WATCH_EVERY_S)

    def _task_states(self) -> dict[str, str]:
        """State of the newest task of each kind."""
        states = {task["request"]["method"]: task["status"] for task in tasks("scoring")}
        if trainings := tasks("train"):
            states["train"] = trainings[-1]["status"]
        return states

    def _task_errors(self) -> dict[str, str]:
        """Last line of each kind of task whose newest run failed."""
        newest = {task["request"]["method"]: task for task in tasks("scoring")}
        if trainings := tasks("train"):
            newest["train"] = trainings[-1]
        return {
            name: (list(task.get("details", ())) or ["it was killed"])[-1]
            for name, task in newest.items()
            if task["status"] == "ERROR"
        }


def _is_open(method: str) -> bool:
    return any(task["status"] in _OPEN_STATES and task["request"]["method"] == method for task in tasks("scoring"))


def _stop_tasks_before(handler: Any) -> Callable[[int, FrameType | None], None]:
    """End the running tasks, then do what `handler` does: a server ends only when the threads of its tasks do."""

    def handle(number: int, frame: FrameType | None) -> None:
        for method, executor in list(background_executors.items()):
            executor.shutdown(wait=False, cancel_futures=True)
            AsyncTask.stop(method)
        if callable(handler):
            handler(number, frame)

    return handle


def _open_campaign(app_dir: Path, studies: str, conf: dict[str, str]) -> Campaign:
    if studies.startswith(("http://", "https://")):
        raise SettingsError(f"--studies must be a folder; got '{studies}'. Archives are not served by this version.")
    settings = load_settings(conf, app_dir / "configs")
    resolve_device(settings.device)
    Path(studies).mkdir(parents=True, exist_ok=True)
    return Campaign(settings, state_folder(Path(studies), settings.state_dir))
