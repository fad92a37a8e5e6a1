"""Distances that a selection needs again and again, kept while it changes by a few points.

From one pick to the next one point is added, or a few come and go; then most distances stay as they are. What is
computed anew is computed as it would have been from the start, so that what is kept never differs from it.
"""

import numpy as np
import numpy.typing as npt

from coldstart.selection._distances import chunks, distances
from coldstart.selection._validation import Indices, check_points
from coldstart.selection.diameters import farthest_pair

Mask = npt.NDArray[np.bool_]


class Spread:
    """How far each point is from the nearest that is selected, and how far the candidates reach.

    Parameters
    ----------
    points : array_like of shape (n_samples, n_dims), float
        Positions in the projection; unitless.

    Attributes
    ----------
    points : ndarray of shape (n_samples, n_dims), float
        The same as an array.
    selected, candidates : ndarray of shape (n_samples,), bool
        Which points are selected, and which may be; some can be neither. At first none is either.
    nearest : ndarray of shape (n_samples,), float
        Distance of each point to the nearest one selected; infinite where none is.

    Raises
    ------
    InvalidInputError
        If `points` are empty or not finite.
    """

    def __init__(self, points: npt.ArrayLike) -> None:
        self.points = check_points(points)
        n_samples = len(self.points)
        self.selected = np.zeros(n_samples, dtype=bool)
        self.candidates = np.zeros(n_samples, dtype=bool)
        self.nearest = np.full(n_samples, np.inf)
        self._neighbour = np.zeros(n_samples, dtype=np.intp)  # the selected point at that distance
        self._ends: Indices | None = None

    def follow(self, selected: Mask, candidates: Mask) -> None:
        """Go over to this selection and these candidates; masks of shape (n_samples,)."""
        came, left = selected & ~self.selected, self.selected & ~selected
        if left.any():
            orphans = np.flatnonzero(left[self._neighbour] & np.isfinite(self.nearest))
            self.nearest[orphans] = np.inf
            self._approach(orphans, np.flatnonzero(selected & ~came))
        if came.any():
            self._approach(np.arange(len(self.points)), np.flatnonzero(came))
        if self._ends is not None and ((candidates & ~self.candidates).any() or not candidates[self._ends].all()):
            self._ends = None  # otherwise both ends are still there, and nothing is farther apart
        self.selected, self.candidates = selected.copy(), candidates.copy()

    def diameter(self) -> float:
        """Return the exact largest distance between two candidates; 0.0 for a single one."""
        if self._ends is None:
            rows = np.flatnonzero(self.candidates)
            self._ends = rows[list(farthest_pair(self.points[rows]))]
        return float(distances(self.points[self._ends[:1]], self.points[self._ends[1:]])[0, 0])

    def _approach(self, rows: Indices, others: Indices) -> None:
        """Take the points `others` into account for the nearest ones of `rows`."""
        if len(others) == 0:
            return
        for chunk in chunks(len(rows), len(others)):
            part = rows[chunk]
            gaps = distances(self.points[part], self.points[others])
            closest = gaps.argmin(axis=1)
            gap = gaps[np.arange(len(part)), closest]
            closer = gap < self.nearest[part]
            self.nearest[part[closer]] = gap[closer]
            self._neighbour[part[closer]] = others[closest[closer]]
