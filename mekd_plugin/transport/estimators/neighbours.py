"""Euclidean distances between all points of two sets, a block of rows at a time, and nearest neighbours by them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.transport.estimators.exact import centred_cost

__all__ = ["distance_blocks", "nearest_other"]

_BLOCK_ENTRIES = 4_000_000


def distance_blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of x, as a slice, with their distances to every y, ``(rows, M)`` float64 on x's device, 32 MB a block.

    A point is at distance exactly 0 from its copy, so that ties between copies are recognised.

    Args:
        x: ``(N, d)``.
        y: ``(M, d)`` on the same device.
    """
    centre = y.double().median(dim=0).values
    y = y.double() - centre
    rows = max(1, _BLOCK_ENTRIES // len(y))
    for start in range(0, len(x), rows):
        block = slice(start, min(start + rows, len(x)))
        yield block, centred_cost(y, x[block].double() - centre, 1).T


def nearest_other(x: Tensor, k: int = 1) -> Tensor:
    """Distance from each of ``(N, d)`` to its k-th nearest other point, ``(N,)`` float64; 0 where it has k copies.

    Raises:
        InputError: k is not from 1 to N - 1.
    """
    if not 1 <= k < len(x):
        raise InputError(f"k={k} neighbours among {len(x)} points: expected 1 to {len(x) - 1}; take more points")
    return torch.cat([distances.kthvalue(k + 1, dim=1).values for _, distances in distance_blocks(x, x)])
