"""Answered rows that are a part of a stage's state: those of a stage that asks within its steps, or its first ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mekd_plugin.responses import Kind, Response
from mekd_plugin.rows import Rows, RowSource, Shard, ShuffledIndices

__all__ = ["FirstRows", "Replay"]


class Replay(nn.Module):
    """The last answered images, kept in buffers: as a player of a stage it is saved and restored with it.

    A bank is filled between two steps, by questions of its own. This is filled within them.

    Args:
        capacity: images that it holds; when it is full, the oldest give way.
        image_shape: ``(channels, height, width)``.
        kind: of the answers.
        num_classes: C.
        seed: the seed of the order of its rows.
    """

    images: Tensor
    values: Tensor
    written: Tensor

    def __init__(
        self, capacity: int, image_shape: tuple[int, int, int], kind: Kind, num_classes: int, *, seed: int
    ) -> None:
        super().__init__()
        self.capacity, self.kind, self.num_classes, self.seed = capacity, kind, num_classes, seed
        empty = torch.zeros(capacity, dtype=torch.int64) if kind == "hard" else torch.zeros(capacity, num_classes)
        self.register_buffer("images", torch.zeros(capacity, *image_shape))
        self.register_buffer("values", empty)
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))
        self._order: ShuffledIndices | None = None

    @torch.no_grad()
    def keep(self, images: Tensor, response: Response) -> None:
        """Take in answered images ``(N, channels, height, width)``, N at most the capacity; may stand in a step."""
        places = (self.written + torch.arange(len(images), device=images.device)) % self.capacity
        self.images.index_copy_(0, places, images.to(self.images))
        self.values.index_copy_(0, places, response.values.to(self.values))
        self.written += len(images)

    def __len__(self) -> int:
        """Images that it holds; looks at a number on the device, so it is for between two stages."""
        return min(self.capacity, int(self.written))

    def rows(self) -> Rows:
        """All rows that it holds; of an empty one, which only a rehearsal meets, as many blank ones."""
        count = len(self) or self.capacity
        return Rows(self.images[:count], Response(self.values[:count], self.kind, self.num_classes))

    def batch(self, step: int, size: int, shard: Shard) -> Rows:
        """``size`` rows for this process at ``step``, in shuffled order."""
        rows = self.rows()
        if self._order is None or self._order.count != len(rows):
            self._order = ShuffledIndices(len(rows), self.seed)
        return rows[self._order.batch(step, size, shard, self.images.device)]


class FirstRows:
    """A source whose first rows stay in ``kept``, from which the health of what made them can be read.

    Args:
        source: answered rows.
        kept: a player of the stage, so that a run that goes on has those of its beginning.
    """

    def __init__(self, source: RowSource, kept: Replay) -> None:
        self._source, self._kept = source, kept

    def batch(self, step: int, size: int, shard: Shard) -> Rows:
        rows = self._source.batch(step, size, shard)
        room = self._kept.capacity - step * len(rows)
        if room > 0:
            first = rows[torch.arange(min(room, len(rows)), device=rows.images.device)].to(self._kept.images.device)
            self._kept.keep(first.images, first.answers())
        return rows
