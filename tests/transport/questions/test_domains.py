"""Domains against each other, with labels, and point by point."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from mekd_plugin.errors import InputError
from mekd_plugin.transport import bures_wasserstein, domain_distances, labelled_distance, unmatched, wasserstein


def normal(count, dimension, seed=0):
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


def test_every_domain_stands_beside_its_own_halves():
    sets = {"real": normal(60, 2), "synthetic": normal(70, 2, 1) + 0.5, "other": normal(90, 2, 2) + 8}
    found = domain_distances(sets, order=2, seed=1)
    values = np.array([[estimate.value for estimate in row] for row in found.matrix])
    assert found.names == ("real", "synthetic", "other") and found.points == 30
    assert np.array_equal(values, values.T) and all(e.size == (30, 30) for row in found.matrix for e in row)
    assert values[0, 2] == pytest.approx(8 * 2**0.5, rel=0.1) and values[0, 2] > values[0, 1] > 0
    assert values.diagonal().max() < 1.2
    assert json.loads(json.dumps(found.as_record()))["names"] == ["real", "synthetic", "other"]


def test_halves_are_at_most_as_large_as_asked():
    assert domain_distances({"a": normal(50, 1), "b": normal(50, 1, 1)}, points=10).points == 10
    assert domain_distances({"alone": normal(50, 1)}).points == 25


@pytest.mark.parametrize("domains", [{}, {"a": torch.zeros(1, 2), "b": torch.zeros(4, 2)}])
def test_domains_without_two_halves_are_refused(domains):
    with pytest.raises(InputError, match="expected at least one domain, of at least two points each"):
        domain_distances(domains)


def test_domains_of_two_spaces_are_refused():
    with pytest.raises(InputError, match="x has 2 coordinates a point, y has 3"):
        domain_distances({"a": torch.zeros(4, 2), "b": torch.zeros(4, 3)})


@pytest.mark.parametrize(("order", "between"), [(1, "exact"), (2, "exact"), (2, "gaussian")])
def test_labels_are_part_of_the_ground_cost(order, between):
    x, y = normal(24, 2), normal(24, 2, 1) + 1
    labels_x, labels_y = torch.arange(24) % 3, 10 + torch.arange(24) % 2
    found = labelled_distance(x, y, labels_x, labels_y, order=order, between=between)
    distance = bures_wasserstein if between == "gaussian" else lambda a, b: wasserstein(a, b, order=order)
    table = np.array([[distance(x[labels_x == i], y[labels_y == j]).value for j in (10, 11)] for i in range(3)])
    assert np.allclose(found.between_classes, table) and found.classes_y == (10, 11)
    cost = (torch.cdist(x, y) ** order).numpy() + table[labels_x][:, labels_y - 10] ** order
    expected = cost[linear_sum_assignment(cost)].mean() ** (1 / order)
    assert found.distance.value == pytest.approx(expected, rel=1e-5)
    assert np.allclose(np.sum(found.correspondence, axis=1), 1)


def test_classes_that_look_alike_correspond_whatever_they_are_called():
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    labels = torch.arange(60) % 3
    found = labelled_distance(
        centres[labels] + 0.1 * normal(60, 2), centres[labels] + 0.1 * normal(60, 2, 1), labels, (labels + 1) % 3
    )
    assert np.allclose(found.correspondence, [[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    assert json.loads(json.dumps(found.as_record()))["classes_x"] == [0, 1, 2]


def test_large_labelled_sets_are_subsampled_and_single_points_answered():
    x = normal(2100, 1)
    found = labelled_distance(x, x[:50] + 1, (x > 0).long().flatten(), (x[:50] > 0).long().flatten())
    assert "on 2000 and 50 of the points" in found.distance.note and found.distance.size == (2100, 50)
    single = labelled_distance(x[:1], x[:1] + 2, torch.tensor([5]), torch.tensor([-5]))
    assert single.distance.value == pytest.approx(8**0.5) and single.classes_y == (-5,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels_x": torch.zeros(3, dtype=torch.long)}, r"labels_x of shape \(3,\).*expected \(4,\) integers"),
        ({"labels_y": torch.zeros(4)}, "labels_y of shape"),
        ({"between": "cosine"}, "between='cosine': expected"),
    ],
)
def test_labels_that_do_not_fit_are_refused(change, message):
    arguments = {"labels_x": torch.zeros(4, dtype=torch.long), "labels_y": torch.zeros(4, dtype=torch.long), **change}
    with pytest.raises(InputError, match=message):
        labelled_distance(normal(4, 2), normal(4, 2, 1), **arguments)


def test_points_beyond_reach_are_named_farthest_first():
    x = torch.cat([normal(20, 2) * 0.1, torch.tensor([[5.0, 0.0], [50.0, 0.0]])])
    y = torch.cat([normal(20, 2, 1) * 0.1, torch.tensor([[0.0, -7.0], [0.0, -9.0]])])
    found = unmatched(x, y, reach=2.0)
    assert found.x.tolist() == [21, 20] and found.y.tolist() == [21, 20]
    assert found.left_x[:20].max() == 0 and found.left_x[20:].min() == 1
    assert found.moved == pytest.approx(20 / 22) and found.cost < 1


def test_reach_is_where_leaving_costs_as_much_as_moving():
    x, y = torch.tensor([0.0]), torch.tensor([3.0])
    for order in (1, 2):
        assert unmatched(x, y, reach=3.01, order=order).moved == pytest.approx(1)
        assert unmatched(x, y, reach=3.01, order=order).cost == pytest.approx(3)
        nothing = unmatched(x, y, reach=2.99, order=order)
        assert nothing.moved == nothing.cost == 0 and nothing.x.tolist() == [0]


def test_a_share_is_moved_where_it_is_cheapest():
    x, y = torch.tensor([0.0, 1.0, 2.0, 30.0]), torch.tensor([0.5, 1.5, 2.5, 90.0])
    found = unmatched(x, y, share=0.75)
    assert found.x.tolist() == [3] and found.y.tolist() == [3]
    assert found.moved == pytest.approx(0.75) and found.cost == pytest.approx(0.5)
    whole = unmatched(x, y, share=1.0)
    assert whole.cost == pytest.approx(wasserstein(x, y).value) and len(whole.x) == 0


def test_equal_sets_and_duplicates_leave_nothing():
    x = normal(10, 2).repeat(2, 1)
    found = unmatched(x, x[:10], reach=0.1)
    assert found.moved == pytest.approx(1) and found.cost == 0 and len(found.x) == len(found.y) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "share=None, reach=None: expected exactly one"),
        ({"share": 0.5, "reach": 1.0}, "expected exactly one"),
        ({"share": 1.5}, r"share=1.5: expected a share of the mass in \(0, 1\]"),
        ({"reach": -1.0}, "reach=-1.0: expected a positive distance"),
    ],
)
def test_what_to_leave_must_be_said(arguments, message):
    with pytest.raises(InputError, match=message):
        unmatched(normal(3, 1), normal(3, 1), **arguments)


def test_too_many_points_are_refused():
    with pytest.raises(InputError, match="5001 and 2 points: expected at most 5000"):
        unmatched(normal(5001, 1), normal(2, 1), reach=1.0)
