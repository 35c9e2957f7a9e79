"""Intervals cover as often as they say."""

from __future__ import annotations

import pytest
import torch

from mekd_plugin.transport import wasserstein
from mekd_plugin.transport.statistics.intervals import mean_interval


def normal(count, dimension, seed=0):
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


def test_the_mean_of_draws_has_students_interval():
    mean, low, high = mean_interval([1.0, 2.0, 3.0], 0.95)
    assert mean == 2 and high - mean == pytest.approx(4.302653 / 3**0.5) and mean - low == pytest.approx(high - mean)
    assert mean_interval([1.5], 0.95) == (1.5, 1.5, 1.5)


def test_the_interval_covers_the_expected_distance_at_this_size():
    """Expected over samples of 60 points; under a clear shift the limit is normal, and the interval a 90 % one."""
    values, intervals = [], []
    for seed in range(100):
        found = wasserstein(
            normal(60, 1, 2 * seed), normal(60, 1, 2 * seed + 1) + 3, confidence=0.9, resamples=60, seed=seed
        )
        values.append(found.value)
        intervals.append((found.low, found.high))
    expected = sum(values) / len(values)
    covered = sum(low <= expected <= high for low, high in intervals) / len(intervals)
    assert 0.81 < covered < 0.99  # 90 % within three standard errors of 100 trials


def test_the_interval_narrows_with_the_root_of_the_size():
    widths = []
    for count in (50, 800):
        found = wasserstein(normal(count, 1, 1), normal(count, 1, 2) + 3, resamples=60)
        widths.append(found.high - found.low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.5)
    assert "spread over 60 subsamples of 400 and 400 points" in found.note


def test_too_few_points_have_no_interval():
    found = wasserstein(torch.zeros(3, 1), torch.ones(9, 1), resamples=10)
    assert found.value == pytest.approx(1) and found.low is None and "fewer than four points" in found.note


def test_identical_sets_have_an_interval_from_zero():
    x = normal(20, 2)
    found = wasserstein(x, x, resamples=20)
    assert found.value == found.low == 0 <= found.high
