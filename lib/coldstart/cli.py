"""The `coldstart` command."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from typer.exceptions import TyperException

from coldstart.cli_backup import backup, restore
from coldstart.cli_bench import bench
from coldstart.cli_campaign import embed, plan
from coldstart.cli_doctor import doctor
from coldstart.cli_export import export
from coldstart.cli_models import models
from coldstart.cli_next import next_image
from coldstart.cli_output import Conf, console, end_without_reader, pairs, print_error
from coldstart.cli_status import map_, replay, status
from coldstart.exceptions import ColdStartError, InvalidInputError

app = typer.Typer(
    help="Which medical image to label next: cold start, active learning, and the server around them.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

SAMPLE_CHEST = Path(__file__).resolve().parents[2] / "sample-data" / "chest"
Output = Annotated[
    Path, typer.Option(help="Folder for the studies, the map and the log; emptied first.", file_okay=False)
]

app.command()(embed)
app.command()(plan)
app.command("next")(next_image)
app.command()(status)
app.command("map")(map_)
app.command()(replay)
app.add_typer(models, name="models")


@app.command()
def demo(
    output: Output = Path("demo-output"),
    conf: Conf = None,
) -> None:
    """Play a whole labelling campaign on the sample data against a real MONAI Label server.

    Example: coldstart demo --conf epochs 30
    """
    settings = {"preset": "sample", **pairs(conf)}
    held_out = SAMPLE_CHEST / "heldout.txt"
    _simulate(SAMPLE_CHEST, SAMPLE_CHEST / "groundtruth", held_out, output, settings, n_active=5)


@app.command()
def simulate(
    images: Annotated[Path, typer.Argument(help="Folder of images.", exists=True, file_okay=False)],
    labels: Annotated[Path, typer.Argument(help="Folder with a label for each image.", exists=True, file_okay=False)],
    heldout: Annotated[Path | None, typer.Option(help="File with the ids of held-out images.", exists=True)] = None,
    output: Output = Path("simulation-output"),
    active: Annotated[int, typer.Option(min=1, help="Active samples after the first training.")] = 5,
    conf: Conf = None,
) -> None:
    """Play a whole campaign on images whose labels are known, in the annotator's place.

    Example: coldstart simulate images labels --heldout heldout.txt --conf preset chest_xray --conf epochs 10
    """
    _simulate(images, labels, heldout, output, pairs(conf), n_active=active)


@app.command()
def serve(
    studies: Annotated[str, typer.Option(help="Folder of images, or address of a DICOMweb archive.")],
    preset: Annotated[str | None, typer.Option(help="Name of a preset, or the path of a YAML file.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    conf: Conf = None,
) -> None:
    """Start the MONAI Label server with the app; Ctrl-C ends it.

    Example: coldstart serve --studies /data/chest --preset chest_xray --host 0.0.0.0 --conf budget 20
    """
    from coldstart.adapters.server import APP_FOLDER, is_archive, server_command, server_environment
    from coldstart.settings import load_settings

    if not is_archive(studies) and not Path(studies).is_dir():
        raise InvalidInputError(f"--studies must be a folder or the address of an archive; got '{studies}'.")
    settings = pairs(conf, preset)
    load_settings(settings, APP_FOLDER / "configs")  # better said before a server starts than after
    _require_free(host, port)
    where = studies if is_archive(studies) else Path(studies).resolve()
    command = server_command(where, settings, host=host, port=port)
    sys.stdout.flush()
    os.execve(command[0], command, server_environment())  # noqa: S606  the server takes this process's place, and Ctrl-C


def _require_free(host: str, port: int) -> None:
    """Refuse a port that is taken, which the server itself would notice at the end of its start."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(found[0]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[4])
    except OSError as error:
        raise InvalidInputError(
            f"No server can listen on {host}, port {port}: {error.strerror}. Give another --port or --host; "
            f"`coldstart doctor --port {port}` says more."
        ) from None


app.command()(bench)
app.command()(export)
app.command()(backup)
app.command()(restore)
app.command()(doctor)


@app.command()
def sample_data(
    folder: Annotated[Path, typer.Argument(help="Where to write; made where it is missing.", file_okay=False)],
) -> None:
    """Write the generated sample studies: chest-radiograph-like images and small volumes, with labels.

    Example: coldstart sample-data /tmp/sample-data
    """
    from coldstart.experiments.sample_data import generate_sample_data

    with console.status("drawing ..."):
        generate_sample_data(folder)
    console.print(f"Wrote the sample data to {folder}.")


@app.command()
def data(
    name: Annotated[str | None, typer.Argument(help="Of the dataset; without it all are listed.")] = None,
    folder: Annotated[Path, typer.Argument(help="Where to put it; made where it is missing.", file_okay=False)] = Path(
        "data"
    ),
    url: Annotated[str | None, typer.Option(help="Address of a mirror of the same archive.")] = None,
) -> None:
    """Fetch a public dataset, checked and laid out for `coldstart bench`, or say how to put it together by hand.

    Example: coldstart data montgomery /data
    """
    from coldstart.experiments.download import DATASETS, MANUAL_STEPS, fetch, find_dataset

    if name is None:
        table = Table("dataset", "terms")
        for known in DATASETS.values():
            table.add_row(known.name, known.terms)
        for known_name in MANUAL_STEPS:
            table.add_row(known_name, f"by hand: `coldstart data {known_name}` explains the steps")
        console.print(table)
        return
    if name.lower() in MANUAL_STEPS:
        console.print(MANUAL_STEPS[name.lower()], soft_wrap=True, markup=False)
        return
    dataset = find_dataset(name)
    done = fetch(dataset if url is None else replace(dataset, url=url), folder, progress=sys.stderr.isatty())
    n_images = sum(1 for _ in (done / "images").iterdir())
    console.print(f"{n_images} images with labels: {done}   Terms: {dataset.terms}", soft_wrap=True)


class _Terminal:
    """Shows a simulated campaign as it goes."""

    def served(self, number: int, sample: dict[str, Any]) -> None:
        console.print(f"  {number:>3}  {sample['id']:<24} {sample['coldstart']['reason']}", soft_wrap=True)

    def trained(self, number: int, stats: dict[str, Any]) -> None:
        judged = stats.get("heldout")
        console.print(f"Training {number} took {stats['total_time']} (model {stats['trained_version']}).")
        console.print(stats["comparison"], soft_wrap=True, markup=False)
        if judged is None:
            console.print("No held-out image has a label, so there is no Dice to report.")
            return
        table = Table("held-out images", "Dice", f"HD95 ({judged['hd95_unit']})")
        for name, dice in judged["class_dice"].items():
            table.add_row(name, f"{dice:.4f}", f"{judged['class_hd95'][name]:.2f}")
        table.add_row(f"mean of {judged['n_images']} images", f"{judged['dice']:.4f}", f"{judged['hd95']:.2f}")
        console.print(table)

    @contextmanager
    def waiting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            bar = progress.add_task(what, total=None)
            yield lambda done, total: progress.update(bar, completed=done, total=total)
            total = progress.tasks[0].total or 1
            progress.update(bar, completed=total, total=total)


def _simulate(
    images: Path, labels: Path, held_out: Path | None, output: Path, conf: dict[str, str], *, n_active: int
) -> None:
    from coldstart.adapters.server import APP_FOLDER, Server
    from coldstart.adapters.simulation import SimulatedAnnotator, connect, copy_studies
    from coldstart.campaign.figure import draw_map, map_points
    from coldstart.settings import load_settings
    from coldstart.store import FILE_NAME, Store

    started = time.monotonic()
    settings = conf if held_out is None else {**conf, "heldout": str(held_out.resolve())}
    load_settings(settings, APP_FOLDER / "configs")
    studies = copy_studies(images, labels, held_out, output)
    terminal = _Terminal()
    with ExitStack() as stack:
        with terminal.waiting("the server starts"):
            server = stack.enter_context(Server(studies, settings, output / "server.log"))
        console.print(f"Server for {studies} on {server.url}; its log: {server.log}")
        log = SimulatedAnnotator(connect(server.url), labels, terminal).play(n_active)
    state = Path(log.campaign["state_dir"])
    map_path, log_path = output / "map.png", output / "log.json"
    points = map_points(Store(state))
    title = (
        f"{log.campaign['images']} images, encoder {log.campaign['encoder'].split()[0]}, {log.campaign['projection']}"
    )
    draw_map(points, map_path, title)
    seconds = round(time.monotonic() - started, 1)
    record = {"version": version("coldstart-al"), "seconds": seconds, "conf": conf, **asdict(log)}
    record["map"] = [asdict(point) for point in points]
    log_path.write_text(json.dumps(record, indent=2), encoding="utf-8")
    console.print(
        f"Took {seconds:.0f} s. Map: {map_path}   Log: {log_path}   Database: {state / FILE_NAME}", soft_wrap=True
    )


def _join_conf(arguments: list[str]) -> list[str]:
    """Write `--conf key value`, as MONAI Label takes it, as `--conf key=value`: Typer has no lists of pairs."""
    joined: list[str] = []
    words = iter(arguments)
    for word in words:
        joined.append(word)
        if word == "--conf":
            key, value = next(words, ""), next(words, None)
            if not key or value is None:
                raise InvalidInputError(f"--conf must be followed by a key and a value; got '{key}'.")
            joined.append(f"{key}={value}")
    return joined


def main() -> None:
    """Run the command; an error is one sentence and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        code = app(_join_conf(sys.argv[1:]) or ["--help"], standalone_mode=False)
        sys.stdout.flush()  # here a reader that went away is no error; at the end of the process it would be one
        sys.exit(code)
    except TyperException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "coldstart")
        if said := error.format_message().removesuffix("."):  # else the help itself was the answer
            print_error(f"{said}. `{command} --help` explains the command.")
        sys.exit(2)
    except BrokenPipeError:
        end_without_reader()
    except ColdStartError as error:
        print_error(str(error))
        sys.exit(2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print_error(f"{where}{error.strerror or error}.")
        sys.exit(2)


if __name__ == "__main__":
    main()
