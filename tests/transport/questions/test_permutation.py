"""Permutation tests reject as often as they may."""

from __future__ import annotations

import pytest
import torch

from mekd_plugin.errors import InputError
from mekd_plugin.transport import permutation_test


def normal(count, dimension, seed=0):
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


def test_small_p_values_are_rare_under_the_null_hypothesis_and_certain_under_another():
    p_values = [
        permutation_test(normal(15, 2, 2 * seed), normal(12, 2, 2 * seed + 1), permutations=19, seed=seed).p_value
        for seed in range(120)
    ]
    assert sum(p <= 0.1 for p in p_values) / len(p_values) < 0.2  # 10 % at most; standard error 2.7 %
    assert sum(p <= 0.5 for p in p_values) / len(p_values) == pytest.approx(0.5, abs=0.14)
    test = permutation_test(normal(15, 2), normal(12, 2, 1) + 3, permutations=19)
    assert test.p_value == 1 / 20 and test.permutations == 19  # never 0


def test_pairs_are_exchanged_and_not_mixed():
    """Images differ far more than the two answers to one: only the paired test sees a shift of all answers."""
    images = normal(80, 1)
    x, y = images + 0.1 * normal(80, 1, 1), images + 0.1 * normal(80, 1, 2) + 0.2
    assert permutation_test(x, y, permutations=99, paired=True).p_value == 0.01
    assert permutation_test(x, y, permutations=99).p_value > 0.05


def test_identical_sets_are_no_evidence():
    x = normal(20, 2)
    for paired in (True, False):
        test = permutation_test(x, x, permutations=20, paired=paired)
        assert test.statistic == 0 and test.p_value == 1


def test_large_sets_are_subsampled_by_the_same_rows_where_paired():
    x = normal(1500, 1) * 100
    test = permutation_test(x, x + 1, statistic=lambda a, b: float((a - b).abs().max()), permutations=3, paired=True)
    assert "on 1000 and 1000 of the points" in test.note
    assert test.statistic == pytest.approx(1, abs=1e-4)


def test_what_cannot_be_tested_is_refused():
    with pytest.raises(InputError, match="permutations=0: expected at least 1"):
        permutation_test(normal(3, 1), normal(3, 1), permutations=0)
    with pytest.raises(InputError, match="3 points against 4: a paired test needs partners"):
        permutation_test(normal(3, 1), normal(4, 1), paired=True)
