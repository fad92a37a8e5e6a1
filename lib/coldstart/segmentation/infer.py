"""From images to probabilities on the network's grid, with or without dropout, and to class maps on the images' own."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from coldstart.exceptions import InvalidInputError, ModelError
from coldstart.images import Image
from coldstart.memory import enough_memory, halved, in_smaller_batches
from coldstart.segmentation.model_file import Model
from coldstart.segmentation.preprocess import classes_on_grid, prepare_image

BATCH_SIZE = 8
CPU_PIXELS = 2 * 256 * 256
"""Pixels that go through the network at once on a CPU: with more, what a layer leaves no longer lies in the cache when
the next one reads it, and eight radiographs at once took half as long again as one by one."""
N_DRAWS = 20
"""Over a pool of chest radiographs BALD has a rank correlation of 0.99 with that of 100 draws; with 10 it has 0.97."""
REMEDY = "Free memory on the device, or wait until the training or scoring that runs beside it has ended."


def faster(model: Model) -> Model:
    """Copy a model into a form that predicts the same in less time.

    Parameters
    ----------
    model : Model
        A trained model; left as it is.

    Returns
    -------
    model : Model
        On the same device; its probabilities are the same to rounding.

    Notes
    -----
    The weights of a 2D network lie channels-last, which takes a sixth less time on a CPU (`benchmarks/score.py`).
    Folding batch normalisation into the convolutions before it gained nothing beyond.
    """
    network = copy.deepcopy(model.network).eval()
    if model.config.spatial_dims == 2:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(network, model.metadata)


def predict_prepared(model: Model, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Predict one batch of inputs that `prepare_image` made.

    Parameters
    ----------
    model : Model
        Dropout is off, batch normalisation uses its running statistics: no image depends on its batch.
    inputs : sequence of Tensor of shape (1, *spatial_size)
        At least one; all in one batch, on a CPU in parts of at most `CPU_PIXELS`.

    Returns
    -------
    probabilities : Tensor of shape (n_images, n_classes, *spatial_size), float32
        Softmax over the classes, on the model's device. A GPU may still be computing them: nothing here waits for it.
        There the network works in mixed precision where it was trained so, and the softmax in float32.
    """
    return _probabilities(model.network.eval(), _on_device(inputs, model), model)


def predict_with_dropout(
    model: Model, inputs: Sequence[torch.Tensor], *, n_draws: int = N_DRAWS, random_state: int = 0
) -> Iterator[torch.Tensor]:
    """Predict one batch several times, each time with other units dropped (Monte Carlo dropout).

    Parameters
    ----------
    model : Model
        Trained with dropout. It is left as it is: the passes go through a copy of its network.
    inputs : sequence of Tensor of shape (1, *spatial_size)
        At least one, made by `prepare_image`; all in one batch.
    n_draws : int
        Passes; at least 1.
    random_state : int
        Seed of what is dropped; at least 0. The generators that others draw from are left as they were.

    Yields
    ------
    probabilities : Tensor of shape (n_images, n_classes, *spatial_size), float32
        Softmax over the classes, on the model's device; `n_draws` times.

    Raises
    ------
    InvalidInputError
        If `n_draws` or `random_state` is out of its range.
    ModelError
        If the model was trained without dropout, so that all passes would be the same.

    Notes
    -----
    A draw is one thinned network, a sample of the posterior of [1]_, and all images go through the same ones: what is
    dropped depends on the seed, the number of the draw and the layer alone. So no prediction depends on the batch that
    the image is in, images are compared on equal terms, and more draws begin with those of fewer. Batch normalisation
    uses its running statistics, as in every other prediction. The same seed gives the same draws on one kind of device.

    References
    ----------
    .. [1] Gal and Ghahramani (2016), "Dropout as a Bayesian approximation", arXiv:1506.02142.
    """
    if n_draws < 1:
        raise InvalidInputError(f"`n_draws` must be at least 1; got {n_draws}.")
    if random_state < 0:
        raise InvalidInputError(f"`random_state` must be 0 or above; got {random_state}.")
    network = copy.deepcopy(model.network).eval()
    dropouts = [layer for layer in network.modules() if isinstance(layer, nn.Dropout) and layer.p > 0]
    if not dropouts:
        raise ModelError(
            "Monte Carlo dropout needs a model that was trained with dropout; this one has dropout 0. Train with "
            "--conf dropout above 0, or choose a method that needs no dropout."
        )
    generator = torch.Generator(model.device).manual_seed(random_state)
    masks: dict[nn.Module, torch.Tensor] = {}
    for layer in dropouts:
        layer.register_forward_hook(partial(_drop, generator=generator, masks=masks))
    return _draws(network, _on_device(inputs, model), model, n_draws, masks)


def predict_probabilities(
    model: Model, images: Sequence[Image], *, batch_size: int = BATCH_SIZE
) -> NDArray[np.float32]:
    """Predict class probabilities on the network's own grid.

    Parameters
    ----------
    model : Model
        A trained model.
    images : sequence of Image
        2D or 3D as the model's config.
    batch_size : int
        Images that go through the network at once.

    Returns
    -------
    probabilities : ndarray of shape (n_images, n_classes, *spatial_size), float32
        Softmax over the classes, background first.

    Raises
    ------
    ImageError
        If an image has another number of dimensions than the network.
    """
    if batch_size < 1:
        raise InvalidInputError(f"`batch_size` must be at least 1; got {batch_size}.")
    config = model.config
    result = np.empty((len(images), config.n_classes, *config.spatial_size), dtype=np.float32)
    for start in range(0, len(images), batch_size):
        inputs = [prepare_image(image, config) for image in images[start : start + batch_size]]
        result[start : start + len(inputs)] = predict_prepared(model, inputs).cpu().numpy()
    return result


def segment(model: Model, image: Image) -> NDArray[Any]:
    """Segment one image on its own grid.

    Parameters
    ----------
    model : Model
        A trained model.
    image : Image
        2D or 3D as the model's config.

    Returns
    -------
    classes : ndarray of shape (*spatial), uint8 (uint16 above 256 classes)
        Class index of each pixel, 0 the background; the axes are those of `image.pixels`.

    Raises
    ------
    ImageError
        If the image has another number of dimensions than the network.
    ModelError
        If the memory is not enough.

    Notes
    -----
    The probabilities are resampled linearly and the most probable class is taken then: smoother than resampling
    classes, and without a shift (see `coldstart.segmentation.preprocess`).
    """
    size = image.pixels.shape[1:]
    with enough_memory(what=f"The segmentation of an image of {_times(size)}", remedy=REMEDY, error=ModelError):
        return _segment(model, [prepare_image(image, model.config)], [size])[0]


def segment_prepared(
    model: Model, inputs: Sequence[torch.Tensor], sizes: Sequence[Sequence[int]]
) -> list[NDArray[Any]]:
    """Do as `segment` with inputs that `prepare_image` made of images of these sizes: all at once, or half of them."""

    def run(batch_size: int) -> list[NDArray[Any]]:
        classes: list[NDArray[Any]] = []
        for start in range(0, len(inputs), batch_size):
            classes += _segment(model, inputs[start : start + batch_size], sizes[start : start + batch_size])
        return classes

    largest = _times(max(sizes, key=math.prod))
    what = f"The segmentation of images of up to {largest}"
    return in_smaller_batches(run, halved(len(inputs)), what=what, remedy=REMEDY, error=ModelError)


def _segment(model: Model, inputs: Sequence[torch.Tensor], sizes: Sequence[Sequence[int]]) -> list[NDArray[Any]]:
    with torch.inference_mode():
        return [classes_on_grid(*one) for one in zip(predict_prepared(model, inputs), sizes, strict=True)]


def _times(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _on_device(inputs: Sequence[torch.Tensor], model: Model) -> torch.Tensor:
    """Make one batch, for a GPU in pinned memory: only from there it is copied without waiting for it."""
    batch = torch.stack(list(inputs))
    return batch.pin_memory().to(model.device, non_blocking=True) if model.device.type == "cuda" else batch


def _probabilities(network: nn.Module, batch: torch.Tensor, model: Model) -> torch.Tensor:
    on_gpu = batch.device.type == "cuda"
    n_at_once = len(batch) if on_gpu else max(1, CPU_PIXELS // math.prod(batch.shape[1:]))
    with torch.inference_mode():
        with torch.autocast(batch.device.type, dtype=torch.float16, enabled=on_gpu and model.config.amp):
            logits = [network(part) for part in torch.split(batch, n_at_once)]
        return torch.cat([torch.softmax(part.float(), dim=1) for part in logits])


def _draws(
    network: nn.Module, batch: torch.Tensor, model: Model, n_draws: int, masks: dict[nn.Module, torch.Tensor]
) -> Iterator[torch.Tensor]:
    for _ in range(n_draws):
        masks.clear()
        yield _probabilities(network, batch, model)


def _drop(
    layer: nn.Dropout,
    _: Any,
    features: torch.Tensor,
    *,
    generator: torch.Generator,
    masks: dict[nn.Module, torch.Tensor],
) -> torch.Tensor:
    """Do what the layer does in training, with what is dropped drawn once for all images of a draw."""
    if layer not in masks:
        masks[layer] = torch.empty_like(features[:1]).bernoulli_(1 - layer.p, generator=generator)
    return features * masks[layer] / (1 - layer.p)
