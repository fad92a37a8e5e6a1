"""Principal components, computed so that the same vectors always give the same points.

A full decomposition, never a randomised one, in one BLAS thread: several threads round differently, and t-SNE makes
visible differences of the last bit. The sign of each component is fixed (its largest entry is positive).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

# A component whose spread is below this share of the first one's is rounding, not data.
NEGLIGIBLE_SPREAD = 1e-7


@dataclass(frozen=True)
class PrincipalComponents:
    """A centre and orthonormal directions, by descending spread.

    Attributes
    ----------
    mean : ndarray of shape (n_features,), float64
        Mean of the vectors that were fitted.
    components : ndarray of shape (n_components, n_features), float64
        Directions of unit length; fewer than asked for where the vectors span fewer.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]

    def transform(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give the coordinates of `vectors` (n_samples, n_features) along the components.

        Each row is computed by itself, so that one image alone lands where it lands among others.
        """
        points = np.empty((len(vectors), len(self.components)))
        with threadpool_limits(1, "blas"):
            for row, vector in zip(points, vectors, strict=True):
                row[:] = self.components @ (vector - self.mean)
        return points


def fit_components(vectors: NDArray[np.float64], n_components: int) -> PrincipalComponents:
    """Find the at most `n_components` directions of largest spread.

    Parameters
    ----------
    vectors : ndarray of shape (n_samples, n_features), float64
        Finite, at least one row.
    n_components : int
        Upper limit; never more than the vectors span.

    Returns
    -------
    PrincipalComponents
        No components at all when all the vectors are equal.
    """
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    # The mean of equal numbers can miss them by a rounding, which must not pass for a direction.
    centred[:, np.ptp(vectors, axis=0) == 0] = 0.0
    n_samples, n_features = vectors.shape
    with threadpool_limits(1, "blas"):
        if n_samples <= n_features:
            _, spreads, directions = linalg.svd(centred, full_matrices=False, check_finite=False)
        else:  # the same components without the (n_samples, n_samples) factor: 100,000 images fit into memory
            variances, columns = linalg.eigh(centred.T @ centred, check_finite=False)
            spreads, directions = np.sqrt(np.clip(variances[::-1], 0, None)), columns.T[::-1]
    meaningful = int(np.count_nonzero(spreads > NEGLIGIBLE_SPREAD * spreads[0])) if spreads[0] > 0 else 0
    directions = directions[: min(n_components, meaningful)]
    largest = np.argmax(np.abs(directions), axis=1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    return PrincipalComponents(mean, np.ascontiguousarray(directions * signs[:, None]))
