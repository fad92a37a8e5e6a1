"""What whoever looks at a campaign is told of its trainings: how the last one ended, and when the next one begins."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from coldstart.campaign.campaign import Campaign
from coldstart.campaign.learning import TRAINED
from coldstart.campaign.retraining import Situation
from coldstart.campaign.triggers import labels_to_learn_from
from coldstart.exceptions import ModelError
from coldstart.settings import Settings
from coldstart.store.schema import Base

_LINES = Base.metadata.tables["decisions"]
_NEWEST = (
    select(*(func.json_extract(_LINES.c.details, f"$.{key}") for key in ("model_version", "comparison.sentence")))
    .where(_LINES.c.kind == TRAINED)
    .order_by(_LINES.c.id.desc())
    .limit(1)
)
"""Version of the model that a training gave last, and what was found of it."""


def training_outlook(campaign: Campaign) -> dict[str, Any]:
    """Return what is known of trainings beside the one that may be running; plain JSON types.

    `hindrance` says why none can be asked for, `n_new` counts the labels that the last one did not learn from, `due`
    says why one is due now, and `triggers` what would make one due. `last` is the last one that ended.
    """
    trainings, settings = campaign.trainings, campaign.settings
    situation, due = trainings.triggers.situation(settings), trainings.due()
    with campaign.store.reading() as session:
        last = trainings.triggers.last_attempt(session)
        newest = session.execute(_NEWEST).first() if last is not None and last.refused is None else None
    said = last.refused if last is not None else None
    if newest is not None:
        version, said = newest.tuple()
        if version != campaign.publisher.in_use():
            said = f"{said} Another model was put into use since."
    return {
        "hindrance": _hindrance(campaign),
        "n_new": len(situation.new_labels),
        "due": due.sentence if due is not None else None,
        "triggers": triggers_in_words(situation, settings),
        "last": None if last is None else {"at": last.began_at, "used": last.refused is None, "sentence": said},
    }


def _hindrance(campaign: Campaign) -> str | None:
    with campaign.store.reading() as session:
        if labels_to_learn_from(session):
            return None
    try:
        campaign.trainings.require_images()
    except ModelError as error:
        return str(error)
    return None


def triggers_in_words(situation: Situation, settings: Settings) -> list[str]:
    """Say what makes the server train by itself, as the end of a sentence that begins with 'A training begins'."""
    n_new, words = len(situation.new_labels), []
    if settings.retrain_at_budget and situation.awaits_budget:
        words.append(f"when the first batch is labelled ({situation.n_labelled} of {situation.n_planned})")
    if settings.retrain_every:
        left = max(0, settings.retrain_every - n_new)
        words.append(f"after {left} more new label{'' if left == 1 else 's'}")
    if_new = "" if n_new else ", if there is a new label by then"
    words += [f"at {text}{if_new}" for text in settings.retrain_at]
    if settings.retrain_idle_minutes:
        words.append(f"when nobody has asked or saved anything for {settings.retrain_idle_minutes:g} min{if_new}")
    return words
