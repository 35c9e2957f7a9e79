"""How well a score tells two groups apart: the area under its curve, and its hits at few false alarms."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import scipy
import torch
from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.transport.samples import Points, as_points, check_confidence, generator
from mekd_plugin.transport.statistics.proportions import proportion_of

__all__ = ["AreaUnderCurve", "TruePositiveRate", "area_under_curve", "true_positive_rate"]

_BLOCK_ENTRIES = 4_000_000


class AreaUnderCurve(NamedTuple):
    """The area under a receiver operating characteristic.

    Attributes:
        value: chance that a positive has the higher score of a random pair, ties counted half; 0.5 by guessing.
        low: lower end of its interval.
        high: upper end.
        positives: how many.
        negatives: how many.
    """

    value: float
    low: float
    high: float
    positives: int
    negatives: int

    def as_record(self) -> dict[str, Any]:
        """The same as JSON types."""
        return self._asdict()


class TruePositiveRate(NamedTuple):
    """The share of positives above a threshold that few negatives pass.

    Attributes:
        value: that share.
        low: lower end of its interval.
        high: upper end.
        at: share of the negatives that may pass.
        false_positives: share of the negatives that passes; below ``at`` with ties, or with few negatives.
    """

    value: float
    low: float
    high: float
    at: float
    false_positives: float

    def as_record(self) -> dict[str, Any]:
        """The same as JSON types."""
        return self._asdict()


def area_under_curve(positives: Points, negatives: Points, *, confidence: float = 0.95) -> AreaUnderCurve:
    r"""Area under the curve of a score that should be higher for positives, with DeLong's interval, cut to [0, 1].

    With :math:`V_i` the share of negatives below positive i, ties half, and :math:`U_j` that of the positives above
    negative j, the variance is :math:`var(V) / m + var(U) / n`. Where the score separates the groups without an
    error it would be 0: the interval is then Wilson's of the smaller group, all of it told apart.

    Args:
        positives: ``(m,)`` scores, m at least 2.
        negatives: ``(n,)`` scores, n at least 2.
        confidence: of the interval.

    Raises:
        InputError: fewer than two scores in a group, or one that is not finite.

    Source: DeLong, DeLong, Clarke-Pearson, *Comparing the Areas under Two or More Correlated Receiver Operating
    Characteristic Curves: A Nonparametric Approach*, Biometrics 44(3), 1988.

    >>> area_under_curve(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0])).value
    0.75
    """
    check_confidence(confidence)
    above, below = _scores(positives, "positives"), _scores(negatives, "negatives")
    m, n = len(above), len(below)
    ranks = scipy.stats.rankdata(torch.cat([above, below]).numpy())
    beaten = (ranks[:m] - scipy.stats.rankdata(above.numpy())) / n
    beating = 1 - (ranks[m:] - scipy.stats.rankdata(below.numpy())) / m
    value = float(beaten.mean())
    variance = float(beaten.var(ddof=1)) / m + float(beating.var(ddof=1)) / n
    if variance == 0:
        share = proportion_of(round(value * min(m, n)), min(m, n), confidence=confidence)
        return AreaUnderCurve(value, min(share.low, value), max(share.high, value), m, n)
    half = float(scipy.stats.norm.ppf(0.5 + confidence / 2)) * math.sqrt(variance)
    return AreaUnderCurve(value, max(value - half, 0.0), min(value + half, 1.0), m, n)


def true_positive_rate(
    positives: Points,
    negatives: Points,
    *,
    at: float = 0.01,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> TruePositiveRate:
    """Share of positives that score above all but a share ``at`` of the negatives.

    What counts in an attack on privacy is how many it finds while it is hardly ever wrong; an area under the curve does
    not say that. The interval is the wider of two: the percentile bootstrap over both groups, which knows that the
    threshold is an estimate, and Wilson's for the threshold as it is, which has a width where the bootstrap has none.

    Args:
        positives: ``(m,)`` scores.
        negatives: ``(n,)`` scores; with fewer than ``1 / at`` none may pass.
        at: in [0, 1).
        resamples: of both groups, with replacement.
        confidence: of the interval.
        seed: of the resamples.

    Raises:
        InputError: fewer than two scores in a group, one that is not finite, ``at`` or ``resamples`` out of range.

    Source: Carlini, Chien, Nasr, Song, Terzis, Tramer, *Membership Inference Attacks From First Principles*, IEEE S&P
    2022, section IV, for the figure; Efron, Tibshirani, *An Introduction to the Bootstrap*, 1993, for the interval.

    >>> true_positive_rate(torch.arange(100) + 50.0, torch.arange(100) * 1.0).value
    0.51
    """
    check_confidence(confidence)
    if not 0 <= at < 1 or resamples < 1:
        raise InputError(f"at={at}, resamples={resamples}: expected a share in [0, 1), and at least one resample")
    above, below = _scores(positives, "positives"), _scores(negatives, "negatives")
    m, n = len(above), len(below)
    allowed = math.floor(at * n + 1e-9)
    threshold = below.sort(descending=True).values[allowed]
    hits = int((above > threshold).sum())
    given = proportion_of(hits, m, confidence=confidence)
    rng = generator(seed)
    drawn = []
    rows = max(1, _BLOCK_ENTRIES // max(m, n))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        again = below[torch.randint(n, (count, n), generator=rng)].kthvalue(n - allowed, dim=1, keepdim=True).values
        drawn.append((above[torch.randint(m, (count, m), generator=rng)] > again).double().mean(dim=1))
    tails = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    low, high = torch.cat(drawn).quantile(tails).tolist()
    passed = float((below > threshold).double().mean())
    return TruePositiveRate(given.value, min(low, given.low), max(high, given.high), at, passed)


def _scores(values: Points, name: str) -> Tensor:
    points = as_points(values, name).double().cpu()
    if points.shape[1] != 1 or len(points) < 2:
        raise InputError(f"{name} of shape {tuple(points.shape)}: expected at least two scores, (n,)")
    return points[:, 0]
