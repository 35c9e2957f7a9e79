"""MobileNetV2 at half width for small images.

Source: Sandler et al., *MobileNetV2: Inverted Residuals and Linear Bottlenecks*, CVPR 2018, table 2, width multiplier
0.5. Departure for small images: the first convolution and the second group keep the size, so that the network shrinks
images 8 times instead of 32.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["MobileNetV2"]

_GROUPS = (
    # expansion, channels, blocks, stride of the first block
    (1, 8, 1, 1),
    (6, 12, 2, 1),
    (6, 16, 3, 2),
    (6, 32, 4, 2),
    (6, 48, 3, 1),
    (6, 80, 3, 2),
    (6, 160, 1, 1),
)
_STEM_CHANNELS, _HEAD_CHANNELS = 16, 640


def _convolution(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, groups=groups, bias=False
    )
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
    return convolution


class _InvertedResidual(nn.Module):
    """1x1 convolution to ``expansion`` times the channels, 3x3 depthwise, linear 1x1 to the output's channels."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [_convolution(in_channels, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU6()]
        layers += [_convolution(hidden, hidden, 3, stride, groups=hidden), nn.BatchNorm2d(hidden), nn.ReLU6()]
        layers += [_convolution(hidden, out_channels, 1), nn.BatchNorm2d(out_channels)]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, features: Tensor) -> Tensor:
        moved: Tensor = self.layers(features)
        return features + moved if self.residual else moved


class MobileNetV2(nn.Module):
    """A 3x3 convolution, seventeen inverted residuals, a 1x1 convolution, average pooling, a linear layer.

    Args:
        num_classes: C.
        image_shape: ``(channels, height, width)``; any size.

    Shapes:
        images ``(N, channels, height, width)`` -> logits ``(N, C)``.
    """

    def __init__(self, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            _convolution(image_shape[0], _STEM_CHANNELS, 3),
            nn.BatchNorm2d(_STEM_CHANNELS),
            nn.ReLU6(),
        ]
        in_channels = _STEM_CHANNELS
        for expansion, channels, blocks, first_stride in _GROUPS:
            for index in range(blocks):
                layers.append(_InvertedResidual(in_channels, channels, 1 if index else first_stride, expansion))
                in_channels = channels
        layers += [_convolution(in_channels, _HEAD_CHANNELS, 1), nn.BatchNorm2d(_HEAD_CHANNELS), nn.ReLU6()]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(_HEAD_CHANNELS, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images).flatten(1))
        return logits
