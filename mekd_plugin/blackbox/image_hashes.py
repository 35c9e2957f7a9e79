"""Fingerprints of images: 64 bits per image, to count distinct ones and to recognise a question on a replay."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

__all__ = ["DistinctCounter", "image_hashes"]

_PART = 512  # images hashed at a time: the 64-bit words are twice the images' size


def image_hashes(images: Tensor) -> Tensor:
    """One int64 number per image, the same on every device, memory format and version.

    A multilinear hash, ``sum_i w_i m(x_i) mod 2**64``: x_i are the bits of the image's float32 values, m mixes high
    bits into low ones (the low bits of round numbers are all zero), w_i are fixed odd numbers. Sums of integers do not
    depend on their order, which is why every device agrees. Two of n images share a number with a probability of about
    ``n**2 / 2**65``.

    Args:
        images: ``(N, ...)`` of any dtype; compared as float32.

    Returns:
        ``(N,)`` int64 on the CPU.
    """
    if images.numel() == 0:
        return torch.zeros(len(images), dtype=torch.int64)
    return torch.cat([_hash(part) for part in images.detach().split(_PART)]).cpu()


class DistinctCounter:
    """How many different numbers were seen, in 8 bytes per number."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, dtype=np.int64)
        self._recent: list[np.ndarray] = []

    def add(self, numbers: np.ndarray) -> None:
        """See ``numbers``, int64."""
        self._recent.append(numbers)
        # Merged when as many came in as are known, so that the work stays proportional to the numbers seen.
        if sum(map(len, self._recent)) > max(len(self._sorted), 4096):
            self.numbers()

    def numbers(self) -> np.ndarray:
        """The different numbers, sorted."""
        if self._recent:
            self._sorted = np.unique(np.concatenate([self._sorted, *self._recent]))
            self._recent = []
        return self._sorted

    def __len__(self) -> int:
        return len(self.numbers())


def _hash(images: Tensor) -> Tensor:
    words = images.to(torch.float32).reshape(len(images), -1).contiguous().view(torch.int32)
    mixed = words.to(torch.int64) & 0xFFFFFFFF
    mixed = mixed ^ (mixed >> 15)
    return (mixed * _weights(mixed.shape[1]).to(mixed.device)).sum(dim=1)


@lru_cache(maxsize=8)
def _weights(count: int) -> Tensor:
    """``count`` fixed odd 64-bit numbers (the splitmix64 sequence, written out so that no library can change it)."""
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state = (state ^ (state >> np.uint64(31))) | np.uint64(1)
    return torch.from_numpy(state.view(np.int64))
