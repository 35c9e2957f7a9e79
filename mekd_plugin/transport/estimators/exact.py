"""The exact problem: the cost of moving every point to every point, and POT's network simplex on it."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.pot import ot
from mekd_plugin.transport.samples import Sample

__all__ = ["EXACT_POINTS", "ExactPlan", "Order", "cost_matrix", "exact_cost", "exact_plan"]

Order = Literal[1, 2]
EXACT_POINTS = 5000
"""The largest set for which ``"auto"`` solves the exact problem: about ten seconds and a gigabyte on one core."""


class ExactPlan(NamedTuple):
    """How masses are moved.

    Attributes:
        plan: ``(N, M)``, the mass that goes from each x to each y.
        cost: of it.
        potentials: ``(M,)``, the dual's of the y, up to a constant.
    """

    plan: Tensor
    cost: float
    potentials: Tensor


def cost_matrix(x: Tensor, y: Tensor, order: Order) -> Tensor:
    """Euclidean distances to the power ``order`` from every x to every y: ``(N, d)`` and ``(M, d)`` to ``(N, M)``
    float64.

    They come from inner products. A squared distance within their rounding error counts as 0, so that a
    point is at distance 0 from its copy; points are moved to their median first, which keeps the rounding small.
    """
    centre = x.double().median(dim=0).values
    return centred_cost(x.double() - centre, y.double() - centre, order)


def centred_cost(x: Tensor, y: Tensor, order: Order) -> Tensor:
    """:func:`cost_matrix` of float64 points that lie about 0 already."""
    squared: Tensor = ot.dist(x, y, metric="sqeuclidean")
    rounding = 1e-14 * (x.square().sum(1)[:, None] + y.square().sum(1))
    squared = squared.masked_fill_(squared <= rounding, 0.0)
    return squared.sqrt_() if order == 1 else squared


def unit_of(cost: Tensor) -> float:
    """The power of two next to the largest cost, above or at it; 1 where all are 0.

    POT's exact solvers take differences of about 1e-15 for none, whatever the costs are: they have to see these in a
    unit of their own size. Dividing by a power of two, and multiplying, rounds nothing.
    """
    largest = float(cost.max())
    return math.ldexp(1.0, math.frexp(largest)[1]) if largest > 0 else 1.0


def exact_plan(masses_x: Tensor, masses_y: Tensor, cost: Tensor) -> ExactPlan:
    """The cheapest plan between two sets of masses, by POT's network simplex.

    Args:
        masses_x: ``(N,)`` float64, positive, of sum 1.
        masses_y: ``(M,)``, likewise.
        cost: ``(N, M)`` float64, not negative, in any unit: that of the plan's cost and potentials.

    Raises:
        InputError: the solver stopped before it converged.

    Source: Bonneel, van de Panne, Paris, Heidrich, *Displacement Interpolation Using Lagrangian Mass Transport*,
    SIGGRAPH Asia 2011.
    """
    unit = unit_of(cost)
    cost = cost / unit  # in the place of the first one, whose memory is free unless the caller keeps it
    plan, log = ot.emd(masses_x, masses_y, cost, numItermax=10_000_000, log=True)
    if log["warning"] is not None:
        raise InputError(
            f"exact transport of {len(masses_x)} to {len(masses_y)} points failed: {log['warning']}; take fewer points"
        )
    return ExactPlan(plan, unit * max(float(log["cost"]), 0.0), unit * log["v"])


def exact_cost(x: Sample, y: Sample, order: Order) -> float:
    """W_p to the power p = ``order``.

    Raises:
        InputError: the solver stopped before it converged.
    """
    return exact_plan(x.masses(), y.masses(), cost_matrix(x.points, y.points, order)).cost
