"""Angles between directions, and what they would be by chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy
from numpy.typing import NDArray
from torch import Tensor, atan2

__all__ = ["angles_between", "random_angle_quantiles", "random_angle_shares"]


def angles_between(first: Tensor, second: Tensor) -> Tensor:
    """Angles in degrees between the rows of two ``(N, d)`` tensors, ``(N,)`` in [0, 180]; NaN where a row is zero.

    By twice the arc tangent of ``|a - b| / |a + b|`` of the unit vectors, which is exact to rounding near 0 and 180
    degrees, where the arc cosine of a product is not (Kahan 2006, *How Futile are Mindless Assessments of Roundoff*,
    section 12).
    """
    one, other = (rows / rows.norm(dim=1, keepdim=True) for rows in (first, second))
    return 2 * atan2((one - other).norm(dim=1), (one + other).norm(dim=1)).rad2deg()


def random_angle_quantiles(dimension: int, probabilities: Sequence[float]) -> list[float]:
    """Quantiles, in degrees, of the angle between a fixed direction and one drawn uniformly from all.

    With a the angle and d the dimension, ``(1 - cos a) / 2`` has the distribution Beta((d - 1)/2, (d - 1)/2): 90
    degrees in the median, and the closer to it the higher the dimension. In one dimension there are only two
    directions, 0 and 180 degrees.

    >>> [round(angle) for angle in random_angle_quantiles(9, [0.05, 0.5, 0.95])]
    [57, 90, 123]
    """
    if dimension == 1:
        return [0.0 if probability <= 0.5 else 180.0 for probability in probabilities]
    half = (dimension - 1) / 2
    return [float(angle) for angle in np.rad2deg(np.arccos(1 - 2 * scipy.stats.beta.ppf(probabilities, half, half)))]


def random_angle_shares(dimension: int, edges: NDArray[np.float64]) -> list[float]:
    """Shares of such random angles between consecutive ``edges``, increasing, in degrees: a histogram's expectation.

    >>> random_angle_shares(3, np.array([0.0, 60.0, 90.0, 180.0]))  # (1 - cos a)/2 is uniform in three dimensions
    [0.25, 0.25, 0.5]
    """
    if dimension == 1:
        below = 0.5 * ((edges > 0).astype(float) + (edges >= 180))
    else:
        half = (dimension - 1) / 2
        below = scipy.stats.beta.cdf((1 - np.cos(np.deg2rad(edges))) / 2, half, half)
    return [round(float(share), 12) for share in np.diff(below)]
