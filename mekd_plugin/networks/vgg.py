"""VGG networks with batch norm for small images.

Source: Simonyan, Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*, ICLR 2015, table 1
(configurations A, B, E). Departures, as knowledge-distillation benchmarks on CIFAR have them: batch norm after each
convolution, one linear layer instead of three, and an average over what is left instead of the fifth max pooling, so
that images from 16x16 up are taken.
"""

from __future__ import annotations

from torch import Tensor, nn

from mekd_plugin.errors import InputError

__all__ = ["VGG"]

_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 19: (2, 2, 4, 4, 4)}
_CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Five groups of 3x3 convolutions, a 2x2 max pooling between them, average pooling, a linear layer.

    Args:
        depth: 11, 13 or 19.
        num_classes: C.
        image_shape: ``(channels, height, width)``, at least 16x16.

    Shapes:
        images ``(N, channels, height, width)`` -> logits ``(N, C)``.

    Raises:
        InputError: another depth, or images smaller than 16x16.
    """

    def __init__(self, depth: int, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        if depth not in _CONVOLUTIONS:
            raise InputError(f"depth={depth}: expected one of {', '.join(map(str, _CONVOLUTIONS))}")
        in_channels, height, width = image_shape
        if min(height, width) < 16:
            raise InputError(
                f"image_shape {tuple(image_shape)}: four poolings need images of at least 16x16 pixels; "
                "resize them, or take another network (resnet8 takes any size)"
            )
        layers: list[nn.Module] = []
        for group, (convolutions, channels) in enumerate(zip(_CONVOLUTIONS[depth], _CHANNELS, strict=True)):
            if group:
                layers.append(nn.MaxPool2d(2))
            for _ in range(convolutions):
                convolution = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
                layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU()]
                in_channels = channels
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images).flatten(1))
        return logits
