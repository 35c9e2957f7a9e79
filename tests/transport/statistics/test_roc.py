"""The area under the curve against scikit-learn and loops, and what its interval is worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mekd_plugin.errors import InputError
from mekd_plugin.transport.statistics.roc import area_under_curve, true_positive_rate


def scores(count: int, mean: float, seed: int) -> torch.Tensor:
    return mean + torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_area_is_scikit_learns_with_ties():
    positives, negatives = scores(60, 0.5, 0).mul(3).round(), scores(90, 0, 1).mul(3).round()
    expected = roc_auc_score([1] * 60 + [0] * 90, torch.cat([positives, negatives]).numpy())
    found = area_under_curve(positives, negatives)
    assert found.value == pytest.approx(expected) and found.low < expected < found.high
    assert area_under_curve(negatives, positives).value == pytest.approx(1 - expected)


def test_the_interval_against_the_definition_in_loops():
    positives, negatives = scores(15, 0.5, 0).mul(2).round().tolist(), scores(12, 0, 1).mul(2).round().tolist()
    wins = np.array([[(p > n) + 0.5 * (p == n) for n in negatives] for p in positives])
    variance = wins.mean(axis=1).var(ddof=1) / 15 + wins.mean(axis=0).var(ddof=1) / 12
    found = area_under_curve(torch.tensor(positives), torch.tensor(negatives))
    assert found.value == pytest.approx(wins.mean())
    assert found.high - found.low == pytest.approx(2 * 1.959964 * variance**0.5, rel=1e-6)


def test_the_interval_holds_what_is_true_as_often_as_it_says():
    true_area = 0.638163  # of scores half a deviation apart: Phi(0.5 / sqrt 2)
    for mean, truth in ((0.0, 0.5), (0.5, true_area)):
        intervals = [area_under_curve(scores(80, mean, 2 * n), scores(120, 0, 2 * n + 1)) for n in range(300)]
        assert np.mean([one.low <= truth <= one.high for one in intervals]) == pytest.approx(0.95, abs=0.035)


def test_perfect_separation_is_not_certain():
    found = area_under_curve(torch.arange(30) + 100.0, torch.arange(50) * 1.0)
    assert found.value == 1 and found.high == 1 and 0.85 < found.low < 0.95


def test_scores_that_say_nothing_are_a_guess():
    found = area_under_curve(torch.zeros(30), torch.zeros(50))
    assert found.value == 0.5 and found.low < 0.5 < found.high


def test_true_positives_by_hand():
    negatives = torch.arange(200.0)
    found = true_positive_rate(torch.tensor([196.5, 198.0, 198.5, 500.0]), negatives, at=0.01)
    assert found.value == 0.75 and found.false_positives == 0.01  # two of 200 may pass: above 197
    strict = true_positive_rate(torch.tensor([198.0, 500.0]), negatives[:50], at=0.01)
    assert strict.value == 1.0 and strict.false_positives == 0  # of 50 none may
    tied = true_positive_rate(torch.ones(10), torch.ones(200))
    assert tied.value == 0 and tied.false_positives == 0


def test_true_positives_keep_an_interval_where_all_or_none_are_found():
    none = true_positive_rate(torch.zeros(40), torch.arange(200.0))
    assert none.value == 0 and none.low == 0 and 0.05 < none.high < 0.15
    every = true_positive_rate(torch.full((40,), 1e3), torch.arange(200.0))
    assert every.value == 1 and every.high == 1 and 0.85 < every.low < 0.95


def test_the_interval_of_true_positives_knows_that_the_threshold_is_an_estimate():
    true_rate = 0.0344  # of scores half a deviation apart above the 99 % quantile
    found = [true_positive_rate(scores(500, 0.5, 2 * n), scores(500, 0, 2 * n + 1), resamples=200) for n in range(100)]
    assert np.mean([one.low <= true_rate <= one.high for one in found]) >= 0.88


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: area_under_curve(torch.zeros(1), torch.zeros(5)), r"positives of shape \(1, 1\)"),
        (lambda: area_under_curve(torch.zeros(5), torch.zeros(5, 2)), r"negatives of shape \(5, 2\)"),
        (lambda: area_under_curve(torch.tensor([1.0, torch.nan]), torch.zeros(5)), "positives holds values"),
        (lambda: area_under_curve(torch.zeros(5), torch.zeros(5), confidence=1), "confidence=1"),
        (lambda: true_positive_rate(torch.zeros(5), torch.zeros(5), at=1), "at=1"),
        (lambda: true_positive_rate(torch.zeros(5), torch.zeros(5), resamples=0), "resamples=0"),
    ],
)
def test_inputs_that_have_no_curve(call, words):
    with pytest.raises(InputError, match=words):
        call()
