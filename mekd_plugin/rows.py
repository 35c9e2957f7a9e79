"""Rows: what a training step looks at, and where its batches come from.

A row is *(image, response, named extra columns)*. Batches are a pure function of the step, so that a resumed run sees
exactly what it would have seen, and of the process's rank, so that several processes see different rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.responses import Response

__all__ = [
    "FixedRows",
    "ImageRows",
    "NoiseRows",
    "PairedRows",
    "RowSource",
    "Rows",
    "Shard",
    "ShuffledIndices",
    "WeightedIndices",
    "check_weights",
]


@dataclass(frozen=True)
class Rows:
    """A batch of rows.

    Attributes:
        images: ``(N, channels, height, width)``, floating point; noise of any shape ``(N, ...)`` in rows that only feed
            a generator.
        response: the teacher's answers to ``images``; None for rows that were not asked about.
        extra: further columns by name, each with N entries along its first axis.
    """

    images: Tensor
    response: Response | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.images.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Rows:
        return Rows(
            self.images[index],
            None if self.response is None else self.response[index],
            {name: column[index] for name, column in self.extra.items()},
        )

    def to(self, device: torch.device | str) -> Rows:
        """The same rows on ``device``."""
        return Rows(
            self.images.to(device),
            None if self.response is None else self.response.to(device),
            {name: column.to(device) for name, column in self.extra.items()},
        )

    def answered(self, response: Response) -> Rows:
        """The same rows with the teacher's answers to them."""
        return replace(self, response=response)

    def answers(self) -> Response:
        """The teacher's answers, for a step that cannot do without them.

        Raises:
            InputError: the rows were not asked about.
        """
        if self.response is None:
            raise InputError("these rows hold no teacher response: ask about their images before learning from them")
        return self.response


@dataclass(frozen=True)
class Shard:
    """Which part of a global batch this process takes: ``rank`` of ``world`` equal parts."""

    rank: int = 0
    world: int = 1


class RowSource(Protocol):
    """Where a stage's batches come from."""

    def batch(self, step: int, size: int, shard: Shard) -> Rows:
        """``size`` rows for this process at ``step`` (from 0), on the source's own device."""


class ShuffledIndices:
    """An endless stream of row numbers: one seeded permutation of ``count`` rows after another.

    Batch ``k`` of ``size`` is positions ``k * size`` to ``(k + 1) * size`` of the stream, so a source of any length
    serves batches of any size, every row equally often, and a position is all there is to resume from.
    """

    def __init__(self, count: int, seed: int) -> None:
        if count < 1:
            raise InputError("there are no rows to draw batches from: expected at least one")
        self.count, self.seed = count, seed
        self._permutations: dict[tuple[int, torch.device], Tensor] = {}

    def take(self, start: int, stop: int, device: torch.device | str = "cpu") -> Tensor:
        """Row numbers at stream positions ``start`` to ``stop``, int64 on ``device``."""
        first, last, where = start // self.count, (stop - 1) // self.count, torch.device(device)
        if last - first > 1 and where.type != "cpu":  # so few rows that one transfer is cheaper than several
            return self.take(start, stop).to(where)
        stream = torch.cat([self._permutation(epoch, where) for epoch in range(first, last + 1)])
        return stream[start - first * self.count : stop - first * self.count]

    def batch(self, step: int, size: int, shard: Shard, device: torch.device | str = "cpu") -> Tensor:
        """Row numbers of this process's part of the global batch ``step`` of ``size * shard.world`` rows.

        They are the same on every ``device``; a GPU is sent a whole permutation at a time, since each transfer waits.
        """
        start = (step * shard.world + shard.rank) * size
        return self.take(start, start + size, device)

    def _permutation(self, epoch: int, device: torch.device) -> Tensor:
        if (epoch, device) not in self._permutations:
            if len(self._permutations) > 4:
                self._permutations.clear()
            rng = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._permutations[epoch, device] = self._draw(rng).to(device)
        return self._permutations[epoch, device]

    def _draw(self, rng: torch.Generator) -> Tensor:
        return torch.randperm(self.count, generator=rng)


class WeightedIndices(ShuffledIndices):
    """An endless stream of row numbers drawn with replacement, in proportion to ``weights``.

    Args:
        weights: ``(N,)``, finite and at least 0, not all of them 0.
        seed: the seed of the draws.
    """

    def __init__(self, weights: Tensor, seed: int) -> None:
        super().__init__(len(weights), seed)
        self._weights = check_weights(weights, len(weights)).detach().cpu()

    def _draw(self, rng: torch.Generator) -> Tensor:
        return torch.multinomial(self._weights, self.count, replacement=True, generator=rng)


def check_weights(weights: Tensor, count: int) -> Tensor:
    """``weights``, if they are ``(count,)`` finite values of at least 0, not all of them 0.

    Raises:
        InputError: they are not.
    """
    if weights.shape != (count,) or not bool((weights >= 0).all()) or not 0 < float(weights.sum()) < float("inf"):
        raise InputError(
            f"weights of shape {tuple(weights.shape)}: expected ({count},) finite values of at least 0, "
            "not all of them 0"
        )
    return weights


class ImageRows:
    """Rows that are images only, such as the edge's real ones in stage 1.

    Args:
        images: ``(N, channels, height, width)``.
        seed: the seed of the order of the rows.
    """

    def __init__(self, images: Tensor, *, seed: int) -> None:
        self.images = images
        self._order = ShuffledIndices(len(images), seed)

    def batch(self, step: int, size: int, shard: Shard) -> Rows:
        return Rows(self.images[self._order.batch(step, size, shard, self.images.device)])


class FixedRows:
    """A source of the same rows over and over, in shuffled order.

    Args:
        rows: all of them.
        seed: the seed of the order.
    """

    def __init__(self, rows: Rows, *, seed: int) -> None:
        self._rows = rows
        self._order = ShuffledIndices(len(rows), seed)

    def batch(self, step: int, size: int, shard: Shard) -> Rows:
        """``size`` rows for this process at ``step``; all of them, if there are fewer."""
        size = min(size, max(2, len(self._rows)))
        return self._rows[self._order.batch(step, size, shard, self._rows.images.device)]


class PairedRows:
    """Rows of one source, each with an image of another beside it.

    Args:
        rows: the source that gives the rows.
        name: of the further column.
        images: the source whose images fill it.
    """

    def __init__(self, rows: RowSource, name: str, images: RowSource) -> None:
        self._rows, self._name, self._images = rows, name, images

    def batch(self, step: int, size: int, shard: Shard) -> Rows:
        rows = self._rows.batch(step, size, shard)
        beside = self._images.batch(step, size, shard).images
        return replace(rows, extra={**rows.extra, self._name: beside.to(rows.images.device)})


class NoiseRows:
    """Rows of standard normal noise, for a stage that needs no image: a generator's latents.

    Args:
        shape: that of one row, such as ``(100,)``.
        seed: the seed of the draws; a batch depends only on it, the step and the process.
    """

    def __init__(self, *shape: int, seed: int) -> None:
        if not shape or min(shape) < 1:
            raise InputError(f"shape={shape}: expected the sizes of a row of noise, each at least 1")
        self.shape, self.seed = shape, seed

    def batch(self, step: int, size: int, shard: Shard) -> Rows:
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + step * shard.world + shard.rank)
        return Rows(torch.randn(size, *self.shape, generator=rng))
