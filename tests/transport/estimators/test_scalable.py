"""Estimators for large sets: bounds on the right side, intervals that hold, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from mekd_plugin.errors import InputError
from mekd_plugin.transport import bures_wasserstein, wasserstein
from mekd_plugin.transport.estimators.exact import exact_cost
from mekd_plugin.transport.estimators.scalable import bijection, lower_bound, minibatch
from mekd_plugin.transport.estimators.slices import max_sliced, projected_costs, random_directions, slice_factor, sliced
from mekd_plugin.transport.samples import Sample, as_pair


def normal(count, dimension, seed=0):
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


def clusters(count, seed):
    """Responses as they look: five tight groups in eight dimensions, in shares that differ from sample to sample."""
    rng = torch.Generator().manual_seed(seed)
    centres = 6 * torch.eye(8)[:5]
    return centres[torch.randint(5, (count,), generator=rng)] + 0.5 * torch.randn(count, 8, generator=rng)


@pytest.mark.parametrize("order", [1, 2])
def test_projections_are_one_dimensional_distances(order):
    x, y = as_pair(normal(30, 4, 1), normal(20, 4, 2), np.arange(1, 31), None)
    directions = random_directions(4, 7, seed=0)
    costs = projected_costs(x, y, directions, order)
    for column, cost in zip(directions.T, costs, strict=True):
        u, v = x.points @ column.float(), y.points @ column.float()
        assert float(cost) == pytest.approx(exact_cost(Sample(u[:, None], x.weights), Sample(v[:, None], None), order))
        if order == 1:
            assert float(cost) == pytest.approx(wasserstein_distance(u, v, x.weights), rel=1e-6)


def test_sliced_distance_of_a_translation():
    x = normal(500, 5)
    shifted = x + torch.tensor([2.0, 0, 0, 0, 0])
    found = wasserstein(x, shifted, order=2, estimator="sliced")
    assert found.low < 2 / math.sqrt(5) < found.high  # the root of E <theta, shift>^2
    found = wasserstein(x, shifted, order=1, estimator="sliced")
    assert found.low < 2 * slice_factor(5, 1) < found.high
    assert found.estimator == "sliced" and "100 directions" in found.note


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("dimension", [1, 2, 10, 1000])
def test_the_factor_of_slices_is_the_mean_over_the_sphere(order, dimension):
    first = random_directions(dimension, 20_000, seed=1)[0]
    assert slice_factor(dimension, order) == pytest.approx(
        float((first.abs() ** order).mean()) ** (1 / order), rel=0.02
    )


def test_the_widest_projection_finds_shift_and_spread():
    x = normal(300, 50)
    assert wasserstein(x, x + torch.eye(50)[7] * 3, order=2, estimator="max_sliced").value == pytest.approx(3)
    stretched = x.clone()
    stretched[:, 4] *= 5
    # the top eigenvector of the covariances' difference is close to the stretched axis
    expected = 4 * float(x[:, 4].double().square().mean().sqrt())
    assert wasserstein(x, stretched, order=2, estimator="max_sliced").value == pytest.approx(expected, rel=0.05)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.sampled_from([1, 2]), scale=st.floats(0, 3), shift=st.floats(0, 3))
def test_bounds_are_on_the_right_side_of_the_exact_distance(seed, order, scale, shift):
    x, y = as_pair(normal(40, 3, seed), scale * normal(40, 3, seed + 1) + shift)
    exact = exact_cost(x, y, order) ** (1 / order)
    arguments = {"order": order, "confidence": 0.9999, "seed": seed}
    assert lower_bound(x, y, **arguments) <= exact + 1e-6
    assert bijection(x, y, **arguments).value >= exact - 1e-6
    assert max_sliced(x, y, order=order).value <= exact + 1e-6
    assert sliced(x, y, order=order).value <= exact + 1e-6


@pytest.mark.parametrize("order", [1, 2])
def test_small_batches_err_upwards_and_the_interval_holds_the_exact_distance(order):
    x, y = as_pair(clusters(400, 1), clusters(400, 2) * 1.2)
    exact = exact_cost(x, y, order) ** (1 / order)
    values = [minibatch(x, y, order=order, points=points, batches=6) for points in (50, 100, 200, 400)]
    assert [found.value for found in values] == sorted((found.value for found in values), reverse=True)
    assert all(found.low <= exact <= found.high + 1e-9 for found in values)
    assert values[-1].value == pytest.approx(exact) and "1 exact problems" in values[-1].note


def test_a_plan_of_low_rank_moves_clusters():
    x, y = clusters(300, 1), clusters(300, 1) + torch.tensor([4.0] + [0.0] * 7)
    found = wasserstein(x, y, order=2, estimator="low_rank")
    spread = float((x - x.mean(0)).square().sum(1).mean() + (y - y.mean(0)).square().sum(1).mean() + 16) ** 0.5
    assert found.low <= 4 <= found.value < spread  # better than the plan that spreads every point over all
    assert "a plan of rank 50 between 300 and 300 points" in found.note


@pytest.mark.slow
def test_the_estimator_follows_the_size_and_is_said():
    x, y = clusters(5001, 1)[:, :2], clusters(5001, 2)[:, :2] + 1
    assert wasserstein(x[:100], y[:100]).estimator == "exact"
    found = wasserstein(x, y, order=2)
    assert found.estimator in ("minibatch", "bijection") and found.size == (5001, 5001)
    assert bures_wasserstein(x, y).value <= found.low + 1e-6 and found.low <= found.value <= found.high
    assert "errs upwards" in found.note and "interval: bounds" in found.note


def test_sets_of_two_sizes_go_in_minibatches():
    found = wasserstein(normal(5001, 2, 1), normal(30, 2, 2) + 2)
    assert found.estimator == "minibatch" and found.low <= found.value


@pytest.mark.parametrize("estimator", ["sliced", "max_sliced", "minibatch", "bijection"])
@pytest.mark.parametrize("order", [1, 2])
def test_degenerate_sets_are_answered(estimator, order):
    point, duplicates = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]]).repeat(6, 1)
    for x, y in ((point, point), (duplicates, duplicates), (normal(9, 2), normal(9, 2))):
        assert wasserstein(x, y, order=order, estimator=estimator).value == 0
    constant = torch.cat([normal(9, 1), torch.ones(9, 1)], dim=1)
    value = wasserstein(constant, constant + torch.tensor([0.0, 2.0]), order=order, estimator=estimator).value
    assert 0 < value <= 2 + 1e-6


def test_low_rank_answers_degenerate_sets():
    point, duplicates = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]]).repeat(6, 1)
    for x, y in ((point, point), (duplicates, duplicates), (point, duplicates)):
        assert wasserstein(x, y, order=2, estimator="low_rank").value == 0


def test_a_seed_repeats_the_number_and_another_moves_it():
    x, y = as_pair(clusters(400, 1), clusters(400, 2))

    def found(seed):
        return minibatch(x, y, order=1, points=100, seed=seed).value

    assert found(0) == found(0) != found(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimator": "low_rank", "order": 1}, "expected order=2"),
        ({"estimator": "bijection"}, "a bijection of 9 and 8 points: expected equal numbers"),
    ],
)
def test_what_an_estimator_cannot_do_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        wasserstein(normal(9, 2), normal(8, 2), **arguments)
