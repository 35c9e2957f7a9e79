"""A teacher that remembers everything it was asked, and images to ask it about."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

IMAGE_SHAPE = (1, 4, 4)
NUM_CLASSES = 3


class Killed(BaseException):
    """Stands for a process that is killed: nothing of the package may catch it."""


class Probe(nn.Module):
    """A linear classifier with batch norm that records the images it was sent, and dies on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(IMAGE_SHAPE[0])
        self.head = nn.Linear(16, NUM_CLASSES)
        with torch.no_grad():
            self.head.weight.copy_(torch.linspace(-20, 20, 48).sin().view(3, 16))
            self.head.bias.zero_()
        self.sent: list[Tensor] = []
        self.batches = 0
        self.die_in_batch: int | None = None
        self.modes: list[tuple[bool, bool]] = []

    @property
    def images(self) -> int:
        return sum(map(len, self.sent))

    def forward(self, images: Tensor) -> Tensor:
        self.sent.append(images.clone())
        self.batches += 1
        self.modes.append((self.training, torch.is_inference_mode_enabled()))
        if self.batches == self.die_in_batch:
            raise Killed
        return self.head(self.norm(images).flatten(1))


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def new_probe() -> type[Probe]:
    """The class, for tests that need a teacher in each of several lives."""
    return Probe


@pytest.fixture
def killed() -> type[BaseException]:
    return Killed


@pytest.fixture
def images() -> Tensor:
    return make_images(10)


@pytest.fixture
def some_images():
    """``some_images(count, seed=0)``."""
    return make_images


def make_images(count: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, *IMAGE_SHAPE, generator=rng) * 2 - 1
