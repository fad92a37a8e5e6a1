"""The command `next`: what a click on Next Sample does, with or without a server."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from coldstart.cli_campaign import Preset, Studies, open_campaign, usable_overview
from coldstart.cli_output import AsJson, Conf, Document, answer, console
from coldstart.exceptions import InvalidInputError

if TYPE_CHECKING:
    from coldstart.campaign import Campaign

AUTOMATIC = "coldstart_al"
"""The strategy that a viewer preselects."""


def next_image(
    studies: Studies,
    annotator: Annotated[str | None, typer.Option(help="Who will label it; without it nobody in particular.")] = None,
    strategy: Annotated[str, typer.Option(help="As Slicer lists them, but `random`.")] = AUTOMATIC,
    alpha: Annotated[float | None, typer.Option(min=0, max=1, help="Distance against entropy, this once.")] = None,
    peek: Annotated[int | None, typer.Option(min=1, metavar="N", help="Show the next N, and reserve none.")] = None,
    preset: Preset = None,
    conf: Conf = None,
    as_json: AsJson = False,
) -> None:
    """Hand out the image to label next, as a click on Next Sample does: it is reserved for the annotator.

    An annotator who asks again without having saved a label skips the image before.

    Examples: coldstart next /data/chest --annotator lee; coldstart next /data/chest --peek 5
    """
    if peek is not None and (strategy != AUTOMATIC or annotator is not None):
        raise InvalidInputError(
            f"--peek shows what `{AUTOMATIC}` would serve, whoever asks. Leave --strategy and --annotator out."
        )

    def work() -> Document:
        campaign = open_campaign(studies, preset, conf).campaign
        chosen = campaign.settings if alpha is None else campaign.settings.override({"alpha": alpha})
        if peek is not None:
            return asdict(campaign.preview(alpha=chosen.alpha, budget=chosen.budget, n=peek))
        return _click(campaign, strategy, annotator, None if alpha is None else chosen.alpha)

    answer(work, _show_click if peek is None else _show_preview, as_json=as_json)


def _click(campaign: Campaign, strategy: str, annotator: str | None, alpha: float | None) -> Document:
    from coldstart.adapters.offline import in_sentences
    from coldstart.adapters.users import annotator as known_annotator
    from coldstart.adapters.values import require_name
    from coldstart.campaign import BASELINES, STRATEGIES

    if strategy not in (*STRATEGIES, *BASELINES):
        raise InvalidInputError(f"--strategy must be one of {', '.join((*STRATEGIES, *BASELINES))}; got '{strategy}'.")
    with in_sentences():
        require_name("--annotator", annotator or "")
    if campaign.status()["planned"] is None and strategy != "uniform_random":
        raise InvalidInputError(
            "There is no plan yet: the images have not been embedded. Run `coldstart plan` first, or draw at random "
            "with --strategy uniform_random."
        )
    campaign.prepare(strategy)
    who = known_annotator(annotator)
    sample = campaign.next_sample(strategy, annotator=who, alpha=alpha)
    if sample is None:
        sentence = usable_overview(campaign)["phase_sentence"]
        return {"id": None, "path": None, "annotator": who, "coldstart": None, "sentence": sentence}
    return {
        "id": sample.image_id,
        "path": _path(campaign, sample.image_id),
        "annotator": who,
        "reserved_minutes": campaign.settings.reserve_minutes,
        "coldstart": sample.why,
    }


def _show_preview(found: Document) -> None:
    table = Table("rank", "image", "why")
    for pick in found["picks"]:
        table.add_row(str(pick["rank"]), escape(pick["image_id"]), escape(pick["reason"]))
    console.print(table)
    console.print(f"{found['sentence']} Nothing is reserved by looking.", soft_wrap=True, markup=False)


def _path(campaign: Campaign, image_id: str) -> str | None:
    from sqlalchemy import select

    from coldstart.store import Image

    with campaign.store.reading() as session:
        return session.scalar(select(Image.path).where(Image.image_id == image_id))


def _show_click(found: Document) -> None:
    if found["id"] is None:
        console.print(found["sentence"], soft_wrap=True, markup=False)
        return
    console.print(f"[bold]{escape(found['id'])}[/]   {escape(found['path'])}", soft_wrap=True)
    whom = found["annotator"] or "nobody in particular"
    console.print(
        f"{found['coldstart']['reason']}\nReserved for {whom}, for {found['reserved_minutes']:g} minutes.",
        soft_wrap=True,
        markup=False,
    )
