"""One training of a benchmark, from the choice of images to the row."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray

from coldstart.exceptions import ModelError
from coldstart.experiments.datasets import Dataset, split
from coldstart.experiments.features import Embeddings, project_pool, read_arrays, write_arrays
from coldstart.experiments.jobs import Job
from coldstart.experiments.protocol import START_METHOD, Protocol
from coldstart.experiments.rows import Cell, Row
from coldstart.images import read_image
from coldstart.scoring import score_uncertainty
from coldstart.segmentation import (
    Model,
    Sample,
    TrainingConfig,
    evaluate,
    faster,
    predict_prepared,
    predict_with_dropout,
    prepare_image,
    train,
)
from coldstart.selection.method import Selection, UncertaintyName

PACKAGES = ("coldstart-al", "torch", "monai", "numpy", "scipy", "scikit-learn", "openTSNE")
CHEAP_SCORES: frozenset[UncertaintyName] = frozenset({"entropy", "margin", "least_confidence"})
"""What one prediction of the pool gives: kept of every network that active learning can start from, so that arms which
are added to a protocol later find them."""
REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, eq=False)
class Bench:
    """What all trainings of a benchmark share.

    Attributes
    ----------
    protocol : Protocol
        With a grid.
    dataset : Dataset
    embeddings : mapping of str to Embeddings
        By the encoder's name in the protocol.
    folder : Path
        Of the output.
    """

    protocol: Protocol
    dataset: Dataset
    embeddings: Mapping[str, Embeddings]
    folder: Path


@dataclass(frozen=True)
class Labelled:
    """The images that a training starts with, in the order of labelling, and why each was picked."""

    picks: Sequence[str] = ()
    reasons: Sequence[str] = ()


def run_job(bench: Bench, job: Job, labelled: Labelled, device: str) -> Row:
    """Choose the images, train a network on them, judge it on the test set, and keep the scores that others need.

    Parameters
    ----------
    bench : Bench
    job : Job
    labelled : Labelled
        The images of the job's parent; none without one.
    device : str
        To train on.

    Raises
    ------
    ColdStartError
        If the images cannot be chosen, or the network not be trained as the protocol says: half the batch or patches,
        which a training takes where memory is short, would make another network and hide who wins.

    Notes
    -----
    The samples are trained on in the dataset's order, not in that of the picks: within a run the networks start from
    the same weights and differ in the set of their images only (Levy et al. 2026, section 4.1.2).
    """
    protocol, dataset, cell = bench.protocol, bench.dataset, job.cell
    parts = split(dataset, cell.seed, protocol.test_fraction)
    pool = [dataset.samples[row] for row in parts.pool]
    started = time.monotonic()
    picked = _select(bench, job, parts.pool, labelled)
    select_s = time.monotonic() - started
    chosen = [*labelled.picks, *(pool[index].image_id for index in picked.indices)]
    training_set = [sample for sample in pool if sample.image_id in chosen]

    started = time.monotonic()
    model = train(training_set, training_config(protocol, dataset, cell.seed, device))
    if model.metadata["left_out"]:
        image_id, reason = next(iter(model.metadata["left_out"].items()))
        raise ModelError(f"{image_id} could no longer be read while the benchmark ran: {reason}")
    used = model.config.batch_size, tuple(model.metadata["patch_size"])
    if used != (protocol.batch_size, protocol.spatial_size):
        raise ModelError(
            "There was not enough memory to train as the protocol says: batches of "
            f"{used[0]} on {' x '.join(map(str, used[1]))} fitted. Lower --workers or --size, and run it again."
        )
    train_s = time.monotonic() - started

    started = time.monotonic()
    result = evaluate(model, [dataset.samples[row] for row in parts.test])
    if result.left_out:
        image_id, reason = next(iter(result.left_out.items()))
        raise ModelError(f"{image_id} could no longer be read while the benchmark ran: {reason}")
    evaluate_s = time.monotonic() - started
    kinds = job.scores | (CHEAP_SCORES if cell.method == START_METHOD else frozenset())
    if kinds:
        scores = _score(model, pool, kinds, cell.seed)
        write_arrays(scores_path(bench.folder, cell), cell.key, scores)
    return Row(
        cell=cell,
        picks=chosen,
        reasons=[*labelled.reasons, *picked.reasons],
        dice=result.dice,
        image_dice=result.image_dice,
        hd95=result.hd95,
        hd95_unit=result.hd95_unit,
        class_dice=result.class_dice,
        class_hd95=result.class_hd95,
        n_empty_in_one=result.n_empty_in_one,
        n_empty_in_both=result.n_empty_in_both,
        n_test=len(parts.test),
        n_pool=len(pool),
        select_s=round(select_s, 3),
        train_s=round(train_s, 3),
        evaluate_s=round(evaluate_s, 3),
        versions=versions(),
        hardware=hardware(model.device),
    )


def training_config(protocol: Protocol, dataset: Dataset, seed: int, device: str) -> TrainingConfig:
    """Return what a network is trained with; raises InvalidInputError if the grid is not for it."""
    return TrainingConfig(
        label_names=dataset.label_names,
        spatial_dims=dataset.spatial_dims,
        spatial_size=protocol.spatial_size or (),
        intensity_range=protocol.intensity_range,
        channels=protocol.channels,
        epochs=protocol.epochs,
        batch_size=protocol.batch_size,
        learning_rate=protocol.learning_rate,
        dropout=protocol.dropout,
        random_state=seed,
        device=device,
    )


def scores_path(folder: Path, cell: Cell) -> Path:
    """Return where the uncertainties lie that the network of a cell gave the pool."""
    digest = hashlib.sha256(cell.key.encode()).hexdigest()[:16]
    return folder / "scores" / f"{cell.method}-{cell.budget}-seed_{cell.seed}-{digest}.npz"


def has_scores(folder: Path, job: Job) -> bool:
    """Tell whether all scores are there that later rounds need from a job's network."""
    return not job.scores or job.scores <= (read_arrays(scores_path(folder, job.cell), job.cell.key) or {}).keys()


def _select(bench: Bench, job: Job, pool: NDArray[np.intp], labelled: Labelled) -> Selection:
    protocol, dataset, cell, arm = bench.protocol, bench.dataset, job.cell, job.arm
    embeddings = bench.embeddings[protocol.encoder_of(arm)]
    points = project_pool(dataset, embeddings, pool, *protocol.projection_of(arm), cell.seed, bench.folder / "features")
    rows = {dataset.samples[row].image_id: index for index, row in enumerate(pool)}
    options = arm.options_of_round(max(1, job.round))
    if arm.method == "cold_start":
        options = {"k_max": protocol.k_max, **options}
    return arm.registered.select(
        embeddings.vectors[pool],
        points,
        cell.budget - len(labelled.picks),
        labelled=[rows[image_id] for image_id in labelled.picks],
        uncertainty=_uncertainty(bench.folder, job),
        random_state=cell.seed,
        **options,
    )


def _uncertainty(folder: Path, job: Job) -> NDArray[np.float64] | None:
    kind = job.arm.registered.uncertainty
    if kind is None or job.parent is None:
        return None
    scores = read_arrays(scores_path(folder, job.parent), job.parent.key)
    if scores is None or kind not in scores:
        raise ModelError(f"The scores of {scores_path(folder, job.parent)} are gone. Run the benchmark again.")
    return scores[kind]


class _Prepared(Sequence[torch.Tensor]):
    """A pool whose images are read and prepared as they are asked for."""

    def __init__(self, samples: Sequence[Sample], config: TrainingConfig) -> None:
        self.samples = samples
        self.config = config

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, rows: int) -> torch.Tensor: ...
    @overload
    def __getitem__(self, rows: slice) -> list[torch.Tensor]: ...
    def __getitem__(self, rows: int | slice) -> torch.Tensor | list[torch.Tensor]:
        if isinstance(rows, slice):
            return [self[row] for row in range(*rows.indices(len(self)))]
        return prepare_image(read_image(self.samples[rows].image), self.config)


def _score(
    model: Model, pool: Sequence[Sample], kinds: Iterable[UncertaintyName], seed: int
) -> dict[str, NDArray[np.float64]]:
    scores = score_uncertainty(
        partial(predict_prepared, faster(model)),
        _Prepared(pool, model.config),
        sorted(kinds),
        draw=lambda inputs: predict_with_dropout(model, inputs, random_state=seed),
    )
    return {str(kind): values for kind, values in scores.items()}


@cache
def versions() -> dict[str, str]:
    """Return the versions that a row carries, and this program's commit where it runs from a checkout."""
    found = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    if (REPOSITORY / ".git").exists():
        command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=12"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            found["commit"] = answer.stdout.strip()
    return found


def hardware(device: torch.device) -> str:
    """Name the graphics card, or the processor with the threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} of {os.cpu_count()} cores"


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
