"""The images and labels of a training: read once, kept where the network is, handed out in batches without a wait."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import torch
from torch import distributed

from coldstart.exceptions import ImageError, LabelError, ModelError
from coldstart.segmentation.config import Sample, TrainingConfig
from coldstart.segmentation.preprocess import prepare_image, prepare_label
from coldstart.segmentation.samples import parallel_map, read_sample
from coldstart.segmentation.training_memory import n_patches

logger = logging.getLogger(__name__)

Read = TypeVar("Read")

Pick = torch.Tensor | list[tuple[int, tuple[slice, ...]]]
"""What is in a batch: rows of the set, or for patches the row and the window of each."""


@dataclass(frozen=True)
class TrainingSet:
    """Prepared images with their labels.

    Parameters
    ----------
    image_ids : list of str
        In the order of the rows.
    images : Tensor of shape (n_images, 1, *spatial_size), float32
    labels : Tensor of shape (n_images, 1, *spatial_size), uint8 (int16 above 256 classes)
    left_out : dict of str to str
        Samples that could not be used, with the reason.
    """

    image_ids: list[str]
    images: torch.Tensor
    labels: torch.Tensor
    left_out: dict[str, str]

    @property
    def nbytes(self) -> int:
        """Size of images and labels."""
        return self.images.nbytes + self.labels.nbytes

    def to(self, device: torch.device) -> TrainingSet:
        """Return the set on a device, brought there at once."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


def load_training_set(samples: Sequence[Sample], config: TrainingConfig) -> TrainingSet:
    """Read and prepare all samples into the host's memory.

    Raises
    ------
    ModelError
        If there is no sample, or none can be used.
    """
    if not samples:
        raise ModelError("Training needs at least one labelled image; there is none. Label an image and save it first.")
    data = read_training_set(samples, config, "training")
    if not data.image_ids:
        image_id, reason = next(iter(data.left_out.items()))
        raise ModelError(
            f"Training needs at least one usable label; none of the {len(samples)} can be used. {image_id}: {reason}"
        )
    return data


def read_training_set(samples: Sequence[Sample], config: TrainingConfig, purpose: str) -> TrainingSet:
    """Read and prepare those samples that can be used; the log says which are left out of what, and why."""

    def load(sample: Sample) -> tuple[torch.Tensor, torch.Tensor] | str:
        try:
            image, classes = read_sample(sample)
            if classes.max(initial=0) >= config.n_classes:
                raise LabelError(
                    f"The label {sample.label.name} is mapped to class {int(classes.max())}, but the model has "
                    f"the classes 0 to {config.n_classes - 1}: background, {', '.join(config.label_names)}."
                )
            return prepare_image(image, config), prepare_label(classes, config.spatial_size)
        except (ImageError, LabelError) as error:
            return str(error)

    images = torch.empty(len(samples), 1, *config.spatial_size)
    labels = torch.empty(images.shape, dtype=torch.uint8 if config.n_classes <= 256 else torch.int16)
    image_ids: list[str] = []
    left_out: dict[str, str] = {}
    for sample, loaded in zip(samples, parallel_map(load, samples), strict=True):
        if isinstance(loaded, str):
            left_out[sample.image_id] = loaded
            logger.warning("%s is left out of the %s: %s", sample.image_id, purpose, loaded)
        else:
            images[len(image_ids)], labels[len(image_ids)] = loaded
            image_ids.append(sample.image_id)
    return TrainingSet(image_ids, images[: len(image_ids)], labels[: len(image_ids)], left_out)


class Batches:
    """Hands out a training set, epoch after epoch, in an order that depends on the seed alone.

    Parameters
    ----------
    data : TrainingSet
        On the device, or in the host's memory, from where each batch goes to the device.
    config : TrainingConfig
        `batch_size`, `random_state` and `spatial_size` are used.
    patch_size : tuple of int
        Where it is not `spatial_size`, an epoch takes as many random patches of each volume as cover it.
    device : torch.device
        Where the batches are wanted.
    rank, world_size : int
        Of this process in a distributed training; each gets its share of every epoch.
    """

    def __init__(
        self,
        data: TrainingSet,
        config: TrainingConfig,
        patch_size: tuple[int, ...],
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._data = data
        self._batch_size = config.batch_size
        self._grid = config.spatial_size
        self._patch_size = patch_size
        self.device = device
        self.rank, self.world_size = rank, world_size
        self._n_rows = len(data.image_ids) * n_patches(self._grid, patch_size)
        self._shuffling = torch.Generator().manual_seed(config.random_state)
        self._cutting = torch.Generator().manual_seed(config.random_state + rank)

    def move(self, data: TrainingSet, device: torch.device) -> None:
        """Hand out the same set from where it lies now, to another device; also in the middle of an epoch."""
        self._data, self.device = data, device

    def __len__(self) -> int:
        return -(-self._n_rows // (self.world_size * self._batch_size))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the images and labels of each batch of the next epoch, on the device."""
        return map(self.take, self.picks())

    def picks(self) -> Iterator[Pick]:
        """Yield what is in each batch of the next epoch, for `take`."""
        rows = torch.randperm(self._n_rows, generator=self._shuffling) % len(self._data.image_ids)
        rows = share(rows, self.rank, self.world_size)
        if self._patch_size == self._grid:
            yield from torch.split(_send(rows, self._data.images.device), self._batch_size)
            return
        for batch in torch.split(rows, self._batch_size):
            yield [(row, self._window()) for row in batch.tolist()]

    def take(self, pick: Pick) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images and labels of a batch on the device, from where the set lies now; also once more."""
        data = self._data
        if isinstance(pick, torch.Tensor):
            rows = pick.to(data.images.device)  # where they are, unless the set was moved
            images, labels = data.images[rows], data.labels[rows]
        else:
            images = torch.stack([data.images[row][window] for row, window in pick])
            labels = torch.stack([data.labels[row][window] for row, window in pick])
        return _send(images, self.device), _send(labels, self.device)

    def _window(self) -> tuple[slice, ...]:
        """A random patch of a volume, with its one channel."""
        window = [slice(None)]
        for whole, part in zip(self._grid, self._patch_size, strict=True):
            start = int(torch.randint(whole - part + 1, (), generator=self._cutting))
            window.append(slice(start, start + part))
        return tuple(window)


def share(order: torch.Tensor, rank: int, world_size: int) -> torch.Tensor:
    """Every world_size-th row for this process; the first rows come twice where it does not divide."""
    per_process = -(-len(order) // world_size)
    repeated = order.repeat(-(-per_process * world_size // len(order)))
    return repeated[: per_process * world_size][rank::world_size]


def read_once(read: Callable[[], Read], rank: int, world_size: int) -> Read:
    """Have the first process of a distributed training read something, and all of them get it."""
    found = [read() if rank == 0 else None]
    if world_size > 1:
        distributed.broadcast_object_list(found)
    return cast(Read, found[0])


def _send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Bring a tensor to the device without waiting for it, which takes pinned memory."""
    if tensor.device.type == device.type:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
