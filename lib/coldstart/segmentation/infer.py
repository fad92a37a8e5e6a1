"""From images to probabilities on the network's grid, and to class maps on the image's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coldstart.exceptions import InvalidInputError, ModelError
from coldstart.images import Image
from coldstart.memory import enough_memory
from coldstart.segmentation.model_file import Model
from coldstart.segmentation.preprocess import classes_on_grid, prepare_image

BATCH_SIZE = 8


def predict_prepared(model: Model, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Predict one batch of inputs that `prepare_image` made.

    Parameters
    ----------
    model : Model
        Dropout is off, batch normalisation uses its running statistics: no image depends on its batch.
    inputs : sequence of Tensor of shape (1, *spatial_size)
        At least one; all in one batch.

    Returns
    -------
    probabilities : Tensor of shape (n_images, n_classes, *spatial_size), float32
        Softmax over the classes, on the model's device.
    """
    network = model.network.eval()
    with torch.inference_mode():
        logits = network(torch.stack(list(inputs)).to(model.device, non_blocking=True))
        return torch.softmax(logits.float(), dim=1)


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
    size = " x ".join(map(str, image.pixels.shape[1:]))
    with (
        enough_memory(
            what=f"The segmentation of an image of {size}",
            remedy="Free memory on the device, or wait until the training or scoring that runs beside it has ended.",
            error=ModelError,
        ),
        torch.inference_mode(),
    ):
        probabilities = predict_prepared(model, [prepare_image(image, model.config)])[0]
        return classes_on_grid(probabilities, image.pixels.shape[1:])
