"""What the paper's two definitions see, and what they cannot: marginals, not which response belongs to which image."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mekd_plugin.transport import paired_cost, wasserstein
from mekd_plugin.transport.questions.inversion import distance_to_real, image_round_trip, latent_round_trip

CLASSES = 4


@pytest.fixture
def teacher() -> nn.Linear:
    network = nn.Linear(CLASSES, CLASSES, bias=False)
    with torch.no_grad():
        network.weight.copy_(3 * torch.eye(CLASSES))
    return network.requires_grad_(False)


@pytest.fixture
def images() -> torch.Tensor:
    """Every image comes in all its rotations, each as often as the others."""
    base = torch.randn(50, CLASSES, generator=torch.Generator().manual_seed(0))
    return torch.cat([base.roll(turn, dims=1) for turn in range(CLASSES)])


def test_networks_that_permute_the_images_are_at_distance_0_and_agree_nowhere(teacher, images):
    def student(x: torch.Tensor) -> torch.Tensor:
        return teacher(x.roll(1, dims=1))

    told, said = teacher(images), student(images)
    assert wasserstein(told, said, order=1).value == pytest.approx(0.0, abs=1e-9)
    assert wasserstein(told, said, order=2).value == pytest.approx(0.0, abs=1e-6)
    assert not (told.argmax(1) == said.argmax(1)).any()
    # |3 (x - rolled x)|: the paired cost sees the mix-up, and is what a response moves on average.
    expected = 3 * (images - images.roll(1, dims=1)).norm(dim=1).mean()
    assert paired_cost(told, said).value == pytest.approx(expected.item(), rel=1e-5)


def test_a_shift_of_the_distribution_moves_both_costs_alike(teacher, images):
    # A translation is an optimal plan: transport and pairing cost the length of the shift.
    shift = torch.tensor([3.0, 0.0, 0.0, 4.0])
    told = teacher(images)
    assert wasserstein(told, told + shift).value == pytest.approx(5.0, rel=1e-5)
    assert paired_cost(told, told + shift).value == pytest.approx(5.0, rel=1e-5)


def test_a_generator_that_permutes_the_images_passes_definition_2_and_inverts_nothing(teacher, images):
    def generator(latent: torch.Tensor) -> torch.Tensor:
        return latent.roll(1, dims=1) / 3

    latent = teacher(images)
    assert distance_to_real(generator(latent), images).w1.value == pytest.approx(0.0, abs=1e-6)
    there_and_back = latent_round_trip(latent, teacher(generator(latent)))
    assert there_and_back.distribution.value == pytest.approx(0.0, abs=1e-5)
    assert there_and_back.same_class is not None and there_and_back.same_class.value == 0
    assert there_and_back.recognised.value == 0
    back = image_round_trip(images, generator(teacher(images)))
    assert back.distribution.value == pytest.approx(0.0, abs=1e-6) and back.paired.value > 1
