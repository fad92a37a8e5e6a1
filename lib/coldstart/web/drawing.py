"""Pictures of an image, of what a model predicts on it and of where that is uncertain, as encoded files.

Colours are Okabe and Ito's, which the colour-blind can tell apart.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import WebPImagePlugin  # noqa: F401  else the first picture waits until Pillow has imported all its formats

from coldstart.images import Image
from coldstart.segmentation import Model, predict_prepared, prepare_image
from coldstart.web.planes import Array, Layout, cut, lay_out, scaled, side_by_side

PERCENTILES = (0.5, 99.5)
"""Of what is shown, between which grey runs from black to white: a few pixels of metal do not darken the rest."""
QUALITY = 80
CLASS_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""One for each structure, from the first again after the last."""
CLASS_ALPHA, EDGE_ALPHA = 90, 255
CERTAIN, UNCERTAIN = (213, 94, 0), (240, 228, 66)
"""Colours of the entropy, which is the more opaque the higher it is."""
ENTROPY_ALPHA = 230


def draw_image(image: Image, side: int, intensity_range: tuple[float, float] | None) -> bytes:
    """Draw an image, each plane within a square, as WebP.

    Parameters
    ----------
    image : Image
        Grey or colour; a volume is shown by three planes through its middle.
    side : int
        Of the square, in pixels.
    intensity_range : tuple of float or None
        What is black and what is white; None takes `PERCENTILES`.
    """
    layout = lay_out(image.pixels.shape[1:], image.spacing_mm, side)
    planes = cut(image.pixels, layout)
    low, high = intensity_range or _window(planes)
    panels = [scaled(plane, size) for plane, size in zip(planes, layout.sizes, strict=True)]
    grey = [(255 * np.clip((panel - low) / (high - low), 0, 1)).astype(np.uint8) for panel in panels]
    colour = [np.broadcast_to(panel.transpose(1, 2, 0), (*panel.shape[1:], 3)) for panel in grey]
    return _encoded(side_by_side([np.ascontiguousarray(panel) for panel in colour], layout), "WEBP", quality=QUALITY)


def draw_prediction(model: Model, image: Image, side: int) -> tuple[bytes, bytes]:
    """Draw what a model predicts on an image, and where it is uncertain, each as a transparent PNG over `draw_image`.

    Raises
    ------
    ImageError
        If the image has another number of dimensions than the model.
    """
    layout = lay_out(image.pixels.shape[1:], image.spacing_mm, side)
    with torch.inference_mode():
        probabilities = predict_prepared(model, [prepare_image(image, model.config)])[0].cpu().numpy()
    entropy = -(probabilities * np.log(probabilities + 1e-8)).sum(axis=0, keepdims=True) / math.log(len(probabilities))
    classes = [panel.argmax(axis=0) for panel in _panels(probabilities, layout)]
    certain = [np.clip(panel[0], 0, 1) for panel in _panels(entropy, layout)]
    return (
        _encoded(side_by_side([_class_panel(panel) for panel in classes], layout), "PNG", compress_level=6),
        _encoded(side_by_side([_entropy_panel(panel) for panel in certain], layout), "PNG", compress_level=6),
    )


def _panels(values: Array, layout: Layout) -> list[Array]:
    return [scaled(plane, size) for plane, size in zip(cut(values, layout), layout.sizes, strict=True)]


def _window(planes: list[Array]) -> tuple[float, float]:
    shown = np.concatenate([plane.ravel() for plane in planes])
    low, high = np.percentile(shown, PERCENTILES)
    if low == high:
        low, high = shown.min(), shown.max()
    return float(low), float(high) if high > low else float(low) + 1.0


def _class_panel(classes: NDArray[np.intp]) -> Array:
    """A translucent area for each structure, with an edge."""
    palette = np.zeros((classes.max(initial=0) + 1, 4), dtype=np.uint8)
    for index in range(1, len(palette)):
        palette[index] = *_rgb(CLASS_COLOURS[(index - 1) % len(CLASS_COLOURS)]), CLASS_ALPHA
    panel: Array = palette[classes]
    panel[_edge(classes) & (classes > 0), 3] = EDGE_ALPHA
    return panel


def _edge(classes: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Where a pixel has a neighbour of another class."""
    edge = np.zeros(classes.shape, dtype=bool)
    across, down = classes[:, 1:] != classes[:, :-1], classes[1:] != classes[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def _entropy_panel(entropy: Array) -> Array:
    part = entropy[..., None]
    colour = (1 - part) * np.array(CERTAIN) + part * np.array(UNCERTAIN)
    panel: Array = np.concatenate([colour, ENTROPY_ALPHA * part], axis=2).astype(np.uint8)
    return panel


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _encoded(picture: Picture.Image, kind: str, **options: int) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()
