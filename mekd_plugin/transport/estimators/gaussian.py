"""Gaussian fits and the distance between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mekd_plugin.transport.estimates import Estimate, join_notes
from mekd_plugin.transport.samples import Points, Sample, as_pair

__all__ = ["GaussianFit", "bures_wasserstein", "gaussian_distance", "gaussian_fit"]

_BLOCK = 8192


@dataclass(frozen=True, eq=False)
class GaussianFit:
    """The first two moments of a sample, float64.

    Attributes:
        mean: ``(d,)``.
        factor: ``(r, d)``, r at most d, whose product ``factor.T @ factor`` is the covariance: of few points in many
            coordinates it is much the smaller.
    """

    mean: Tensor
    factor: Tensor

    @cached_property
    def covariance(self) -> Tensor:
        """``(d, d)``; it divides by N."""
        return self.factor.T @ self.factor


def gaussian_fit(sample: Sample) -> GaussianFit:
    """Moments in float64, a block of points at a time, so that not all points are copied to float64 at once."""
    masses, dimension = sample.masses(), sample.points.shape[1]
    blocks = list(zip(sample.points.split(_BLOCK), masses.split(_BLOCK), strict=True))
    mean = torch.zeros(dimension, dtype=torch.float64, device=masses.device)
    for points, mass in blocks:
        mean += mass @ points.double()
    factor = torch.zeros(0, dimension, dtype=torch.float64, device=masses.device)
    for points, mass in blocks:
        factor = torch.cat([factor, (points.double() - mean) * mass.sqrt()[:, None]])
        if len(factor) > dimension:
            factor = torch.linalg.qr(factor, mode="r").R
    return GaussianFit(mean, factor)


def gaussian_distance(x: GaussianFit, y: GaussianFit) -> float:
    r"""W2 between two Gaussians:

    .. math:: W_2^2 = \|m_x - m_y\|^2 + tr\, C_x + tr\, C_y - 2 \|F_x F_y^T\|_*

    with :math:`C = F^T F` and the nuclear norm, which is that of :math:`C_x^{1/2} C_y^{1/2}`, since the roots are the
    factors up to a rotation from the left. It stays accurate where covariances are singular (constant columns, fewer
    points than coordinates). ``ot.gaussian`` takes roots of eigenvalues that rounding makes negative there, and answers
    NaN.

    Source: Gelbrich, *On a formula for the L2 Wasserstein metric between measures on Euclidean and Hilbert spaces*,
    1990.
    """
    overlap = torch.linalg.matrix_norm(x.factor @ y.factor.T, ord="nuc")
    traces = x.factor.square().sum() + y.factor.square().sum()
    shape = float(traces - 2 * overlap)
    # Two equal covariances leave rounding errors, which a root would magnify.
    shape = shape if shape > 1e-13 * float(traces) else 0.0
    return math.sqrt(float((x.mean - y.mean).square().sum()) + shape)


def bures_wasserstein(
    x: Points, y: Points, *, weights_x: Points | None = None, weights_y: Points | None = None
) -> Estimate:
    """W2 between the Gaussians that have the means and covariances of x and y (:func:`gaussian_distance`).

    At most W2 of the points themselves, whatever their distributions (Gelbrich's bound), and blind to everything beyond
    two moments.

    Args:
        x: ``(N, ...)`` points, flattened to ``(N, d)``.
        y: ``(M, ...)`` points of the same d.
        weights_x: ``(N,)``, at least 0; scaled to sum to 1.
        weights_y: the same for y.

    Raises:
        InputError: points that cannot be used (see ``samples``), dimensions that differ.

    >>> result = bures_wasserstein(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [3.0]]))
    >>> round(result.value**2, 6)  # 2^2 between the means, (1 - 0)^2 between the deviations
    5.0
    """
    first, second = as_pair(x, y, weights_x, weights_y)
    value = gaussian_distance(gaussian_fit(first), gaussian_fit(second))
    return Estimate(value, "gaussian", size=(len(first), len(second)), note=join_notes(first.note, second.note))
