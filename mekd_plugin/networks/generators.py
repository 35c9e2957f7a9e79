"""Generator and discriminator of the deprivatisation GAN, for any image size divisible by 4.

Source: Ma et al., *Aligning Logits Generatively for Principled Black-Box Knowledge Distillation*, CVPR 2024.
The generator's latent is as wide as the classes are many, so that logits can be fed to it; ``style_dim`` more
coordinates of noise (ours, 0 in the paper) widen what it can draw.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from mekd_plugin.errors import CheckpointError, InputError
from mekd_plugin.networks.weights import read_safetensors

__all__ = [
    "Discriminator",
    "Generator",
    "load_generator",
    "paper_discriminator",
    "sample_latent",
    "small_discriminator",
]

PAPER_BN_EPS = 0.8
"""The public code writes ``BatchNorm2d(n, 0.8)``: the second argument is eps, so momentum stays 0.1."""


def _check_image_shape(image_shape: tuple[int, int, int]) -> None:
    channels, height, width = image_shape
    if channels < 1 or height < 4 or width < 4 or height % 4 or width % 4:
        raise InputError(
            f"image_shape {tuple(image_shape)}: the generator upsamples twice by 2, so height and width must be "
            "positive multiples of 4 (resize or pad the images, e.g. to 32x32)"
        )


class Generator(nn.Module):
    """G: latent -> image. Linear, then twice (nearest upsampling x2, 3x3 convolution), then a 3x3 convolution, tanh.

    Args:
        num_classes: C, width of the part of the latent that stands for class scores.
        image_shape: ``(channels, height, width)``; height and width divisible by 4.
        style_dim: further latent coordinates that carry noise (0 in the paper).
        width: channels of the last hidden layer; the first hidden layer has ``2 * width`` (paper: 64, 128).
        eps: epsilon of the batch norms (paper's public code: 0.8).

    Shapes:
        latent ``(N, C + style_dim)``, any range -> images ``(N, channels, height, width)`` in [-1, 1].

    Raises:
        InputError: for an image size that is not divisible by 4, or fewer than two classes.
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        *,
        style_dim: int = 0,
        width: int = 64,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        _check_image_shape(image_shape)
        if num_classes < 2 or style_dim < 0 or width < 1:
            raise InputError(
                f"num_classes={num_classes}, style_dim={style_dim}, width={width}: expected at least 2 classes, "
                "a style_dim of 0 or more and a width of 1 or more"
            )
        channels, height, width_px = image_shape
        self.num_classes, self.style_dim, self.image_shape = num_classes, style_dim, tuple(image_shape)
        self.config = {
            "num_classes": num_classes,
            "image_shape": list(image_shape),
            "style_dim": style_dim,
            "width": width,
            "eps": eps,
        }
        self.layers = nn.Sequential(
            nn.Linear(num_classes + style_dim, 2 * width * (height // 4) * (width_px // 4)),
            nn.Unflatten(1, (2 * width, height // 4, width_px // 4)),
            nn.BatchNorm2d(2 * width, eps),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width, eps),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.BatchNorm2d(width, eps),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, channels, 3, padding=1),
            nn.Tanh(),
        )
        self.apply(_init_weights)

    @property
    def latent_dim(self) -> int:
        """Width of the latent, ``num_classes + style_dim``."""
        return self.num_classes + self.style_dim

    def forward(self, latent: Tensor) -> Tensor:
        images: Tensor = self.layers(latent)
        return images


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
        self.apply(_init_weights)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.layers(images)
        return scores.squeeze(1)


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


def _init_weights(module: nn.Module) -> None:
    """N(0, 0.02) for convolutions, N(1, 0.02) for batch-norm scales, as in DCGAN and the paper's code."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def load_generator(path: str | Path) -> Generator:
    """The generator that a run kept as ``generator.safetensors``, in evaluation mode on the CPU.

    Raises:
        CheckpointError: the file is missing or damaged, or does not say the generator's sizes.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"no generator at {path}: expected generator.safetensors of a run")
    try:
        weights, metadata = read_safetensors(Path(path))
        config = json.loads(metadata["config"])
        config["image_shape"] = tuple(config["image_shape"])
        generator = Generator(**config)
        generator.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} does not hold a generator of ours ({error}); expected generator.safetensors of a run"
        ) from error
    return generator.eval()


class _Drawing(Protocol):
    """What has a latent to draw: a generator in any of its forms."""

    @property
    def latent_dim(self) -> int: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


def sample_latent(generator: _Drawing, count: int, *, rng: torch.Generator | None = None) -> Tensor:
    """``count`` draws of z ~ N(0, I), shape ``(count, latent_dim)``, on the generator's own device."""
    reference = next(generator.parameters())
    return torch.randn(count, generator.latent_dim, generator=rng, device=reference.device, dtype=reference.dtype)
