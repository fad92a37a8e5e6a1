"""Draw chest radiographs: the attenuation of a simple anatomy along parallel rays, seen through a film's response.

Nothing here comes from a patient. The parts of the anatomy (`sample_data_anatomy`) add up to an attenuation, a sigmoid
turns it into grey, and noise is added; bright is dense. Labels are the outlines of the parts themselves, hence exact,
and do not depend on what hides them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from coldstart.exceptions import InvalidInputError
from coldstart.experiments import sample_data_anatomy as anatomy
from coldstart.experiments.sample_data_anatomy import SIZE, Chest

SPACING_MM = 1.9
"""Pixel spacing: 192 pixels cover 365 mm, about the long side of a 35 x 43 cm detector."""

LABELS = {1: "right lung", 2: "left lung", 3: "heart"}

GROUPS: dict[str, tuple[int, int]] = {
    "standard": (13, 3),
    "large_body": (9, 2),
    "rotated_bedside": (8, 2),
    "overexposed": (6, 2),
    "devices": (4, 1),
    "opacities": (4, 1),
    "child": (4, 1),
}
"""Group of radiographs: how many are in the pool, and how many are held out."""


def sample_chest(group: str, rng: np.random.Generator) -> Chest:
    """Draw one patient and one exposure of a group."""

    def vary(middle: float, spread: float) -> float:
        return float(middle + spread * rng.uniform(-1.0, 1.0))

    chest = Chest(
        body_width=vary(0.80, 0.055),
        lung_width=vary(0.65, 0.04),
        apex=vary(-0.74, 0.04),
        base=vary(0.56, 0.07),
        dome=vary(0.16, 0.04),
        heart_size=vary(1.0, 0.13),
        heart_tilt_deg=vary(38.0, 12.0),
        rib_start=vary(0.06, 0.05),
        turn_deg=vary(0.0, 2.5),
        yaw=vary(0.0, 0.05),
        scale=vary(1.0, 0.045),
        shift=(vary(0.0, 0.045), vary(0.0, 0.04)),
        breasts=float(rng.choice([0.0, 0.0, vary(0.12, 0.06)])),
        vessels=vary(1.0, 0.35),
        exposure=vary(0.66, 0.035),
        contrast=vary(4.6, 0.4),
        noise=vary(0.012, 0.004),
        sick_side=int(rng.choice([-1, 1])),
    )
    if group == "standard":
        return chest
    if group == "large_body":
        return replace(
            chest,
            body_width=vary(1.05, 0.09),
            lung_width=vary(0.60, 0.05),
            base=vary(0.36, 0.08),
            dome=vary(0.20, 0.03),
            heart_size=vary(1.15, 0.08),
            breasts=vary(0.20, 0.10),
            exposure=vary(0.50, 0.04),
            contrast=vary(3.0, 0.25),
            haze=vary(0.30, 0.07),
            noise=vary(0.028, 0.004),
        )
    if group == "rotated_bedside":
        side = float(rng.choice([-1.0, 1.0]))
        return replace(
            chest,
            turn_deg=side * vary(15.0, 6.0),
            yaw=side * vary(0.12, 0.04),
            scale=vary(0.92, 0.06),
            base=vary(0.44, 0.05),
            heart_size=vary(1.22, 0.08),
            shift=(vary(0.0, 0.08), vary(0.05, 0.05)),
            exposure=vary(0.66, 0.03),
            contrast=vary(4.2, 0.3),
            haze=vary(0.10, 0.03),
            noise=vary(0.020, 0.003),
            collimation=vary(0.80, 0.05),
        )
    if group == "overexposed":
        return replace(
            chest,
            lung_width=vary(0.69, 0.025),
            base=vary(0.72, 0.05),
            dome=vary(0.07, 0.02),
            heart_size=vary(0.82, 0.05),
            vessels=vary(0.5, 0.1),
            breasts=0.0,
            exposure=vary(0.84, 0.04),
            contrast=vary(5.6, 0.3),
            noise=vary(0.006, 0.001),
        )
    if group == "devices":
        return replace(
            chest,
            pacemaker=True,
            pads=True,
            arms="down",
            wires=5,
            tube=bool(rng.integers(2)),
            heart_size=vary(1.20, 0.06),
            breasts=0.0,
        )
    if group == "opacities":
        return replace(
            chest,
            effusion=vary(0.55, 0.12),
            consolidation=vary(1.10, 0.1),
            breasts=0.0,
            exposure=vary(0.58, 0.02),
            contrast=vary(3.9, 0.2),
            haze=vary(0.08, 0.03),
            base=vary(0.42, 0.04),
            heart_size=vary(1.22, 0.08),
        )
    if group == "child":
        return replace(
            chest,
            scale=vary(0.68, 0.05),
            lung_width=vary(0.60, 0.02),
            body_width=vary(0.76, 0.03),
            apex=vary(-0.66, 0.02),
            base=vary(0.34, 0.04),
            heart_size=vary(1.25, 0.06),
            arms="raised",
            breasts=0.0,
            turn_deg=vary(0.0, 5.0),
            shift=(vary(0.0, 0.05), vary(-0.02, 0.04)),
            vessels=vary(0.7, 0.1),
            exposure=vary(0.60, 0.02),
        )
    raise InvalidInputError(f"`group` must be one of {', '.join(GROUPS)}; got {group!r}.")


def draw_chest(chest: Chest, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one radiograph and its label.

    Parameters
    ----------
    chest : Chest
        What to draw.
    rng : numpy.random.Generator
        Draws what is not in `chest`: vessels, texture, the paths of wires, noise.

    Returns
    -------
    picture : ndarray of shape (SIZE, SIZE), uint8
        Rows from the top; columns from the patient's right.
    label : ndarray of shape (SIZE, SIZE), uint8
        Values of `LABELS`; the heart is in front of the lungs, opacities do not change the label.
    """
    down, across = (np.mgrid[:SIZE, :SIZE] + 0.5) * 2.0 / SIZE - 1.0
    turn = np.radians(chest.turn_deg)
    x, y = (across - chest.shift[0]) / chest.scale, (down - chest.shift[1]) / chest.scale
    u, v = np.cos(turn) * x + np.sin(turn) * y, -np.sin(turn) * x + np.cos(turn) * y

    body = anatomy.body(chest, u, v)
    diaphragm = anatomy.diaphragm(chest, u)
    right, left = anatomy.lung(chest, u, v, -1), anatomy.lung(chest, u, v, 1)
    heart = anatomy.heart(chest, u, v, diaphragm)
    lungs = np.maximum(right, left)
    inside = body > 0.05

    air = lungs * gaussian_filter(lungs, 7.0 * chest.scale) ** 0.5  # the lungs get thinner towards their edges
    density = body - 0.60 * air * (0.72 + 0.28 * np.cos(1.5 * v))
    density += 0.26 * anatomy.soft_step(v - diaphragm) * inside * np.minimum(body, 1.0)
    density += anatomy.mediastinum(chest, u, v, diaphragm) + 0.30 * heart
    density += anatomy.bones(chest, u, v, body)
    density += 0.9 * chest.vessels * anatomy.vessels(chest, rng) * lungs
    density += anatomy.soft_tissue(chest, u, v, body, rng)
    density += anatomy.opacities(chest, u, v, lungs, right if chest.sick_side < 0 else left, rng)
    density += 0.3 * gaussian_filter(rng.normal(size=u.shape), 5.0) * inside
    density += anatomy.devices(chest, u, v, rng)

    scattered = 0.5 * chest.haze
    density = (1.0 - scattered) * density + scattered * (gaussian_filter(density, 14.0) + 0.5)
    grey = 1.0 / (1.0 + np.exp(-chest.contrast * (density - chest.exposure)))
    floor = 1.0 / (1.0 + np.exp(chest.contrast * chest.exposure))
    grey = (grey - floor) / (1.0 - floor)
    grey = gaussian_filter(grey, 0.5) + chest.noise * rng.normal(size=u.shape) * (0.4 + grey)
    visible = np.ones(u.shape, dtype=bool)
    if chest.collimation > 0.0:
        visible = (np.abs(across) < chest.collimation) & (np.abs(down) < chest.collimation + 0.12)
        grey = np.where(visible, grey, 0.0)
    picture = np.rint(np.clip(grey, 0.0, 1.0) * 250.0).astype(np.uint8)

    label = np.zeros(u.shape, dtype=np.uint8)
    label[right > 0.5] = 1
    label[left > 0.5] = 2
    label[heart > 0.5] = 3
    label[~visible] = 0
    return picture, label
