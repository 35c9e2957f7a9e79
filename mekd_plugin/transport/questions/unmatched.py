"""Which points have no counterpart: plans that need not move everything."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.pot import ot
from mekd_plugin.transport.estimators.exact import EXACT_POINTS, Order, cost_matrix, unit_of
from mekd_plugin.transport.samples import Points, as_pair

__all__ = ["Unmatched", "unmatched"]


@dataclass(frozen=True)
class Unmatched:
    """What a partial plan leaves where it is.

    Attributes:
        left_x: ``(N,)`` float64, the share of each point's mass that is not moved, in [0, 1].
        left_y: ``(M,)`` the share of each point's mass that nothing is moved to.
        x: indices of the points of x of which more than half is left, those farthest from y first.
        y: the same for y.
        moved: share of all mass that is moved.
        cost: mean distance over which it is moved (for p = 2 the root of the mean square); 0 where nothing is.
    """

    left_x: Tensor
    left_y: Tensor
    x: Tensor
    y: Tensor
    moved: float
    cost: float


def unmatched(
    x: Points, y: Points, *, share: float | None = None, reach: float | None = None, order: Order = 1
) -> Unmatched:
    r"""The cheapest plan that moves only part of the mass, and the points that it leaves.

    With ``share`` (partial transport) exactly that share is moved, whatever the distance. With ``reach`` (unbalanced
    transport with a total-variation penalty on the marginals,
    :math:`\min_P \langle P, C \rangle + \tfrac{reach^p}{2} (\|P 1 - w_x\|_1 + \|P^\top 1 - w_y\|_1)`)
    mass is moved where that costs less than leaving it on both sides, so nothing is moved farther than ``reach``.

    Args:
        x: ``(N, ...)`` points, at most 5,000.
        y: ``(M, ...)``, the same.
        share: of the mass, in (0, 1].
        reach: a distance in the unit of the points, positive; to choose one, look at how far
            neighbours within one domain are apart.
        order: p, 1 or 2.

    Raises:
        InputError: neither or both of share and reach, one out of its range, too many points, points that do not fit.

    Sources: Caffarelli, McCann, *Free boundaries in optimal transport and Monge-Ampere obstacle problems*, 2010;
    Chapel, Alaya, Gasso, *Partial Optimal Transport with Applications on Positive-Unlabeled Learning*, NeurIPS 2020.

    >>> import torch
    >>> unmatched(torch.tensor([0.0, 1.0, 50.0]), torch.tensor([0.0, 1.0, -9.0]), reach=2.0).x
    tensor([2])
    """
    if (share is None) == (reach is None):
        raise InputError(f"share={share}, reach={reach}: expected exactly one of them")
    if share is not None and not 0 < share <= 1:
        raise InputError(f"share={share}: expected a share of the mass in (0, 1]")
    if reach is not None and not 0 < reach < float("inf"):
        raise InputError(f"reach={reach}: expected a positive distance")
    first, second = as_pair(x, y)
    if max(len(first), len(second)) > EXACT_POINTS:
        raise InputError(f"{len(first)} and {len(second)} points: expected at most {EXACT_POINTS}; draw some of them")
    # POT's partial solver makes parts of its problem on the CPU, whatever the device of the rest
    cost = cost_matrix(first.points, second.points, order).cpu()
    masses_x, masses_y, unit = first.masses().cpu(), second.masses().cpu(), unit_of(cost)
    if share is not None:
        plan = ot.partial.partial_wasserstein(masses_x, masses_y, cost / unit, m=share * (1 - 1e-12))
    elif reach is not None:
        plan = ot.partial.partial_wasserstein_lagrange(masses_x, masses_y, cost / unit, reg_m=reach**order / unit)
    moved = float(plan.sum())
    left_x = (1 - plan.sum(1) / masses_x).clamp(0, 1)
    left_y = (1 - plan.sum(0) / masses_y).clamp(0, 1)
    total = max(float((plan * cost).sum()), 0.0)
    return Unmatched(
        left_x=left_x,
        left_y=left_y,
        x=_farthest_first(left_x, cost.amin(1)),
        y=_farthest_first(left_y, cost.amin(0)),
        moved=moved,
        cost=(total / moved) ** (1 / order) if moved > 0 else 0.0,
    )


def _farthest_first(left: Tensor, distance: Tensor) -> Tensor:
    chosen = (left > 0.5).nonzero().flatten()
    return chosen[distance[chosen].argsort(descending=True)]
