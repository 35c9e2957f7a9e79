from __future__ import annotations

import json

import pytest
import torch

from mekd_plugin.errors import InputError
from mekd_plugin.transport.questions.latent_cells import latent_cells


def latents(count: int, classes: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))


def test_an_inverse_has_the_cells_of_the_arg_max():
    z = latents(3000, 5)
    found = latent_cells(z, 7 * z + 2)
    assert found.agreement.value == 1 and torch.equal(found.by_teacher, found.by_latent)
    torch.testing.assert_close(found.confusion.sum(), torch.tensor(1.0))
    assert found.confusion.fill_diagonal_(0).sum() == 0
    assert not found.masses.collapsed and found.masses.total_variation < 0.05
    for share in found.masses.shares:
        assert share.low < 0.2 < share.high or abs(share.value - 0.2) < 0.03


def test_a_generator_that_permutes_the_classes_has_the_right_masses_in_the_wrong_cells():
    z = latents(3000, 4)
    found = latent_cells(z, z.roll(1, dims=1))
    assert found.agreement.value == 0 and not found.masses.collapsed
    expected = torch.zeros(4, 4)
    for row in range(4):
        expected[row, (row + 1) % 4] = 0.25
    torch.testing.assert_close(found.confusion, expected, atol=0.03, rtol=0)


def test_mode_collapse_is_named():
    z = latents(1000, 4)
    answers = z.clone()
    answers[:, 2] = -100  # never answered
    answers[:, 3] -= 2.5  # hardly ever
    found = latent_cells(z, answers)
    assert found.masses.missing == (2,) and found.masses.rare == (3,) and found.masses.collapsed
    record = json.loads(json.dumps(found.as_record(), allow_nan=False))
    assert record["masses"]["missing"] == [2] and len(record["confusion"]) == 4


def test_masses_are_held_against_the_classes_frequencies():
    answers = torch.eye(3)[torch.tensor([0] * 6 + [1] * 3 + [2])]
    fair = latent_cells(answers, answers, expected=torch.tensor([60, 30, 10]))
    assert fair.masses.total_variation == pytest.approx(0, abs=1e-6)
    assert latent_cells(answers, answers).masses.total_variation == pytest.approx(0.6 - 1 / 3)


def test_refuses():
    with pytest.raises(InputError, match="one row for each image"):
        latent_cells(torch.zeros(3, 4), torch.zeros(3, 3))
    with pytest.raises(InputError, match="at least two classes"):
        latent_cells(torch.zeros(3, 1), torch.zeros(3, 1))
