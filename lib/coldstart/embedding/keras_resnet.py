"""The ResNet-50 of Keras, which `RadImageNet-ResNet50_notop.pth` was converted from.

Unlike torchvision's: every convolution has a bias, a block's stride sits in its first 1 x 1 convolution, and batch
normalisation adds 1.001e-5 to the variance.
"""

import torch
from torch import nn
from torch.nn import functional

BATCH_NORM_EPSILON = 1.001e-5
EXPANSION = 4
# Channels inside a block and number of blocks, layer by layer.
LAYERS = ((64, 3), (128, 4), (256, 6), (512, 3))


class KerasResNet50(nn.Module):
    """The layers up to the last feature map, averaged: (n, 3, rows, columns) to (n, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(64, eps=BATCH_NORM_EPSILON)
        n_channels = 64
        for number, (width, n_blocks) in enumerate(LAYERS, start=1):
            blocks = []
            for block in range(n_blocks):
                stride = 2 if block == 0 and number > 1 else 1
                blocks.append(KerasBottleneck(n_channels, width, stride, project=block == 0))
                n_channels = width * EXPANSION
            self.add_module(f"layer{number}", nn.Sequential(*blocks))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Give the mean of the last feature map."""
        hidden = functional.relu(self.bn1(self.conv1(inputs)))
        hidden = functional.max_pool2d(hidden, kernel_size=3, stride=2, padding=1)
        for number in range(1, len(LAYERS) + 1):
            hidden = self.get_submodule(f"layer{number}")(hidden)
        return hidden.mean(dim=(2, 3))


class KerasBottleneck(nn.Module):
    """1 x 1 (with the stride), 3 x 3, 1 x 1, added to the input or to its projection."""

    def __init__(self, n_inputs: int, width: int, stride: int, *, project: bool) -> None:
        super().__init__()
        n_outputs = width * EXPANSION
        self.conv1 = nn.Conv2d(n_inputs, width, kernel_size=1, stride=stride)
        self.bn1 = nn.BatchNorm2d(width, eps=BATCH_NORM_EPSILON)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm2d(width, eps=BATCH_NORM_EPSILON)
        self.conv3 = nn.Conv2d(width, n_outputs, kernel_size=1)
        self.bn3 = nn.BatchNorm2d(n_outputs, eps=BATCH_NORM_EPSILON)
        self.downsample: nn.Module | None = None
        if project:
            self.downsample = nn.Sequential(
                nn.Conv2d(n_inputs, n_outputs, kernel_size=1, stride=stride),
                nn.BatchNorm2d(n_outputs, eps=BATCH_NORM_EPSILON),
            )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Apply the block to (n, n_inputs, rows, columns)."""
        hidden = functional.relu(self.bn1(self.conv1(inputs)))
        hidden = functional.relu(self.bn2(self.conv2(hidden)))
        hidden = self.bn3(self.conv3(hidden))
        return functional.relu(hidden + (inputs if self.downsample is None else self.downsample(inputs)))
