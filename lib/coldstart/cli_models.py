"""`coldstart models`: the models that a campaign has kept, with or without a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from coldstart.cli_campaign import Preset, open_campaign
from coldstart.cli_output import AsJson, Conf, Document, answer, console
from coldstart.cli_status import BegunStudies

if TYPE_CHECKING:
    from coldstart.adapters.offline import OpenedCampaign

models = typer.Typer(
    help="The trained models that are kept: list and compare them, put an earlier one back, ask for a new one.",
    no_args_is_help=True,
)

SHOWN_IMAGES = 8


@models.command("list")
def list_(studies: BegunStudies, preset: Preset = None, conf: Conf = None, as_json: AsJson = False) -> None:
    """List the kept models, what they learned from, how good they are, and why one was not used.

    Example: coldstart models list /data/chest
    """
    answer(lambda: _list(open_campaign(studies, preset, conf)), _show_list, as_json=as_json)


@models.command("compare")
def compare_(
    studies: BegunStudies,
    first: Annotated[str, typer.Argument(help="A version, as `coldstart models list` shows it.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    preset: Preset = None,
    conf: Conf = None,
    as_json: AsJson = False,
) -> None:
    """Compare two kept models: images, settings, and Dice on the held-out images that both were judged on.

    Example: coldstart models compare /data/chest 20260304T020154123Z-0123abcd 20260305T020201456Z-4567cdef
    """

    def work() -> Document:
        from coldstart.campaign.model_lines import side_by_side

        return side_by_side(open_campaign(studies, preset, conf).campaign, first, second)

    answer(work, _show_comparison, as_json=as_json)


@models.command()
def rollback(
    studies: BegunStudies,
    version: Annotated[str | None, typer.Argument(help="A kept one; without it the one used before.")] = None,
    preset: Preset = None,
    conf: Conf = None,
    as_json: AsJson = False,
) -> None:
    """Put an earlier model into use, until the next training makes a better one.

    The server scores the images with it and pre-labels those next in line: at once where one runs, else when it starts.

    Example: coldstart models rollback /data/chest 20260304T020154123Z-0123abcd
    """
    answer(lambda: _rollback(open_campaign(studies, preset, conf), version), _show_rollback, as_json=as_json)


@models.command()
def train(studies: BegunStudies, preset: Preset = None, conf: Conf = None, as_json: AsJson = False) -> None:
    """Ask the server for a training: it begins within seconds, or once the one that runs has ended.

    Example: coldstart models train /data/chest
    """
    answer(lambda: _ask(open_campaign(studies, preset, conf)), _show_asked, as_json=as_json)


def _list(opened: OpenedCampaign) -> Document:
    from coldstart.campaign.model_lines import model_lines

    campaign = opened.campaign
    if not opened.has_server:
        campaign.publisher.settle()
    due = campaign.trainings.due()
    with campaign.store.reading() as session:
        last = campaign.trainings.triggers.last_attempt(session)
    return {
        "in_use": campaign.publisher.in_use(),
        "models": model_lines(campaign),
        "last_training_refused": last.refused if last is not None else None,
        "training_due": due.sentence if due is not None else None,
        "server": opened.has_server,
    }


def _show_list(found: Document) -> None:
    if not found["models"]:
        console.print("No model has been trained yet.")
    else:
        table = Table("version", "labels", "seed", "held-out Dice", "Dice on new labels", "")
        for line in found["models"]:
            table.add_row(
                escape(line["version"]),
                str(line["n_images"]),
                str(line["random_state"]),
                _dice(line["heldout_dice"], line["heldout_images"]),
                _dice(line["prequential_dice"], line["prequential_labels"]),
                "in use" if line["in_use"] else "",
            )
        console.print(table)
        for line in found["models"]:
            if line["sentence"]:
                console.print(f"{line['version']}: {line['sentence']}", soft_wrap=True, markup=False)
    if found["last_training_refused"]:
        console.print(f"The last training: {found['last_training_refused']}", soft_wrap=True, markup=False)
    if found["training_due"]:
        begins = "The server begins a training" if found["server"] else "The server begins a training when it starts"
        console.print(f"{begins}: {found['training_due']}.", soft_wrap=True, markup=False)


def _dice(value: float | None, n: int) -> str:
    return "" if value is None else f"{value:.3f} ({n})"


def _show_comparison(found: Document) -> None:
    table = Table("", "first", "second")
    for title, name in (("version", "version"), ("trained", "created"), ("labels", "n_images")):
        table.add_row(title, *(escape(str(line[name])) for line in found["models"]))
    for name, values in found["settings"].items():
        table.add_row(escape(name), *(escape(str(value)) for value in values))
    heldout = found["heldout"]
    if heldout["n"]:
        table.add_row(
            f"Dice on {heldout['n']} held-out images", *(f"{heldout[name]:.3f}" for name in ("first", "second"))
        )
    if any(line["validation"] for line in found["models"]):
        table.add_row("Dice in its training", *(_course(line) for line in found["models"]))
    table.add_row("in use", *("yes" if line["in_use"] else "no" for line in found["models"]))
    console.print(table)
    for title, name in (("first", "only_in_first"), ("second", "only_in_second")):
        if images := found[name]:
            more = f" and {len(images) - SHOWN_IMAGES} more" if len(images) > SHOWN_IMAGES else ""
            listed = f"{', '.join(images[:SHOWN_IMAGES])}{more}"
            console.print(f"Only the {title} learned from {listed}.", soft_wrap=True, markup=False)
    if heldout["gain"] is not None:
        interval = "" if heldout["low"] is None else f" (95 % interval {heldout['low']:+.3f} to {heldout['high']:+.3f})"
        console.print(f"The second has {heldout['gain']:+.3f} Dice{interval}.", soft_wrap=True, markup=False)


def _course(line: dict[str, Any]) -> str:
    """How a training went, such as "epoch 12: 0.412, 24: 0.530 (8 images)"."""
    if not line["validation"]:
        return ""
    n = line["validation_images"]
    told = ", ".join(f"{epoch}: {dice:.3f}" for epoch, dice in line["validation"].items())
    return f"epoch {told} ({n} image{'s' if n > 1 else ''})"


def _rollback(opened: OpenedCampaign, version: str | None) -> Document:
    from coldstart.campaign.model_lines import before_the_one_in_use
    from coldstart.cli_campaign import user
    from coldstart.exceptions import InvalidInputError

    campaign = opened.campaign
    before = campaign.publisher.in_use()
    chosen = version or before_the_one_in_use(campaign)
    if chosen is None:
        raise InvalidInputError("No model that was used before this one is kept. `coldstart models list` shows them.")
    campaign.publisher.choose(chosen, user(), campaign.settings.labels)
    return {"in_use": chosen, "before": before, "server": opened.has_server}


def _show_rollback(found: dict[str, Any]) -> None:
    when = "now" if found["server"] else "when it starts"
    console.print(
        f"{found['in_use']} is in use, instead of {found['before']}, until the next training. The server scores the "
        f"images with it {when}.",
        soft_wrap=True,
        markup=False,
    )


def _ask(opened: OpenedCampaign) -> Document:
    from coldstart.cli_campaign import user

    opened.campaign.trainings.ask(user())
    return {"asked": True, "server": opened.has_server}


def _show_asked(found: Document) -> None:
    said = "The server begins a training" if found["server"] else "No server runs; it begins a training when it starts"
    console.print(f"{said}. `coldstart models list` shows what becomes of it.", soft_wrap=True, markup=False)
