"""Weighted sampling of rows, as a stream that can be resumed at any position."""

from __future__ import annotations

import torch
from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.rows import ShuffledIndices

__all__ = ["WeightedIndices", "check_weights"]


class WeightedIndices(ShuffledIndices):
    """An endless stream of row numbers drawn with replacement, in proportion to ``weights``.

    Args:
        weights: ``(N,)``, finite and at least 0, not all of them 0.
        seed: of the draws.
    """

    def __init__(self, weights: Tensor, seed: int) -> None:
        super().__init__(len(weights), seed)
        self._weights = check_weights(weights, len(weights)).detach().cpu()

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._permutations:
            if len(self._permutations) > 4:
                self._permutations.clear()
            rng = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            drawn = torch.multinomial(self._weights, self.count, replacement=True, generator=rng)
            self._permutations[epoch] = drawn
        return self._permutations[epoch]


def check_weights(weights: Tensor, count: int) -> Tensor:
    """``weights``, if they are ``(count,)`` finite values from 0 and not all of them 0.

    Raises:
        InputError: they are not.
    """
    if weights.shape != (count,) or not bool((weights >= 0).all()) or not 0 < float(weights.sum()) < float("inf"):
        raise InputError(
            f"weights of shape {tuple(weights.shape)}: expected ({count},) finite values from 0, not all of them 0"
        )
    return weights
