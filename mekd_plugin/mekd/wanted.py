"""Wanted answers: for which answers of the teacher images are drawn and asked about."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from mekd_plugin.mekd.generated import balancing_weights
from mekd_plugin.responses import Response

__all__ = ["Choice", "WantedAnswers"]

Choice = Literal["random", "balanced", "uncertain"]


class WantedAnswers:
    """Answers near those that real images get, as scores.

    Args:
        scores: a surrogate's centred answers to the real images, ``(N, C)``.
        choice: ``"random"`` takes them as they come, ``"balanced"`` every class alike, ``"uncertain"`` those the more
            often whose two highest probabilities are the nearer.
        mixed: share of wanted answers, in [0, 1], that lie on the line between two of them.
        seed: of the draws.
    """

    def __init__(self, scores: Tensor, *, choice: Choice, mixed: float, seed: int) -> None:
        self.scores, self._mixed, self._seed = scores.cpu(), mixed, seed
        self._weights = _weights(self.scores, choice)

    @cached_property
    def class_means(self) -> Tensor:
        """The mean of the scores that name each class, ``(C, C)``; a row of NaN where none do."""
        labels, classes = self.scores.argmax(dim=1), self.scores.shape[1]
        sums = self.scores.new_zeros(classes, classes).index_add_(0, labels, self.scores)
        return sums / labels.bincount(minlength=classes)[:, None]

    def draw(self, start: int, stop: int) -> Tensor:
        """The answers wanted of rows ``start`` to ``stop``, ``(stop - start, C)``; depends on nothing but the range."""
        rng = torch.Generator().manual_seed(self._seed * 1_000_003 + start)
        return self.sample(stop - start, rng)

    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """``count`` wanted answers ``(count, C)`` on the CPU."""
        first, second = self._pick(count, rng), self._pick(count, rng)
        share = torch.rand(count, 1, generator=rng)
        kept = torch.rand(count, 1, generator=rng) >= self._mixed
        share = torch.where(kept, torch.ones(()), share)
        return share * self.scores[first] + (1 - share) * self.scores[second]

    def _pick(self, count: int, rng: torch.Generator) -> Tensor:
        return torch.multinomial(self._weights, count, replacement=True, generator=rng)


def _weights(scores: Tensor, choice: Choice) -> Tensor:
    if choice == "balanced":
        return balancing_weights(Response(scores, "logits", scores.shape[1]))
    if choice == "uncertain":
        highest = scores.softmax(dim=1).topk(2, dim=1).values
        return 1.05 - (highest[:, 0] - highest[:, 1])  # a sure one is wanted now and then, too
    return torch.ones(len(scores))
