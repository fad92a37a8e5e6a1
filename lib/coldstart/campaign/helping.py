"""Whether more labels still help: the rule, its numbers, and how sure it is.

A round is a training on more labels than the one before. Where enough held-out images have labels, the newest model is
compared with an earlier one image by image; else the labels judged last are compared with as many judged before them,
which were other images and say less.

Two trainings differ by more than what the new labels brought: by where each happened to end. How much, is seen where a
round lies off the straight line between its neighbours (Gasser, Sroka and Jennen-Steinmetz 1986, Biometrika 73). Of
this and of the scatter between the images the larger counts: the first contains what the second leaves in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
N_ROUNDS = 3
"""Rounds that a comparison goes back at least: one training may be a lucky one."""
SHARE = 0.2
"""Share of the labels that have come since, at least: where every label is followed by a training, three are nothing."""
SMALLEST_GAIN = 0.02
"""A smaller gain in Dice over these rounds is not worth the labels; two annotators differ by about as much."""
SURE = 0.9
"""How sure it has to be that the gain is smaller, before it is said that labels stopped helping."""
MIN_HELD_OUT = 5
"""Held-out images with a label that the comparison needs."""
MIN_JUDGED = 10
"""Labels on each side that the comparison of judged labels needs."""

RULE = (
    f"More labels have stopped helping when the Dice shows no significant gain over the last {N_ROUNDS} rounds (the "
    f"95 % interval of the gain begins at 0 or below) and a gain of {SMALLEST_GAIN:g} or more is ruled out with at "
    f"least {SURE:.0%} certainty. A round is a training on more labels than before; more rounds are taken where "
    f"{N_ROUNDS} brought less than {SHARE:.0%} of the labels."
)


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
        What the comparison was made on.
    gain, low, high : float or None
        In Dice, newest less before, with its 95 % interval.
    sure : float or None
        Between 0 and 1: where it helps, that there is any gain; else, that the gain is below `SMALLEST_GAIN`.
    n : int
        Held-out images, or judged labels on each side, that were compared.
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
    """The Dice of a model on images that it did not learn from, by image id."""

    n_labels: int
    dice: Mapping[str, float]


def mean_interval(values: Sequence[float] | NDArray[np.float64]) -> tuple[float | None, float | None]:
    """95 % interval of the mean of Dice values, by Student's t, within [0, 1]; None of fewer than two."""
    if len(values) < 2:
        return None, None
    middle = float(np.mean(values))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return max(0.0, middle - half), min(1.0, middle + half)
