"""The next images to label once a model is trained: its uncertainty, mixed with distance on the map.

Active selection of Levy et al. (2026), arXiv:2601.18532, section 3.2, equations 7 to 10.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from coldstart.exceptions import InvalidInputError
from coldstart.selection._distances import distances, nearest_distances
from coldstart.selection._validation import (
    Floats,
    Indices,
    check_at_least,
    check_number,
    check_points,
    check_rows,
    check_values,
)
from coldstart.selection.diameters import farthest_pair

EPSILON = 1e-8
"""Of equations 7 and 9: keeps the quotients defined where all entropies, or all candidates, coincide."""


@dataclass(frozen=True, eq=False)
class Acquisition:
    """The images to label next, in order, and what spoke for each when it was picked.

    Attributes
    ----------
    indices : ndarray of shape (n,), int
        Row positions in `points`, in the order of picking.
    entropy : ndarray of shape (n,), float
        Normalised entropy (equation 7); in [0, 1] where the entropy lies within the range, higher is less certain.
    distance : ndarray of shape (n,), float
        Distance to the nearest image selected or picked before, over the diameter of the candidates then left
        (equation 9); 0 where there was none before. Above 1 where the candidates lie closer together than that.
    score : ndarray of shape (n,), float
        alpha distance + (1 - alpha) entropy (equation 10), also of a first pick by entropy; higher is picked first.
    """

    indices: Indices
    entropy: Floats
    distance: Floats
    score: Floats


def acquire(
    points: npt.ArrayLike,
    entropy: npt.ArrayLike,
    selected: Iterable[SupportsIndex],
    n: int,
    *,
    alpha: float = 0.3,
    first_by_entropy: bool = True,
    entropy_range: tuple[float, float] | None = None,
) -> Acquisition:
    """Pick the next `n` images by entropy and spatial diversity.

    Parameters
    ----------
    points : array_like of shape (n_samples, n_dims), float
        Positions of the whole pool in the projection; unitless. With more than 2 dimensions at most 20,000 rows.
    entropy : array_like of shape (n_samples,), float
        Entropy of each image of the pool, in any unit. Those of `selected` images have to be finite, and have no
        effect.
    selected : iterable of int
        Row positions of images that are labelled or reserved, in any order. All others are candidates.
    n : int
        Number of images to pick; between 1 and the number of candidates.
    alpha : float
        Weight of the distance, in [0, 1]; the entropy has the weight 1 - alpha.
    first_by_entropy : bool
        Whether the first pick is the candidate with the highest entropy, as after each new scoring; otherwise it has
        the highest score, like all later ones.
    entropy_range : (float, float), optional
        Smallest and largest entropy of the scoring, for equation 7; by default those of the candidates. An entropy
        outside it gives a normalised one outside [0, 1].

    Returns
    -------
    acquisition : Acquisition
        The picks in order.

    Raises
    ------
    InvalidInputError
        If an argument has the wrong shape, type or range, or fewer than `n` candidates are left.

    Notes
    -----
    Equations 7 to 10 of [1]_, with epsilon 1e-8. D_max is the exact diameter of the candidates left, anew at every
    step, the coming pick included; so it is 0 for the last candidate, and its normalised distance is large. While
    nothing is selected no distance is defined: the first pick is then the one with the highest entropy, whatever
    `first_by_entropy` and `alpha`. Ties go to the lowest index. With `entropy_range` given, `n` calls for one pick
    (each with the earlier picks in `selected`, and only the first by entropy) pick what one call for `n` picks.

    References
    ----------
    .. [1] Levy et al. (2026), arXiv:2601.18532.
    """
    array = check_points(points, all_pairs=True)
    values = check_values(entropy, "entropy", len(array))
    taken = check_rows(selected, "selected", len(array))
    weight = check_number(alpha, "alpha")
    if not 0 <= weight <= 1:
        raise InvalidInputError(
            f"`alpha` must be between 0 (entropy alone) and 1 (distance alone); got alpha={weight}. The default is 0.3."
        )
    number = check_at_least(n, "n", 1)
    if number > len(array) - len(taken):
        raise InvalidInputError(
            f"`n` must be at most the {len(array) - len(taken)} candidates, the images not in `selected`; got "
            f"n={number}. Ask for fewer, or add images."
        )
    low, high = _check_range(entropy_range, np.delete(values, taken))
    return _acquire(array, (values - low) / (high - low + EPSILON), taken, number, weight, first_by_entropy)


def _check_range(entropy_range: tuple[float, float] | None, candidates: Floats) -> tuple[float, float]:
    if entropy_range is None:
        return float(candidates.min()), float(candidates.max())
    try:
        low, high = (check_number(end, "entropy_range") for end in entropy_range)
    except (TypeError, ValueError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(
            f"`entropy_range` must be a pair (min, max); got {entropy_range!r}. Pass the range of the scoring."
        ) from None
    if low > high:
        raise InvalidInputError(
            f"`entropy_range` must be (min, max) with min <= max; got ({low}, {high}). Exchange the two."
        )
    return low, high


def _acquire(
    points: Floats, entropy: Floats, selected: Indices, n: int, alpha: float, first_by_entropy: bool
) -> Acquisition:
    picks = np.empty(n, dtype=np.intp)
    distance, score = np.empty(n), np.empty(n)
    is_candidate = np.ones(len(points), dtype=bool)
    is_candidate[selected] = False
    nearest = nearest_distances(points, points[selected]) if len(selected) else None
    ends: tuple[int, int] | None = None
    for step in range(n):
        candidates = np.flatnonzero(is_candidate)
        if ends is None:
            first, second = farthest_pair(points[candidates])
            ends = int(candidates[first]), int(candidates[second])
        largest = distances(points[[ends[0]]], points[[ends[1]]])[0, 0]
        relative = np.zeros(len(points)) if nearest is None else nearest / (largest + EPSILON)
        scores = alpha * relative + (1 - alpha) * entropy
        by_entropy = nearest is None or (step == 0 and first_by_entropy)
        pick = int(candidates[(entropy if by_entropy else scores)[candidates].argmax()])

        picks[step], distance[step], score[step] = pick, relative[pick], scores[pick]
        is_candidate[pick] = False
        to_pick = distances(points, points[[pick]])[:, 0]
        nearest = to_pick if nearest is None else np.minimum(nearest, to_pick)
        if pick in ends:  # otherwise both ends are still there, and the diameter is the same
            ends = None
    return Acquisition(picks, entropy[picks], distance, score)
