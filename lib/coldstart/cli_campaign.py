"""The commands that make a campaign's plan, with or without a server: `embed` and `plan`."""

from __future__ import annotations

import getpass
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from coldstart.cli_output import AsJson, Conf, Document, answer, console, pairs, progress_console
from coldstart.exceptions import ImageError, StoreError

if TYPE_CHECKING:
    from coldstart.adapters.offline import OpenedCampaign
    from coldstart.campaign import Campaign
    from coldstart.campaign.plans import PlanView
    from coldstart.selection import Method

Studies = Annotated[
    str, typer.Argument(metavar="STUDIES", help="Folder of the images, or address of a DICOMweb archive.")
]
Preset = Annotated[
    str | None, typer.Option(help="Name of a preset, or path of a YAML file; as configured before without it.")
]
LOOK_EVERY_S = 0.3


def embed(studies: Studies, preset: Preset = None, conf: Conf = None, as_json: AsJson = False) -> None:
    """Make a vector of every image, place it on the map, and keep the plan.

    A run that was stopped goes on where it was. Settings that are not given are those that the campaign had before.

    Example: coldstart embed /data/chest --preset chest_xray --conf encoder descriptor
    """
    answer(lambda: _embed(open_begun(studies, preset, conf)), _show_embedding, as_json=as_json)


def plan(
    studies: Studies,
    budget: Annotated[int | None, typer.Option(min=1, help="Images to label, those labelled already counted.")] = None,
    method: Annotated[str | None, typer.Option(metavar="NAME", help="What this method would pick, only shown.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for plan.csv and plan.png.", file_okay=False)] = Path(
        "plan-output"
    ),
    preset: Preset = None,
    conf: Conf = None,
    as_json: AsJson = False,
) -> None:
    """Plan which images to label first, and embed before what is not embedded yet.

    The plan is the campaign's: viewers and `coldstart next` follow it, and --budget becomes the campaign's budget.
    With --method it is only shown what that method would pick now, and nothing is changed.

    Examples: coldstart plan /data/chest --budget 20; coldstart plan /data/chest --budget 20 --method k_means
    """

    def work() -> Document:
        from coldstart.campaign.plans import find_method

        other = None if method is None else find_method(method)
        return _plan(open_begun(studies, preset, conf), other, budget, output)

    answer(work, _show_plan, as_json=as_json)


def open_begun(studies: str, preset: str | None, conf: list[str] | None) -> OpenedCampaign:
    """Open a campaign, or begin one."""
    return _open(studies, preset, conf, begin=True)


def open_campaign(studies: str, preset: str | None, conf: list[str] | None) -> OpenedCampaign:
    """Open a campaign that was begun."""
    return _open(studies, preset, conf, begin=False)


def _open(studies: str, preset: str | None, conf: list[str] | None, *, begin: bool) -> OpenedCampaign:
    from coldstart.adapters import offline
    from coldstart.adapters.limits import keep_within_limits

    opened = offline.open_campaign(studies, pairs(conf, preset), begin=begin)
    keep_within_limits(opened.campaign.settings)
    return opened


def _embed(opened: OpenedCampaign) -> Document:
    started = time.monotonic()
    with watching(opened.campaign, "embedding"):
        count = opened.campaign.embed()
    found = usable_overview(opened.campaign)
    kept = ("images", "held_out", "encoder", "projection", "planned", "budget", "n_set_aside", "set_aside")
    return {
        "embedded": count,
        **{name: found[name] for name in kept},
        "seconds": round(time.monotonic() - started, 1),
        "state_dir": str(opened.campaign.folder),
    }


def usable_overview(campaign: Campaign) -> Document:
    """Return the campaign at a glance; ImageError, which says why, where no image can be used."""
    from coldstart.campaign.overview import NOTHING_USABLE, overview

    found = overview(campaign)
    if found["phase"] == NOTHING_USABLE:
        raise ImageError(found["phase_sentence"])
    return found


def _show_embedding(found: Document) -> None:
    if found["embedded"]:
        done = f"Embedded {found['embedded']} images with {found['encoder']} in {found['seconds']:.1f} s."
    else:
        done = f"Nothing to do: all is embedded with {found['encoder']}."
    console.print(done, soft_wrap=True, markup=False)
    held_out = f", {found['held_out']} held out" if found["held_out"] else ""
    console.print(
        f"{found['images']} images on the map{held_out}; {found['planned']} of them are planned.   "
        f"Database: {found['state_dir']}",
        soft_wrap=True,
        markup=False,
    )
    show_set_aside(found)


def show_set_aside(found: Mapping[str, Any], at_most: int = 5) -> None:
    """Name images that cannot be used, with the reasons."""
    if not found["n_set_aside"]:
        return
    console.print(f"{found['n_set_aside']} set aside:", markup=False)
    for one in found["set_aside"][:at_most]:
        console.print(f"  {one['reason']}", soft_wrap=True, markup=False)
    if found["n_set_aside"] > at_most:
        console.print(f"  and {found['n_set_aside'] - at_most} more")


def _plan(opened: OpenedCampaign, other: Method | None, budget: int | None, output: Path) -> Document:
    from coldstart.campaign.plans import plan_by, read_plan

    campaign = opened.campaign
    if other is None and budget is not None and budget != campaign.settings.budget:
        campaign.use(who=user(), budget=budget)
    _embed(opened)
    if other is None:
        return _plan_document(campaign, read_plan(campaign), output, kept=True)
    with watching(campaign, other.title):
        view = plan_by(campaign, other, budget or campaign.settings.budget)
    return _plan_document(campaign, view, output, kept=False)


def _plan_document(campaign: Campaign, view: PlanView, output: Path, *, kept: bool) -> Document:
    from coldstart.campaign.choosing import ACTIVE, COLD_START
    from coldstart.campaign.figure import draw_map, map_points
    from coldstart.campaign.map_table import MapMemory
    from coldstart.campaign.plans import PlannedImage
    from coldstart.campaign.spreadsheet import csv_text

    with campaign.store.reading() as session:
        columns = {**(table := MapMemory().read(session, campaign.settings)).fixed, **table.moving}
    index_of = {image_id: index for index, image_id in enumerate(columns["image_id"])}
    picks = []
    for image in view.images:
        index = index_of[image.image_id]
        picks.append({**asdict(image), **{name: columns[name][index] for name in ("state", "x", "y")}})
    output.mkdir(parents=True, exist_ok=True)
    header = (*(field.name for field in fields(PlannedImage)), "state", "x", "y")
    (output / "plan.csv").write_text(csv_text(header, [pick.values() for pick in picks]), "utf-8", newline="")
    ranks = {image.image_id: image.rank for image in view.images}
    phase = COLD_START if "cold_start" in view.method.stages else ACTIVE
    points = [replace(point, served=ranks.get(point.image_id), phase=phase) for point in map_points(campaign.store)]
    title = f"{view.method.title}: {len(picks)} of {sum(not point.held_out for point in points)} images"
    draw_map(points, output / "plan.png", title)
    status = campaign.status()
    return {
        "method": view.method.name,
        "title": view.method.title,
        "kept": kept,
        "budget": view.budget,
        "images": status["images"],
        "n_taken": view.n_taken,
        "n_clusters": status["n_clusters"] if kept else None,
        "silhouettes": view.silhouettes,
        "encoder": status["encoder"],
        "projection": status["projection"],
        "random_state": view.random_state,
        "picks": picks,
        "table": str(output / "plan.csv"),
        "map": str(output / "plan.png"),
    }


def _show_plan(found: Document) -> None:
    console.print(_plan_title(found), soft_wrap=True, markup=False, highlight=False)
    table = Table("rank", "image", "why", "state")
    for pick in found["picks"]:
        table.add_row(*(escape(str(pick[name])) for name in ("rank", "image_id", "reason", "state")))
    if found["picks"]:
        console.print(table)
    if found["kept"]:
        said = "It is the campaign's plan: viewers and `coldstart next` follow it."
    else:
        said = "Only shown: the campaign keeps its own plan, and its budget."
    console.print(f"{said}\nTable: {found['table']}   Map: {found['map']}", soft_wrap=True, markup=False)


def _plan_title(found: Document) -> str:
    title = f"{found['title']}: {len(found['picks'])} of {found['images']} images"
    if found["n_clusters"]:
        best = found["silhouettes"].get(str(found["n_clusters"]))
        title += f", {found['n_clusters']} clusters" + (f" (silhouette {best:.2f})" if best is not None else "")
    if found["n_taken"]:
        others = "1 other, labelled or served already, counts"
        if found["n_taken"] > 1:
            others = f"{found['n_taken']} others, labelled or served already, count"
        title += f"; {others} toward the budget of {found['budget']}"
    if found["budget"] > found["images"]:
        title += f"; the budget of {found['budget']} is more than the pool holds"
    return title


def user() -> str | None:
    """Name of whoever runs the command, for the log."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None  # a container's user may have no name


@contextmanager
def watching(campaign: Campaign, what: str) -> Iterator[None]:
    """Show how far a long task is, in this process or in a server's: each notes it in the database."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    shown = progress_console.is_terminal
    ended = threading.Event()
    with Progress(
        *columns, TimeElapsedColumn(), console=progress_console, transient=True, disable=not shown
    ) as progress:
        bar = progress.add_task(what, total=None)
        follower = threading.Thread(target=_follow, args=(campaign, progress, bar, ended), daemon=True)
        follower.start()
        try:
            yield
        except KeyboardInterrupt:
            progress_console.print("Stopped. What was done is kept; the same command goes on.")
            raise
        finally:
            ended.set()
            follower.join()


def _follow(campaign: Campaign, progress: Progress, bar: Any, ended: threading.Event) -> None:
    from coldstart.campaign.overview import read_progress

    began_at = time.time()
    while not ended.wait(LOOK_EVERY_S):
        try:
            with campaign.store.reading() as session:
                tasks = read_progress(session)
        except StoreError:
            continue
        running = {name: task for name, task in tasks.items() if task["updated_at"] >= began_at}
        if running:
            name, task = max(running.items(), key=lambda item: float(item[1]["updated_at"]))
            progress.update(bar, description=name, completed=task["done"], total=task["total"])
