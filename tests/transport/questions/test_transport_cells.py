from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from mekd_plugin.errors import InputError
from mekd_plugin.transport.questions.transport_cells import class_prototypes, transport_cells


def latents(count: int, classes: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_by_symmetry_the_cells_of_normal_latents_and_corners_are_those_of_the_arg_max():
    z = latents(8000, 4)
    found = transport_cells(z, 2 * torch.eye(4))
    assert found.agreement(z.argmax(1)).value > 0.97
    assert found.potentials.abs().max() < 0.15 and found.potentials.sum().item() == pytest.approx(0, abs=1e-9)
    assert torch.equal(found.nearest, z.argmax(1))


def test_on_a_line_the_cells_are_the_quantiles():
    # One-dimensional transport is monotone: masses 0.2, 0.5, 0.3 of the numbers 0 to 999, in order.
    z = torch.arange(1000.0)[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    found = transport_cells(z, torch.tensor([900.0, 0.0, 10.0]), weights=torch.tensor([0.3, 0.2, 0.5]))
    expected = torch.where(z < 200, 1, torch.where(z < 700, 2, 0))
    assert (found.cells == expected).float().mean() >= 0.997
    places = torch.tensor([900.0, 0.0, 10.0], dtype=torch.float64)[expected]
    assert found.w2**2 == pytest.approx(((z - places) ** 2).mean().item())


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 4), st.integers(1, 6), st.integers(0, 1000))
def test_the_cost_is_that_of_scipys_assignment(count, each, seed):
    z, prototypes = latents(count * each, 3, seed), latents(count, 3, seed + 1)
    found = transport_cells(z, prototypes)
    cost = (torch.cdist(z, prototypes) ** 2).numpy().repeat(each, axis=1)
    rows, columns = linear_sum_assignment(cost)
    assert found.w2**2 == pytest.approx(cost[rows, columns].mean())
    assert (found.cells.numpy() == columns // each).mean() >= 1 - count / (count * each)


def test_masses_are_the_weights_whatever_the_prototypes():
    z, weights = latents(4000, 3), torch.tensor([0.6, 0.3, 0.1])
    found = transport_cells(z, latents(3, 3, 9), weights=weights)
    masses = torch.bincount(found.cells, minlength=3) / 4000
    torch.testing.assert_close(masses, weights, atol=0.002, rtol=0)


def test_potentials_of_a_sample_divide_all_latents():
    z = latents(6000, 3)
    found = transport_cells(z, torch.eye(3), most=2000)
    assert found.solved_on == 2000 and len(found.cells) == 6000
    masses = torch.bincount(found.cells, minlength=3) / 6000
    torch.testing.assert_close(masses, torch.full((3,), 1 / 3), atol=0.04, rtol=0)
    assert found.agreement(transport_cells(z, torch.eye(3)).cells).value > 0.95


def test_collapsed_latents_lie_in_one_cell_at_the_mean_cost():
    found = transport_cells(torch.zeros(10, 2), torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    assert len(set(found.cells.tolist())) == 1
    assert found.w2**2 == pytest.approx((1 + 9) / 2)
    record = json.loads(json.dumps(found.as_record(), allow_nan=False))
    assert record["nearest_shares"] == [1, 0] and record["estimator"].endswith("(ot.emd)")


def test_one_prototype_takes_everything():
    found = transport_cells(latents(5, 2), torch.zeros(1, 2))
    assert found.cells.tolist() == [0] * 5 and found.potentials.tolist() == [0]


def test_prototypes_are_the_classes_means():
    points, classes = latents(30, 4), torch.arange(30) % 3
    found = class_prototypes(points.reshape(30, 1, 2, 2), classes, 3)
    np.testing.assert_allclose(found, [points[classes == c].mean(0) for c in range(3)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: transport_cells(torch.zeros(4, 3), torch.zeros(2, 2)), "latent has 3 coordinates, prototypes 2"),
        (lambda: transport_cells(torch.zeros(4, 2), torch.zeros(2, 2), weights=torch.tensor([1, 0])), "weight 0"),
        (lambda: transport_cells(torch.zeros(4, 2), torch.zeros(2, 2), weights=torch.ones(3)), "weights of prototypes"),
        (lambda: class_prototypes(torch.zeros(3, 2), torch.tensor([0, 0, 2]), 4), "no point of class 1, 3"),
        (lambda: transport_cells(torch.zeros(4, 2), torch.zeros(2, 2)).agreement(torch.zeros(3).long()), "classes of"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(InputError, match=message):
        call()
