"""Discriminators of the deprivatisation GAN, and one that also judges which answer an image goes with.

Source: Ma et al., *Aligning Logits Generatively for Principled Black-Box Knowledge Distillation*, CVPR 2024.
"""

from __future__ import annotations

from torch import Tensor, nn

from mekd_plugin.errors import InputError
from mekd_plugin.networks.generators import PAPER_BN_EPS, init_weights

__all__ = ["Discriminator", "ProjectionDiscriminator", "paper_discriminator", "small_discriminator"]


class Discriminator(nn.Module):
    """D: image -> one real/fake score (a logit). Stride-2 convolutions, LeakyReLU 0.2, a linear layer.

    Args:
        image_shape: ``(channels, height, width)``.
        widths: channels of each stride-2 convolution.
        kernel_size: 3 (paper) or 4.
        batch_norm: batch norm on every convolution but the first (paper); it looks at the whole batch, and with few
            images or steps a discriminator that does collapsed in every trial, so the small one has none.
        dropout: share of feature maps dropped after each convolution (paper: 0.25).
        eps: epsilon of the batch norms.

    Shapes:
        images ``(N, channels, height, width)`` -> ``(N,)``.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        widths: tuple[int, ...],
        kernel_size: int,
        batch_norm: bool,
        dropout: float,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        channels, height, width_px = image_shape
        layers: list[nn.Module] = []
        for index, out_channels in enumerate(widths):
            layers += [nn.Conv2d(channels, out_channels, kernel_size, stride=2, padding=1), nn.LeakyReLU(0.2)]
            if dropout:
                layers.append(nn.Dropout2d(dropout))
            if batch_norm and index:
                layers.append(nn.BatchNorm2d(out_channels, eps))
            channels = out_channels
            height, width_px = ((size + 2 - kernel_size) // 2 + 1 for size in (height, width_px))
        if min(height, width_px) < 1:
            raise InputError(
                f"image_shape {tuple(image_shape)}: too small for {len(widths)} stride-2 convolutions of {kernel_size}x"
                f"{kernel_size}; resize the images to 8x8 or more"
            )
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width_px, 1))
        self.apply(init_weights)

    @property
    def last(self) -> nn.Linear:
        """The linear layer that scores the features."""
        layer = self.layers[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.layers(images)
        return scores.squeeze(1)


class ProjectionDiscriminator(nn.Module):
    """D: image and answer -> one real/fake score: that of the image alone, and how well the answer goes with it.

    ``D(x, y) = w . f(x) + (V y) . f(x)``, f the layers of ``discriminator`` up to its last; V begins at 0, so that it
    begins as that one.

    Args:
        discriminator: an unconditional one, whose layers it takes over.
        num_classes: C.

    Shapes:
        images ``(N, channels, height, width)``, answers ``(N, C)`` -> ``(N,)``.

    Source: Miyato and Koyama, *cGANs with Projection Discriminator*, ICLR 2018, equation 3.
    """

    def __init__(self, discriminator: Discriminator, num_classes: int) -> None:
        super().__init__()
        self.features, self.last = discriminator.layers[:-1], discriminator.last
        self.embedding = nn.Linear(num_classes, self.last.in_features, bias=False)
        nn.init.zeros_(self.embedding.weight)

    def forward(self, images: Tensor, answers: Tensor) -> Tensor:
        features = self.features(images)
        scores: Tensor = (self.embedding(answers) * features).sum(dim=1) + self.last(features).squeeze(1)
        return scores


def paper_discriminator(image_shape: tuple[int, int, int]) -> Discriminator:
    """The paper's discriminator: 16-32-64-128 channels, dropout 0.25, batch norm with eps 0.8."""
    return Discriminator(
        image_shape, widths=(16, 32, 64, 128), kernel_size=3, batch_norm=True, dropout=0.25, eps=PAPER_BN_EPS
    )


def small_discriminator(image_shape: tuple[int, int, int], *, width: int = 32) -> Discriminator:
    """Ours for few images: three 4x4 stride-2 convolutions of ``width``, 2x and 4x channels; sees no batch."""
    return Discriminator(
        image_shape, widths=(width, 2 * width, 4 * width), kernel_size=4, batch_norm=False, dropout=0.0
    )
