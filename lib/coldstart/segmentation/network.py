"""The network: MONAI's Attention U-Net, 2D or 3D, with initial weights that depend on the seed alone.

Oktay et al. (2018), arXiv:1804.03999, with the channels and strides that the published method uses.
"""

from __future__ import annotations

import torch
from monai.networks.nets import AttentionUnet
from torch import nn

from coldstart.exceptions import InvalidInputError
from coldstart.segmentation.config import TrainingConfig

STRIDE = 2


def build_network(config: TrainingConfig) -> nn.Module:
    """Build the untrained network on the CPU, in evaluation mode.

    Parameters
    ----------
    config : TrainingConfig
        `spatial_dims`, `channels`, `dropout`, the number of classes and `random_state` are used.

    Returns
    -------
    network : nn.Module
        Maps (n, 1, *grid) to logits (n, n_classes, *grid).

    Notes
    -----
    Weights are drawn on the CPU from a forked generator: the same seed gives the same weights on every device, whatever
    was drawn before, and the global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed, which would seed the generators of all GPUs too, for good
        torch.default_generator.manual_seed(config.random_state)
        network: nn.Module = AttentionUnet(
            spatial_dims=config.spatial_dims,
            in_channels=1,
            out_channels=config.n_classes,
            channels=config.channels,
            strides=(STRIDE,) * (len(config.channels) - 1),
            dropout=config.dropout,
        )
    return network.eval()


def resolve_device(name: str, rank: int = 0) -> torch.device:
    """Turn "auto" into a device that is there, and refuse one that is not.

    Parameters
    ----------
    name : str
        "auto", "cpu", "cuda" or "cuda:N".
    rank : int
        Which GPU "auto" and "cuda" take, for the processes of a distributed training.

    Raises
    ------
    InvalidInputError
        If the name is unknown, or the GPU is not there.
    """
    if name == "auto":
        return torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidInputError(f"`device` must be auto, cpu, cuda or cuda:N; got {name!r}.") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise InvalidInputError(f"`device` must be auto, cpu, cuda or cuda:N; got {name!r}.")
    index = rank if device.index is None else device.index
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= n_devices:
        raise InvalidInputError(
            f"`device` must name a GPU of this machine, which has {n_devices} that torch can use; got {name!r}. "
            "Take auto or cpu, or install a torch build and a driver for the GPU."
        )
    return torch.device("cuda", index)
