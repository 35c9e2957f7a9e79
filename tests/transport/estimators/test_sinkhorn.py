"""The Sinkhorn divergence: debiased, near W_p for a small regularisation, and open about what did not converge."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mekd_plugin.errors import InputError
from mekd_plugin.transport import sinkhorn_divergence, wasserstein


def normal(count, dimension, seed=0):
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("order", [1, 2])
def test_it_tends_to_the_exact_distance(order):
    x, y = normal(30, 2, 1), normal(40, 2, 2) + 1
    exact = wasserstein(x, y, order=order).value
    errors = [abs(sinkhorn_divergence(x, y, reg=reg, order=order).value - exact) for reg in (2.0, 0.2, 0.02)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.02 * exact


def test_against_pot():
    x, y = normal(30, 2, 1), normal(40, 2, 2) + 1
    expected = ot.solve_sample(x, y, reg=0.5, debias=True, tol=1e-7, max_iter=100_000).value
    assert sinkhorn_divergence(x, y, reg=0.5).value ** 2 == pytest.approx(float(expected), rel=1e-4)


def test_a_translation_costs_its_length_at_any_regularisation():
    x = normal(50, 3)
    for reg in (0.5, 50.0):
        assert sinkhorn_divergence(x, x + torch.tensor([3.0, 4.0, 0.0]), reg=reg).value == pytest.approx(5, rel=1e-3)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1000), order=st.sampled_from([1, 2]))
def test_it_is_zero_at_equality_positive_and_symmetric(seed, order):
    x, y = normal(15, 2, seed), 1.5 * normal(12, 2, seed + 1)
    assert sinkhorn_divergence(x, x.flip(0), order=order).value < 1e-2  # a root of what is left at convergence
    forth, back = sinkhorn_divergence(x, y, order=order).value, sinkhorn_divergence(y, x, order=order).value
    assert forth > 0 and forth == pytest.approx(back, rel=1e-3)


def test_what_scaling_cannot_do_is_done_in_the_log_domain():
    x, y = normal(20, 2), normal(20, 2, 1) + 30
    found = sinkhorn_divergence(x, y, reg=0.5)  # exp(-1800 / 0.5) is 0
    assert "log domain" in found.note
    assert found.value == pytest.approx(wasserstein(x, y, order=2).value, rel=1e-3)
    assert "log domain" not in sinkhorn_divergence(x, y).note


def test_what_does_not_converge_says_so():
    x, y = normal(20, 2), normal(20, 2, 1) + 1
    found = sinkhorn_divergence(x, y, reg=1e-4)
    assert "not converged: marginal error" in found.note
    assert 0 < found.value < wasserstein(x, y, order=2).value  # duals that are not yet optimal bound it from below


def test_degenerate_sets_are_answered():
    point, duplicates = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]]).repeat(5, 1)
    for x, y in ((point, point), (duplicates, duplicates), (point, duplicates)):
        assert sinkhorn_divergence(x, y).value == 0
    assert sinkhorn_divergence(point, duplicates + torch.tensor([3.0, 4.0])).value == pytest.approx(5)


def test_weights_count_and_large_sets_are_subsampled():
    x, y = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])
    found = sinkhorn_divergence(x, y, reg=1e-3, order=1, weights_x=np.array([3.0, 1.0]), weights_y=np.array([0.5, 0.5]))
    assert found.value == pytest.approx(0.25, abs=2e-3) and "weights of x summed to 4" in found.note
    large = sinkhorn_divergence(normal(1200, 1), normal(1100, 1, 1) + 2)
    assert "on 1000 and 1000 of the points" in large.note and large.size == (1200, 1100)
    assert large.value == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"reg": 0.0}, "reg=0.0: expected a positive number"), ({"order": 0}, "order=0: expected 1 or 2")],
)
def test_settings_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        sinkhorn_divergence(normal(3, 1), normal(3, 1), **arguments)
