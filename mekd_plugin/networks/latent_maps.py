"""Networks in a generator's latent space: what the teacher answers to G(z), and which z it answers how.

Both are perceptrons of three layers, small beside any generator.
"""

from __future__ import annotations

import copy
from typing import Any, Self

from torch import Tensor, nn

from mekd_plugin.networks.generators import Generator
from mekd_plugin.responses import ScoreNormalisation

__all__ = ["LatentClassifier", "MappedGenerator"]


class LatentClassifier(nn.Sequential):
    """c: latent -> class scores.

    Args:
        latent_dim: d.
        num_classes: C.
        width: of the two hidden layers.

    Shapes:
        ``(N, d)`` -> ``(N, C)``.
    """

    def __init__(self, latent_dim: int, num_classes: int, width: int) -> None:
        super().__init__(*_layers(latent_dim, width, num_classes))


class MappedGenerator(nn.Module):
    """G(M(y, e)): a generator behind a map that turns an answer and noise into its latent, ``M(y, e) = e + m(y, e)``.

    Args:
        generator: G, which stays as it is: only the map trains.
        width: of the map's two hidden layers.

    Shapes:
        ``[normalised scores, e]``, ``(N, C + d)``, with d the generator's latent -> images
        ``(N, channels, height, width)`` in [-1, 1].
    """

    generator: nn.Module

    def __init__(self, generator: Generator, width: int) -> None:
        super().__init__()
        self.generator, self.width = generator.requires_grad_(False), width
        self.num_classes, self.style_dim = generator.num_classes, generator.latent_dim
        self.latent_dim, self.image_shape = self.num_classes + self.style_dim, generator.image_shape
        self._made_from = {name: value for name, value in generator.config.items() if name != "normalisation"}
        *hidden, last = _layers(self.latent_dim, width, self.style_dim)
        nn.init.zeros_(last.weight)  # begins as G(e)
        nn.init.zeros_(last.bias)
        self.map = nn.Sequential(*hidden, last)
        self.normalisation: ScoreNormalisation | None = None

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds it, besides the weights."""
        known = {} if self.normalisation is None else {"normalisation": self.normalisation.as_record()}
        return {**self._made_from, "mapping": {"width": self.width}, **known}

    def normalise(self, normalisation: ScoreNormalisation) -> None:
        """Note what makes centred scores its first C coordinates; it is kept in its file."""
        self.normalisation = normalisation.to("cpu")

    def train(self, mode: bool = True) -> Self:
        """Only the map trains."""
        super().train(mode)
        self.generator.eval()
        return self

    def frozen_before(self, generator: nn.Module) -> nn.Module:
        """A frozen copy of the map before another form of the same generator."""
        copied = copy.deepcopy(self)
        copied.generator = generator
        return copied.eval().requires_grad_(False)

    def latent(self, asked: Tensor) -> Tensor:
        """The generator's latents ``(N, d)`` for ``[normalised scores, e]``."""
        latent: Tensor = asked[:, self.num_classes :] + self.map(asked)
        return latent

    def forward(self, asked: Tensor) -> Tensor:
        images: Tensor = self.generator(self.latent(asked))
        return images


def _layers(inputs: int, width: int, outputs: int) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module, nn.Linear]:
    return nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs)
