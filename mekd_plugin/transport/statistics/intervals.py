"""How sure a distance is: intervals from subsamples and from independent draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import scipy
import torch

from mekd_plugin.errors import InputError
from mekd_plugin.transport.samples import Sample, generator

__all__ = ["SUBSAMPLE_POINTS", "mean_interval", "subsampling_interval"]

SUBSAMPLE_POINTS = 500
"""The largest subsample on which an interval solves an exact problem."""


def mean_interval(values: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """Mean of independent draws with the ends of Student's t interval; all three are the same for a single draw."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, mean, mean
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = float(scipy.stats.t.ppf(0.5 + confidence / 2, len(values) - 1)) * deviation / math.sqrt(len(values))
    return mean, mean - half, mean + half


def subsampling_interval(
    statistic: Callable[[Sample, Sample], float],
    x: Sample,
    y: Sample,
    value: float,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[float | None, float | None, str]:
    r"""Interval around ``value`` = statistic(x, y) for what other samples of the same sizes would have given.

    The same share f of both sets is drawn without replacement, at most half and at most 500 points; the spread of the
    statistic about its own mean over the draws is scaled by :math:`\sqrt{f / (1 - f)}`, the ratio of the standard
    errors of N points and of fN out of those N. A bootstrap with replacement would not do: duplicated points bias a
    transport distance. It covers the expectation of the distance at these sizes, not the distance of the populations,
    from which that expectation differs by the bias of a finite sample; where the populations are equal the limit is not
    normal and the interval is a rough one.

    Returns:
        lower end (at least 0), upper end and a note; no ends where a set has fewer than four points.

    Sources: Politis, Romano, *Large sample confidence regions based on subsamples*, 1994; del Barrio, Loubes, *Central
    limit theorems for empirical transportation cost in general dimension*, 2019.
    """
    if resamples < 2:
        raise InputError(f"resamples={resamples}: expected 0 for no interval, or at least 2")
    if min(len(x), len(y)) < 4:
        return None, None, "fewer than four points on a side: no interval"
    share = min(0.5, SUBSAMPLE_POINTS / max(len(x), len(y)))
    counts = [max(2, round(share * len(sample))) for sample in (x, y)]
    rng = generator(seed)
    draws = torch.tensor([statistic(*_drawn((x, y), counts, rng)) for _ in range(resamples)], dtype=torch.float64)
    spread = (draws - draws.mean()) * math.sqrt(share / (1 - share))
    tails = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    below, above = (float(end) for end in spread.quantile(tails))
    note = f"interval: spread over {resamples} subsamples of {counts[0]} and {counts[1]} points"
    return max(value - above, 0.0), value - below, note


def _drawn(samples: tuple[Sample, Sample], counts: list[int], rng: torch.Generator) -> list[Sample]:
    chosen = (torch.randperm(len(sample), generator=rng)[:count] for sample, count in zip(samples, counts, strict=True))
    return [sample.take(index.to(sample.points.device)) for sample, index in zip(samples, chosen, strict=True)]
