from __future__ import annotations

import pytest
import torch

from mekd_plugin.errors import InputError
from mekd_plugin.networks.mixtures import MixtureGenerator

SHAPE = (1, 4, 4)


def two_blobs(count: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that are bright above or below, and answers that say which."""
    rng = torch.Generator().manual_seed(0)
    side = torch.arange(count) % 2
    images = torch.full((count, *SHAPE), -0.5)
    images[side == 0, :, :2] = 0.5
    images[side == 1, :, 2:] = 0.5
    answers = torch.stack([1.0 - 2 * side, 2.0 * side - 1], dim=1)
    noise = 0.1 * torch.randn(images.shape, generator=rng)
    return images + noise, answers + 0.1 * torch.randn(answers.shape, generator=rng)


def fitted(answers: bool) -> MixtureGenerator:
    images, scores = two_blobs()
    mixture = MixtureGenerator(2, SHAPE, components=2, coordinates=6)
    mixture.look_at(images, seed=0)
    points = mixture.encode(images)
    likelihoods = [float(mixture.improve(points, scores if answers else None, 0.01)) for _ in range(15)]
    assert all(later > earlier - 1e-2 for earlier, later in zip(likelihoods, likelihoods[1:], strict=False))
    return mixture


def latents(count: int, scores: torch.Tensor | None = None) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    noise = torch.randn(count, 7, generator=rng)
    return torch.cat([torch.zeros(count, 2) if scores is None else scores, noise], dim=1)


def is_bright_above(images: torch.Tensor) -> torch.Tensor:
    return images[:, :, :2].mean((1, 2, 3)) > images[:, :, 2:].mean((1, 2, 3))


def test_it_draws_both_kinds_as_often_as_there_are_of_them():
    images = fitted(answers=False)(latents(2000))
    assert images.shape == (2000, *SHAPE) and images.abs().max() <= 1
    assert 0.45 < is_bright_above(images).float().mean() < 0.55
    real = two_blobs()[0]
    assert torch.allclose(images.mean(0), real.mean(0), atol=0.05)
    assert torch.allclose(images.std(0), real.std(0), atol=0.05)


def test_given_an_answer_it_draws_the_image_that_goes_with_it():
    mixture = fitted(answers=True)
    for scores, above in (([1.0, -1.0], True), ([-1.0, 1.0], False)):
        images = mixture(latents(200, torch.tensor([scores]).repeat(200, 1)))
        assert (is_bright_above(images) == above).float().mean() > 0.95


def test_without_answers_the_scores_make_no_difference():
    mixture = fitted(answers=False)
    assert torch.equal(mixture(latents(20)), mixture(latents(20, torch.randn(20, 2))))


def test_a_gradient_reaches_the_answer():
    mixture, asked = fitted(answers=True), latents(4, torch.zeros(4, 2)).requires_grad_()
    mixture(asked).square().sum().backward()
    assert asked.grad[:, :2].abs().sum() > 0


def test_what_is_read_back_draws_the_same_though_it_has_drawn_before():
    mixture = fitted(answers=True)
    other = MixtureGenerator(2, SHAPE, components=2, coordinates=6)
    other(latents(2))
    other.load_state_dict(mixture.state_dict())
    assert torch.equal(other(latents(8)), mixture(latents(8)))


def test_looking_at_images_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    MixtureGenerator(2, SHAPE, components=2, coordinates=6).look_at(two_blobs()[0], seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_bad_sizes_are_named():
    with pytest.raises(InputError, match="components=0"):
        MixtureGenerator(2, SHAPE, components=0, coordinates=2)
    with pytest.raises(InputError, match="6 images: expected more than the 6 coordinates"):
        MixtureGenerator(2, SHAPE, components=2, coordinates=6).look_at(two_blobs(6)[0], seed=0)
