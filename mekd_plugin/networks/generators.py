"""Generator of the deprivatisation GAN, for any image size.

Source: Ma et al., *Aligning Logits Generatively for Principled Black-Box Knowledge Distillation*, CVPR 2024.
The generator's latent is as wide as the classes are many, so that logits can be fed to it; ``style_dim`` more
coordinates of noise (ours, 0 in the paper) widen what it can draw.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mekd_plugin.errors import InputError
from mekd_plugin.responses import ScoreNormalisation

__all__ = ["PAPER_BN_EPS", "CentreCrop", "Generator", "NoiseGenerator", "init_weights", "sample_latent"]

PAPER_BN_EPS = 0.8
"""The public code writes ``BatchNorm2d(n, 0.8)``: the second argument is eps, so momentum stays 0.1."""


def _check_image_shape(image_shape: tuple[int, int, int]) -> None:
    if min(image_shape) < 1:
        raise InputError(f"image_shape {tuple(image_shape)}: expected (channels, height, width), each at least 1")


class CentreCrop(nn.Module):
    """The middle of images ``(N, channels, at least height, at least width)``; an odd margin is cut off at the end."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, images: Tensor) -> Tensor:
        top, left = (images.shape[2] - self.height) // 2, (images.shape[3] - self.width) // 2
        return images[:, :, top : top + self.height, left : left + self.width]


class Generator(nn.Module):
    """G: latent -> image. Linear, then twice (nearest upsampling x2, 3x3 convolution), then a 3x3 convolution, tanh.

    Args:
        num_classes: C, width of the part of the latent that stands for class scores.
        image_shape: ``(channels, height, width)``. The layers draw height and width rounded up to multiples of 4, since
            they upsample twice by 2, and the middle is cut out before tanh.
        style_dim: further latent coordinates that carry noise (0 in the paper).
        width: channels of the last hidden layer; the first hidden layer has ``2 * width`` (paper: 64, 128).
        eps: epsilon of the batch norms (paper's public code: 0.8).

    Shapes:
        latent ``(N, C + style_dim)``, any range -> images ``(N, channels, height, width)`` in [-1, 1].

    Raises:
        InputError: for a size below 1, or fewer than two classes.
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
        rows, columns = math.ceil(height / 4), math.ceil(width_px / 4)
        self.num_classes, self.style_dim, self.image_shape = num_classes, style_dim, tuple(image_shape)
        self.config = {
            "num_classes": num_classes,
            "image_shape": list(image_shape),
            "style_dim": style_dim,
            "width": width,
            "eps": eps,
        }
        self.layers = nn.Sequential(
            nn.Linear(num_classes + style_dim, 2 * width * rows * columns),
            nn.Unflatten(1, (2 * width, rows, columns)),
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
            *([] if (height, width_px) == (4 * rows, 4 * columns) else [CentreCrop(height, width_px)]),
            nn.Tanh(),
        )
        self.apply(init_weights)
        self.normalisation: ScoreNormalisation | None = None

    def normalise(self, normalisation: ScoreNormalisation) -> None:
        """Note what makes centred scores the latent's first C coordinates; it is kept in the generator's file."""
        self.normalisation = normalisation.to("cpu")
        self.config["normalisation"] = normalisation.as_record()

    @property
    def latent_dim(self) -> int:
        """Width of the latent, ``num_classes + style_dim``."""
        return self.num_classes + self.style_dim

    def forward(self, latent: Tensor) -> Tensor:
        images: Tensor = self.layers(latent)
        return images


class NoiseGenerator(Generator):
    """A :class:`Generator` fed with noise alone, with a batch norm without weights before tanh.

    So its images have contrast from the first step on, where a :class:`Generator` begins with grey ones; and they are
    never all of one shade.

    Source: the generator of Truong, Maini, Walls, Papernot, *Data-Free Model Extraction*, CVPR 2021, after that of Chen
    et al., *Data-Free Learning of Student Networks*, ICCV 2019, which has the norm behind tanh.

    Args:
        latent_dim: coordinates of noise, at least C.
        **settings: ``num_classes``, ``image_shape``, ``width`` and ``eps``, see :class:`Generator`.

    Raises:
        InputError: fewer coordinates than classes; and as :class:`Generator`.
    """

    def __init__(self, latent_dim: int, **settings: Any) -> None:
        num_classes = settings["num_classes"]
        if latent_dim < num_classes:
            raise InputError(
                f"latent_dim={latent_dim}: expected at least as many coordinates as there are classes, {num_classes}"
            )
        super().__init__(style_dim=latent_dim - num_classes, **settings)
        *layers, tanh = self.layers
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(self.image_shape[0], affine=False), tanh)

    def before_tanh(self, latent: Tensor) -> Tensor:
        """What tanh makes the images of ``latent`` from, ``(N, channels, height, width)`` of any range."""
        raw: Tensor = self.layers[:-1](latent)
        return raw


def init_weights(module: nn.Module) -> None:
    """N(0, 0.02) for convolutions, N(1, 0.02) for batch-norm scales, as in DCGAN and the paper's code."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class _Drawing(Protocol):
    """What has a latent to draw: a generator in any of its forms."""

    @property
    def latent_dim(self) -> int: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def buffers(self) -> Iterator[Tensor]: ...


def sample_latent(generator: _Drawing, count: int, *, rng: torch.Generator | None = None) -> Tensor:
    """``count`` draws of z ~ N(0, I), shape ``(count, latent_dim)``, on the generator's own device."""
    reference = next(itertools.chain(generator.parameters(), generator.buffers()))
    return torch.randn(count, generator.latent_dim, generator=rng, device=reference.device, dtype=reference.dtype)
