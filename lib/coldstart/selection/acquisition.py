"""The next images to label once a model is trained: its uncertainty, mixed with distance on the map.

Active selection of Levy et al. (2026), arXiv:2601.18532, section 3.2, equations 7 to 10.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt

from coldstart.exceptions import InvalidInputError
from coldstart.selection._validation import (
    Floats,
    Indices,
    check_all_pairs,
    check_at_least,
    check_number,
    check_points,
    check_rows,
    check_values,
)
from coldstart.selection.spread import Mask, Spread

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
    weight = _check_alpha(alpha)
    number = check_at_least(n, "n", 1)
    if number > len(array) - len(taken):
        raise InvalidInputError(
            f"`n` must be at most the {len(array) - len(taken)} candidates, the images not in `selected`; got "
            f"n={number}. Ask for fewer, or add images."
        )
    candidates = np.ones(len(array), dtype=bool)
    candidates[taken] = False
    normalised = _normalise(values, entropy_range, candidates)
    spread = Spread(array)
    steps = []
    for step in range(number):
        spread.follow(~candidates, candidates)
        steps.append(_acquire(spread, normalised, weight, first_by_entropy and step == 0))
        candidates[steps[-1].row] = False
    return _acquisition(steps)


def acquire_next(
    spread: Spread,
    entropy: npt.ArrayLike,
    *,
    alpha: float = 0.3,
    first_by_entropy: bool = True,
    entropy_range: tuple[float, float] | None = None,
) -> Acquisition:
    """Pick the next image as `acquire` does, with distances that are kept from one call to the next.

    Parameters
    ----------
    spread : Spread
        Points, selection and candidates, of which there must be one. It is not changed: the pick is not selected yet.
    entropy : array_like of shape (n_samples,), float
        As for `acquire`; has no effect for images that are no candidates.
    alpha, first_by_entropy, entropy_range
        As for `acquire`.

    Returns
    -------
    acquisition : Acquisition
        One pick.

    Raises
    ------
    InvalidInputError
        If an argument has the wrong shape, type or range, or there is no candidate.
    """
    check_all_pairs(spread.points)
    values = check_values(entropy, "entropy", len(spread.points))
    weight = _check_alpha(alpha)
    if not spread.candidates.any():
        raise InvalidInputError("`spread` must have a candidate; got none. Free an image, or add images.")
    normalised = _normalise(values, entropy_range, spread.candidates)
    return _acquisition([_acquire(spread, normalised, weight, first_by_entropy)])


class CandidateScores(NamedTuple):
    """What a pick was compared with: three arrays of shape (n_samples,), NaN for images that were no candidates.

    Entropy, distance and score are those of `Acquisition`.
    """

    entropy: Floats
    distance: Floats
    score: Floats


def score_candidates(
    spread: Spread, entropy: npt.ArrayLike, *, alpha: float = 0.3, entropy_range: tuple[float, float] | None = None
) -> CandidateScores:
    """Return what `acquire_next` compares when it is given the same.

    Parameters
    ----------
    spread, entropy, alpha, entropy_range
        As for `acquire_next`.

    Returns
    -------
    scores : CandidateScores
        Of every candidate.
    """
    values = check_values(entropy, "entropy", len(spread.points))
    compared = _compare(spread, _normalise(values, entropy_range, spread.candidates), _check_alpha(alpha))
    columns = np.full((3, len(spread.points)), np.nan)
    columns[:, compared.rows] = compared.entropy, compared.distance, compared.score
    return CandidateScores(*columns)


def _check_alpha(alpha: float) -> float:
    weight = check_number(alpha, "alpha")
    if not 0 <= weight <= 1:
        raise InvalidInputError(
            f"`alpha` must be between 0 (entropy alone) and 1 (distance alone); got alpha={weight}. The default is 0.3."
        )
    return weight


def _normalise(entropy: Floats, entropy_range: tuple[float, float] | None, candidates: Mask) -> Floats:
    """Equation 7."""
    low, high = _check_range(entropy_range, entropy[candidates])
    return (entropy - low) / (high - low + EPSILON)


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


class _Step(NamedTuple):
    row: int
    entropy: float
    distance: float
    score: float


class _Compared(NamedTuple):
    rows: Indices
    entropy: Floats
    distance: Floats
    score: Floats


def _compare(spread: Spread, entropy: Floats, alpha: float) -> _Compared:
    """Equations 9 and 10; `entropy` is normalised."""
    rows = np.flatnonzero(spread.candidates)
    if spread.selected.any():
        relative = spread.nearest[rows] / (spread.diameter() + EPSILON)
    else:
        relative = np.zeros(len(rows))
    return _Compared(rows, entropy[rows], relative, alpha * relative + (1 - alpha) * entropy[rows])


def _acquire(spread: Spread, entropy: Floats, alpha: float, by_entropy: bool) -> _Step:
    """One pick; `entropy` is normalised."""
    rows, uncertain, relative, scores = _compare(spread, entropy, alpha)
    best = (uncertain if by_entropy or not spread.selected.any() else scores).argmax()
    return _Step(int(rows[best]), uncertain[best], relative[best], scores[best])


def _acquisition(steps: list[_Step]) -> Acquisition:
    indices, entropy, distance, score = zip(*steps, strict=True)
    return Acquisition(np.array(indices, dtype=np.intp), np.array(entropy), np.array(distance), np.array(score))
