"""For suites whose loop passes on images and labels only: batches whose rows are found again, and the edge's images."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mekd_plugin.errors import InputError
from mekd_plugin.rows import Rows
from mekd_plugin.training.hosting import Hosted

__all__ = ["RowLoader", "draw_edge_images"]


class RowLoader:
    """What a suite takes for its training loader: each iteration is an epoch of a method's rows.

    The rows of the batch under way are remembered, so the loop may hand back nothing but the student's logits.

    Args:
        hosted: the method.
        student: put into train mode at the start of each epoch, whatever mode the suite's evaluation left it in.
        batch_size: rows a step.
        steps: batches an epoch; None shows each row once.
        entries: of a batch: 2 for images and the teacher's labels, 3 for the rows' numbers as well.

    Attributes:
        hosted: the method.
        dataset: as long as an epoch has rows; suites divide their count of right answers by its length.
        teacher: a module that gives the answers to the batch under way, without asking.
    """

    def __init__(
        self, hosted: Hosted, student: nn.Module, batch_size: int, *, steps: int | None = None, entries: int = 2
    ) -> None:
        self.hosted, self._student, self._entries = hosted, student, entries
        self._loader = hosted.loader(batch_size, steps=steps)
        self._rows: Rows | None = None
        self.dataset = range(batch_size * len(self._loader))
        self.teacher: nn.Module = _Recalling(self)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        self._student.train()
        for images, labels, numbers in self._loader:
            self._rows = self.hosted.rows(images, numbers)
            yield (images, labels, numbers)[: self._entries]

    @property
    def rows(self) -> Rows:
        """Of the batch under way.

        Raises:
            InputError: no batch is under way.
        """
        if self._rows is None:
            raise InputError("no batch is under way: the suite has to iterate over these rows before it asks for them")
        return self._rows

    def loss(self, logits: Tensor) -> Tensor:
        """What the student minimises, of its ``logits`` ``(N, C)`` on the images of the batch under way."""
        return self.hosted.losses(lambda images: logits, self.rows.to(logits.device))["loss"]


class _Recalling(nn.Module):
    """The teacher's scores ``(N, C)`` of the batch under way."""

    def __init__(self, loader: RowLoader) -> None:
        super().__init__()
        self._loader = loader

    def forward(self, images: Tensor) -> Tensor:
        return self._loader.rows.answers().scores().to(images.device)


def draw_edge_images(dataset: Any, *, real_images: int | None, real_fraction: float, seed: int) -> Tensor:
    """Some images of a suite's training set without their labels, the same for a seed, as its transforms show them.

    Args:
        dataset: of tuples that begin with an image.
        real_images: how many; None takes ``real_fraction`` of them.
        real_fraction: in (0, 1].
        seed: of the choice, and of random transforms.

    Raises:
        InputError: the data set does not hold that many, or fewer than 2 are wanted.
    """
    count = int(real_fraction * len(dataset)) if real_images is None else real_images
    if not 2 <= count <= len(dataset):
        raise InputError(f"{count} real images: expected 2 to {len(dataset)}; set real_images, or real_fraction")
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:count]
    with _transforms_by(seed):
        return torch.stack([dataset[index][0] for index in chosen.tolist()])


@contextmanager
def _transforms_by(seed: int) -> Iterator[None]:
    """Random transforms draw by ``seed`` within: a run that takes over answers must see the same images."""
    state = random.getstate()
    random.seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
