"""LeNet5 and its half, the pair of the few-shot and black-box distillation literature.

Sources: LeCun et al., *Gradient-Based Learning Applied to Document Recognition*, 1998, figure 2 (the layers); Nguyen
et al., *Black-Box Few-Shot Knowledge Distillation* (FS-BBT), ECCV 2022 (the pair). Departures, as is usual now: ReLU
instead of a scaled tanh, max pooling, every feature map seen by every filter.
"""

from __future__ import annotations

from torch import Tensor, nn

from mekd_plugin.errors import InputError

__all__ = ["LeNet", "lenet5", "lenet5_half"]


class LeNet(nn.Module):
    """Twice (5x5 convolution without padding, ReLU, 2x2 max pooling), then three linear layers.

    Args:
        channels: feature maps of the two convolutions.
        widths: of the two hidden linear layers.
        num_classes: C.
        image_shape: ``(channels, height, width)``, at least 16x16; the linear layers' sizes follow it.

    Shapes:
        images ``(N, channels, height, width)`` -> logits ``(N, C)``.

    Raises:
        InputError: images smaller than 16x16.
    """

    def __init__(
        self,
        channels: tuple[int, int],
        widths: tuple[int, int],
        num_classes: int,
        image_shape: tuple[int, int, int],
    ) -> None:
        super().__init__()
        in_channels, height, width = image_shape
        if min(height, width) < 16:
            raise InputError(
                f"image_shape {tuple(image_shape)}: two 5x5 convolutions and two poolings need images of at least "
                "16x16 pixels; resize them, or take another network (resnet8 takes any size)"
            )
        height, width = (((size - 4) // 2 - 4) // 2 for size in (height, width))
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, channels[0], 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(channels[0], channels[1], 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels[1] * height * width, widths[0]),
            nn.ReLU(),
            nn.Linear(widths[0], widths[1]),
            nn.ReLU(),
            nn.Linear(widths[1], num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits


def lenet5(num_classes: int, image_shape: tuple[int, int, int]) -> LeNet:
    """LeNet5: 6 and 16 feature maps, 120 and 84 units; 61,706 weights at 1x32x32 and ten classes."""
    return LeNet((6, 16), (120, 84), num_classes, image_shape)


def lenet5_half(num_classes: int, image_shape: tuple[int, int, int]) -> LeNet:
    """LeNet5-Half: half as many of each, 3 and 8 feature maps, 60 and 42 units."""
    return LeNet((3, 8), (60, 42), num_classes, image_shape)
