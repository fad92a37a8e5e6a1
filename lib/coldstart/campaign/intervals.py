"""Intervals of a mean. They are Student's t: on simulated Dice they cover as well as bootstraps from 10 images on, and
better below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def mean_interval(dice: Sequence[float]) -> tuple[float | None, float | None]:
    """95 % interval of the mean of Dice values, within [0, 1]; (None, None) of fewer than two."""
    if len(dice) < 2:
        return None, None
    error = float(np.std(dice, ddof=1)) / math.sqrt(len(dice))
    low, high = interval(float(np.mean(dice)), error, len(dice) - 1)
    return max(0.0, low), min(1.0, high)


def interval(value: float, error: float, n_freedom: float) -> tuple[float, float]:
    """Return the 95 % interval of a value with this standard error and so many degrees of freedom."""
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n_freedom)) * error
    return value - half, value + half


def freedom(variances: Sequence[float], of_each: Sequence[int]) -> float:
    """Degrees of freedom of a sum of estimated variances (Welch and Satterthwaite)."""
    below = sum(variance**2 / n for variance, n in zip(variances, of_each, strict=True))
    return sum(variances) ** 2 / below if below > 0 else sum(of_each)
