"""How far the training is that runs or waits, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coldstart.adapters.chain import Chain
from coldstart.adapters.tasks import Tasks
from coldstart.adapters.training import AttentionUnetTraining
from coldstart.campaign import Campaign
from coldstart.campaign.overview import read_progress

EVALUATION = "evaluation"
"""What a training says how far it is under while its model is judged."""


def training_now(campaign: Campaign, chain: Chain, tasks: Tasks, trainer: AttentionUnetTraining) -> dict[str, Any]:
    """Return the state of the training that runs, or else waits, as `coldstart.web.models.TrainingNow` has it."""
    on_its_way = chain.is_on_its_way()
    found: dict[str, Any] = {"on_its_way": on_its_way, "problem": tasks.errors().get("train")}
    if not chain.is_running():
        return {**found, "state": "waiting" if on_its_way else "idle"}
    stats = trainer.running_stats() or {}
    if "epoch" not in stats:
        return {**found, "state": "checking" if chain.is_ending() else "starting"}
    if "waits" in stats:
        return {**found, "state": "paused", "waits": stats["waits"]}
    with campaign.store.reading() as session:
        judging = read_progress(session).get(EVALUATION)
    if judging is not None and judging["updated_at"] >= stats["start_ts"]:
        return {**found, "state": "checking", "done": judging["done"], "total": judging["total"]}
    if stats["epoch"] >= stats["total_epochs"]:
        return {**found, "state": "checking"}
    newest: Mapping[str, Any] = stats.get("train") or {}
    return {
        **found,
        "state": "training",
        "done": stats["epoch"],
        "total": stats["total_epochs"],
        "loss": newest.get("loss"),
        "validation_dice": newest.get("validation_dice"),
        "remaining": newest.get("remaining"),
    }
