"""Exact, Gaussian and paired distances against closed forms, other solvers and the axioms of a metric."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment, linprog
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from mekd_plugin.errors import InputError
from mekd_plugin.transport import bures_wasserstein, gaussian_fit, paired_cost, wasserstein
from mekd_plugin.transport.samples import as_sample

POINTS = arrays(np.float64, st.tuples(st.integers(1, 6), st.just(2)), elements=st.floats(-100, 100, width=32))


def normal(count, dimension, seed=0):
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("order", [1, 2])
def test_a_translation_costs_its_length(order):
    x, shift = normal(60, 3), torch.tensor([3.0, 0.0, -4.0])
    assert wasserstein(x, x + shift, order=order).value == pytest.approx(5)


@pytest.mark.parametrize("order", [1, 2])
def test_scaling_about_the_origin_moves_every_point_along_its_own_ray(order):
    x = normal(60, 3)
    expected = float((x.norm(dim=1) ** order).mean()) ** (1 / order)
    assert wasserstein(x, 2 * x, order=order).value == pytest.approx(expected)


def test_in_one_dimension_sorted_points_meet():
    x, y = normal(40, 1, 1), normal(40, 1, 2)
    gaps = x.flatten().sort().values - y.flatten().sort().values
    assert wasserstein(x, y).value == pytest.approx(float(gaps.abs().mean()))
    assert wasserstein(x, y, order=2).value == pytest.approx(float(gaps.square().mean().sqrt()))


def test_one_dimension_with_weights_against_scipy():
    rng = np.random.default_rng(0)
    x, y, a, b = rng.normal(size=12), rng.normal(size=9), rng.random(12), rng.random(9)
    found = wasserstein(x, y, weights_x=a, weights_y=b)
    assert found.value == pytest.approx(wasserstein_distance(x, y, a, b))
    assert "weights of x summed" in found.note and "weights of y summed" in found.note


@pytest.mark.parametrize("order", [1, 2])
def test_equal_numbers_against_the_assignment_problem(order):
    x, y = normal(50, 4, 1).numpy(), normal(50, 4, 2).numpy() + 1
    cost = cdist(x, y) ** order
    expected = cost[linear_sum_assignment(cost)].mean() ** (1 / order)
    assert wasserstein(x, y, order=order).value == pytest.approx(expected)


def test_unequal_numbers_against_linear_programming():
    x, y = normal(4, 2, 1).numpy(), normal(3, 2, 2).numpy()
    rows = np.kron(np.eye(4), np.ones(3)), np.kron(np.ones(4), np.eye(3))
    expected = linprog(cdist(x, y).ravel(), A_eq=np.vstack(rows), b_eq=[1 / 4] * 4 + [1 / 3] * 3).fun
    assert wasserstein(x, y).value == pytest.approx(expected)


def test_a_permutation_is_at_no_distance_and_far_from_its_partners():
    x = normal(30, 2)
    y = x.roll(1, dims=0)
    assert wasserstein(x, y).value == wasserstein(x, y, order=2).value == 0
    assert paired_cost(x, y).value == pytest.approx(float((x - y).norm(dim=1).mean()))
    assert paired_cost(x, y).value > 1


@settings(max_examples=40, deadline=None)
@given(x=POINTS, y=POINTS, z=POINTS, order=st.sampled_from([1, 2]))
def test_it_is_a_metric(x, y, z, order):
    def distance(a, b):
        return wasserstein(a, b, order=order).value

    tolerance = 1e-4  # squared distances of points up to 200 apart are known to 1e-14 of that
    assert distance(x, x) == 0
    assert distance(x, y) == pytest.approx(distance(y, x), abs=tolerance)
    assert distance(x, z) <= distance(x, y) + distance(y, z) + tolerance
    assert wasserstein(x, y, order=1).value <= wasserstein(x, y, order=2).value + tolerance
    assert bures_wasserstein(x, y).value <= wasserstein(x, y, order=2).value + tolerance
    if len(x) == len(y):
        assert distance(x, y) <= paired_cost(x, y, order=order).value + tolerance


def test_gaussians_against_their_closed_form_and_pot():
    x = normal(400, 3, 1) * torch.tensor([1.0, 2.0, 3.0])
    moved = wasserstein(x, 3 * x + 1, order=2).value  # affine and increasing: the map of the fits is that of the points
    assert bures_wasserstein(x, 3 * x + 1).value == pytest.approx(moved)
    y = normal(500, 3, 2) @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 2.0]]).double()
    fits = [(z.mean(0), torch.cov(z.T, correction=0)) for z in (x, y)]
    expected = ot.gaussian.bures_wasserstein_distance(fits[0][0], fits[1][0], fits[0][1], fits[1][1])
    assert bures_wasserstein(x, y).value == pytest.approx(float(expected))


def test_gaussians_of_few_points_in_many_coordinates():
    """Their covariances, 3,000 times 3,000, are never made; the closed form of two points each says what to expect."""
    x, y = torch.zeros(2, 3000), torch.zeros(2, 3000)
    x[:, 0], y[:, 1] = torch.tensor([-1.0, 1.0]), torch.tensor([-2.0, 2.0])  # variances 1 and 4, in directions apart
    assert bures_wasserstein(x, y).value == pytest.approx(math.sqrt(1 + 4))
    assert bures_wasserstein(x, 3 * x).value == pytest.approx(2)
    assert gaussian_fit(as_sample(x)).factor.shape == (2, 3000)
    many, wide = normal(50, 30), normal(20, 30, seed=1)  # one with more points than coordinates, one with fewer
    covariances = [torch.cov(points.T, correction=0) for points in (many, wide)]
    roots = []
    for covariance in covariances:
        values, vectors = torch.linalg.eigh(covariance)
        roots.append((vectors * values.clamp_min(0).sqrt()) @ vectors.T)
    overlap = torch.linalg.matrix_norm(roots[0] @ roots[1], ord="nuc")
    shift = (many.mean(0) - wide.mean(0)).square().sum()
    expected = float(shift + covariances[0].trace() + covariances[1].trace() - 2 * overlap) ** 0.5
    assert bures_wasserstein(many, wide).value == pytest.approx(expected)


def test_gaussians_with_constant_columns():
    x = torch.cat([normal(50, 1), torch.full((50, 1), 7.0)], dim=1)
    y = torch.cat([torch.full((50, 1), 0.0), torch.full((50, 1), 4.0)], dim=1)
    expected = math.sqrt(float(x[:, 0].square().mean()) + 9)  # all of x's spread, and 3 in the constant column
    assert bures_wasserstein(x, y).value == pytest.approx(expected)
    assert bures_wasserstein(x, x).value == 0


def test_weights_stand_for_repeated_points():
    x, y = normal(5, 2, 1), normal(4, 2, 2)
    repeated = x.repeat_interleave(torch.tensor([1, 2, 3, 1, 1]), dim=0)
    weights = np.array([1, 2, 3, 1, 1])
    for distance in (wasserstein, bures_wasserstein):
        assert distance(x, y, weights_x=weights).value == pytest.approx(distance(repeated, y).value)


@pytest.mark.parametrize("distance", [wasserstein, bures_wasserstein, paired_cost])
def test_degenerate_sets_are_answered(distance):
    point, duplicates = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]]).repeat(5, 1)
    assert distance(point, point).value == 0
    assert distance(point, point + torch.tensor([3.0, 4.0])).value == pytest.approx(5)
    assert distance(duplicates, duplicates).value == 0
    if distance is not paired_cost:
        assert distance(point, duplicates).value == 0


def test_far_from_the_origin_nothing_is_lost():
    x = normal(50, 2)
    assert wasserstein(x + 1e6, x + 1e6 + torch.tensor([0.0, 0.5])).value == pytest.approx(0.5, rel=1e-6)


def test_the_paired_interval_covers_the_mean_as_often_as_it_says():
    covered = 0
    for seed in range(300):
        x = normal(40, 1, seed)
        found = paired_cost(x, x * 0)
        covered += found.low <= math.sqrt(2 / math.pi) <= found.high  # mean absolute value of a normal variable
    assert 0.9 < covered / 300 < 0.985
    assert paired_cost(x[:1], x[:1]).low is None


def test_what_is_computed_stands_in_the_record():
    record = wasserstein(normal(6, 2), normal(7, 2, 1)).as_record()
    assert record["estimator"] == "exact" and record["size"] == [6, 7] and record["low"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": 3}, "order=3: expected 1 or 2"),
        ({"estimator": "best"}, "estimator='best': expected one of auto, exact"),
        ({"confidence": 95}, "confidence=95: expected a number"),
        ({"resamples": 1}, "resamples=1: expected 0 for no interval, or at least 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        wasserstein(normal(9, 1), normal(9, 1), **arguments)


def test_a_paired_cost_needs_partners():
    with pytest.raises(InputError, match="3 points against 4: a paired cost needs partners"):
        paired_cost(torch.zeros(3), torch.zeros(4))
