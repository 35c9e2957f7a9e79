from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mekd_plugin.errors import InputError
from mekd_plugin.responses import centre_scores
from mekd_plugin.transport.questions.inversion import distance_to_real, image_round_trip, latent_round_trip


def normal(count: int, dimension: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear_pair(classes: int, pixels: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A generator (latent @ G) and the teacher (images @ T) that it is the inverse of: G @ T is the identity."""
    generator = normal(classes, pixels, seed)
    return generator, torch.linalg.pinv(generator)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 6), st.integers(0, 100), st.sampled_from([0.1, 1.0, 25.0]))
def test_an_inverse_pair_returns_every_latent_at_the_teachers_scale(classes, seed, confidence):
    generator, teacher = linear_pair(classes, classes + 3, seed)
    latent = normal(30, classes, seed + 1)
    found = latent_round_trip(latent, confidence * (latent @ generator) @ teacher + 7)  # a constant says nothing
    assert found.scale == pytest.approx(1 / confidence) == found.distribution_scale
    assert found.explained == pytest.approx(1.0)
    assert found.paired.value == pytest.approx(0.0, abs=1e-9)
    assert found.distribution.value == pytest.approx(0.0, abs=1e-7)
    assert found.recognised.value == 1 and found.same_class is not None and found.same_class.value == 1
    assert found.unpaired is not None and found.unpaired > 0.1


def test_an_inverse_pair_returns_the_images_of_its_range():
    generator, teacher = linear_pair(3, 8)
    images = normal(40, 3) @ generator
    found = image_round_trip(images, (images @ teacher) @ generator)
    assert found.explained == pytest.approx(1.0) and found.recognised.value == 1 and found.scale == 1
    assert found.same_class is None
    # A teacher that sees one direction less returns what is left: the projection, closer than another's return.
    blind = (images @ teacher) * torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64) @ generator
    partial = image_round_trip(images, blind)
    lost = (images - blind).square().sum() / (images - images.mean(0)).square().sum()
    assert partial.explained == pytest.approx(1 - lost.item())
    assert partial.unpaired is not None and partial.paired.value < partial.unpaired


def test_the_scale_is_that_of_least_squares():
    latent, answers = normal(50, 4, 0), normal(50, 4, 0) + 0.5 * normal(50, 4, 1)
    z, y = centre_scores(latent), centre_scores(answers)
    solved = torch.linalg.lstsq(y.reshape(-1, 1), z.reshape(-1, 1)).solution.item()
    found = latent_round_trip(latent, answers)
    assert found.scale == pytest.approx(solved)
    assert found.paired.value == pytest.approx((z - solved * y).norm(dim=1).mean().item())
    assert found.distribution_scale == pytest.approx((z.norm() / y.norm()).item())


def test_unrelated_answers_of_the_right_distribution_are_right_in_distribution_only():
    latent = normal(400, 5, 0)
    found = latent_round_trip(latent, latent.roll(1, dims=0))
    assert found.distribution.value == pytest.approx(0.0, abs=1e-7)
    assert found.explained == pytest.approx(0.0, abs=0.03) and abs(found.scale) < 0.1
    assert found.recognised.value < 0.02
    assert found.same_class is not None and found.same_class.low < 0.2 < found.same_class.high


def test_a_collapsed_generator_returns_everyone_the_same():
    latent = normal(20, 3)
    found = latent_round_trip(latent, torch.tensor([[5.0, -1.0, -4.0]]).expand(20, 3))
    assert found.recognised.value == pytest.approx(1 / 20)  # a tie among all of them
    assert found.paired.value == pytest.approx(found.unpaired, rel=0.05)
    assert found.explained == pytest.approx(0.0, abs=0.1) and found.distribution.value > 0.5


def test_answers_that_are_all_zero_have_no_scale():
    found = latent_round_trip(normal(10, 3), torch.zeros(10, 3))
    assert found.scale == 0 == found.distribution_scale
    assert found.paired.value == pytest.approx(centre_scores(normal(10, 3)).norm(dim=1).mean().item())


def test_one_point_and_constant_input_are_answered():
    found = latent_round_trip(torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0, -2.0]]))
    assert found.unpaired is None and found.explained is None and found.recognised.value == 1
    record = json.loads(json.dumps(image_round_trip(torch.ones(4, 1, 2, 2), torch.ones(4, 1, 2, 2)).as_record()))
    assert record["explained"] is None and record["paired"]["value"] == 0
    assert record["recognised"]["value"] == 0.25  # four equal images cannot be told apart


def test_distance_to_real_of_a_translation_is_its_length():
    real = normal(60, 4).reshape(60, 1, 2, 2)
    shift = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    found = distance_to_real(real + shift, real)
    assert found.w1.value == pytest.approx(5.0) and found.w2.value == pytest.approx(5.0)
    assert found.baseline_w1 is None and found.as_record()["baseline_w2"] is None


def test_the_baseline_is_what_a_perfect_generator_has_at_this_size():
    real, held_out = normal(200, 6, 1), normal(150, 6, 2)
    perfect = distance_to_real(normal(300, 6, 3), real, held_out=held_out)
    assert perfect.baseline_w1 is not None and perfect.baseline_w2 is not None
    assert perfect.w1.size == perfect.baseline_w1.size == (150, 200)
    assert perfect.w1.value == pytest.approx(perfect.baseline_w1.value, rel=0.08)
    assert perfect.w2.value == pytest.approx(perfect.baseline_w2.value, rel=0.08)
    wide = distance_to_real(2 * normal(300, 6, 3), real, held_out=held_out)
    assert wide.baseline_w1 is not None and wide.w1.value > 1.3 * wide.baseline_w1.value


def test_a_generator_collapsed_to_one_image_is_as_far_as_the_images_are_from_it():
    real = normal(80, 5)
    found = distance_to_real(torch.zeros(3, 5), real)
    assert found.w1.value == pytest.approx(real.norm(dim=1).mean().item())
    assert found.w2.value == pytest.approx(math.sqrt(real.square().sum(1).mean().item()))


def test_refuses():
    with pytest.raises(InputError, match="one row for each image"):
        latent_round_trip(torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(InputError, match="at least two classes"):
        latent_round_trip(torch.zeros(3, 1), torch.zeros(3, 1))
    with pytest.raises(InputError, match="not finite"):
        image_round_trip(torch.full((3, 2), math.nan), torch.zeros(3, 2))
    with pytest.raises(InputError, match="same"):
        distance_to_real(torch.zeros(3, 2), torch.zeros(3, 4))
