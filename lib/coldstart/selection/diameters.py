"""The largest distance within a set of points, exactly, without all pairs in 2D.

D_max of equation 9 of Levy et al. (2026), arXiv:2601.18532. In 2D both ends lie on the convex hull, which has few
vertices. In more dimensions, approximate distances by matrix products tell which points can be an end at all.
"""

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull, QhullError

from coldstart.selection._distances import SquaredDistances, chunks, distances
from coldstart.selection._validation import Floats, Indices, check_points


def diameter(points: npt.ArrayLike) -> float:
    """Return the largest Euclidean distance between two of the points.

    Parameters
    ----------
    points : array_like of shape (n_samples, n_dims), float
        Positions in the projection; unitless. With more than 2 dimensions at most 20,000 rows.

    Returns
    -------
    diameter : float
        0.0 for a single point.

    Raises
    ------
    InvalidInputError
        If `points` are empty, not finite, or too many.
    """
    array = check_points(points, all_pairs=True)
    first, second = farthest_pair(array)
    return float(distances(array[[first]], array[[second]])[0, 0])


def farthest_pair(points: Floats) -> tuple[int, int]:
    """Return the row positions of two points at the largest distance; both are 0 where there is one point."""
    if points.shape[1] > 2:
        return _farthest_pair_by_bounds(points)
    outline = _outline(points)
    first, second = _farthest_pair_directly(points[outline])
    return int(outline[first]), int(outline[second])


def _outline(points: Floats) -> Indices:
    """Return rows among which a farthest pair is: the hull's vertices, or both ends of points on a line."""
    if points.shape[1] == 2 and len(points) > 3:
        try:
            # Qhull's tolerance grows with the coordinates, so the origin has to lie among the points.
            vertices: Indices = ConvexHull(points - points.mean(axis=0)).vertices
        except QhullError:  # flat within rounding
            pass
        else:
            return np.sort(vertices)
    elif points.shape[1] == 2:
        return np.arange(len(points))
    # On a line, the point farthest from any other is one end, and the farthest from that is the other end.
    one_end = distances(points, points[[0]])[:, 0].argmax()
    other_end = distances(points, points[[one_end]])[:, 0].argmax()
    return np.unique([one_end, other_end])


def _farthest_pair_directly(points: Floats) -> tuple[int, int]:
    pair, largest = (0, 0), 0.0
    for chunk in chunks(len(points), len(points)):
        block = distances(points[chunk], points[chunk.start :])
        row, column = np.unravel_index(block.argmax(), block.shape)
        if block[row, column] > largest:
            pair, largest = (int(row) + chunk.start, int(column) + chunk.start), block[row, column]
    return pair


def _farthest_pair_by_bounds(points: Floats) -> tuple[int, int]:
    squares = SquaredDistances(points)
    reach = np.empty(len(points))  # an upper bound on each point's largest squared distance
    for chunk in chunks(len(points), len(points)):
        reach[chunk] = squares.rows(chunk).max(axis=1) + squares.error
    pair, largest = (0, 0), 0.0
    for row in np.argsort(-reach, kind="stable"):
        if reach[row] < largest**2:
            break
        to_row = distances(points[[row]], points)[0]
        if to_row.max() > largest:
            pair, largest = (int(row), int(to_row.argmax())), float(to_row.max())
    return pair
