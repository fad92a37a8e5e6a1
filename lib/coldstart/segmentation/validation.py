"""How good a network is in the middle of its training: its Dice on a few held-out images.

That is for people to look at. It decides nothing: the training goes on to its last epoch, whose weights are the model,
and they are the same, bit for bit, as those of a training that nobody looked into. So that it costs little, it is
computed on the network's own grid, of few images, at most ten times; `evaluate` judges the model itself, on all
held-out images, on their own grids.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from coldstart.memory import give_back, ran_out_of_memory
from coldstart.segmentation.config import Sample, TrainingConfig
from coldstart.segmentation.metrics import image_dice
from coldstart.segmentation.training_memory import mixed_precision
from coldstart.segmentation.training_set import read_training_set

N_IMAGES = 8
"""Images that a network is judged on during its training."""
N_TIMES = 10
"""How often it is judged at most."""

logger = logging.getLogger(__name__)


class Validation:
    """A few prepared images with labels that a training does not learn from.

    Parameters
    ----------
    samples : sequence of Sample
        All that there are. Those with the smallest hashes of their ids are taken: most of them stay the same while
        images and labels are added, so that the curves of two trainings can be compared.
    config : TrainingConfig
        Of the training.
    """

    def __init__(self, samples: Sequence[Sample], config: TrainingConfig) -> None:
        few = sorted(samples, key=lambda sample: sha256(sample.image_id.encode()).digest())[:N_IMAGES]
        self._data = read_training_set(few, config, "validation")
        self._config = config
        self._every = -(-config.epochs // N_TIMES)
        self.image_ids = self._data.image_ids

    def is_due(self, epoch: int) -> bool:
        """Tell whether the network is judged after this epoch: after every tenth of them, and the last."""
        return bool(self.image_ids) and (epoch % self._every == 0 or epoch == self._config.epochs)

    def dice(self, network: nn.Module, device: torch.device) -> float | None:
        """Judge a network, which is left as it is, in training mode.

        Returns
        -------
        dice : float or None
            Mean over the images of the mean over the classes without the background, in [0, 1], higher is better; a
            class in neither prediction nor label counts 1. None when memory runs out: the training goes on.
        """
        network.eval()
        try:
            return float(np.mean([self._dice(network, device, row) for row in range(len(self.image_ids))]))
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            logger.warning("The memory is not enough to judge the model now; the training goes on without.")
        finally:
            network.train()
        give_back()
        return None

    def _dice(self, network: nn.Module, device: torch.device, row: int) -> float:
        image = self._data.images[row : row + 1].to(device)
        amp = mixed_precision(self._config, device)
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.float16, enabled=amp):
            prediction = network(image).argmax(dim=1)
        return class_mean_dice(prediction[0].cpu().numpy(), self._data.labels[row, 0].numpy(), self._config.n_classes)


def class_mean_dice(prediction: NDArray[Any], label: NDArray[Any], n_classes: int) -> float:
    """Mean of the Dice of the classes 1 to `n_classes` - 1; 1 for a class in neither of the two class maps."""
    return float(np.mean([image_dice(prediction == one, label == one) for one in range(1, n_classes)]))
