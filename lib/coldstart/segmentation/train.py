"""Training from scratch, as Levy et al. (2026, arXiv:2601.18532, section 4.2): DiceCE loss, Adam, no augmentation.

The loss is MONAI's `DiceCELoss` with its defaults: softmax, the mean of the Dice over all classes with the background,
plus the cross-entropy, equally weighted. The same samples, config and machine give the same weights, bit for bit on a
CPU; on a GPU mixed precision and atomics leave small differences.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from monai.losses import DiceCELoss
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from coldstart.exceptions import ImageError, LabelError, ModelError
from coldstart.memory import halved, in_smaller_batches
from coldstart.segmentation.config import Sample, TrainingConfig
from coldstart.segmentation.model_file import Model, describe_training
from coldstart.segmentation.network import build_network, resolve_device
from coldstart.segmentation.preprocess import prepare_image, prepare_label
from coldstart.segmentation.samples import parallel_map, read_sample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochReport:
    """How far a training is.

    Parameters
    ----------
    epoch, epochs : int
        Epochs finished, and in all.
    loss : float
        Mean of the epoch's steps; lower is better.
    elapsed_s, remaining_s : float
        Since the first epoch began, and until the last one ends at the speed so far.
    """

    epoch: int
    epochs: int
    loss: float
    elapsed_s: float
    remaining_s: float


@dataclass(frozen=True)
class _Data:
    image_ids: list[str]
    images: torch.Tensor
    labels: torch.Tensor
    left_out: dict[str, str]


def train(
    samples: Sequence[Sample],
    config: TrainingConfig,
    *,
    on_epoch: Callable[[EpochReport], None] | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Model:
    """Train a network on labelled images, from scratch.

    Parameters
    ----------
    samples : sequence of Sample
        One is enough. A sample that cannot be read is left out with its reason (log and `metadata["left_out"]`).
    config : TrainingConfig
        Network, preprocessing and optimisation.
    on_epoch : callable, optional
        Called after each epoch (of rank 0). An exception in it ends the training.
    rank, world_size : int
        Of this process in a distributed training, whose process group the caller has set up; every process gets the
        same samples. `config.batch_size` counts for each process.

    Returns
    -------
    model : Model
        In evaluation mode on the device that it was trained on; the same in every process.

    Raises
    ------
    ModelError
        If no sample can be used, the loss or the weights are no longer finite, or the memory is not enough.
    InvalidInputError
        If the device is not there.

    Notes
    -----
    When memory runs out, the training begins once more with half the batch, and is then what it had been with that
    batch size from the start; `model.config` says which it was, `metadata["requested_batch_size"]` which was wanted.
    In a distributed training it ends instead: the other processes would wait for the one that begins again.
    """
    device = resolve_device(config.device, rank)
    data = _load(samples, config)
    return in_smaller_batches(
        lambda batch_size: _fit(
            data, replace(config, batch_size=batch_size), device, on_epoch, rank, world_size, config.batch_size
        ),
        halved(config.batch_size) if world_size == 1 else (config.batch_size,),
        what=f"The training on a grid of {' x '.join(map(str, config.spatial_size))}",
        remedy="Nothing was published. Free memory on the device, or lower --conf batch_size or --conf spatial_size.",
        error=ModelError,
    )


def _fit(
    data: _Data,
    config: TrainingConfig,
    device: torch.device,
    on_epoch: Callable[[EpochReport], None] | None,
    rank: int,
    world_size: int,
    requested_batch_size: int,
) -> Model:
    started = time.monotonic()
    with _seeded(config.random_state + rank, device):
        network = build_network(config).to(device)
        losses = _optimise(network, data, config, device, on_epoch, rank, world_size)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values()):
        raise ModelError(_diverged(len(losses), config))
    metadata = describe_training(
        network,
        config,
        requested_batch_size=requested_batch_size,
        image_ids=data.image_ids,
        left_out=data.left_out,
        losses=losses,
        seconds=time.monotonic() - started,
        device=device,
        world_size=world_size,
    )
    return Model(network.eval(), metadata)


def _load(samples: Sequence[Sample], config: TrainingConfig) -> _Data:
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

    if not samples:
        raise ModelError("Training needs at least one labelled image; there is none. Label an image and save it first.")
    usable: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    left_out: dict[str, str] = {}
    for sample, loaded in zip(samples, parallel_map(load, samples), strict=True):
        if isinstance(loaded, str):
            left_out[sample.image_id] = loaded
            logger.warning("%s is left out of the training: %s", sample.image_id, loaded)
        else:
            usable.append((sample.image_id, *loaded))
    if not usable:
        image_id, reason = next(iter(left_out.items()))
        raise ModelError(
            f"Training needs at least one usable label; none of the {len(samples)} can be used. {image_id}: {reason}"
        )
    image_ids, images, labels = zip(*usable, strict=True)
    return _Data(list(image_ids), torch.stack(images), torch.stack(labels), left_out)


def _optimise(
    network: nn.Module,
    data: _Data,
    config: TrainingConfig,
    device: torch.device,
    on_epoch: Callable[[EpochReport], None] | None,
    rank: int,
    world_size: int,
) -> list[float]:
    """Run all epochs on `network` in place and return the mean loss of each."""
    parallel = network
    if world_size > 1:
        parallel = DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
    criterion = DiceCELoss(to_onehot_y=True, softmax=True)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    amp = config.amp and device.type == "cuda"
    scaler = torch.amp.GradScaler(device.type, enabled=amp)
    shuffling = torch.Generator().manual_seed(config.random_state)
    losses: list[float] = []
    started = time.monotonic()
    parallel.train()
    for epoch in range(1, config.epochs + 1):
        total = torch.zeros((), device=device)
        rows = _share(torch.randperm(len(data.image_ids), generator=shuffling), rank, world_size)
        batches = torch.split(rows, config.batch_size)
        for batch in batches:
            images = data.images[batch].to(device, non_blocking=True)
            labels = data.labels[batch].to(device, non_blocking=True)
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype=torch.float16, enabled=amp):
                logits = parallel(images)
            loss = criterion(logits.float(), labels.long())
            scaler.scale(loss).backward()
            scaler.step(optimiser)
            scaler.update()
            total += loss.detach()
        total /= len(batches)
        if world_size > 1:
            # the mean over all processes: they also stop together when it is not finite
            distributed.all_reduce(total)
            total /= world_size
        losses.append(float(total))
        if not torch.isfinite(total):
            raise ModelError(_diverged(epoch, config))
        if on_epoch is not None and rank == 0:
            elapsed_s = time.monotonic() - started
            remaining_s = elapsed_s / epoch * (config.epochs - epoch)
            on_epoch(EpochReport(epoch, config.epochs, losses[-1], elapsed_s, remaining_s))
    return losses


def _share(order: torch.Tensor, rank: int, world_size: int) -> torch.Tensor:
    """Every world_size-th row for this process; the first rows come twice where it does not divide."""
    per_process = -(-len(order) // world_size)
    repeated = order.repeat(-(-per_process * world_size // len(order)))
    return repeated[: per_process * world_size][rank::world_size]


def _diverged(epoch: int, config: TrainingConfig) -> str:
    return (
        f"The training diverged: its loss or weights were no longer finite in epoch {epoch} of {config.epochs}; "
        f"nothing was published. Lower the learning rate (now {config.learning_rate:g}), or look for labels that are "
        "not of their image."
    )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators, which dropout draws from, and choose reproducible kernels; all of it put back."""
    deterministic, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    cudnn = torch.backends.cudnn
    cudnn_before = cudnn.deterministic, cudnn.benchmark
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        try:
            # on a GPU some of the loss's kernels have no deterministic form; there cuDNN alone is asked for it
            if device.type == "cpu":
                torch.use_deterministic_algorithms(True, warn_only=True)
            cudnn.deterministic, cudnn.benchmark = True, False
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            cudnn.deterministic, cudnn.benchmark = cudnn_before
