"""Training from scratch, as Levy et al. (2026, arXiv:2601.18532, section 4.2): DiceCE loss, Adam, no augmentation.

The loss is MONAI's `DiceCELoss` with its defaults: softmax, the mean of the Dice over all classes with the background,
plus the cross-entropy, equally weighted. The same samples, config and machine give the same weights, bit for bit on a
CPU; on a GPU mixed precision and atomics leave small differences.

Nothing in the loop waits for the device: the set lies there, Adam is fused, which also takes mixed precision's check
for overflow along, and losses add up there. Channels-last is left out: in that layout dropout drops other units on a
CPU, which makes another loss curve, and its gain beside the rest is not beyond doubt; on a GPU it was not measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch.utils import deterministic as determinism

from coldstart.exceptions import ModelError
from coldstart.memory import enough_memory, halved, in_smaller_batches
from coldstart.segmentation.card import Card
from coldstart.segmentation.config import Sample, TrainingConfig
from coldstart.segmentation.course import Course, EpochReport
from coldstart.segmentation.model_file import Model, describe_training
from coldstart.segmentation.network import resolve_device
from coldstart.segmentation.training_memory import find_placement
from coldstart.segmentation.training_set import load_training_set
from coldstart.segmentation.validation import Validation

REMEDY = "Nothing was published. Free memory on the device, or lower --conf batch_size or --conf spatial_size."


def train(
    samples: Sequence[Sample],
    config: TrainingConfig,
    *,
    validation: Sequence[Sample] = (),
    on_epoch: Callable[[EpochReport], None] | None = None,
    card: Card | None = None,
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
    validation : sequence of Sample, optional
        Images that the training does not learn from, a few of which tell how it goes (`metadata["validation"]`); they
        have no effect on the model. See `coldstart.segmentation.validation`.
    on_epoch : callable, optional
        Called after each epoch (of rank 0). An exception in it ends the training. Without it, no loss is read, and no
        divergence noticed, before the end.
    card : Card, optional
        The device, where others may take it, in the place of `config.device`; for a training in one process.
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
    In a distributed training it ends instead: the other processes would wait for the one that begins again. While
    others hold the memory of `card`, it goes on from the step where it was, as the card says: later, or on the CPU.

    Volumes that are too large for the device are trained on by random patches, which `metadata["patch_size"]` tells:
    `coldstart.segmentation.training_memory` has the rule.
    """
    where = card or Card(resolve_device(config.device, rank))
    with enough_memory(what="Loading the images of the training", remedy=REMEDY, error=ModelError):
        data = load_training_set(samples, config)
        judged = Validation(validation if rank == 0 else (), config)
    placement = find_placement(config, data.nbytes, where.device, world_size)

    def fit(batch_size: int) -> Model:
        started, began_on = time.monotonic(), where.device
        fitting = replace(config, batch_size=batch_size)
        with _seeded(config.random_state + rank, began_on):
            course = Course(data, fitting, placement, where, judged, rank, world_size)
            course.run(on_epoch)
        network = course.fitting.network
        metadata = describe_training(
            network,
            fitting,
            requested_batch_size=config.batch_size,
            patch_size=placement.patch_size,
            image_ids=data.image_ids,
            left_out=data.left_out,
            losses=course.losses,
            validation={"images": judged.image_ids, "dice": course.dice} if course.dice else None,
            seconds=time.monotonic() - started,
            device=str(began_on) if course.moved_in is None else f"{began_on}, cpu from epoch {course.moved_in}",
            world_size=world_size,
        )
        return Model(network.eval(), metadata)

    return in_smaller_batches(
        fit,
        halved(config.batch_size) if world_size == 1 else (config.batch_size,),
        what=f"The training on a grid of {' x '.join(map(str, config.spatial_size))}",
        remedy=REMEDY,
        error=ModelError,
    )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators, which dropout draws from, and choose reproducible kernels; all of it put back."""
    deterministic, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    fill = determinism.fill_uninitialized_memory  # type: ignore[attr-defined]
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
                # else every tensor that is about to be written is first filled with NaN
                determinism.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            cudnn.deterministic, cudnn.benchmark = True, False
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            determinism.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
            cudnn.deterministic, cudnn.benchmark = cudnn_before
