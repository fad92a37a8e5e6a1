"""When the server trains by itself, and what makes a new model fit for use; decided from what the store holds.

The triggers are settings and can be combined. They look at the labels that the last training did not learn from as they
are now: without one there is nothing to learn, except when somebody asks. What comes while a training runs is
therefore still due when that ends, once, and so is what was due when the server was killed. A training that ended
without a model for use counts like any other: it is not repeated before there is a reason again.

A new model is used unless it is worse than the one in use by more than a margin, in mean Dice over those images that
can tell:

- the held-out images with labels that neither model learned from;
- where there is none, the images labelled since the model in use was trained, which had not seen them. The new model
  most often learned from them. Its Dice there is too good, which can hide that it is worse, but not make it worse: a
  model that falls behind even so is refused with reason. A test that is fair to both would take labels away from the
  training, or a second training.

The difference of means is compared with the margin as it is, without an interval: with a handful of images an interval
would let nearly every model pass. Where nothing tells, as after a training on the same labels, the new model is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, time, timedelta
from typing import Any, Literal

import numpy as np

from coldstart.campaign.intervals import mean_interval
from coldstart.settings import Settings

CLOCK_SLACK_S = 3600.0
"""A time that lies further ahead was noted by a clock that has been put right since: it counts as long ago."""
ROUNDING = 1e-9
"""Two Dice that differ by less are the same."""

Trigger = Literal["check", "asked", "budget", "labels", "time", "idle"]
Basis = Literal["heldout", "prequential"]


@dataclass(frozen=True)
class Situation:
    """What a campaign's triggers look at; times are seconds since 1970.

    Parameters
    ----------
    new_labels : sequence of float
        When each label was noticed that the last training did not learn from as it is now.
    n_labelled, n_planned : int
        Images labelled, and those that the cold start asks for.
    n_learned : int
        Labels that the last training learned from, or that no training can learn from.
    has_model : bool
        Whether a model is in use.
    trained_at : float or None
        When the last training began.
    asked_at : float or None
        When somebody asked for a training, other than in a viewer, that has not begun since.
    active_at : float or None
        The last click or label.
    """

    new_labels: Sequence[float]
    n_labelled: int
    n_planned: int
    n_learned: int
    has_model: bool
    trained_at: float | None
    asked_at: float | None
    active_at: float | None

    @property
    def awaits_budget(self) -> bool:
        """Whether no training has yet had all that the cold start asks for, or none gave a model."""
        return not self.has_model or self.n_learned < self.n_planned


@dataclass(frozen=True)
class Due:
    """A training that is due, and why in words."""

    trigger: Trigger
    sentence: str


def training_due(situation: Situation, settings: Settings, now: float) -> Due | None:
    """Tell whether a training is due now, and by which trigger; the first of several.

    Parameters
    ----------
    situation : Situation
        The campaign as it is.
    settings : Settings
        Those in force.
    now : float
        Seconds since 1970.
    """
    new = [_credible(at, now) for at in situation.new_labels]
    if situation.asked_at is not None:
        return Due("asked", "somebody asked for it")
    if not new:
        return None
    count = f"{len(new)} new label{'s' if len(new) > 1 else ''}"
    if settings.retrain_at_budget and situation.awaits_budget and situation.n_labelled >= situation.n_planned > 0:
        return Due("budget", f"the {situation.n_planned} images of the cold start are labelled")
    if 0 < settings.retrain_every <= len(new):
        return Due("labels", f"there {'are' if len(new) > 1 else 'is'} {count}")
    since = max(min(new), _credible(situation.trained_at, now))
    for text in settings.retrain_at:
        if since < _last(text, now):
            return Due("time", f"it was {text}, and there is a new label")
    idle_s = now - max(_credible(situation.active_at, now), max(new))
    if 0 < settings.retrain_idle_minutes <= idle_s / 60:
        waited = f"nobody asked or saved anything for {settings.retrain_idle_minutes:g} min"
        return Due("idle", f"{waited}, and there {'are' if len(new) > 1 else 'is'} {count}")
    return None


def _credible(at: float | None, now: float) -> float:
    return at if at is not None and at <= now + CLOCK_SLACK_S else 0.0


def _last(text: str, now: float) -> float:
    """The last time that the server's clock showed this hour and minute."""
    today = datetime.fromtimestamp(now).date()
    at = datetime.combine(today, time.fromisoformat(text))
    return (at if at.timestamp() <= now else at - timedelta(days=1)).timestamp()


@dataclass(frozen=True)
class Comparison:
    """A new model against the one in use; Dice from 0 to 1, higher is better.

    Attributes
    ----------
    basis : {"heldout", "prequential"} or None
        Which images told; None where none does.
    old_version : str or None
        The model in use.
    old, new : float or None
        Mean Dice over the images.
    low, high : float or None
        95 % interval of what the new model has more, from -1 to 1.
    n : int
        How many images.
    n_learned : int
        From how many of them the new model had learned.
    fit : bool
        Whether the new model may be used.
    sentence : str
        All that in words.
    """

    basis: Basis | None
    old_version: str | None
    old: float | None
    new: float | None
    low: float | None
    high: float | None
    n: int
    n_learned: int
    fit: bool
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON types."""
        return asdict(self)


def nothing_to_compare(old_version: str | None, why: str) -> Comparison:
    """The comparison of a new model that nothing speaks against."""
    return Comparison(None, old_version, None, None, None, None, 0, 0, True, f"It is used without a comparison: {why}.")


def compare(
    old_version: str,
    old: Mapping[str, float],
    new: Mapping[str, float],
    *,
    basis: Basis,
    n_learned: int,
    margin: float,
) -> Comparison:
    """Compare two models by their Dice on the same images.

    Parameters
    ----------
    old_version : str
        The model in use.
    old, new : mapping of str to float
        Dice by image id; images that only one of them has are left out.
    basis : {"heldout", "prequential"}
        Which images these are.
    n_learned : int
        From how many of them the new model learned.
    margin : float
        By how much the new model may be worse.
    """
    both = sorted(old.keys() & new.keys())
    if not both:
        return nothing_to_compare(old_version, "no image could be segmented by both models")
    gains = np.array([new[image_id] - old[image_id] for image_id in both])
    means = float(np.mean([old[one] for one in both])), float(np.mean([new[one] for one in both]))
    fit = float(gains.mean()) >= -margin - ROUNDING
    low, high = _interval(gains)
    where = f"{len(both)} held-out images" if basis == "heldout" else f"{len(both)} images labelled since the other one"
    advantage = f", of which it learned from {n_learned}" if n_learned else ""
    found = f"a Dice of {means[1]:.3f} against {means[0]:.3f} of {old_version} on {where}{advantage}"
    sentence = (
        f"It is used: it has {found}."
        if fit
        else f"It is not used, and {old_version} stays: it has {found}, which is worse by more than {margin:g}."
    )
    return Comparison(basis, old_version, *means, low, high, len(both), n_learned, fit, sentence)


def _interval(gains: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float | None, float | None]:
    """`mean_interval` is of Dice, within [0, 1]; a gain lies within [-1, 1]."""
    low, high = mean_interval(((gains + 1) / 2).tolist())
    return (None, None) if low is None or high is None else (2 * low - 1, 2 * high - 1)
