from __future__ import annotations

import copy
import pickle

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


def test_half_precision_around_it_changes_nothing():
    """Covariances that autocast rounds have no Cholesky factor, and that shows only on larger images."""
    images, scores = two_blobs()
    plain = fitted(answers=True)
    with torch.autocast("cpu", torch.bfloat16):
        inside = fitted(answers=True)
        drawn = inside(latents(50, scores[:50]))
        back = inside.invert(inside.encode(images[:50]), scores[:50], torch.Generator().manual_seed(0))
    assert all(torch.equal(inside.state_dict()[name], value) for name, value in plain.state_dict().items())
    assert torch.equal(drawn, plain(latents(50, scores[:50])))
    assert torch.equal(back, plain.invert(plain.encode(images[:50]), scores[:50], torch.Generator().manual_seed(0)))


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


def test_answers_of_many_classes_are_drawn_in_parts(monkeypatch):
    mixture = fitted(answers=True)
    whole = mixture.sample_answers(500, torch.Generator().manual_seed(0))
    monkeypatch.setattr("mekd_plugin.networks.mixtures._LARGEST_TABLE", 4 * 7)
    assert torch.allclose(mixture.sample_answers(500, torch.Generator().manual_seed(0)), whole)


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
    with pytest.raises(InputError, match="6 images of 16 numbers: expected more images"):
        MixtureGenerator(2, SHAPE, components=2, coordinates=6).look_at(two_blobs(6)[0], seed=0)


@pytest.mark.parametrize("case", ["dark half", "every image four times", "fewer directions than coordinates"])
def test_images_that_lie_in_few_directions_are_fitted(case):
    images = two_blobs()[0]
    if case == "dark half":
        images[:, :, :3] = -1.0
    elif case == "every image four times":
        images = images[:10].repeat(4, 1, 1, 1)
    else:
        images = images[:, :, :1, :1].expand(-1, -1, 4, 4).contiguous()
    mixture = MixtureGenerator(2, SHAPE, components=3, coordinates=6)
    mixture.look_at(images, seed=0)
    points = mixture.encode(images)
    assert all(mixture.improve(points, None, 0.03).isfinite() for _ in range(20))
    assert mixture(latents(10)).isfinite().all()


def test_images_that_are_all_the_same_are_refused():
    with pytest.raises(InputError, match="all images are equal"):
        MixtureGenerator(2, SHAPE, components=2, coordinates=6).look_at(torch.zeros(20, *SHAPE), seed=0)
    with pytest.raises(InputError, match="40 images of 16 numbers: expected more images, and no fewer numbers, than"):
        MixtureGenerator(2, SHAPE, components=2, coordinates=20).look_at(two_blobs(40)[0], seed=0)


def test_with_many_classes_an_answer_does_not_stand_for_one_image():
    """A hundred classes and sixty images a component: an exact fit would draw the very image that got the answer."""
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(300, 1, 8, 8, generator=rng) * torch.rand(300, 1, 1, 1, generator=rng)
    answers = (images.flatten(1) @ torch.randn(64, 100, generator=rng)).tanh()
    answers = (answers - answers.mean(0)) / answers.std(0)
    mixture = MixtureGenerator(100, (1, 8, 8), components=5, coordinates=40)
    mixture.look_at(images, seed=0)
    points = mixture.encode(images)
    for _ in range(20):
        mixture.improve(points, answers, 0.03)
    drawn = mixture(torch.cat([answers, torch.randn(300, 41, generator=rng)], dim=1)).flatten(1)
    real = images.flatten(1)
    between = torch.cdist(real, real).fill_diagonal_(float("inf")).amin(1).median()
    assert torch.cdist(drawn, real).amin(1).median() > 0.5 * between


def test_it_can_draw_without_and_then_with_a_gradient_and_be_copied():
    mixture = fitted(answers=True)
    with torch.inference_mode():
        mixture(latents(2))
    asked = latents(2, torch.zeros(2, 2)).requires_grad_()
    mixture(asked).sum().backward()
    other = copy.deepcopy(mixture)
    other.load_state_dict(fitted(answers=False).state_dict())
    assert torch.equal(other(latents(4)), fitted(answers=False)(latents(4)))
    pickle.dumps(mixture)


@pytest.mark.parametrize("answers", [False, True])
def test_an_inverted_point_is_drawn_again(answers):
    mixture, (images, scores) = fitted(answers), two_blobs()
    points = mixture.encode(images[:50])
    found = mixture.invert(points, scores[:50], torch.Generator().manual_seed(0))
    assert torch.equal(found[:, :2], scores[:50])
    expected = (mixture.centre + points @ mixture.basis).clamp(-1, 1).view(-1, *SHAPE)
    assert torch.allclose(mixture(found), expected, atol=1e-3)


def test_a_fit_in_parts_is_the_fit(monkeypatch):
    whole = fitted(answers=True)
    monkeypatch.setattr("mekd_plugin.networks.mixtures._LARGEST_TABLE", 1)
    parts = fitted(answers=True)
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, parts.state_dict()[name], atol=1e-4), name


def test_usual_answers_are_those_it_was_fitted_to():
    drawn = fitted(answers=True).sample_answers(2000, torch.Generator().manual_seed(0))
    assert torch.allclose(drawn.mean(0), two_blobs()[1].mean(0), atol=0.1)
    assert (drawn[:, 0] > 0).float().mean() == pytest.approx(0.5, abs=0.05)
