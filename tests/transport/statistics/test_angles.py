from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mekd_plugin.transport.statistics.angles import angles_between, random_angle_quantiles, random_angle_shares


def test_angles_by_hand():
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [2.0, 2.0], [0.0, 0.0]])
    second = torch.tensor([[5.0, 0.0], [0.0, 0.1], [-3.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    angles = angles_between(first, second)
    torch.testing.assert_close(angles, torch.tensor([0.0, 90.0, 180.0, 45.0, math.nan]), equal_nan=True)


@settings(max_examples=30, deadline=None)
@given(st.floats(-12, -1), st.sampled_from([0.0, 180.0]))
def test_small_angles_are_as_exact_as_large_ones(exponent, base):
    # The arc cosine of a product sees nothing below 1e-8 radians.
    small = 10.0**exponent
    first = torch.tensor([[math.cos(math.radians(base)), 0.0]], dtype=torch.float64)
    second = torch.tensor([[math.cos(small), math.sin(small)]], dtype=torch.float64)
    assert abs(angles_between(first, second).item() - base) == pytest.approx(math.degrees(small), rel=1e-3)


@pytest.mark.parametrize("dimension", [2, 4, 9])
def test_random_angles_are_those_of_normal_vectors(dimension):
    rng = torch.Generator().manual_seed(0)
    drawn = torch.randn(40_000, dimension, generator=rng, dtype=torch.float64)
    angles = angles_between(drawn, torch.eye(dimension, dtype=torch.float64)[:1].expand_as(drawn)).numpy()
    probabilities = [0.05, 0.25, 0.5, 0.75, 0.95]
    np.testing.assert_allclose(
        np.quantile(angles, probabilities), random_angle_quantiles(dimension, probabilities), atol=1.5
    )
    edges = np.linspace(0.0, 180.0, 13)
    shares = random_angle_shares(dimension, edges)
    np.testing.assert_allclose(np.histogram(angles, edges)[0] / len(angles), shares, atol=0.01)
    assert sum(shares) == pytest.approx(1.0)


def test_in_a_plane_the_angle_is_uniform():
    np.testing.assert_allclose(random_angle_quantiles(2, [0.25, 0.5, 0.9]), [45.0, 90.0, 162.0], atol=1e-6)


def test_on_a_line_there_are_two_directions():
    assert random_angle_quantiles(1, [0.25, 0.75]) == [0.0, 180.0]
    assert random_angle_shares(1, np.array([0.0, 60.0, 120.0, 180.0])) == [0.5, 0.0, 0.5]
