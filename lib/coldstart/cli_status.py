"""The commands that look at a campaign, with or without a server: `status`, `map` and `replay`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from coldstart.cli_campaign import Preset, open_campaign, show_set_aside, usable_overview
from coldstart.cli_output import AsJson, Conf, Document, answer, console, pairs, progress_console

if TYPE_CHECKING:
    from coldstart.adapters.offline import OpenedCampaign

BegunStudies = Annotated[
    str,
    typer.Argument(help="Folder of the images, or of the campaign's database; or address of a DICOMweb archive."),
]

StateDir = Annotated[
    list[str] | None,
    typer.Option("--conf", metavar="state_dir FOLDER", help="Where the database is, if its server has that setting."),
]


def status(studies: BegunStudies, preset: Preset = None, conf: Conf = None, as_json: AsJson = False) -> None:
    """Show the campaign at a glance: how far it is, with which model, who labelled, and whether labels still help.

    Example: coldstart status /data/chest
    """
    answer(lambda: _status(open_campaign(studies, preset, conf)), _show_status, as_json=as_json)


def map_(
    studies: BegunStudies,
    output: Annotated[Path, typer.Option(help="Folder for map.png and map.csv.", file_okay=False)] = Path("map-output"),
    preset: Preset = None,
    conf: Conf = None,
    as_json: AsJson = False,
) -> None:
    """Write the map as a picture, and the table behind it: a row for each image.

    Example: coldstart map /data/chest --output /tmp/map
    """
    answer(lambda: _map(open_campaign(studies, preset, conf), output), _show_map, as_json=as_json)


def replay(
    studies: BegunStudies,
    every: Annotated[bool, typer.Option("--all", help="List every decision, not only what differs.")] = False,
    conf: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Decide everything again that the selection log holds, and say whether it comes out the same.

    The log is enough: neither the images nor a server are needed. Exit code 1 says that something differs.

    Example: coldstart replay /data/chest --all
    """
    differing = 0

    def work() -> Document:
        nonlocal differing
        found = _replay(studies, pairs(conf), every=every)
        differing = found["different"]
        return found

    answer(work, _show_replay, as_json=as_json)
    if differing:
        raise typer.Exit(1)


def _status(opened: OpenedCampaign) -> Document:
    from coldstart.campaign.curve import learning_curve
    from coldstart.campaign.overview import overview

    campaign = opened.campaign
    found = overview(campaign)
    if found["phase"] == "before_embedding" and not opened.has_server:
        found["phase_sentence"] = "The images are not embedded yet: `coldstart plan` does that, and so does a server."
    curve = asdict(learning_curve(campaign.store))
    return {**found, "curve": curve, "server": opened.has_server, "state_dir": str(campaign.folder)}


def _show_status(found: Document) -> None:
    console.print(found["phase_sentence"], soft_wrap=True, markup=False)
    table = Table(show_header=False)
    for name, value in _status_rows(found):
        table.add_row(name, escape(value))
    console.print(table)
    show_set_aside(found)
    for problem in found["label_problems"][:5]:
        console.print(f"Not learned from: {problem}", soft_wrap=True, markup=False)


def _status_rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    held_out = f", {found['held_out']} held out" if found["held_out"] else ""
    planned = "no plan yet"
    if found["planned"] is not None:
        planned = f"{found['planned']} images, {found['n_clusters']} clusters"
    model = found["model_version"] or "none yet"
    if found["model_version"] and found["scored_model_version"] != found["model_version"]:
        model += ", has not scored the images yet"
    chosen = [f"{name} {one['value']} by {one['who'] or 'nobody named'}" for name, one in found["chosen"].items()]
    who = [f"{one['name'] or 'anonymous'} {one['labels']}" for one in found["annotators"]]
    served = [f"{one['image_id']} ({one['annotator'] or 'anonymous'})" for one in found["served_now"]]
    rows = [
        ("labelled", f"{found['labelled']} of {found['images']} images; budget {found['budget']}{held_out}"),
        ("plan", planned),
        ("model", model),
        *_curve_rows(found["curve"]),
        ("with somebody now", _listed(served)),
        ("labels by", _listed(who)),
        ("labels on", _listed([f"{one['day']} {one['labels']}" for one in found["days"][-7:]])),
        ("encoder, projection", f"{found['encoder']}, {found['projection']}"),
        ("preset, alpha", f"{found['preset']}, {found['alpha']:g}"),
        ("chosen since", _listed(chosen)),
        ("server", "running" if found["server"] else "none is running"),
        ("database", found["state_dir"]),
    ]
    return [(name, value) for name, value in rows if value]


def _curve_rows(curve: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    if curve["heldout"]:
        last = curve["heldout"][-1]
        rows.append(("held-out Dice", f"{last['dice']:.3f}{_interval(last)} with {last['n_labels']} labels"))
    if curve["rounds"]:
        last = curve["rounds"][-1]
        rows.append(("Dice on new labels", f"{last['mean']:.3f}{_interval(last)} with {last['n_labels']} labels"))
    if rows:
        rows.append(("do labels help?", curve["verdict"]["sentence"]))
    return rows


def _interval(one: Mapping[str, Any]) -> str:
    return "" if one["low"] is None else f" ({one['low']:.3f} to {one['high']:.3f})"


def _listed(items: list[str], at_most: int = 8) -> str:
    more = len(items) - at_most
    return ", ".join(items[:at_most]) + (f" and {more} more" if more > 0 else "")


def _map(opened: OpenedCampaign, output: Path) -> Document:
    from coldstart.campaign.figure import draw_map, map_points
    from coldstart.campaign.map_table import MapMemory
    from coldstart.campaign.spreadsheet import csv_text
    from coldstart.exceptions import InvalidInputError

    campaign = opened.campaign
    points = map_points(campaign.store)
    if not points:
        usable_overview(campaign)
        raise InvalidInputError("There is no map yet: the images have not been embedded. Run `coldstart plan`.")
    with campaign.store.reading() as session:
        table = MapMemory().read(session, campaign.settings)
    columns = {**table.fixed, **table.moving}
    output.mkdir(parents=True, exist_ok=True)
    (output / "map.csv").write_text(csv_text(columns, zip(*columns.values(), strict=True)), "utf-8", newline="")
    found = campaign.status()
    draw_map(points, output / "map.png", f"{found['images']} images, {found['encoder']}, {found['projection']}")
    return {
        "images": len(table),
        "on_map": len(points),
        "encoder": found["encoder"],
        "projection": found["projection"],
        "states": {state: table.moving["state"].count(state) for state in sorted(set(table.moving["state"]))},
        "map": str(output / "map.png"),
        "table": str(output / "map.csv"),
    }


def _show_map(found: Document) -> None:
    states = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in found["states"].items())
    console.print(f"{found['on_map']} of {found['images']} images are on the map: {states}.", markup=False)
    console.print(f"Map: {found['map']}   Table: {found['table']}", soft_wrap=True, markup=False)


def _replay(studies: str, conf: Mapping[str, str], *, every: bool) -> Document:
    from coldstart.adapters.offline import find_state, require_studies
    from coldstart.campaign.replay import replay as decide_again
    from coldstart.exceptions import InvalidInputError
    from coldstart.store import FILE_NAME, Store, require_whole

    if others := [name for name in conf if name != "state_dir"]:
        raise InvalidInputError(f"--conf must be state_dir here, since the log holds all else; got '{others[0]}'.")
    folder = find_state(require_studies(studies), conf)
    require_whole(folder / FILE_NAME)
    counts: dict[bool | None, int] = {True: 0, False: 0, None: 0}
    lines = []
    with progress_console.status("deciding again ...") as shown:
        for number, one in enumerate(decide_again(Store(folder)), start=1):
            counts[one.same] += 1
            shown.update(f"{number} decided again ...")
            if every or not one.same:
                lines.append({**asdict(one), "at": _written(one.at)})
    return {
        "decisions": sum(counts.values()),
        "same": counts[True],
        "different": counts[False],
        "cannot_tell": counts[None],
        "lines": lines,
        "state_dir": str(folder),
    }


def _written(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().isoformat("T", "seconds")


def _show_replay(found: Document) -> None:
    words = {True: "same", False: "DIFFERENT", None: "cannot tell"}
    for line in found["lines"]:
        image = f" {line['image_id']}" if line["image_id"] else ""
        said = f"{line['id']:>5}  {line['at']}  {words[line['same']]:<11}  {line['kind']}{image}: {line['sentence']}"
        console.print(said, soft_wrap=True, markup=False)
    console.print(_replay_sentence(found), soft_wrap=True, markup=False)


def _replay_sentence(found: Mapping[str, Any]) -> str:
    n, different, untold = found["decisions"], found["different"], found["cannot_tell"]
    if not n:
        return "The selection log is empty: nothing has been decided yet."
    if not different and not untold:
        return f"All {n} decisions come out the same."
    parts = [f"{found['same']} of {n} decisions come out the same"]
    if different:
        parts.append(f"{different} differ{'s' if different == 1 else ''}")
    if untold:
        parts.append(f"of {untold} it cannot be told")
    return "; ".join(parts) + "."
