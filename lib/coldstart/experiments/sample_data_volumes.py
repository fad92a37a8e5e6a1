"""Draw small CT-like volumes of one organ with a lesion in it, in Hounsfield units.

Nothing here comes from a patient: ellipsoids for trunk, spine, organ, stomach and lesion, each with its own value, and
noise. Labels are the ellipsoids themselves, hence exact. Axes of every array here: (x, y, z), increasing towards the
patient's Left, Posterior and Superior (LPS).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from coldstart.exceptions import InvalidInputError

Field = NDArray[np.float64]

SHAPE = (48, 40, 32)
"""Voxels along x, y and z (LPS)."""

LABELS = {1: "organ", 2: "lesion"}

VOLUME_GROUPS: dict[str, int] = {"enhanced": 8, "plain": 5, "bright_lesion": 3}
"""Group of volumes: how many there are."""

_AIR_HU, _FAT_HU, _MUSCLE_HU, _BONE_HU = -1000.0, -95.0, 45.0, 420.0
_GREY_STEP_HU = 4.0  # grey levels are rounded to this, so that noise does not fill the file


@dataclass(frozen=True)
class Scan:
    """What one volume shows; values in Hounsfield units, lengths in mm."""

    organ_hu: float
    lesion_hu: float
    noise_hu: float
    spacing_mm: tuple[float, float, float]
    lesion_mm: float


def sample_scan(group: str, rng: np.random.Generator) -> Scan:
    """Draw one patient's values and one protocol of a group."""

    def vary(middle: float, spread: float) -> float:
        return float(middle + spread * rng.uniform(-1.0, 1.0))

    if group == "enhanced":
        return Scan(vary(120, 12), vary(55, 10), vary(10, 2), (5.0, 5.0, 5.0), vary(20.0, 6.0))
    if group == "plain":
        return Scan(vary(78, 6), vary(25, 6), vary(15, 3), (5.0, 5.0, 7.5), vary(24.0, 6.0))
    if group == "bright_lesion":
        return Scan(vary(95, 8), vary(190, 15), vary(8, 2), (6.0, 6.0, 4.0), vary(16.0, 4.0))
    raise InvalidInputError(f"`group` must be one of {', '.join(VOLUME_GROUPS)}; got {group!r}.")


def draw_scan(scan: Scan, rng: np.random.Generator) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Draw one volume and its label.

    Parameters
    ----------
    scan : Scan
        What to draw.
    rng : numpy.random.Generator
        Draws what is not in `scan`: sizes, places, texture, noise.

    Returns
    -------
    volume : ndarray of shape SHAPE, int16
        Hounsfield units; axes x, y, z towards Left, Posterior, Superior.
    label : ndarray of shape SHAPE, uint8
        Values of `LABELS`.
    """
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    place = (index - (np.array(SHAPE) - 1) / 2.0) * np.array(scan.spacing_mm)

    def near(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Field:
        """1 in the centre of an ellipsoid, 0 on its surface; the centre varies by 4 mm, the radii by a tenth."""
        middle = np.array(centre) + rng.uniform(-4.0, 4.0, 3)
        half = np.array(radii) * rng.uniform(0.9, 1.1, 3)
        return np.asarray(1.0 - np.linalg.norm((place - middle) / half, axis=-1))

    trunk = near((0.0, 0.0, 0.0), (108.0, 82.0, 400.0))
    volume = np.where(trunk > 0.0, _FAT_HU, _AIR_HU)
    volume[trunk > 0.13] = _MUSCLE_HU
    volume[near((0.0, 48.0, 0.0), (20.0, 18.0, 400.0)) > 0.0] = _BONE_HU
    volume[near((48.0, -12.0, 10.0), (30.0, 28.0, 50.0)) > 0.0] = 15.0
    bumps = gaussian_filter(rng.normal(size=SHAPE), 4.0)
    organ = near((-38.0, -8.0, 2.0), (50.0, 46.0, 58.0)) + 0.06 * bumps / bumps.std() > 0.0
    organ &= (trunk > 0.15) & (volume != _BONE_HU)
    volume[organ] = scan.organ_hu + 6.0 * (bumps / bumps.std())[organ]
    # The lesion's centre lies well inside the organ, wherever that is.
    depth = gaussian_filter(organ.astype(np.float64), 2.5)
    inner = np.argwhere(depth > 0.85 * depth.max())
    middle = place[tuple(inner[int(rng.integers(len(inner)))])]
    stretch = rng.uniform(0.8, 1.25, 3)
    lesion = (np.linalg.norm((place - middle) / (scan.lesion_mm * stretch), axis=-1) < 1.0) & organ
    volume[lesion] = scan.lesion_hu

    seen = gaussian_filter(volume, 0.6) + scan.noise_hu * rng.normal(size=SHAPE)
    rounded = np.rint(np.clip(seen, -1000.0, 1500.0) / _GREY_STEP_HU) * _GREY_STEP_HU
    return rounded.astype(np.int16), (organ.astype(np.uint8) + lesion).astype(np.uint8)
