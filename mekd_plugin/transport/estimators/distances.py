"""Distances between two sets of points as distributions, by POT's solvers.

The paper's two definitions are statements of this kind: teacher and student are equivalent when W1 between their
responses is 0 (Definition 1), G is the inverse of the teacher when W1 between its images and the real ones is 0
(Definition 2). Both see marginals only; :func:`paired_cost` is the one number here that knows which response belongs to
which image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import scipy

from mekd_plugin.errors import InputError
from mekd_plugin.transport.estimates import Estimate, join_notes
from mekd_plugin.transport.estimators import scalable, slices
from mekd_plugin.transport.estimators.exact import EXACT_POINTS, Order, exact_cost
from mekd_plugin.transport.samples import Points, Sample, as_pair, check_confidence
from mekd_plugin.transport.statistics.intervals import subsampling_interval

__all__ = ["Estimator", "paired_cost", "wasserstein"]

Estimator = Literal["auto", "exact", "sliced", "max_sliced", "minibatch", "bijection", "low_rank"]
_ESTIMATORS: dict[str, Callable[..., Estimate]] = {
    "auto": scalable.bracket,
    "sliced": slices.sliced,
    "max_sliced": slices.max_sliced,
    "minibatch": scalable.minibatch,
    "bijection": scalable.bijection,
    "low_rank": scalable.low_rank,
}


def wasserstein(
    x: Points,
    y: Points,
    *,
    order: Order = 1,
    weights_x: Points | None = None,
    weights_y: Points | None = None,
    estimator: Estimator = "auto",
    confidence: float = 0.95,
    resamples: int = 0,
    seed: int = 0,
) -> Estimate:
    r"""W_p between two sets of points with Euclidean ground distance, p = ``order``:

    .. math:: W_p(x, y) = \Big(\min_{P} \sum_{ij} P_{ij} \|x_i - y_j\|^p\Big)^{1/p}

    over the plans P with the points' weights as marginals.

    Args:
        x: ``(N, ...)`` points, flattened to ``(N, d)``.
        y: ``(M, ...)`` points of the same d.
        order: 1 or 2.
        weights_x: ``(N,)``, at least 0; scaled to sum to 1, which ``note`` then says. None is 1/N each.
        weights_y: the same for y.
        estimator: ``"auto"`` is exact up to 5,000 points on the larger side; beyond, the better of ``"minibatch"`` and
            ``"bijection"`` (sets of one size without weights). Those two and ``"low_rank"`` (order 2) err upwards, and
            their interval holds W_p. ``"sliced"`` and ``"max_sliced"`` are distances of their own, at most W_p.
        confidence: of the interval.
        resamples: for ``"exact"``: how many subsamples the interval is made from, 0 for none. It then says how far the
            number would move with other samples of these sizes; those of the other estimators, how far it is off.
        seed: of all randomness.

    Raises:
        InputError: points that cannot be used (see ``samples``), dimensions that differ, an unknown estimator or order.

    >>> import torch
    >>> wasserstein(torch.tensor([0.0, 1.0]), torch.tensor([3.0, 2.0])).value
    2.0
    """
    if order not in get_args(Order):
        raise InputError(f"order={order!r}: expected 1 or 2")
    if estimator not in get_args(Estimator):
        raise InputError(f"estimator={estimator!r}: expected one of {', '.join(get_args(Estimator))}")
    check_confidence(confidence)
    first, second = as_pair(x, y, weights_x, weights_y)
    if estimator == "exact" or (estimator == "auto" and max(len(first), len(second)) <= EXACT_POINTS):
        return _exact(first, second, order, confidence, resamples, seed)
    return _ESTIMATORS[estimator](first, second, order=order, confidence=confidence, seed=seed)


def paired_cost(x: Points, y: Points, *, order: Order = 1, confidence: float = 0.95) -> Estimate:
    r"""What it costs to move every point to its own partner, :math:`(\frac1N \sum_i \|x_i - y_i\|^p)^{1/p}`.

    Never below W_p, and equal to it exactly where no exchange of partners would be cheaper. The interval is the normal
    one of the mean over points.

    Args:
        x: ``(N, ...)``: one response to each image.
        y: ``(N, ...)``: the other's responses to the same images in the same order.
        order: p, 1 or 2.
        confidence: of the interval.

    Raises:
        InputError: as :func:`wasserstein`; numbers of points that differ.

    >>> import torch
    >>> paired_cost(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])).value  # W1 is 0
    1.0
    """
    check_confidence(confidence)
    first, second = as_pair(x, y)
    if len(first) != len(second):
        raise InputError(f"{len(first)} points against {len(second)}: a paired cost needs partners; use wasserstein")
    costs = (first.points - second.points).double().norm(dim=1) ** order
    mean, size = float(costs.mean()), (len(first), len(second))
    if len(first) == 1:
        return Estimate(mean ** (1 / order), "paired", size=size, note="one pair: no interval")
    half = float(scipy.stats.norm.ppf(0.5 + confidence / 2)) * float(costs.std()) / len(first) ** 0.5
    low, high = (max(end, 0.0) ** (1 / order) for end in (mean - half, mean + half))
    return Estimate(mean ** (1 / order), "paired", low, high, size)


def _exact(x: Sample, y: Sample, order: Order, confidence: float, resamples: int, seed: int) -> Estimate:
    value = exact_cost(x, y, order) ** (1 / order)
    low = high = None
    note = ""
    if resamples:
        low, high, note = subsampling_interval(
            lambda a, b: exact_cost(a, b, order) ** (1 / order),
            x,
            y,
            value,
            confidence=confidence,
            resamples=resamples,
            seed=seed,
        )
    return Estimate(value, "exact", low, high, (len(x), len(y)), join_notes(x.note, y.note, note))
