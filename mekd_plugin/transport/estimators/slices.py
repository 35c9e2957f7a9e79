"""Distances of one-dimensional projections: cheap at any size, and bounds of W_p from below."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mekd_plugin.pot import ot
from mekd_plugin.transport.estimates import Estimate, join_notes
from mekd_plugin.transport.estimators.exact import Order
from mekd_plugin.transport.estimators.gaussian import GaussianFit, gaussian_fit
from mekd_plugin.transport.samples import Sample, generator
from mekd_plugin.transport.statistics.intervals import mean_interval

__all__ = ["max_sliced", "projected_costs", "random_directions", "slice_factor", "sliced"]


def sliced(
    x: Sample, y: Sample, *, order: Order = 2, confidence: float = 0.95, seed: int = 0, projections: int = 100
) -> Estimate:
    r"""Sliced Wasserstein distance, :math:`(E_\theta\, W_p^p(\langle\theta, x\rangle, \langle\theta, y\rangle))^{1/p}`
    over directions of length 1, with Student's t interval over the directions drawn.

    A distance of its own. Divided by :func:`slice_factor` it is a lower bound of W_p, reached by translations at p = 2.

    Source: Bonneel et al., *Sliced and Radon Wasserstein Barycenters of Measures*, 2015.
    """
    directions = random_directions(x.points.shape[1], projections, seed)
    costs = projected_costs(x, y, directions, order)
    ends = (max(end, 0.0) ** (1 / order) for end in mean_interval(costs.tolist(), confidence))
    value, low, high = ends
    note = f"over {projections} directions; the interval is over these"
    return Estimate(value, "sliced", low, high, (len(x), len(y)), join_notes(x.note, y.note, note))


def max_sliced(
    x: Sample,
    y: Sample,
    *,
    order: Order = 2,
    confidence: float = 0.95,
    seed: int = 0,
    projections: int = 50,
    fits: tuple[GaussianFit, GaussianFit] | None = None,
) -> Estimate:
    """The largest W_p of a projection among candidate directions, a lower bound of W_p and of the maximum over all.

    The candidates are, besides random ones, those in which a difference is likely: between the means, and the
    eigenvectors of the difference of the covariances with the largest eigenvalues of either sign (at most 8). There is
    no interval: the value is certainly a lower bound, and how far above it the true maximum lies is not known.

    ``fits`` are the Gaussian fits of x and y, if they are known already; ``confidence`` is not used.

    Source: Deshpande et al., *Max-Sliced Wasserstein Distance and its use for GANs*, CVPR 2019.
    """
    first, second = fits or (gaussian_fit(x), gaussian_fit(y))
    values, vectors = torch.linalg.eigh(first.covariance - second.covariance)
    spread = vectors[:, values.abs().topk(min(8, len(values))).indices]
    shift = (first.mean - second.mean)[:, None]
    random = random_directions(len(shift), projections, seed)
    candidates = torch.cat([shift / shift.norm().clamp_min(1e-300), spread, random.to(shift.device)], dim=1)
    value = float(projected_costs(x, y, candidates, order).max()) ** (1 / order)
    note = f"largest of {candidates.shape[1]} directions, a lower bound of the maximum"
    return Estimate(value, "max_sliced", size=(len(x), len(y)), note=join_notes(x.note, y.note, note))


def slice_factor(dimension: int, order: Order) -> float:
    r"""The factor :math:`c = (E_\theta |\theta_1|^p)^{1/p}`, for which the sliced distance is at most c W_p.

    For p = 2 it is the root of 1/d, for p = 1 :math:`\Gamma(d/2) / (\sqrt\pi\, \Gamma((d+1)/2))`.

    >>> slice_factor(4, 2), round(slice_factor(3, 1), 6), round(slice_factor(1, 1), 6)
    (0.5, 0.5, 1.0)
    """
    if order == 2:
        return 1 / math.sqrt(dimension)
    return math.exp(math.lgamma(dimension / 2) - math.lgamma((dimension + 1) / 2)) / math.sqrt(math.pi)


def random_directions(dimension: int, count: int, seed: int) -> Tensor:
    """``(d, count)`` float64 columns of length 1, uniform on the sphere."""
    columns = torch.randn(dimension, count, generator=generator(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(columns, dim=0)


def projected_costs(x: Sample, y: Sample, directions: Tensor, order: Order) -> Tensor:
    """``(K,)`` float64 on the CPU: W_p to the power p along each column of ``directions (d, K)``.

    Columns go in blocks, so that memory does not grow with K: larger ones for the product, which reads all points each
    time, smaller ones for the solver, which needs some ten times as much. On the CPU the solver runs on NumPy, which
    sorts three times as fast as torch here.
    """
    small = max(1, 1_000_000 // (len(x) + len(y)))
    on_cpu = x.points.device.type == "cpu"
    costs = []
    for columns in directions.split(10 * small, dim=1):
        projected = ((sample.points @ columns.to(sample.points)).split(small, dim=1) for sample in (x, y))
        for lines in zip(*projected, strict=True):
            parts = (*(line.double() for line in lines), x.weights, y.weights)
            arguments = [part.numpy() if on_cpu and part is not None else part for part in parts]
            costs.append(torch.as_tensor(ot.wasserstein_1d(*arguments, p=order)).cpu().double().reshape(-1))
    return torch.cat(costs).clamp_min(0)
