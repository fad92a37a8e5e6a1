"""Sharing a budget among clusters in proportion to their size.

Equation 4 of Levy et al. (2026), arXiv:2601.18532, rounds each share and then adjusts by one "where necessary". Here
that is the method of the largest remainder, in integer arithmetic, so that the total is exact and no rounding error
decides who gets the last one.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from coldstart.exceptions import InvalidInputError
from coldstart.selection._validation import check_at_least, check_whole_numbers


def apportion(total: int, sizes: npt.ArrayLike, *, capacities: npt.ArrayLike | None = None) -> npt.NDArray[np.int64]:
    """Share `total` picks among clusters in proportion to their size.

    Each cluster gets floor(total size / sum of sizes); one more each goes by descending remainder of that division,
    ties to the lower cluster. What exceeds a cluster's capacity is shared by the same rule among the clusters that
    still have room, until nothing is left.

    Parameters
    ----------
    total : int
        Picks to share; between 0 and the sum of `capacities`.
    sizes : array_like of shape (n_clusters,), int
        Members of each cluster, at least 1.
    capacities : array_like of shape (n_clusters,), int, optional
        The most that each cluster can take; by default its size less one, as its medoid is taken already.

    Returns
    -------
    shares : ndarray of shape (n_clusters,), int64
        Picks for each cluster; their sum is `total`.

    Raises
    ------
    InvalidInputError
        If `total` does not fit, or sizes and capacities are not whole numbers of equal length.

    Notes
    -----
    Equation 4 of [1]_, with its adjustment.

    References
    ----------
    .. [1] Levy et al. (2026), arXiv:2601.18532.

    Examples
    --------
    >>> apportion(5, [6, 3, 1])
    array([3, 2, 0])
    """
    size = check_whole_numbers(sizes, "sizes", minimum=1)
    capacity = size - 1 if capacities is None else check_whole_numbers(capacities, "capacities", minimum=0)
    if capacity.shape != size.shape:
        raise InvalidInputError(
            f"`capacities` must have one entry for each of the {len(size)} `sizes`; got {len(capacity)}. "
            "Pass both for the same clusters."
        )
    number = check_at_least(total, "total", 0)
    if number > capacity.sum():
        raise InvalidInputError(
            f"`total` must be at most the {capacity.sum()} that the clusters can take; got total={number}. Lower it."
        )
    return _apportion(number, size, capacity)


def _apportion(total: int, sizes: npt.NDArray[Any], capacities: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    shares = np.zeros(len(sizes), dtype=np.int64)
    left = total
    while left > 0:
        roomy = np.flatnonzero(shares < capacities)
        quotas, remainders = np.divmod(left * sizes[roomy], sizes[roomy].sum())
        one_more = np.argsort(-remainders, kind="stable")[: left - quotas.sum()]
        quotas[one_more] += 1
        fitting = np.minimum(quotas, (capacities - shares)[roomy])
        shares[roomy] += fitting
        left -= int(fitting.sum())
    return shares
