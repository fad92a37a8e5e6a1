"""The anatomy that a generated chest radiograph shows: each part as attenuation over the picture.

Every function takes the coordinates of all pixels in the patient's frame: u to the patient's left (the right of the
picture), v downwards, both arrays of shape (SIZE, SIZE), with the undistorted picture spanning -1 to 1. It returns an
array of the same shape: how much that part attenuates the ray (unitless; the trunk is about 0.9), or, for organs that
are labelled, a mask from 0 to 1 whose outline lies at 0.5.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter

Field = NDArray[np.float64]

SIZE = 192
"""Rows and columns of a radiograph."""

EDGE = 0.012
"""Softness of an outline: about one pixel."""


@dataclass(frozen=True)
class Chest:
    """What one radiograph shows; lengths are fractions of half the picture, angles are degrees."""

    body_width: float = 0.80
    lung_width: float = 0.66
    apex: float = -0.74
    base: float = 0.56
    dome: float = 0.16
    heart_size: float = 1.0
    heart_tilt_deg: float = 38.0
    rib_start: float = 0.06
    turn_deg: float = 0.0
    yaw: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    arms: Literal["out of the picture", "down", "raised"] = "out of the picture"
    breasts: float = 0.0
    vessels: float = 1.0
    exposure: float = 0.66
    contrast: float = 4.6
    haze: float = 0.0
    noise: float = 0.012
    collimation: float = 0.0
    effusion: float = 0.0
    consolidation: float = 0.0
    sick_side: int = 1
    pacemaker: bool = False
    pads: bool = False
    wires: int = 0
    tube: bool = False


def soft_step(distance: Field, width: float = EDGE) -> Field:
    """Step from 0 to 1 where `distance` changes its sign, one pixel wide."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(distance / width, -40.0, 40.0))))


def _ellipse(u: Field, v: Field, centre: tuple[float, float], radii: tuple[float, float], deg: float = 0.0) -> Field:
    """1 in the centre, 0 on the outline, negative outside."""
    angle = np.radians(deg)
    p, q = u - centre[0], v - centre[1]
    along, beside = np.cos(angle) * p + np.sin(angle) * q, -np.sin(angle) * p + np.cos(angle) * q
    return np.asarray(1.0 - np.hypot(along / radii[0], beside / radii[1]))


def _band(distance: Field, half_width: float | Field) -> Field:
    """A tube seen from the side: a rounded profile across, brighter towards its walls."""
    inside = np.clip(1.0 - (distance / half_width) ** 2, 0.0, 1.0)
    return np.asarray(np.sqrt(inside) * (0.75 + 0.5 * (distance / half_width) ** 2))


def body(chest: Chest, u: Field, v: Field) -> Field:
    """Thickness of soft tissue along the ray: trunk, neck, shoulders, and the arms where they are raised."""
    w = chest.body_width
    heights = np.array([-3.0, -1.02, -0.86, -0.74, -0.60, -0.42, -0.24, -0.05, 0.35, 0.9, 3.0])
    shoulder = w + (0.05 if chest.arms == "raised" else 0.26)
    widths = np.array([0.21, 0.22, 0.34, 0.66, shoulder - 0.06, shoulder, w + 0.10, w + 0.02, w, w + 0.02, w + 0.06])
    half_width = PchipInterpolator(heights, widths)(np.clip(v, -3.0, 3.0))
    trunk = np.sqrt(np.clip(1.0 - (u / half_width) ** 2, 0.0, None))
    depth = 0.62 + 0.38 * soft_step(v + 0.62, 0.12)
    out = trunk * depth * (0.88 + 0.25 * (w - 0.8))
    if chest.arms == "down":
        for side in (-1, 1):
            arm = side * u - (w + 0.17) + 0.03 * np.sin(2.0 * v)
            out = np.maximum(
                out, 0.6 * np.sqrt(np.clip(1.0 - (arm / 0.15) ** 2, 0.0, None)) * soft_step(v + 0.45, 0.05)
            )
    if chest.arms == "raised":
        for side in (-1, 1):
            arm = np.abs(side * u - (0.86 + 0.10 * v) + 0.18 * np.cos(2.2 * v))
            out = np.maximum(
                out, 0.55 * np.sqrt(np.clip(1.0 - (arm / 0.17) ** 2, 0.0, None)) * soft_step(-0.35 - v, 0.04)
            )
        head = _ellipse(u, v, (0.0, -1.36), (0.34, 0.40))
        out = np.maximum(out, 0.85 * np.sqrt(np.clip(head, 0.0, None)))
    return np.asarray(out)


def _side(chest: Chest, u: Field, side: int) -> Field:
    """Distance from the midline towards one side, in that side's own proportion (a turned patient shows one more)."""
    return np.asarray(side * (u - 0.4 * chest.yaw) / (1.0 + side * chest.yaw))


def _dome(chest: Chest, u: Field, side: int) -> Field:
    base = chest.base + (0.05 if side > 0 else 0.0)
    out = _side(chest, u, side)
    return np.asarray(base - chest.dome * (1.0 - ((out - 0.30) / 0.42) ** 2))


def diaphragm(chest: Chest, u: Field) -> Field:
    """Height (v) of the diaphragm above which the lungs lie, both domes joined in the middle."""
    left = soft_step(u, 0.05)
    return np.asarray((1.0 - left) * _dome(chest, u, -1) + left * _dome(chest, u, 1))


def lung(chest: Chest, u: Field, v: Field, side: int) -> Field:
    """Mask of one lung (`side` -1 the patient's right, 1 the left) from the apex to the dome."""
    out = _side(chest, u, side)
    t = np.clip((v - chest.apex) / (chest.base - chest.apex), 0.0, 1.0)
    lateral = 0.25 + (chest.lung_width - 0.25) * (1.0 - (1.0 - t) ** 2.6) ** 0.75
    medial = 0.24 - 0.15 * (1.0 - (1.0 - t) ** 5) ** 0.7
    return np.asarray(
        soft_step(lateral - out)
        * soft_step(out - medial)
        * soft_step(_dome(chest, u, side) - v)
        * soft_step(v - chest.apex - 0.01)
    )


def heart(chest: Chest, u: Field, v: Field, diaphragm: Field) -> Field:
    """Mask of the heart: the ventricles' ellipse and the right atrium's, cut off by the diaphragm."""
    s = chest.heart_size
    bottom = chest.base - 0.5 * chest.dome
    shifted = u - 0.4 * chest.yaw - 0.10 * chest.yaw / 0.12
    ventricles = _ellipse(shifted, v, (0.13, bottom - 0.21 * s), (0.33 * s, 0.225 * s), chest.heart_tilt_deg)
    atrium = _ellipse(shifted, v, (-0.06, bottom - 0.20 * s), (0.15 * s, 0.24 * s), 0.0)
    outline = np.maximum(ventricles, atrium) * 0.25
    return np.asarray(soft_step(outline) * soft_step(diaphragm + 0.015 - v))


def mediastinum(chest: Chest, u: Field, v: Field, diaphragm: Field) -> Field:
    """What lies between the lungs apart from heart and spine: vessels, aortic knob, hila, less the trachea."""
    middle = u - 0.4 * chest.yaw
    above = soft_step(diaphragm + 0.05 - v, 0.03)
    width = 0.13 + 0.045 * np.clip(v + 0.6, 0.0, 1.0) + 0.02 * np.sin(6.0 * v)
    stem = 0.12 * np.exp(-(((middle - 0.015) / width) ** 4)) * above
    knob = 0.20 * soft_step(0.2 * _ellipse(middle, v, (0.11, -0.32), (0.085, 0.11)), 0.02)
    hila = sum(
        0.16 * np.exp(-(((side * middle - 0.20) / 0.09) ** 2) - ((v + 0.06) / 0.15) ** 2) for side in (-1.0, 1.0)
    )
    trachea = (
        0.20 * soft_step(0.042 - np.abs(middle - 0.01), 0.012) * soft_step(-0.26 - v, 0.03) * soft_step(v + 1.2, 0.03)
    )
    return np.asarray(stem + knob + hila - trachea)


def bones(chest: Chest, u: Field, v: Field, body: Field) -> Field:
    """Spine, ribs (behind: dense; in front: faint), clavicles, shoulder blades, upper arms."""
    middle = u - 0.25 * chest.yaw
    vertebrae = 0.70 + 0.30 * np.abs(np.cos(np.pi * v / 0.135)) ** 0.5
    spine = 0.15 * np.clip(1.0 - (middle / (0.10 + 0.02 * v)) ** 2, 0.0, None) ** 0.4 * vertebrae
    process = 0.06 * np.exp(-((middle / 0.02) ** 2)) * np.cos(np.pi * v / 0.135) ** 2
    out = np.where(body > 0.05, spine + process, 0.0)
    edge = chest.lung_width + 0.045
    for side in (-1, 1):
        away = _side(chest, u, side)
        inner, outer = soft_step(away - 0.08, 0.02), soft_step(edge - away, 0.015)
        cubed, fourth = away * away * away, np.square(np.square(away / edge))
        for i in range(10):
            start = chest.apex + chest.rib_start + 0.128 * i
            posterior = v - (start - 0.16 * away + 0.03 * i * away + (0.42 + 0.05 * i) * cubed)
            half = 0.024 + 0.0012 * i
            within = edge * np.sqrt(np.clip(1.0 - (1.0 - (i + 0.8) / 5.0) ** 2, 0.05, 1.0)) if i < 4 else edge
            out = out + 0.125 * _band(posterior, half) * inner * np.minimum(outer, soft_step(within - away, 0.02))
            if 1 <= i <= 7:
                anterior = v - (start + 0.42 - 0.36 * (away / edge) + 0.10 * fourth)
                out = out + 0.06 * _band(anterior, 0.028) * outer * soft_step(away - 0.26 - 0.02 * i, 0.05)
        clavicle = v - (chest.apex + 0.15 - 0.13 * away + 0.045 * np.sin(6.0 * away))
        length = soft_step(away - 0.09, 0.02) * soft_step(0.78 - away, 0.03)
        out = out + 0.15 * _band(clavicle, 0.026 + 0.012 * np.abs(away - 0.45)) * length
        blade = _ellipse(away, v, (0.80, -0.28), (0.17, 0.33), 12.0)
        out = out + 0.10 * soft_step(0.3 * blade, 0.02) * (body > 0.05)
        upper_arm = np.sqrt(np.clip(_ellipse(away, v, (1.0, -0.52), (0.13, 0.12)), 0.0, None))
        shaft = _band(away - 1.06 - 0.10 * (v + 0.4), 0.06) * soft_step(v + 0.48, 0.03)
        out = out + (0.0 if chest.arms == "raised" else 0.20) * np.maximum(upper_arm, 0.6 * shaft) * (body > 0.02)
    return np.asarray(out)


def vessels(chest: Chest, rng: np.random.Generator) -> Field:
    """Branching lines from both hila outwards, thinner with each branching."""
    layers = [np.zeros((SIZE, SIZE)) for _ in range(3)]
    for side in (-1.0, 1.0):
        for _ in range(13):
            heading = rng.uniform(-1.25, 1.25)
            branches = [(side * 0.17, -0.06 + rng.uniform(-0.08, 0.10), heading, 0)]
            while branches:
                a, b, angle, order = branches.pop()
                n_steps = int(rng.integers(16, 34)) // (order + 1)
                bend = rng.normal(0.0, 0.02)
                for _ in range(n_steps):
                    a, b, angle = a + side * 0.012 * np.cos(angle), b + 0.012 * np.sin(angle), angle + bend
                    _stamp(layers[order], chest, a, b)
                if order < 2:
                    for sense in (-1.0, 1.0):
                        branches.append((a, b, angle + sense * rng.uniform(0.2, 0.6), order + 1))
    smooth = [gaussian_filter(layer, sigma) * sigma**2 for layer, sigma in zip(layers, (1.5, 1.0, 0.7), strict=True)]
    grain = np.clip(gaussian_filter(rng.normal(size=(SIZE, SIZE)), 1.2) * 0.25, -0.1, 0.1)
    return np.asarray(np.minimum(0.10 * smooth[0] + 0.10 * smooth[1] + 0.10 * smooth[2], 0.25) + 0.35 * grain)


def _stamp(layer: Field, chest: Chest, u: float, v: float) -> None:
    """Put a dot where a point of the anatomy lies in the picture."""
    turn = np.radians(chest.turn_deg)
    x, y = np.cos(turn) * u - np.sin(turn) * v, np.sin(turn) * u + np.cos(turn) * v
    column = int((x * chest.scale + chest.shift[0] + 1.0) * SIZE / 2.0)
    row = int((y * chest.scale + chest.shift[1] + 1.0) * SIZE / 2.0)
    if 0 <= row < SIZE and 0 <= column < SIZE:
        layer[row, column] += 1.0


def soft_tissue(chest: Chest, u: Field, v: Field, body: Field, rng: np.random.Generator) -> Field:
    """Breasts, the muscles in front of the arm, and the gas in the stomach."""
    out = np.zeros_like(u)
    for side in (-1, 1):
        breast = _ellipse(_side(chest, u, side), v, (0.47, 0.24), (0.33, 0.30))
        out = out + chest.breasts * np.sqrt(np.clip(breast, 0.0, None))
    centre = (0.34 + rng.uniform(-0.06, 0.06), chest.base + 0.09 + rng.uniform(-0.04, 0.04))
    gas = _ellipse(u, v, centre, (rng.uniform(0.07, 0.15), rng.uniform(0.03, 0.07)), rng.uniform(-25.0, 5.0))
    out = out - 0.22 * np.sqrt(np.clip(gas, 0.0, None))
    return np.where(body > 0.05, out, 0.0)


def opacities(chest: Chest, u: Field, v: Field, lungs: Field, sick: Field, rng: np.random.Generator) -> Field:
    """A fluid level that rises towards the chest wall, and patches of consolidation; both sides of one lung at most."""
    out = np.zeros_like(u)
    if chest.effusion > 0.0:
        away = _side(chest, u, chest.sick_side)
        level = chest.base - chest.effusion - 0.18 * np.clip(away - 0.25, 0.0, None)
        out = out + 0.60 * soft_step(v - level, 0.06) * sick
    if chest.consolidation > 0.0:
        patches = gaussian_filter(rng.normal(size=u.shape), 7.0)
        cloud = np.clip(0.5 + patches / (2.5 * patches.std()), 0.0, 1.0)
        out = out + 0.55 * chest.consolidation * cloud * np.where(sick > 0.5, sick, 0.8 * lungs)
    return out


def devices(chest: Chest, u: Field, v: Field, rng: np.random.Generator) -> Field:
    """A pacemaker with its leads, sternal wires, pads, ECG electrodes with cables, a breathing tube."""
    out = np.zeros_like(u)
    if chest.pacemaker:
        box = (0.46 + rng.uniform(-0.03, 0.03), -0.42 + rng.uniform(-0.03, 0.03))
        out = out + 1.5 * soft_step(0.3 * _ellipse(u, v, box, (0.13, 0.10), 15.0), 0.012)
        tip = (0.20, chest.base - 0.18)
        for target, bulge in ((tip, 0.10), ((-0.10, chest.base - 0.42), 0.02)):
            out = np.maximum(
                out, 1.2 * _curve(u, v, [box, (0.12, -0.58), (-0.09, -0.30), (-0.10 + bulge, 0.05), target])
            )
        for i in range(6):
            loop = np.abs(np.hypot((u - 0.01) / 1.5, v + 0.40 - 0.135 * i) - 0.026)
            out = np.maximum(out, 1.0 * np.exp(-((loop / 0.010) ** 2)))
    if chest.pads:
        for a, b, deg in ((-0.42, -0.30, -20.0), (0.60, 0.26, 65.0)):
            centre = (a + rng.uniform(-0.04, 0.04), b + rng.uniform(-0.04, 0.04))
            pad = soft_step(0.4 * _ellipse(u, v, centre, (0.26, 0.20), deg))
            rim = np.exp(-((_ellipse(u, v, centre, (0.26, 0.20), deg) / 0.05) ** 2))
            out = np.maximum(out, 0.26 * pad + 0.30 * rim)
    spots = [(-0.62, -0.52), (0.64, -0.56), (-0.58, 0.42), (0.60, 0.36), (0.04, 0.62)]
    for a, b in spots[: chest.wires]:
        spot = (a + rng.uniform(-0.05, 0.05), b + rng.uniform(-0.05, 0.05))
        out = np.maximum(out, 0.8 * soft_step(0.3 * _ellipse(u, v, spot, (0.05, 0.05)), 0.012))
        half_way = (0.5 * spot[0] + rng.uniform(-0.2, 0.2), 0.5 * (spot[1] + 1.2) + rng.uniform(-0.1, 0.1))
        out = np.maximum(out, 0.55 * _curve(u, v, [spot, half_way, (rng.uniform(-0.3, 0.3), 1.3)]))
    if chest.tube:
        out = np.maximum(out, 0.45 * _curve(u, v, [(0.03, -1.3), (0.0, -0.7), (0.01, -0.38)]))
    return out


def _curve(u: Field, v: Field, points: list[tuple[float, float]], half_width: float = 0.011) -> Field:
    """A smooth wire through the points."""
    knots = np.linspace(0.0, 1.0, len(points))
    path = PchipInterpolator(knots, np.array(points))(np.linspace(0.0, 1.0, 40))
    nearest = np.full(u.shape, np.inf)
    for (a, b), (c, d) in itertools.pairwise(path):
        length = max((c - a) ** 2 + (d - b) ** 2, 1e-12)
        along = np.clip(((u - a) * (c - a) + (v - b) * (d - b)) / length, 0.0, 1.0)
        nearest = np.minimum(nearest, np.hypot(u - a - along * (c - a), v - b - along * (d - b)))
    return np.asarray(np.exp(-((nearest / half_width) ** 2)))
