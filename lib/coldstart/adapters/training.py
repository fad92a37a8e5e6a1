"""The train task `attention_unet`, on MONAI Label's own frame for stats and several GPUs."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.basic_train import BasicTrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from coldstart.adapters.chain import QUEUED_AT, TRAINING_LOCK, TRIGGER
from coldstart.adapters.errors import answered
from coldstart.adapters.training_stats import OF_THE_MODEL, RunningStats, read_stats, write_stats
from coldstart.campaign import Campaign
from coldstart.campaign.triggers import asked_request
from coldstart.exceptions import ColdStartError, InvalidInputError
from coldstart.memory import give_back
from coldstart.segmentation import Evaluation, Model
from coldstart.settings import Settings

_OF_A_TRAINING = ("epochs", "batch_size", "learning_rate", "dropout", "random_state", "amp")
"""Settings that a request may override; the others belong to the campaign."""
_MONAILABEL_NAMES = {"max_epochs": "epochs", "train_batch_size": "batch_size"}
"""What MONAI Label and its viewers call them."""
_BEFORE_THE_FIRST = {"total_time": "0:00:00"}
"""Stats while there is no model: viewers take stats without a total time for a training in its last epoch."""

logger = logging.getLogger(__name__)


class AttentionUnetTraining(BasicTrainTask):  # type: ignore[misc]
    """Trains from scratch on every usable label, publishes the model, and judges it on the held-out images.

    `BasicTrainTask` gives the frame: one process on one device, or with `multi_gpu` one process for each GPU (which
    was not run on several GPUs). What happens inside is `coldstart.segmentation.train`.

    One training at a time has the lock of the campaign's folder, of all servers on it. The stats of the one that runs
    have a file of their own, which counts as long as the lock is held: a training that was killed leaves the stats, as
    it leaves the model, as they were before.
    """

    def __init__(self, campaign: Campaign):
        settings = campaign.settings
        self._campaign = campaign
        self._lock_path = campaign.folder / TRAINING_LOCK
        self._running_path = campaign.model_path.parent / "training_running.json"
        super().__init__(
            model_dir=str(campaign.model_path.parent),
            description="Attention U-Net, trained from scratch on all labels",
            config={  # numbers as text: a mistyped number gets an empty error from Slicer, a text a sentence from us
                "max_epochs": str(settings.epochs),
                "train_batch_size": str(settings.batch_size),
                "multi_gpu": False,
                "tracking": "",
            },
            labels=settings.labels,
            tracking=None,
        )
        offered = ("max_epochs", "train_batch_size", "device", "multi_gpu", "gpus")
        self._config: dict[str, Any] = {key: self.config()[key] for key in offered}

    def network(self, context: object) -> None:
        """Not asked: `train` is ours."""

    optimizer = loss_function = train_pre_transforms = train_post_transforms = val_inferer = network

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, after the training that another server may run on the same campaign."""
        with FileLock(self._lock_path):
            self._running_path.unlink(missing_ok=True)  # of a training that was killed
            try:
                with answered():
                    if self._is_done_already(request):
                        return self.stats()
                    self._campaign.fetch_training_images()
                stats: dict[str, Any] = super().__call__(request, datastore)
            finally:
                self._running_path.unlink(missing_ok=True)
        return stats

    def _is_done_already(self, request: Mapping[str, Any]) -> bool:
        """Finish a training that was killed before its model was checked; that, or another server's, may be enough.

        What else is due then has another trigger, perhaps with settings of its own: the server begins it.
        """
        trainings, trigger = self._campaign.trainings, request.get(TRIGGER)
        trainings.check_waiting()
        return trigger == "check" or (trigger is not None and trainings.due() is None)

    def stats(self) -> dict[str, Any]:
        """Stats of the training that runs, else of the last one that published a model."""
        running = self.running_stats()
        if running is not None:
            return running
        stats = read_stats(Path(self._stats_path)) or dict(_BEFORE_THE_FIRST)
        in_use = self._campaign.publisher.in_use()
        if in_use is None or stats.get("model_version") in (None, in_use):
            return stats
        others = {key: value for key, value in stats.items() if key not in OF_THE_MODEL}
        return {**others, "best_metric": 0, "model_version": in_use, **self._judged_before(in_use)}

    def running_stats(self) -> dict[str, Any] | None:
        """Stats of the training that runs, once it has ended an epoch."""
        return read_stats(self._running_path) if self._running_path.is_file() and self.is_running() else None

    def _judged_before(self, version: str) -> dict[str, Any]:
        """What the stats say of a model that came back, or came from elsewhere."""
        try:
            return _judged(self._campaign.publisher.versions.read(version).get("heldout"))
        except InvalidInputError:
            return {}

    def is_running(self) -> bool:
        """Tell whether a training runs, of whichever server on the campaign."""
        try:
            with FileLock(self._lock_path, timeout=0):
                return False
        except Timeout:
            return True

    def pre_process(self, request: dict[str, Any], datastore: Datastore) -> list[dict[str, Any]]:
        """Check the request before anything is read; what to learn from is in the campaign's store."""
        with answered():
            self._settings_of(request)
            _gpus(request)
        return []

    def train(
        self, rank: int, world_size: int, request: dict[str, Any], datalist: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Train in this process; the first of several publishes and keeps the stats."""
        settings = self._settings_of(request)
        multi_gpu = bool(request["multi_gpu"])
        if multi_gpu:
            gpus = _gpus(request) or range(world_size)
            settings = settings.override({"device": _join_processes(rank, world_size, gpus[rank])})
        running = RunningStats(self._running_path, read_stats(Path(self._stats_path)), settings.epochs)
        try:
            with answered():
                model, evaluation = self._campaign.trainings.train(
                    settings,
                    running.on_epoch,
                    on_wait=running.on_wait,
                    rank=rank,
                    world_size=world_size if multi_gpu else 1,
                    trigger=request.get(TRIGGER),
                    taken_at=self._taken_at(request),
                )
        finally:
            give_back()  # where the server trained in its own process
        if rank != 0:
            return {}
        stats = running.end(self._found(model, evaluation))
        write_stats(Path(self._stats_path), stats)
        logger.info("Model %s: %s", model.version, _sentence(evaluation))
        return stats

    def _taken_at(self, request: Mapping[str, Any]) -> float | None:
        """Until when what is asked is asked of this training; None for its beginning, if all want the same of it."""
        is_for_all = self.is_plain(request) and self.is_plain(asked_request(self._campaign.store))
        return None if is_for_all else request.get(QUEUED_AT)

    def _found(self, model: Model, evaluation: Evaluation | None) -> dict[str, Any]:
        """What the stats say of a training's model."""
        publisher = self._campaign.publisher
        found = {
            "batch_size": model.config.batch_size,
            "trained_version": model.version,
            "comparison": publisher.versions.read(model.version)["comparison"]["sentence"],
        }
        if publisher.in_use() != model.version:
            return found
        judged = _judged(None if evaluation is None else evaluation.to_dict())
        return {**found, "model_version": model.version, **judged}

    def is_plain(self, request: Mapping[str, Any]) -> bool:
        """Tell whether a request asks for the training that the server would begin by itself."""
        try:
            return self._settings_of(request) == self._campaign.settings and not request.get("multi_gpu")
        except ColdStartError:
            return False

    def cleanup(self, request: dict[str, Any]) -> None:
        """Nothing was cached."""

    def _settings_of(self, request: Mapping[str, Any]) -> Settings:
        named = {_MONAILABEL_NAMES.get(key, key): value for key, value in request.items()}
        values = {key: value for key, value in named.items() if key in _OF_A_TRAINING}
        values["device"] = _device(request.get("device"), self._campaign.settings.device)
        return self._campaign.settings.override(values)


def _device(requested: object, configured: str) -> str:
    """Viewers send the name of a card out of the list that they were offered; the first of it is no choice."""
    offered = device_list()
    name = requested[0] if isinstance(requested, list) and requested else requested
    if not isinstance(name, str) or name == offered[0]:
        return configured
    return str(name_to_device(name))


def _gpus(request: Mapping[str, Any]) -> list[int]:
    """Numbers of the GPUs that MONAI Label's option names, one for each process; none for all of them."""
    named = request.get("gpus") or "all"
    try:
        return [] if named == "all" else [int(number) for number in str(named).split(",")]
    except ValueError:
        raise InvalidInputError(f"`gpus` must be all, or numbers of GPUs such as 0,1; got {named!r}.") from None


def _join_processes(rank: int, world_size: int, gpu: int) -> str:
    """Join the processes that MONAI Label began, one for each GPU; without one they train on the CPU, for tests."""
    os.environ["LOCAL_RANK"] = str(rank)
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(gpu)
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo", rank=rank, world_size=world_size)
    return f"cuda:{gpu}" if on_gpu else "cpu"


def _judged(evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    """The summary for the stats, which travel with every click; the details of each image are in the database."""
    if evaluation is None:
        return {}
    summary = {key: value for key, value in evaluation.items() if key not in ("images", "left_out")}
    return {"best_metric": evaluation["dice"], "heldout": {"n_images": len(evaluation["images"]), **summary}}


def _sentence(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "no held-out image has a label"
    return (
        f"on {len(evaluation.images)} held-out images Dice {evaluation.dice:.4f}, "
        f"HD95 {evaluation.hd95:.2f} {evaluation.hd95_unit}"
    )
