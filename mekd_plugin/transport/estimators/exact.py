"""The exact problem: the cost of moving every point to every point, and POT's network simplex on it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.pot import ot
from mekd_plugin.transport.samples import Sample

__all__ = ["EXACT_POINTS", "Order", "cost_matrix", "exact_cost"]

Order = Literal[1, 2]
EXACT_POINTS = 5000
"""The largest set for which ``"auto"`` solves the exact problem: about ten seconds and half a gigabyte on one core."""


def cost_matrix(x: Tensor, y: Tensor, order: Order) -> Tensor:
    """Euclidean distances to the power ``order`` from every x to every y: ``(N, d)`` and ``(M, d)`` to ``(N, M)``
    float64.

    They come from inner products. A squared distance within their rounding error counts as 0, so that a
    point is at distance 0 from its copy; points are moved to their median first, which keeps the rounding small.
    """
    centre = x.double().median(dim=0).values
    x, y = x.double() - centre, y.double() - centre
    squared: Tensor = ot.dist(x, y, metric="sqeuclidean")
    rounding = 1e-14 * (x.square().sum(1)[:, None] + y.square().sum(1))
    squared = squared.masked_fill_(squared <= rounding, 0.0)
    return squared.sqrt_() if order == 1 else squared


def exact_cost(x: Sample, y: Sample, order: Order) -> float:
    """W_p to the power p = ``order``.

    Raises:
        InputError: the solver stopped before it converged.
    """
    matrix = cost_matrix(x.points, y.points, order)
    cost, log = ot.emd2(x.masses(), y.masses(), matrix, numItermax=10_000_000, log=True)
    if log["warning"] is not None:
        raise InputError(f"exact transport of {len(x)} to {len(y)} points failed: {log['warning']}; take fewer points")
    return max(float(cost), 0.0)
