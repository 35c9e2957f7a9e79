from __future__ import annotations

import json
import math
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from mekd_plugin.errors import InputError
from mekd_plugin.transport.estimators.neighbours import distance_blocks, nearest_other
from mekd_plugin.transport.questions.coverage import class_coverage, coverage
from mekd_plugin.transport.statistics.proportions import proportion_of


def normal(count: int, dimension: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_by_hand_on_a_line():
    # Balls around real points have radius 1; those around generated ones 0.25, 0.25, 0.25 and 31.25.
    found = coverage(torch.tensor([0.0, 1.0, 10.0, 11.0]), torch.tensor([0.25, 0.5, 0.75, 32.0]), k=1)
    assert found.precision.value == 0.75  # all but 32
    assert found.coverage.value == 0.5  # 0 and 1
    assert found.density == pytest.approx(6 / 4)  # each of the three lies in two balls
    assert found.recall.value == 1  # 0 by 0.25, 1 by 0.75, the rest by 32


@settings(max_examples=20, deadline=None)
@given(st.integers(7, 15), st.integers(7, 15), st.integers(1, 5), st.integers(0, 1000))
def test_is_the_naive_triple_loop(count, made, k, seed):
    real, generated = normal(count, 3, seed).numpy(), normal(made, 3, seed + 1).numpy()

    def radius(points: np.ndarray, i: int) -> float:
        return sorted(float(np.linalg.norm(points[i] - other)) for j, other in enumerate(points) if j != i)[k - 1]

    inside = [[np.linalg.norm(g - r) <= radius(real, i) for i, r in enumerate(real)] for g in generated]
    reached = [[np.linalg.norm(g - r) <= radius(generated, j) for j, g in enumerate(generated)] for r in real]
    found = coverage(real, generated, k=k)
    assert found.precision.value == pytest.approx(np.mean([any(row) for row in inside]))
    assert found.density == pytest.approx(np.sum(inside) / k / made)
    assert found.coverage.value == pytest.approx(np.mean(np.any(inside, axis=0)))
    assert found.recall.value == pytest.approx(np.mean([any(row) for row in reached]))


def test_equal_distributions_have_the_expected_coverage():
    values = [coverage(normal(60, 4, seed), normal(40, 4, 500 + seed), k=2) for seed in range(60)]
    assert values[0].expected_coverage == pytest.approx(1 - (59 / 99) * (58 / 98))
    assert np.mean([found.coverage.value for found in values]) == pytest.approx(values[0].expected_coverage, abs=0.015)
    assert np.mean([found.density for found in values]) == pytest.approx(1.0, abs=0.05)


def test_copies_cover_everything_and_a_collapsed_generator_nearly_nothing():
    real = normal(50, 8, 0)
    copied = coverage(real, real)
    assert copied.coverage.value == copied.recall.value == copied.precision.value == 1
    collapsed = coverage(real, real[:1].repeat(20, 1))
    assert collapsed.precision.value == 1 and collapsed.recall.value == 1 / 50 and collapsed.coverage.value < 0.5
    json.dumps(collapsed.as_record(), allow_nan=False)


def test_a_far_point_is_in_no_ball():
    far = coverage(normal(30, 2, 0), 1000 + normal(30, 2, 1))
    assert far.precision.value == far.recall.value == far.coverage.value == far.density == 0


def test_distances_are_scipys_in_blocks_of_any_size(monkeypatch):
    x, y = normal(23, 5, 0), normal(7, 5, 1)
    for entries in (1, 30, 10_000):
        monkeypatch.setattr(import_module("mekd_plugin.transport.estimators.neighbours"), "_BLOCK_ENTRIES", entries)
        found = torch.cat([distances for _, distances in distance_blocks(x, y)])
        np.testing.assert_allclose(found.numpy(), cdist(x.numpy(), y.numpy()), atol=1e-12)


def test_a_copy_is_the_nearest_other_point():
    assert nearest_other(torch.tensor([[0.0], [0.0], [3.0]])).tolist() == [0.0, 0.0, 3.0]
    assert nearest_other(torch.tensor([[0.0], [0.0], [3.0]]), 2).tolist() == [3.0, 3.0, 3.0]


def test_classes_against_their_shares():
    labels = torch.tensor([0] * 60 + [1] * 38 + [3] * 2)
    found = class_coverage(labels, 5, expected=torch.tensor([300, 300, 0, 300, 100]))
    assert [share.value for share in found.shares] == [0.6, 0.38, 0, 0.02, 0]
    assert found.missing == (4,) and found.rare == (3,) and found.collapsed  # class 2 should not come
    assert found.total_variation == pytest.approx((0.3 + 0.08 + 0 + 0.28 + 0.1) / 2)
    assert not class_coverage(torch.arange(5), 5).collapsed
    seldom = torch.tensor([97, 3])  # a third of its expected share is no collapse
    assert not class_coverage(torch.tensor([0] * 99 + [1]), 2, expected=seldom).collapsed
    json.dumps(found.as_record(), allow_nan=False)


def test_a_share_has_wilsons_interval():
    # Wilson (1927) by its formula: centre (p + z^2/2n) / (1 + z^2/n), half-width z sqrt(p(1-p)/n + z^2/4n^2) / (...).
    z, n, p = 1.959963985, 40, 0.3
    centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = proportion_of(12, 40)
    assert found[:3] == pytest.approx((0.3, (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coverage(torch.zeros(5, 2), torch.zeros(9, 2)), "k=5 neighbours among 5 points"),
        (lambda: coverage(torch.zeros(9, 2), torch.zeros(9, 3)), "coordinates"),
        (lambda: nearest_other(torch.zeros(9, 2), 0), "k=0 neighbours"),
        (lambda: class_coverage(torch.zeros(0, dtype=torch.int64), 3), "no labels"),
        (lambda: class_coverage(torch.tensor([3]), 3), r"expected \[0, 3\)"),
        (lambda: class_coverage(torch.tensor([0]), 2, expected=torch.tensor([1.0, -1.0])), "positive sum"),
        (lambda: class_coverage(torch.tensor([0]), 2, expected=torch.tensor([1.0])), "2 finite numbers"),
        (lambda: proportion_of(3, 2), "3 hits in 2 trials"),
        (lambda: proportion_of(0, 0), "at least one trial"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(InputError, match=message):
        call()
