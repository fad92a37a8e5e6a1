"""How well a class map agrees with a label: Dice, and the 95th percentile of the Hausdorff distance, through MONAI.

Both are always finite; what an absent structure counts:

========================  ======  =================================================
a class is in             Dice    HD95
========================  ======  =================================================
neither                   1       0
one of the two only       0       the image's diagonal (the largest distance there is)
both                      MONAI   MONAI: the larger of the two directed 95th percentiles
========================  ======  =================================================
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance
from numpy.typing import NDArray

PERCENTILE = 95


@dataclass(frozen=True)
class ClassScore:
    """Agreement in one class of one image.

    Parameters
    ----------
    dice : float
        In [0, 1]; higher is better.
    hd95 : float
        In the unit of the spacing that it was computed with; lower is better.
    in_prediction, in_label : bool
        Whether the class occurs there at all.
    """

    dice: float
    hd95: float
    in_prediction: bool
    in_label: bool


def class_score(prediction: NDArray[np.bool_], label: NDArray[np.bool_], spacing: Sequence[float]) -> ClassScore:
    """Compare two masks of one class.

    Parameters
    ----------
    prediction, label : ndarray of shape (*spatial), bool
        On one grid.
    spacing : sequence of float
        Of each axis, in the unit that HD95 is wanted in.

    Returns
    -------
    score : ClassScore
        Finite also where a mask is empty; see the table at the head of this module.
    """
    in_prediction, in_label = bool(prediction.any()), bool(label.any())
    if not in_prediction and not in_label:
        return ClassScore(1.0, 0.0, False, False)
    if in_prediction != in_label:
        return ClassScore(0.0, diagonal(prediction.shape, spacing), in_prediction, in_label)
    first, second = (torch.from_numpy(mask.astype(np.float32))[None, None] for mask in (prediction, label))
    dice = compute_dice(first, second, include_background=True)
    with warnings.catch_warnings():
        # MONAI 1.5 calls its own function with an argument that it has deprecated
        warnings.simplefilter("ignore", FutureWarning)
        hd95 = compute_hausdorff_distance(
            first, second, include_background=True, percentile=PERCENTILE, spacing=[float(step) for step in spacing]
        )
    return ClassScore(float(dice), float(hd95), True, True)


def image_dice(prediction: NDArray[Any], label: NDArray[Any]) -> float:
    """Compare two class maps by one Dice over all foreground pixels together.

    Parameters
    ----------
    prediction, label : ndarray of shape (*spatial), int
        Class indices; 0 is the background.

    Returns
    -------
    dice : float
        2 |same class, not background| / (|predicted foreground| + |labelled foreground|), in [0, 1], higher is better;
        1 where both are empty. Large structures weigh more than small ones here, and an absent class nothing.
    """
    n_foreground = int(np.count_nonzero(prediction)) + int(np.count_nonzero(label))
    if n_foreground == 0:
        return 1.0
    return 2 * int(np.count_nonzero((prediction == label) & (label != 0))) / n_foreground


def diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Return the distance between the centres of two opposite corner pixels, in the unit of `spacing`."""
    return math.hypot(*((n - 1) * step for n, step in zip(shape, spacing, strict=True)))
