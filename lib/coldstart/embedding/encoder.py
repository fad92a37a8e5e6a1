"""What every encoder offers, and what they share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from coldstart.exceptions import EncoderError

Array = NDArray[np.float32]

# Pixels or voxels that a network gets at a time: 41 images of 224 x 224, or 2 of SAM's 1024 x 1024, which take 4 GB.
MAX_PIXELS_AT_ONCE = 1 << 21


class Encoder(Protocol):
    """Turns images into vectors.

    Attributes
    ----------
    name : str
        What the log and every answer call it, e.g. "descriptor".
    version : str
        Changes whenever the same image would get another vector: a short hash of the weights' content, or a number.
    n_features : int
        Length of the vector of one 2D image, or of one volume for an encoder of volumes.
    spatial_dims : int
        2 or 3. An encoder of 2D images sees a volume as slices along its three axes.
    """

    name: str
    version: str
    n_features: int
    spatial_dims: int

    def prepare(self, image: Array) -> Array:
        """Bring one image, (channels, *spatial) in [0, 1], to what the network takes. Runs in several threads."""
        ...

    def encode(self, inputs: Array) -> Array:
        """Give the vectors (n, n_features) of prepared images, stacked."""
        ...

    def embed(self, batch: Array | Sequence[Array]) -> Array:
        """Give the vectors of images.

        Parameters
        ----------
        batch : ndarray of shape (n, channels, *spatial), or sequence of ndarrays (channels, *spatial), float
            Intensities clipped to the 1st and 99th percentile and scaled to [0, 1]; 2D: (rows, columns), top row
            first. Three channels are red, green, blue; any other number is averaged to grey.

        Returns
        -------
        vectors : ndarray of shape (n, n_features), float32
            Each row depends on its own image only.
        """
        ...


class BaseEncoder(ABC):
    """An encoder whose `embed` is `prepare` for each image, then `encode` for all."""

    name: str
    version: str
    n_features: int
    spatial_dims: int

    @abstractmethod
    def prepare(self, image: Array) -> Array:
        """See `Encoder.prepare`."""

    @abstractmethod
    def encode(self, inputs: Array) -> Array:
        """See `Encoder.encode`."""

    def embed(self, batch: Array | Sequence[Array]) -> Array:
        """See `Encoder.embed`."""
        if len(batch) == 0:
            return np.zeros((0, self.n_features), dtype=np.float32)
        return self.encode(np.stack([self.prepare(np.asarray(image, dtype=np.float32)) for image in batch]))


class TorchEncoder(BaseEncoder):
    """An encoder that runs a network, in evaluation mode, without gradients."""

    def __init__(self, name: str, version: str, network: torch.nn.Module, device: torch.device) -> None:
        self.name = name
        self.version = version
        self.device = device
        self.network = network.to(device).eval().requires_grad_(False)

    @abstractmethod
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Give the vectors (n, n_features) of prepared images on the device."""

    def encode(self, inputs: Array) -> Array:
        """See `Encoder.encode`; large inputs pass in smaller batches, so that memory stays bounded."""
        n_at_once = max(1, MAX_PIXELS_AT_ONCE // int(np.prod(inputs.shape[2:])))
        vectors = []
        with torch.inference_mode():
            for start in range(0, len(inputs), n_at_once):
                chunk = torch.from_numpy(np.ascontiguousarray(inputs[start : start + n_at_once]))
                vectors.append(self.forward(chunk.to(self.device)).float().cpu().numpy())
        return np.concatenate(vectors)


def choose_device(device: str) -> torch.device:
    """Resolve "auto" (the first GPU where there is one, else the CPU), "cpu", "cuda" or "cuda:<number>".

    Raises
    ------
    EncoderError
        If the device is unknown or this machine does not have it.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise EncoderError(f"`device` must be auto, cpu, cuda or cuda:<number>; got {device!r}.")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise EncoderError(
            f"`device` {device!r} is not on this machine, which has {torch.cuda.device_count()} GPUs. "
            "Use `--conf device auto`."
        )
    return torch.device(device)
