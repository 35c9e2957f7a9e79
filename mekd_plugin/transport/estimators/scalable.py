"""W_p of sets too large for the exact problem: bounds from above by plans that are not optimal, from below by slices.

Each estimate's value is an upper bound (in expectation, for minibatches), so it errs upwards; its interval holds W_p of
the whole sets.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.pot import ot
from mekd_plugin.transport.estimates import Estimate, join_notes
from mekd_plugin.transport.estimators.exact import Order, exact_cost
from mekd_plugin.transport.estimators.gaussian import gaussian_distance, gaussian_fit
from mekd_plugin.transport.estimators.slices import max_sliced, slice_factor, sliced
from mekd_plugin.transport.samples import Sample, draw, generator
from mekd_plugin.transport.statistics.intervals import mean_interval

__all__ = ["bijection", "bracket", "low_rank", "lower_bound", "minibatch"]

LOW_RANK_POINTS = 10_000
_PLAIN_DIMENSIONS = 16


def bracket(x: Sample, y: Sample, *, order: Order, confidence: float, seed: int) -> Estimate:
    """The better of :func:`minibatch` and, between sets of one size without weights, :func:`bijection`."""
    bounds: list[Callable[..., Estimate]] = [minibatch]
    if len(x) == len(y) and x.weights is None and y.weights is None:
        bounds.append(bijection)
    low = lower_bound(x, y, order=order, confidence=confidence, seed=seed)
    found = [bound(x, y, order=order, confidence=confidence, seed=seed, low=low) for bound in bounds]
    return min(found, key=lambda estimate: estimate.value)


def minibatch(
    x: Sample,
    y: Sample,
    *,
    order: Order,
    confidence: float = 0.95,
    seed: int = 0,
    low: float | None = None,
    points: int = 3000,
    batches: int = 4,
) -> Estimate:
    """Mean cost of exact plans between random subsets of ``points`` points a side.

    The mean of those plans, over all subsets, is a plan between the whole sets, hence the bound. The interval's upper
    end is that of Student's t over the batches, its lower end :func:`lower_bound` (or ``low``).

    Source: Fatras et al., *Minibatch optimal transport distances; analysis and applications*, 2021.
    """
    rng = generator(seed)
    count = batches if max(len(x), len(y)) > points else 1
    costs = [exact_cost(draw(x, points, rng), draw(y, points, rng), order) for _ in range(count)]
    mean, _, high = (end ** (1 / order) for end in _clamped(mean_interval(costs, confidence)))
    low = lower_bound(x, y, order=order, confidence=confidence, seed=seed) if low is None else low
    note = f"errs upwards: {count} exact problems of at most {points} points a side"
    return _bounded(mean, "minibatch", low, high, x, y, note)


def bijection(
    x: Sample,
    y: Sample,
    *,
    order: Order,
    confidence: float = 0.95,
    seed: int = 0,
    low: float | None = None,
    plans: int = 40,
) -> Estimate:
    """Cost of a pairing of all points, merged from ``plans`` random binary space partitions.

    In more than 16 dimensions the partitions see the 16 leading principal axes; the cost is that of the points as they
    are, so the bound holds, and is looser there.

    Raises:
        InputError: weights, or numbers of points that differ: then the points cannot be paired.

    Source: Genest et al., *BSP-OT: Sparse transport plans between discrete measures in log-linear time*, 2025.
    """
    if len(x) != len(y) or x.weights is not None or y.weights is not None:
        raise InputError(
            f'a bijection of {len(x)} and {len(y)} points: expected equal numbers, no weights; use "minibatch"'
        )
    seen = _leading(x, y) if x.points.shape[1] > _PLAIN_DIMENSIONS else (x.points, y.points)
    arrays = (points.double().cpu().numpy() for points in seen)
    partners = torch.as_tensor(ot.bsp.compute_bspot_bijection(*arrays, n_plans=plans, p=2, seed=seed)[1]).long()
    blocks = zip(x.points.split(8192), partners.to(x.points.device).split(8192), strict=True)
    total = sum(float(((part - y.points[match]).double().norm(dim=1) ** order).sum()) for part, match in blocks)
    value = (total / len(x)) ** (1 / order)
    low = lower_bound(x, y, order=order, confidence=confidence, seed=seed) if low is None else low
    return _bounded(value, "bijection", low, value, x, y, f"errs upwards: a pairing merged from {plans} partitions")


def low_rank(
    x: Sample, y: Sample, *, order: Order, confidence: float = 0.95, seed: int = 0, rank: int = 50
) -> Estimate:
    """W2 over plans of nonnegative rank at most ``rank``, on at most 10,000 points a side.

    The loosest bound here: a plan of rank r moves r lumps of mass, each spread over its target. It is a bound only as
    far as the solver's marginals are right: after its 100 inner iterations about 0.3 % of the mass is astray.
    For order 2 only.

    Raises:
        InputError: order 1.

    Source: Scetbon, Cuturi, Peyre, *Low-Rank Sinkhorn Factorization*, ICML 2021.
    """
    if order != 2:
        raise InputError('estimator="low_rank" factorises the squared distance: expected order=2')
    rng = generator(seed)
    first, second = draw(x, LOW_RANK_POINTS, rng), draw(y, LOW_RANK_POINTS, rng)
    centre = first.points.double().mean(0)
    a, b = first.points.double() - centre, second.points.double() - centre
    scale = float(max(part.square().sum(1).max() for part in (a, b))) ** 0.5
    if scale <= 1e-12 * float(centre.norm()):  # all points are the same up to rounding: the solver would divide by 0
        return _bounded(0.0, "low_rank", 0.0, 0.0, x, y, "all points are the same")
    a, b = a / scale, b / scale
    options = {"rank": rank, "seed_init": seed, "numItermax": 100, "stopThr": 1e-4, "warn": False}
    left, right, masses = ot.lowrank.lowrank_sinkhorn(a, b, first.masses(), second.masses(), **options)
    inner = ((a.T @ left / masses) * (b.T @ right)).sum()
    cost = left.sum(1) @ a.square().sum(1) + right.sum(1) @ b.square().sum(1) - 2 * inner
    value = scale * max(float(cost), 0.0) ** 0.5
    low = lower_bound(x, y, order=2, confidence=confidence, seed=seed)
    note = f"errs upwards: a plan of rank {rank} between {len(first)} and {len(second)} points"
    return _bounded(value, "low_rank", low, value, x, y, note)


def lower_bound(x: Sample, y: Sample, *, order: Order, confidence: float = 0.95, seed: int = 0) -> float:
    """The best of what is known to lie below W_p: the widest projection, the mean over directions divided by
    ``slice_factor`` (lower end of its interval) and, for order 2, the distance of the Gaussian fits.
    """
    fits = gaussian_fit(x), gaussian_fit(y)
    mean = sliced(x, y, order=order, confidence=confidence, seed=seed).low or 0.0
    widest = max_sliced(x, y, order=order, seed=seed, fits=fits).value
    bounds = [widest, mean / slice_factor(x.points.shape[1], order)]
    if order == 2:
        bounds.append(gaussian_distance(*fits))
    return max(bounds)


def _bounded(value: float, estimator: str, low: float, high: float, x: Sample, y: Sample, note: str) -> Estimate:
    return Estimate(
        value, estimator, min(low, value), high, (len(x), len(y)), join_notes(x.note, y.note, note, "interval: bounds")
    )


def _clamped(ends: tuple[float, float, float]) -> tuple[float, ...]:
    return tuple(max(end, 0.0) for end in ends)


def _leading(x: Sample, y: Sample) -> tuple[Tensor, Tensor]:
    """Both sets on the leading principal axes of (at most 5,000 points of) their union."""
    rng = generator(0)
    pool = torch.cat([draw(sample, 2500, rng).points.double() for sample in (x, y)])
    covariance = gaussian_fit(Sample(pool, None)).covariance
    axes = torch.linalg.eigh(covariance).eigenvectors[:, -_PLAIN_DIMENSIONS:]
    return x.points @ axes.to(x.points), y.points @ axes.to(y.points)
