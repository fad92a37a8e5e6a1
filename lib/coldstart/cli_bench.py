"""The `coldstart bench` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from coldstart.exceptions import InvalidInputError

if TYPE_CHECKING:
    from coldstart.experiments.protocol import Protocol
    from coldstart.experiments.workers import Outcome

PROTOCOLS = (
    "chexmask, hippocampus, left_atrium, montgomery, smoke, synthstrip; "
    "ablations: alpha, encoder, fill, perplexity, projection"
)
MAX_WORKERS = 4
"""On a processor, where nobody asks for more."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


def bench(
    protocol: Annotated[
        str | None, typer.Argument(metavar="PROTOCOL", help=f"{PROTOCOLS}; or the path of a YAML file.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of images.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Folder of label maps, named like the images.")] = None,
    budget: Annotated[str | None, typer.Option(metavar="8,12,16", help="Numbers of labelled images.")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="43,44,45", help="One run each.")] = None,
    methods: Annotated[str | None, typer.Option(metavar="NAME,NAME", help="Methods to compare.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of each training.")] = None,
    size: Annotated[str | None, typer.Option(metavar="128,128", help="Grid of the network, in pixels.")] = None,
    structures: Annotated[
        str | None, typer.Option(metavar="NAME:1,NAME:2", help="Structures by name, with their label values.")
    ] = None,
    manifest: Annotated[Path | None, typer.Option(help="CSV whose first column names the images.")] = None,
    group_by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Of the manifest: a group stays together, such as a patient.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="As --conf encoder of the server.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of rows and report; an earlier run goes on.", file_okay=False)
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Trainings at the same time.")] = None,
    device: Annotated[str, typer.Option(help="auto (every GPU, else the CPU), cpu, cuda or cuda:N.")] = "auto",
    smoke: Annotated[bool, typer.Option("--smoke", help="Every method, one epoch: does it run?")] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Make the report of an earlier run again.")
    ] = False,
) -> None:
    """Compare the selection methods: train a network on what each picks, and judge it on a test set.

    Examples: coldstart bench montgomery; coldstart bench --images images --labels labels --budget 8,12,16
    """
    from coldstart.experiments.variants import choose_protocol

    if report_only:
        _report(*_earlier(protocol, output))
        return
    given = {
        "images": images,
        "labels": labels,
        "budgets": _numbers("--budget", budget),
        "seeds": _numbers("--seeds", seeds),
        "epochs": epochs,
        "spatial_size": _numbers("--size", size),
        "structures": _structures(structures),
        "manifest": manifest,
        "group_by": group_by,
        "encoder": encoder,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    if protocol is None and smoke and images is None and labels is None:
        protocol = "smoke"
    chosen = choose_protocol(protocol, changes, _names(methods), smoke=smoke)
    folder = output or Path("bench-output") / chosen.name
    chosen = _with_sample_data(chosen, folder)
    failed = _run(chosen, folder, device, workers)
    if failed:
        console.print(f"{failed} trainings failed; the same command tries them again.")
        raise typer.Exit(1)


def _run(protocol: Protocol, folder: Path, device: str, workers: int | None) -> int:
    """Run what is not done yet, report, and return how many trainings failed."""
    from coldstart.experiments.bench import run_benchmark
    from coldstart.experiments.workers import find_devices, share_threads

    devices = find_devices(device)
    # on a processor, trainings side by side gain more than the threads of one; each takes a gigabyte or more
    n_workers = workers or (min(len(os.sched_getaffinity(0)), MAX_WORKERS) if devices == ["cpu"] else len(devices))
    watcher = _Terminal()
    try:
        with watcher:
            result = run_benchmark(
                protocol,
                folder,
                devices=[devices[number % len(devices)] for number in range(n_workers)],
                n_threads=share_threads(n_workers),
                watcher=watcher,
            )
    except KeyboardInterrupt:
        console.print(f"Stopped. The rows in {folder} are kept; the same command goes on.", soft_wrap=True)
        raise typer.Exit(130) from None
    if result.n_rows:
        _report(folder, result.protocol)
    return len(result.failures)


def _report(folder: Path, protocol: Protocol) -> None:
    from coldstart.experiments.report import write_report

    report = write_report(folder, protocol)
    console.print(report.verdict, soft_wrap=True, markup=False)
    console.print(f"Report: {report.html} and {report.markdown}   Rows: {folder / 'rows.jsonl'}", soft_wrap=True)


def _earlier(name: str | None, output: Path | None) -> tuple[Path, Protocol]:
    """Return the folder and the protocol of an earlier run: `name` is the folder, or the name of the protocol."""
    from coldstart.experiments.bench import PROTOCOL
    from coldstart.experiments.protocol_files import load_protocol

    folders = [output] if output else [Path(name), Path("bench-output") / name] if name else []
    for folder in folders:
        if (folder / PROTOCOL).is_file():
            return folder, load_protocol(folder / PROTOCOL)
    raise InvalidInputError(
        f"--report-only needs the folder of an earlier run, which holds {PROTOCOL} and the rows; got "
        f"{' or '.join(map(str, folders)) or 'none'}. Name it: coldstart bench --report-only FOLDER"
    )


def _with_sample_data(protocol: Protocol, folder: Path) -> Protocol:
    """Draw the sample images where a protocol is about them and has no folders of its own."""
    from coldstart.experiments.protocol import SAMPLE
    from coldstart.experiments.sample_data import generate_sample_data

    if protocol.dataset != SAMPLE or protocol.images is not None:
        return protocol
    chest = folder / "sample-data" / "chest"
    if not chest.parent.joinpath("README.md").is_file():  # written last
        with console.status("the sample images are drawn ..."):
            generate_sample_data(chest.parent)
    return protocol.model_copy(update={"images": chest, "labels": chest / "groundtruth"})


def _names(text: str | None) -> Sequence[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _numbers(option: str, text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(number) for number in text.split(",")]
    except ValueError:
        raise InvalidInputError(f"{option} must be whole numbers with commas between them; got '{text}'.") from None


def _structures(text: str | None) -> dict[str, int] | None:
    if text is None:
        return None
    from coldstart.settings import parse_labels

    try:
        return parse_labels(text)
    except ValueError:
        raise InvalidInputError(f"--structures must look like lung:1,heart:2, each name once; got '{text}'.") from None


class _Terminal:
    """Shows a benchmark as it goes: a bar on a terminal, lines elsewhere."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._bar: Any = None
        self._n_done = self._n_jobs = 0

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def say(self, sentence: str) -> None:
        console.print(sentence, soft_wrap=True, markup=False)

    @contextmanager
    def waiting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        bar = self._progress.add_task(what, total=None, left="")
        yield lambda done, total: self._progress.update(bar, completed=done, total=total)
        self._progress.remove_task(bar)

    def planned(self, n_done: int, n_jobs: int) -> None:
        self._n_done, self._n_jobs = n_done, n_jobs
        self.say(f"{n_jobs} trainings, of which {n_done} are done already.")
        self._bar = self._progress.add_task("trainings", completed=n_done, total=n_jobs, left="")

    def ended(self, outcome: Outcome, left_s: float) -> None:
        self._n_done += 1
        cell, row = outcome.job.cell, outcome.row
        budget = cell.budget if cell.start is None else f"{cell.start}+{cell.budget - cell.start}"
        what = f"seed {cell.seed}, {budget} images, {cell.arm}"
        left = f"{_duration(left_s)} left" if left_s else ""
        counted = f"{self._n_done:>{len(str(self._n_jobs))}}/{self._n_jobs}  {what}"
        if row is None:
            self.say(f"{counted}: FAILED. {outcome.failure}")
        else:
            seconds = _duration(row.select_s + row.train_s + row.evaluate_s)
            times = f"{seconds}; {left}" if left and not console.is_terminal else seconds
            self.say(f"{counted}: Dice {row.dice:.4f}, HD95 {row.hd95:.2f} {row.hd95_unit} ({times})")
        self._progress.update(self._bar, completed=self._n_done, left=left)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
