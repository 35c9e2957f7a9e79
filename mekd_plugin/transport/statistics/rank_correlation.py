"""Spearman's rank correlation with a bootstrap interval."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from mekd_plugin.errors import InputError

__all__ = ["RankCorrelation", "rank_correlation"]

_BLOCK_ENTRIES = 1_000_000


class RankCorrelation(NamedTuple):
    """How far two quantities rise and fall together.

    Attributes:
        value: in [-1, 1]; None where it is not defined: fewer than three pairs, or a quantity that never changes.
        low: lower end of the percentile bootstrap interval over pairs; None with ``value``.
        high: upper end.
        size: how many pairs.
    """

    value: float | None
    low: float | None
    high: float | None
    size: int

    def as_record(self) -> dict[str, Any]:
        """The same as JSON types."""
        return self._asdict()


def rank_correlation(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> RankCorrelation:
    """Spearman's rho: the correlation of ranks, ties at their mean rank.

    Args:
        first: ``(n,)`` finite numbers.
        second: ``(n,)``, of the same n things.
        resamples: of the pairs with replacement; those in which a quantity is constant are left out.
        confidence: of the interval.
        seed: of the resamples.

    Raises:
        InputError: arrays that are not one-dimensional, of one length and finite.

    Source of the interval: Efron, Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13.

    >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0])).value
    0.5
    """
    pairs = [np.asarray(values, dtype=np.float64) for values in (first, second)]
    if pairs[0].ndim != 1 or pairs[0].shape != pairs[1].shape or not np.isfinite(pairs).all():
        raise InputError(
            f"arrays of shapes {pairs[0].shape} and {pairs[1].shape}: expected finite numbers, two for each thing, (n,)"
        )
    size = len(pairs[0])
    value = _spearman(*(values[None] for values in pairs))[0] if size > 2 else np.nan
    if np.isnan(value):
        return RankCorrelation(None, None, None, size)
    rng = np.random.default_rng(seed)
    drawn: list[float] = []
    rows = max(1, _BLOCK_ENTRIES // size)
    for start in range(0, resamples, rows):
        index = rng.integers(size, size=(min(rows, resamples - start), size))
        drawn.extend(_spearman(*(values[index] for values in pairs)))
    tails = np.nanquantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return RankCorrelation(round(float(value), 12), float(tails[0]), float(tails[1]), size)


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    one, other = (scipy.stats.rankdata(values, axis=1) - (values.shape[1] + 1) / 2 for values in (first, second))
    norms = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    correlation: NDArray[np.float64] = (one * other).sum(axis=1) / np.where(norms > 0, norms, np.nan)
    return correlation
