"""The learning curve: Dice against the number of labels, whether more labels still help, and who labelled when."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from coldstart.campaign.held_out import corrected_labels
from coldstart.campaign.helping import Round, Verdict, still_helping
from coldstart.campaign.intervals import mean_interval
from coldstart.store import Image, Judgement, Label, Model, Store


@dataclass(frozen=True)
class Judged:
    """A saved label against the prediction of a model that had learned from `n_labels` others."""

    image_id: str
    model_version: str
    n_labels: int
    dice: float
    at: float
    annotator: str | None


@dataclass(frozen=True)
class JudgedModel:
    """The judgements of one model: their mean with its 95 % interval, which a single one does not have."""

    model_version: str
    n_labels: int
    mean: float
    low: float | None
    high: float | None
    n: int
    at: float


@dataclass(frozen=True)
class HeldOutModel:
    """One model on the held-out images that had labels when it was trained: mean Dice with its 95 % interval."""

    model_version: str
    n_labels: int
    dice: float
    low: float | None
    high: float | None
    n_images: int
    at: float


@dataclass(frozen=True)
class _Evaluated:
    """A model, its Dice on held-out images, and the signatures of their labels then, by image id."""

    version: str
    at: float
    n_labels: int
    dice: dict[str, float]
    label_signatures: Mapping[str, str]


@dataclass(frozen=True)
class LearningCurve:
    """Plain types, oldest first.

    Attributes
    ----------
    prequential : list of Judged
        Each saved label against the prediction of the model then in use, which had not learned from it.
    rounds : list of JudgedModel
        The same, summed up for each model; `at` is the time of the newest.
    heldout : list of HeldOutModel
        Each model, by the time of its training.
    verdict : Verdict
        Whether more labels still help.
    """

    prequential: list[Judged]
    rounds: list[JudgedModel]
    heldout: list[HeldOutModel]
    verdict: Verdict


@dataclass(frozen=True)
class DayCount:
    """Labels of one day of the server's clock (YYYY-MM-DD)."""

    day: str
    labels: int


@dataclass(frozen=True)
class AnnotatorCount:
    """Labels of one annotator, None for anonymous ones; `days` counts them by day."""

    name: str | None
    labels: int
    days: dict[str, int]
    last_at: float


def learning_curve(store: Store) -> LearningCurve:
    """Read the learning curve of a campaign, and judge whether more labels still help."""
    with store.reading() as session:
        judged = _judged(session)
        evaluated = _evaluated(session)
    by_model: dict[str, list[Judged]] = defaultdict(list)
    for one in judged:
        by_model[one.model_version].append(one)
    rounds = [
        JudgedModel(version, of[0].n_labels, *_mean([one.dice for one in of]), len(of), of[-1].at)
        for version, of in by_model.items()
    ]
    heldout = [
        HeldOutModel(one.version, one.n_labels, *_mean([*one.dice.values()]), len(one.dice), one.at)
        for one in evaluated
    ]
    verdict = still_helping(_on_the_same_labels(evaluated), _by_labels(judged))
    return LearningCurve(judged, rounds, heldout, verdict)


def annotator_counts(store: Store) -> list[AnnotatorCount]:
    """Count the final labels of each annotator, but for those of held-out images, who labelled most first."""
    saved: dict[str | None, list[float]] = defaultdict(list)
    for name, at in _saved(store):
        saved[name].append(at)
    found = [
        AnnotatorCount(name, len(at), dict(sorted(Counter(map(_day, at)).items())), at[-1])
        for name, at in saved.items()
    ]
    return sorted(found, key=lambda one: (-one.labels, one.name or ""))


def day_counts(store: Store) -> list[DayCount]:
    """Count the same labels for each day on which there were any, oldest first."""
    return [DayCount(day, n) for day, n in sorted(Counter(_day(at) for _, at in _saved(store)).items())]


def _saved(store: Store) -> Sequence[tuple[str | None, float]]:
    """Labels of the images that are counted as labelled: those of held-out images most often came with the images."""
    counted = (Image.present, ~Image.held_out, Image.problem.is_(None))
    found = select(Label.annotator, Label.saved_at).join(Image, Image.id == Label.image).where(*counted)
    with store.reading() as session:
        return session.execute(found.order_by(Label.saved_at)).tuples().all()


def _day(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().date().isoformat()


def _judged(session: Session) -> list[Judged]:
    """Judgements of labels that are still there."""
    columns = (Image.image_id, Judgement.model_version, Judgement.n_labels, Judgement.dice)
    found = (
        select(*columns, Judgement.judged_at, Judgement.annotator)
        .join(Image, Image.id == Judgement.image)
        .join(Label, Label.image == Judgement.image)
        .order_by(Judgement.judged_at, Image.image_id)
    )
    return [
        Judged(image_id, version, n_labels, dice, at, annotator)
        for image_id, version, n_labels, dice, at, annotator in session.execute(found).tuples()
        if dice is not None
    ]


def _by_labels(judged: Sequence[Judged]) -> list[Round]:
    """Judgements by the number of labels that were learned from, that of the newest last."""
    found: dict[int, dict[str, float]] = {}
    for one in judged:
        found[one.n_labels] = {**found.pop(one.n_labels, {}), one.image_id: one.dice}
    return [Round(n_labels, dice) for n_labels, dice in found.items()]


def _evaluated(session: Session) -> list[_Evaluated]:
    """Each model that was judged on some held-out images, oldest first."""
    details = (Model.details["n_images"], Model.details["heldout"]["images"], Model.details["heldout_labels"])
    rows = session.execute(select(Model.version, Model.created_at, *details).order_by(Model.created_at)).tuples()
    found = [
        _Evaluated(version, at, n_labels, _dice_by_image(rated), signatures or {})
        for version, at, n_labels, rated, signatures in rows
        if n_labels and rated
    ]
    return [one for one in found if one.dice]


def _on_the_same_labels(evaluated: Sequence[_Evaluated]) -> list[Round]:
    """The Dice by which models can be compared: without images whose label was corrected before the newest model."""
    newest = evaluated[-1].label_signatures if evaluated else {}
    found = []
    for one in evaluated:
        corrected = corrected_labels(one.label_signatures, newest)
        found.append(Round(one.n_labels, {key: dice for key, dice in one.dice.items() if key not in corrected}))
    return found


def _dice_by_image(rated: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {one["image_id"]: one["dice"] for one in rated if math.isfinite(one["dice"])}


def _mean(dice: Sequence[float]) -> tuple[float, float | None, float | None]:
    return (sum(dice) / len(dice), *mean_interval(dice))
