"""Whether more labels still help: the rule, its numbers, and how sure it is.

A round is a training on more labels than the ones before. Two rounds at the end of the learning curve are compared with
two earlier ones: image by image on the held-out images where enough of them have labels, which is by far the surest;
else by the labels judged in the last rounds and those judged before, which were other images.

The scatter between images is not all: a training on the same labels ends elsewhere with another seed. How far, is seen
where a round lies off the straight line between its neighbours (Gasser, Sroka and Jennen-Steinmetz 1986, Biometrika
73). So the gain has two standard errors, one from the images and one from the rounds, which holds the luck of the
images as well. The wider interval counts: a difference of the two is often 0 by chance where rounds are few, and then
hides the scatter. Of two rounds none is seen, so they cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from coldstart.campaign.intervals import CONFIDENCE, freedom, interval

N_ROUNDS = 3
"""Rounds that a comparison goes back at least."""
N_MEAN = 2
"""Rounds whose mean is compared with that of as many earlier ones: one training may be a lucky one."""
SHARE = 0.2
"""Share of the labels that came since then, at least: where a training follows every label, 3 rounds are nothing."""
SMALLEST_GAIN = 0.02
"""A smaller gain in Dice over these rounds is not worth the labels; two annotators differ by more."""
MIN_HELD_OUT = 5
"""Held-out images with a label that a comparison needs."""
MIN_JUDGED = 10
"""Judged labels that a comparison needs on each side."""
N_SCATTER = 3
"""Rounds from which trainings are seen to scatter."""
LEAST_ERROR = 1e-6
"""Standard error of a gain where all images agree: what a Dice is rounded to by then."""

RULE = (
    f"More labels have stopped helping when the last {N_MEAN} rounds (trainings on more labels than before) show no "
    f"significant gain in Dice over the {N_MEAN} rounds that came {N_ROUNDS} rounds, and {100 * SHARE:.0f} % of the "
    "labels, or more before them: the 95 % interval of the gain begins at 0 or below, and it is "
    f"{100 * CONFIDENCE:.0f} % sure that the gain is below {SMALLEST_GAIN:g}."
)
_TOO_EARLY = "It is too early to tell whether more labels still help"
_NO_SCATTER = f"How far trainings differ by chance, which {N_SCATTER} rounds show, is not in this interval."

Dice = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """Whether more labels still help.

    Attributes
    ----------
    helping : bool or None
        None where it cannot be told.
    sentence, rule : str
        What a person reads, and the rule behind it.
    basis : {"heldout", "prequential"} or None
        What was compared; None where nothing could be.
    gain, low, high : float or None
        In Dice, the last rounds less those before, with its 95 % interval.
    sure : float or None
        From 0 to 1: that there is a gain where more labels help, else that it is below `SMALLEST_GAIN`.
    n : int
        Held-out images, or labels judged in the last rounds, that were compared.
    """

    helping: bool | None
    sentence: str
    rule: str = RULE
    basis: str | None = None
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    sure: float | None = None
    n: int = 0


@dataclass(frozen=True)
class Round:
    """The Dice of a model on images that it had not learned from, by image id."""

    n_labels: int
    dice: Mapping[str, float]


@dataclass(frozen=True)
class _Gain:
    """A difference of means, its standard error, and what is missing before it can say that labels stopped helping.

    Where `complete` is false, the standard error leaves something out, so that it cannot say that they help either.
    """

    value: float
    error: float
    freedom: float
    n: int
    missing: str | None
    basis: str
    where: str
    complete: bool = True


def still_helping(held_out: Sequence[Round], judged: Sequence[Round]) -> Verdict:
    """Tell whether more labels still help.

    Parameters
    ----------
    held_out : sequence of Round
        Each model on the held-out images, oldest first.
    judged : sequence of Round
        Each model on the labels that were saved while it was in use, oldest first.
    """
    held_out, judged = _growing(held_out), _growing(judged)
    gain = _gain_on_the_same(held_out) or _gain_on_others(judged)
    return _verdict(gain) if gain is not None else Verdict(None, _what_is_needed(held_out, judged))


def _growing(rounds: Sequence[Round]) -> list[Round]:
    """The newest round for each number of labels, up to what the newest of all has learned from."""
    newest = {one.n_labels: one for one in rounds}
    return [newest[n] for n in sorted(newest) if n <= rounds[-1].n_labels]


def _start(rounds: Sequence[Round], n_before: int) -> int | None:
    """Index of the last round before the gain, with as many before it as wanted; None where there are too few."""
    most = (1 - SHARE) * rounds[-1].n_labels if rounds else 0
    found = [i for i in range(n_before - 1, len(rounds) - N_ROUNDS) if rounds[i].n_labels <= most]
    return found[-1] if found else None


def _missing_rounds(rounds: Sequence[Round], n_before: int) -> str | None:
    """What is missing before `_start` finds a round; None where it does."""
    if len(rounds) < N_ROUNDS + n_before:
        return f"{N_ROUNDS + n_before} rounds, each a training on more labels (so far {len(rounds)})"
    if _start(rounds, n_before) is not None:
        return None
    share = 1 - rounds[n_before - 1].n_labels / rounds[-1].n_labels
    return (
        f"{100 * SHARE:.0f} % of the labels after round {n_before} of the {len(rounds)} (so far {int(100 * share)} %)"
    )


def _compared(rounds: Sequence[Round]) -> tuple[list[Round], list[str]]:
    """Rounds that show a gain, with one more before them, by which trainings are seen to scatter; their images."""
    start = _start(rounds, N_MEAN)
    compared = list(rounds[max(0, (start or 0) - N_MEAN) :])
    common = set.intersection(*(set(one.dice) for one in compared)) if compared else set()
    return compared, sorted(common)


def _gain_on_the_same(rounds: Sequence[Round]) -> _Gain | None:
    """The gain on the held-out images that all compared models were judged on, image by image."""
    start, (compared, common) = _start(rounds, N_MEAN), _compared(rounds)
    if len(compared) < 2 or len(common) < MIN_HELD_OUT:
        return None
    weights = np.zeros(len(compared))
    if start is None:
        weights[0], weights[-1] = -1, 1
    else:
        weights[-N_MEAN:] += 1 / N_MEAN
        end = len(compared) - (len(rounds) - 1 - start)
        weights[end - N_MEAN : end] -= 1 / N_MEAN
    dice = np.array([[one.dice[image_id] for image_id in common] for one in compared])
    gains = weights @ dice
    errors = [(math.sqrt(gains.var(ddof=1) / len(common)), len(common) - 1)]
    if len(compared) >= N_SCATTER:
        scatter = _scatter_of_rounds([one.n_labels for one in compared], dice.mean(axis=1))
        errors.append((math.sqrt(weights @ weights * scatter), len(compared) - 2))
    error, n_freedom = max(errors, key=lambda one: interval(0.0, *one)[1])
    return _Gain(
        value=float(gains.mean()),
        error=error,
        freedom=n_freedom,
        n=len(common),
        missing=_missing_rounds(rounds, N_MEAN),
        basis="heldout",
        where=f"{_span(rounds, start or 0)} the Dice on the {len(common)} held-out images",
        complete=len(compared) >= N_SCATTER,
    )


def _scatter_of_rounds(n_labels: Sequence[int], means: Dice) -> float:
    """Variance of the rounds' means about a smooth curve."""
    squares = []
    for i in range(1, len(means) - 1):
        before = (n_labels[i + 1] - n_labels[i]) / (n_labels[i + 1] - n_labels[i - 1])
        off = means[i] - before * means[i - 1] - (1 - before) * means[i + 1]
        squares.append(off**2 / (1 + before**2 + (1 - before) ** 2))
    return float(np.mean(squares))


def _gain_on_others(rounds: Sequence[Round]) -> _Gain | None:
    """The gain from the labels judged before to those judged in the last rounds, by Welch's t."""
    start = _start(rounds, 1)
    if start is None:
        return None
    start, last = _last_judged(rounds, start)
    before: list[float] = []
    for one in reversed(rounds[: start + 1]):
        if len(before) < max(len(last), MIN_JUDGED):
            before += one.dice.values()
    if min(len(last), len(before)) < MIN_JUDGED:
        return None
    parts = [float(np.var(side, ddof=1)) / len(side) for side in (last, before)]
    return _Gain(
        value=float(np.mean(last) - np.mean(before)),
        error=math.sqrt(sum(parts)),
        freedom=freedom(parts, [len(last) - 1, len(before) - 1]),
        n=len(last),
        missing=None,
        basis="prequential",
        where=f"{_span(rounds, start)} the Dice of the predictions on {len(last)} newly labelled images, against "
        f"{len(before)} other images labelled before them,",
    )


def _last_judged(rounds: Sequence[Round], start: int) -> tuple[int, list[float]]:
    """Dice of the rounds after the one at `start`, of more rounds where these are too few, and where these begin."""
    last = _dice_of(rounds[start + 1 :])
    while start > 0 and len(last) < MIN_JUDGED:
        last += _dice_of(rounds[start : start + 1])
        start -= 1
    return start, last


def _dice_of(rounds: Sequence[Round]) -> list[float]:
    return [dice for one in rounds for dice in one.dice.values()]


def _span(rounds: Sequence[Round], start: int) -> str:
    n = len(rounds) - 1 - start
    last = f"the last {n} rounds" if n > 1 else "the last round"
    return f"over {last} ({rounds[start].n_labels} to {rounds[-1].n_labels} labels)"


def _verdict(gain: _Gain) -> Verdict:
    error = max(gain.error, LEAST_ERROR)
    low, high = interval(gain.value, error, gain.freedom)
    any_gain = float(stats.t.cdf(gain.value / error, gain.freedom))
    too_small = float(stats.t.cdf((SMALLEST_GAIN - gain.value) / error, gain.freedom))
    helping, sure = None, too_small
    small = f"That the gain is below {SMALLEST_GAIN:g} is"
    if low > 0 and gain.complete:
        helping, sure = True, any_gain
        opening = "More labels still help" + (", but little" if high < SMALLEST_GAIN else "")
        closing = f"That there is a gain is {_percent(sure)} sure."
    elif gain.missing is not None:
        opening, closing = _TOO_EARLY, f"To say that they stopped takes {gain.missing}."
        if not gain.complete:
            closing = f"{_NO_SCATTER} {closing}"
    elif too_small >= CONFIDENCE:
        helping = False
        opening, closing = "More labels have stopped helping", f"{small} {_percent(sure)} sure."
    else:
        opening = "It cannot be told yet whether more labels still help"
        closing = f"{small} only {_percent(sure)} sure."
    changed = f"{gain.where} changed by {gain.value:+.3f} (95 % interval {low:+.3f} to {high:+.3f})"
    return Verdict(
        helping=helping,
        sentence=f"{opening}: {changed}. {closing}",
        basis=gain.basis,
        gain=gain.value,
        low=low,
        high=high,
        sure=sure,
        n=gain.n,
    )


def _percent(sure: float) -> str:
    return "more than 99 %" if sure > 0.99 else "less than 1 %" if sure < 0.01 else f"{100 * sure:.0f} %"


def _what_is_needed(held_out: Sequence[Round], judged: Sequence[Round]) -> str:
    return (
        f"{_TOO_EARLY}: this needs {N_ROUNDS + N_MEAN} rounds, each a training on more labels, judged on at least "
        f"{MIN_HELD_OUT} held-out images with labels (so far {len(held_out)} on {len(_compared(held_out)[1])}), or "
        f"else {_needed_of_judged(judged)}."
    )


def _needed_of_judged(rounds: Sequence[Round]) -> str:
    n_judged, start = len(_dice_of(rounds)), _start(rounds, 1)
    if n_judged < 2 * MIN_JUDGED:
        return f"{2 * MIN_JUDGED} labels saved over {N_ROUNDS + 1} rounds (so far {n_judged} over {len(rounds)})"
    if start is None:
        return f"{_missing_rounds(rounds, 1)}"
    n_last = len(_last_judged(rounds, start)[1])
    sides = f"{MIN_JUDGED} labels saved before the last rounds and {MIN_JUDGED} in them"
    return f"{sides} (so far {n_judged - n_last} and {n_last})"
