"""A whole benchmark: the dataset, its features, every training that is not done yet, and the rows on the disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol as Interface

import numpy as np
from filelock import FileLock, Timeout

from coldstart.exceptions import EncoderError, InvalidInputError
from coldstart.experiments.datasets import Dataset, list_left_out, read_dataset, read_groups, split
from coldstart.experiments.features import Embeddings, embed_dataset, project_pool
from coldstart.experiments.jobs import Job, UsedEncoder, plan_jobs
from coldstart.experiments.protocol import Protocol
from coldstart.experiments.protocol_files import save_protocol
from coldstart.experiments.rows import Row, RowFile
from coldstart.experiments.runs import Bench, Labelled, has_scores, training_config
from coldstart.experiments.workers import Outcome, Workers
from coldstart.projection.tsne import perplexity_of
from coldstart.settings import GRID_STEP

ROWS, PROTOCOL, LOCK = "rows.jsonl", "protocol.yaml", ".lock"
LARGEST_SIDE = {2: 256, 3: 96}
"""Of a grid that nobody chose."""


class Watcher(Interface):
    """Who is told how a benchmark goes."""

    def say(self, sentence: str) -> None:
        """Take a sentence that whoever reads the result should know."""

    def waiting(self, what: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """Show that something takes a while; the answer is called with what is done and what there is."""

    def planned(self, n_done: int, n_jobs: int) -> None:
        """Take the numbers of trainings that are on the disk already, and of all."""

    def ended(self, outcome: Outcome, left_s: float) -> None:
        """Take what became of a training, and the seconds that the others will take at the speed so far."""


@dataclass(frozen=True)
class Result:
    """How a benchmark ended.

    Attributes
    ----------
    protocol : Protocol
        What was run: with the grid and the settings of its rows, without what was left out, and with the reasons for
        that in its note.
    n_rows : int
        Trainings of this protocol that are on the disk.
    failures : tuple of Outcome
        Those that could not be done.
    """

    protocol: Protocol
    n_rows: int
    failures: tuple[Outcome, ...]


def run_benchmark(
    protocol: Protocol, folder: Path, *, devices: Sequence[str], n_threads: int, watcher: Watcher
) -> Result:
    """Run every training of a protocol that is not on the disk yet.

    Parameters
    ----------
    protocol : Protocol
        With folders of images and labels.
    folder : Path
        Of the output; what it holds of an earlier run is used.
    devices : sequence of str
        One for each process that trains.
    n_threads : int
        Threads of torch in each.
    watcher : Watcher
        Is told what goes on.

    Raises
    ------
    ColdStartError
        If nothing can be run: no usable images, a budget above the pool, another run on the same folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK, timeout=0), RowFile(folder / ROWS) as file:
            bench, jobs = _prepare(protocol, folder, devices[0], watcher)
            return _run(bench, jobs, file, devices, n_threads, watcher)
    except Timeout:
        raise InvalidInputError(
            f"Another benchmark is writing to {folder}. Wait until it has ended, or name another --output."
        ) from None
    except OSError as error:
        raise InvalidInputError(
            f"The output folder {folder} must be one that can be written; got: {error.strerror or error}. Free space "
            "on the disk, or name another --output; what was finished is kept."
        ) from None


def _prepare(protocol: Protocol, folder: Path, device: str, watcher: Watcher) -> tuple[Bench, list[Job]]:
    with watcher.waiting("images and labels are read") as progress:
        dataset = read_images(protocol, progress)
    if protocol.spatial_size is None:
        size = choose_grid(dataset.median_shape, protocol.largest_side)
        protocol = protocol.model_copy(update={"spatial_size": size})
    training_config(protocol, dataset, protocol.seeds[0], device)
    _check_pools(protocol, dataset)
    embeddings, absent = _embed(protocol, dataset, folder, device, watcher)
    protocol = _without(protocol, dataset, absent, watcher)
    used = {name: UsedEncoder(known.encoder, known.digest) for name, known in embeddings.items()}
    jobs = plan_jobs(protocol, dataset, used)
    settings = {protocol.encoder_of(job.arm): job.cell.setting for job in jobs}
    protocol = protocol.model_copy(update={"settings": settings})
    save_protocol(protocol, folder / PROTOCOL)
    bench = Bench(protocol, dataset, embeddings, folder)
    _project(bench, jobs, watcher)
    return bench, jobs


def _without(protocol: Protocol, dataset: Dataset, absent: Mapping[str, str], watcher: Watcher) -> Protocol:
    """Leave out the arms whose encoder is absent, and say there and in the report what is not as the protocol says."""
    left_out = [f"Left out: {sentence}" for sentence in list_left_out(dataset.left_out)]
    for name, reason in absent.items():
        titles = [arm.title for arm in (*protocol.arms, *protocol.active_arms) if protocol.encoder_of(arm) == name]
        left_out.append(f"Left out: {', '.join(titles)}: {reason}")
    notes = left_out + _limits(protocol, dataset)
    for sentence in notes:
        watcher.say(sentence)
    active_arms = tuple(arm for arm in protocol.active_arms if protocol.encoder_of(arm) not in absent)
    changes = {
        "note": "\n\n".join(filter(None, (protocol.note, *notes))),
        "arms": tuple(arm for arm in protocol.arms if protocol.encoder_of(arm) not in absent),
        "active_arms": active_arms,
        "active": protocol.active if active_arms else (),
    }
    return protocol.model_copy(update=changes)


def _limits(protocol: Protocol, dataset: Dataset) -> list[str]:
    """Say which arms ask for a larger perplexity than a map of the pool can have."""
    n_pool = min(len(split(dataset, seed, protocol.test_fraction).pool) for seed in protocol.seeds)
    return [
        f"{arm.title}: the perplexity is {limit:.3g}, the most that a map of {n_pool} images allows."
        for arm in (*protocol.arms, *protocol.active_arms)
        if arm.perplexity is not None and (limit := perplexity_of(n_pool, arm.perplexity)) < arm.perplexity
    ]


def read_images(protocol: Protocol, progress: Callable[[int, int], None] | None = None) -> Dataset:
    """Read the images and labels that a protocol names.

    Raises
    ------
    InvalidInputError
        If it names none, they are not there, or none can be used.
    """
    if protocol.images is None or protocol.labels is None:
        raise InvalidInputError(
            f"The protocol {protocol.name} does not say where its images and labels are. Name their folders with "
            "--images and --labels."
        )
    for folder in (protocol.images, protocol.labels):
        if not folder.is_dir():
            raise InvalidInputError(
                f"The images and labels of {protocol.name} must be in folders that are there; there is no {folder}. "
                "Name them with --images and --labels; `coldstart data` lists what can be fetched."
            )
    groups = None
    if protocol.group_by is not None:
        groups = read_groups(protocol.manifest or protocol.images.parent / "manifest.csv", protocol.group_by)
    return read_dataset(
        protocol.dataset,
        protocol.images,
        protocol.labels,
        structures=protocol.structures,
        spatial_dims=None if protocol.spatial_size is None else len(protocol.spatial_size),
        groups=groups,
        progress=progress,
    )


def choose_grid(shape: Sequence[int], largest_side: int | None = None) -> tuple[int, ...]:
    """Return the network's grid for images of a size: the nearest multiples of 16, within limits."""
    largest = largest_side or LARGEST_SIDE[len(shape)]
    return tuple(int(np.clip(round(side / GRID_STEP) * GRID_STEP, 2 * GRID_STEP, largest)) for side in shape)


def _check_pools(protocol: Protocol, dataset: Dataset) -> None:
    largest = max([*protocol.budgets, *(stage.total for stage in protocol.active)])
    for seed in protocol.seeds:
        n_pool = len(split(dataset, seed, protocol.test_fraction).pool)
        if largest > n_pool:
            raise InvalidInputError(
                f"A budget must be between 1 and the {n_pool} images of the pool, which are those that can be used "
                f"without the test set; got {largest} (dataset {dataset.name}, seed {seed}). Lower --budget."
            )


def _embed(
    protocol: Protocol, dataset: Dataset, folder: Path, device: str, watcher: Watcher
) -> tuple[dict[str, Embeddings], dict[str, str]]:
    """Return the embeddings by encoder, and of the encoders that are not there the reason."""
    arms = (*protocol.arms, *protocol.active_arms)
    needed = {protocol.encoder_of(arm) for arm in arms if not arm.optional}
    found: dict[str, Embeddings] = {}
    absent: dict[str, str] = {}
    for name in dict.fromkeys(protocol.encoder_of(arm) for arm in arms):
        try:
            with watcher.waiting(f"images are embedded ({name})") as progress:
                found[name] = embed_dataset(dataset, name, folder / "features", device=device, progress=progress)
        except EncoderError as error:
            if name in needed:
                raise
            absent[name] = str(error)
        else:
            if name == "auto":
                watcher.say(f"The encoder is {found[name].encoder}, as 'auto' found it.")
    if not found:
        raise InvalidInputError(f"{protocol.name} cannot be run: none of its encoders is there.")
    return found, absent


def _project(bench: Bench, jobs: Iterable[Job], watcher: Watcher) -> None:
    """Make all maps before the processes begin, so that each is made once."""
    protocol, dataset = bench.protocol, bench.dataset
    maps = {(job.cell.seed, protocol.encoder_of(job.arm), *protocol.projection_of(job.arm)): None for job in jobs}
    with watcher.waiting("maps are made") as progress:
        for done, (seed, encoder, projection, perplexity) in enumerate(maps, start=1):
            pool = split(dataset, seed, protocol.test_fraction).pool
            project_pool(
                dataset, bench.embeddings[encoder], pool, projection, perplexity, seed, bench.folder / "features"
            )
            progress(done, len(maps))


def _run(
    bench: Bench, jobs: Sequence[Job], file: RowFile, devices: Sequence[str], n_threads: int, watcher: Watcher
) -> Result:
    rows = {row.cell.key: row for row in file.rows}
    waiting = [job for job in jobs if job.cell.key not in rows or not has_scores(bench.folder, job)]
    watcher.planned(len(jobs) - len(waiting), len(jobs))
    failures: list[Outcome] = []
    running: dict[str, Job] = {}
    estimate = _Estimate(waiting)
    with Workers(bench, devices[: len(waiting)], n_threads) as workers:
        while waiting or running:
            for job in _ready(waiting, running)[: workers.n_free]:
                workers.give(job, _labelled(job, rows))
                waiting.remove(job)
                running[job.cell.key] = job
            for outcome in workers.wait():
                del running[outcome.job.cell.key]
                if outcome.row is not None and outcome.job.cell not in file:
                    file.append(outcome.row)
                    rows[outcome.row.cell.key] = outcome.row
                lost = [] if outcome.row is not None else _build_on(outcome.job, waiting)
                for ended in (outcome, *lost):
                    watcher.ended(ended, estimate.left_s(ended.job))
                failures += [ended for ended in (outcome, *lost) if ended.row is None]
                waiting = [job for job in waiting if job not in [ended.job for ended in lost]]
    return Result(bench.protocol, len(jobs) - len(failures), tuple(failures))


def _ready(waiting: Sequence[Job], running: Mapping[str, Job]) -> list[Job]:
    ahead = {job.cell.key for job in waiting} | running.keys()
    return [job for job in waiting if job.parent is None or job.parent.key not in ahead]


def _labelled(job: Job, rows: Mapping[str, Row]) -> Labelled:
    if job.parent is None:
        return Labelled()
    row = rows[job.parent.key]
    return Labelled(row.picks, row.reasons)


def _build_on(failed: Job, waiting: Iterable[Job]) -> list[Outcome]:
    """Jobs that can no longer be done, because what they build on failed."""
    sentence = f"It builds on '{failed.cell.arm}' with {failed.cell.budget} images, which failed."
    lost = [job for job in waiting if job.parent is not None and job.parent.key == failed.cell.key]
    return [Outcome(job, None, sentence) for job in lost] + [later for job in lost for later in _build_on(job, waiting)]


class _Estimate:
    """The time left: trainings take as long as they have images."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._started = time.monotonic()
        self._left = sum(job.cell.budget for job in jobs)
        self._done = 0

    def left_s(self, ended: Job) -> float:
        self._done += ended.cell.budget
        self._left -= ended.cell.budget
        return (time.monotonic() - self._started) / self._done * self._left
