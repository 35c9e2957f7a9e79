from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from mekd_plugin.errors import InputError
from mekd_plugin.transport.statistics.rank_correlation import RankCorrelation, rank_correlation


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 40), st.integers(0, 1000))
def test_is_scipys_ties_included(size, seed):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 10, size).astype(float), rng.normal(size=size)
    if len(set(first)) > 1:
        found = rank_correlation(first, second, resamples=10)
        assert found.value == pytest.approx(spearmanr(first, second).statistic, abs=1e-9)


def test_sees_any_monotone_relation():
    x = np.linspace(0.1, 2, 12)
    assert rank_correlation(x, np.exp(x))[:3] == pytest.approx((1, 1, 1))
    assert rank_correlation(x, 1 / x)[:3] == pytest.approx((-1, -1, -1))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # For a bivariate normal of correlation r, Spearman's rho is 6/pi asin(r/2): 0.4826 at r = 0.5.
    truth, hits = 6 / np.pi * np.arcsin(0.25), 0
    for seed in range(150):
        first, noise = np.random.default_rng(seed).normal(size=(2, 80))
        found = rank_correlation(first, 0.5 * first + np.sqrt(0.75) * noise, resamples=200)
        hits += found.low <= truth <= found.high
    assert 0.87 <= hits / 150 <= 0.99


def test_the_same_seed_gives_the_same_interval_in_blocks_too(monkeypatch):
    first, second = np.random.default_rng(0).normal(size=(2, 30))
    whole = rank_correlation(first, second, resamples=100, seed=3)
    monkeypatch.setattr(import_module("mekd_plugin.transport.statistics.rank_correlation"), "_BLOCK_ENTRIES", 300)
    assert rank_correlation(first, second, resamples=100, seed=3) == pytest.approx(whole)


@pytest.mark.parametrize("size", [0, 1, 2])
def test_fewer_than_three_pairs_have_none(size):
    assert rank_correlation(np.arange(float(size)), np.arange(float(size))) == (None, None, None, size)


def test_a_quantity_that_never_changes_has_none():
    assert rank_correlation(np.ones(5), np.arange(5.0)) == RankCorrelation(None, None, None, 5)


def test_refuses():
    with pytest.raises(InputError, match="two for each thing"):
        rank_correlation(np.zeros(3), np.zeros(4))
    with pytest.raises(InputError, match="two for each thing"):
        rank_correlation(np.zeros((3, 2)), np.zeros((3, 2)))
    with pytest.raises(InputError, match="finite"):
        rank_correlation(np.array([0.0, 1.0, np.nan]), np.zeros(3))
