"""MONAI Label's stats of a training, which 3D Slicer and OHIF draw their bars from, as files.

The viewers read `epoch`, `total_epochs` and `total_time` (a training that has one has ended) for the bar of the
training, and `best_metric` for that of the accuracy. The groups `train` and `eval` are MONAI Label's too: while a
training runs, `eval` has its Dice on a few held-out images, and `best_metric` is the best of those, as everywhere in
MONAI Label. The model is that of the last epoch all the same: when it is judged, `best_metric` is its Dice on all
held-out images.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coldstart.campaign.progress import duration
from coldstart.segmentation import EpochReport

OF_THE_MODEL = ("best_metric", "heldout", "model_version")
"""What the stats say of the model in use, until the training that runs has made another one."""
VALIDATION_DICE = "val_mean_dice"
"""MONAI Label's name of it."""

logger = logging.getLogger(__name__)


class RunningStats:
    """Keeps the stats of a training that runs.

    Parameters
    ----------
    path : Path
        Where viewers find them while it runs.
    before : mapping
        Stats of the last training that ended.
    epochs : int
        How many this one has.
    """

    def __init__(self, path: Path, before: Mapping[str, Any], epochs: int):
        self._path = path
        self._started = time.time()
        self._of_the_model = {"best_metric": 0, **{key: before[key] for key in OF_THE_MODEL if key in before}}
        self._now: dict[str, Any] = {"start_ts": int(self._started), "epoch": 0, "total_epochs": epochs, "train": {}}

    def on_epoch(self, report: EpochReport) -> None:
        """Tell how far it is."""
        self._now["epoch"] = report.epoch
        self._now["train"] |= {"loss": report.loss, "remaining": duration(report.remaining_s)}
        judged = ""
        if report.dice is not None:
            self._note_dice(report.epoch, report.dice)
            judged = f" validation Dice {report.dice:.4f},"
        self._write()
        logger.info(
            "Epoch %d of %d, loss %.4f,%s %s left",
            report.epoch,
            report.epochs,
            report.loss,
            judged,
            duration(report.remaining_s),
        )

    def _note_dice(self, epoch: int, dice: float) -> None:
        best = self._now.get("eval", {"best_metric": -1.0, "best_metric_epoch": 0})
        if dice > best["best_metric"]:
            best = {"best_metric": dice, "best_metric_epoch": epoch}
        self._now["eval"] = {**best, "key_metric_name": VALIDATION_DICE, "metrics": {VALIDATION_DICE: dice}}
        self._now["train"]["validation_dice"] = dice

    def on_wait(self, sentence: str | None) -> None:
        """Tell why it waits, or with None that it goes on."""
        if sentence is None:
            self._now.pop("waits", None)
        else:
            self._now["waits"] = sentence
        self._write()

    def end(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Return the stats of the training that has ended, with what it gave."""
        before = {"best_metric": 0} if "model_version" in found else self._of_the_model
        return {**before, **self._now, "total_time": duration(time.time() - self._started), **found}

    def _write(self) -> None:
        best = {"best_metric": self._now["eval"]["best_metric"]} if "eval" in self._now else {}
        taken = duration(time.time() - self._started)
        write_stats(self._path, {**self._of_the_model, **self._now, **best, "current_time": taken})


def read_stats(path: Path) -> dict[str, Any]:
    """Stats of a file; none where it is missing or a power cut left half of it."""
    try:
        stats = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stats if isinstance(stats, dict) else {}


def write_stats(path: Path, stats: Mapping[str, Any]) -> None:
    """Put stats in the place of those before; a training does not end for want of room for them."""
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(stats, indent=2), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        logger.warning("The training goes on, but its stats could not be written to %s: %s", path, error)
