"""CIFAR-style residual networks of depth 6n + 2.

Source: He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016, section 4.2. Departure: where a stage
changes the size, the shortcut is a 1x1 convolution with batch norm (the paper's option B) instead of padding by zeros,
as knowledge-distillation benchmarks have it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mekd_plugin.errors import InputError

__all__ = ["ResNet"]


class _Block(nn.Module):
    """Two 3x3 convolutions with batch norm, added to their input."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, features: Tensor) -> Tensor:
        hidden = torch.relu(self.bn1(self.conv1(features)))
        return torch.relu(self.bn2(self.conv2(hidden)) + self.shortcut(features))


class ResNet(nn.Module):
    """A 3x3 convolution, three stages of n blocks with 16, 32 and 64 channels, average pooling, a linear layer.

    Args:
        depth: 6n + 2: 8, 20, 32, 56, 110.
        num_classes: C.
        image_shape: ``(channels, height, width)``; any size, 32x32 in the paper.

    Shapes:
        images ``(N, channels, height, width)`` -> logits ``(N, C)``.

    Raises:
        InputError: for any other depth.
    """

    def __init__(self, depth: int, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise InputError(f"depth={depth}: expected 6n + 2, e.g. 8, 20, 32, 56 or 110")
        self.conv = nn.Conv2d(image_shape[0], 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        blocks: list[nn.Module] = []
        in_channels = 16
        for channels, first_stride in ((16, 1), (32, 2), (64, 2)):
            for index in range((depth - 2) // 6):
                blocks.append(_Block(in_channels, channels, stride=1 if index else first_stride))
                in_channels = channels
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(torch.relu(self.bn(self.conv(images))))
        logits: Tensor = self.head(self.pool(features).flatten(1))
        return logits
