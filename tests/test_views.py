from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mekd_plugin.errors import InputError
from mekd_plugin.views import affine, mixup, translate


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shifted(image: torch.Tensor, down: int, right: int, fill: float) -> torch.Tensor:
    """The naive reference: pixel by pixel."""
    out = torch.full_like(image, fill)
    _, height, width = image.shape
    for row, column in product(range(height), range(width)):
        if 0 <= row - down < height and 0 <= column - right < width:
            out[:, row, column] = image[:, row - down, column - right]
    return out


def shift_of(before: torch.Tensor, after: torch.Tensor, pixels: int, fill: float) -> tuple[int, int]:
    span = range(-pixels, pixels + 1)
    found = [s for s in product(span, span) if torch.equal(shifted(before, *s, fill), after)]
    assert len(found) == 1, f"{len(found)} shifts explain the view"
    return found[0]


@settings(max_examples=15, deadline=None)
@given(
    channels=st.integers(1, 3),
    height=st.integers(4, 7),
    width=st.integers(4, 7),
    pixels=st.integers(1, 3),
    fill=st.sampled_from([-1.0, 0.25]),
    seed=st.integers(0, 100),
)
def test_translate_copies_pixels_by_whole_shifts(channels, height, width, pixels, fill, seed):
    images = torch.rand(3, channels, height, width, generator=seeded(seed))
    views = translate(images, pixels, fill=fill, rng=seeded(seed))
    assert views.shape == images.shape and views.dtype == images.dtype
    for before, after in zip(images, views, strict=True):
        shift_of(before, after, pixels, fill)


def test_translate_draws_every_shift_of_each_image_on_its_own():
    image = torch.arange(25.0).view(1, 1, 5, 5)
    views = translate(image.expand(400, 1, 5, 5), 1, rng=seeded(0))
    seen = [shift_of(image[0], view, 1, -1.0) for view in views]
    assert set(seen) == set(product((-1, 0, 1), (-1, 0, 1)))
    assert max(seen.count(shift) for shift in set(seen)) < 80  # 44 expected of each


def test_translate_by_nothing_is_the_batch_itself():
    images = torch.rand(2, 1, 4, 4)
    assert translate(images, 0) is images


def test_translate_further_than_the_image_is_wide_leaves_the_fill():
    views = translate(torch.ones(200, 1, 2, 2), 9, fill=-0.5, rng=seeded(1))
    assert set(views.unique().tolist()) == {-0.5, 1.0}


def test_translate_passes_each_gradient_to_the_pixel_it_came_from():
    images = torch.rand(4, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: translate(x, 2, rng=seeded(3)), images)
    translate(images, 2, rng=seeded(3)).sum().backward()
    assert set(images.grad.unique().tolist()) == {0.0, 1.0}  # moved out, or still in sight


@pytest.mark.parametrize("view", [lambda x, r: translate(x, 2, rng=r), lambda x, r: affine(x, rng=r)])
def test_views_are_reproducible_and_leave_the_images_alone(view):
    images = torch.rand(6, 1, 8, 8)
    before = images.clone()
    assert torch.equal(view(images, seeded(5)), view(images, seeded(5)))
    assert not torch.equal(view(images, seeded(5)), view(images, seeded(6)))
    assert torch.equal(images, before)
    state = torch.get_rng_state()
    view(images, seeded(5))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_views_keep_the_dtype(dtype):
    images = torch.rand(2, 1, 8, 8).to(dtype)
    assert translate(images, 1).dtype == affine(images).dtype == mixup(images, images, 0.5).dtype == dtype


def test_views_run_forward_and_backward_on_the_meta_device():
    images = torch.empty(5, 3, 8, 12, device="meta", requires_grad=True)
    ratio = torch.empty(5, device="meta")
    for views in (
        translate(images, 2),
        affine(images),
        mixup(images, images.flip(0), ratio),
        mixup(images, images, 0.3),
    ):
        assert views.shape == images.shape and views.is_meta
        views.sum().backward()


@pytest.mark.parametrize("magnification", [0.8, 1.0, 1.25])
def test_affine_scales_as_scipy_does(magnification):
    images = torch.rand(1, 1, 9, 7, dtype=torch.float64)
    ours = affine(images, degrees=0, scale=(magnification, magnification), translate=0)
    centre = (np.array([9, 7]) - 1) / 2
    matrix = np.eye(2) / magnification
    offset = centre - matrix @ centre
    theirs = ndimage.affine_transform(
        images[0, 0].numpy(), matrix, offset=offset, order=1, mode="grid-constant", cval=-1.0
    )
    np.testing.assert_allclose(ours[0, 0].numpy(), theirs, atol=1e-12)


def coordinates(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel coordinates from the image's centre, down and right."""
    return torch.meshgrid(torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij")


def centres_of_mass(images: torch.Tensor) -> torch.Tensor:
    down, right = coordinates(*images.shape[2:])
    mass = images.sum(dim=(1, 2, 3))
    return torch.stack([(images * axis).sum(dim=(1, 2, 3)) / mass for axis in (down, right)], dim=1)


def test_affine_turns_about_the_centre_by_at_most_the_degrees_on_images_that_are_not_square():
    down, right = coordinates(33, 49)
    dot = torch.exp(-((down**2 + (right - 10) ** 2) / 8)).expand(300, 1, 33, 49)
    turned = centres_of_mass(affine(dot, degrees=30, scale=(1, 1), translate=0, fill=0.0, rng=seeded(0)))
    torch.testing.assert_close(turned.norm(dim=1), torch.full((300,), 10.0), atol=0.05, rtol=0)
    angles = torch.rad2deg(torch.atan2(turned[:, 0], turned[:, 1]))
    assert -30.1 < angles.min() < -27 and 27 < angles.max() < 30.1


def test_affine_shifts_by_at_most_the_pixels_along_each_axis():
    down, right = coordinates(24, 32)
    dot = torch.exp(-((down**2 + right**2) / 4)).expand(300, 1, 24, 32)
    moved = centres_of_mass(affine(dot, degrees=0, scale=(1, 1), translate=3, fill=0.0, rng=seeded(0)))
    for axis in moved.T:
        assert -3.01 < axis.min() < -2.8 and 2.8 < axis.max() < 3.01


def test_affine_stays_between_the_images_and_the_fill_and_is_differentiable():
    images = torch.rand(3, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    views = affine(images, degrees=40, translate=3, rng=seeded(2))
    assert views.min() >= -1 and views.max() <= images.max()
    assert torch.autograd.gradcheck(lambda x: affine(x, degrees=40, translate=3, rng=seeded(2)), images)


def test_mixup_by_hand():
    a, b = torch.full((2, 1, 1, 1), 8.0), torch.zeros(2, 1, 1, 1)
    assert mixup(a, b, 0.75).flatten().tolist() == [6.0, 6.0]
    assert mixup(a, b, torch.tensor([0.5, 1.0])).flatten().tolist() == [4.0, 8.0]
    assert torch.equal(mixup(a, b, 0.0), b) and torch.equal(mixup(a, b, 1.0), a)


IMAGES = torch.zeros(2, 1, 4, 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: translate(IMAGES[0], 1), r"shape \(1, 4, 4\).*a single image needs images.unsqueeze\(0\)"),
        (lambda: translate(IMAGES.byte(), 1), "dtype torch.uint8: expected floating point"),
        (lambda: translate(IMAGES, -1), "pixels=-1: expected the largest shift"),
        (lambda: affine(IMAGES, degrees=-1), "degrees=-1, .*expected degrees and translate of 0 or more"),
        (lambda: affine(IMAGES, scale=(1.1, 0.9)), r"scale=\(1.1, 0.9\).*0 < smallest <= largest"),
        (lambda: affine(IMAGES, scale=(0.0, 1.0)), "0 < smallest <= largest"),
        (lambda: affine(IMAGES, translate=-2), "translate=-2"),
        (lambda: mixup(IMAGES, IMAGES[:1], 0.5), r"\(2, 1, 4, 4\) and \(1, 1, 4, 4\) cannot be mixed"),
        (lambda: mixup(IMAGES, IMAGES, 1.5), r"ratio=1.5: expected the share of the first images, in \[0, 1\]"),
        (lambda: mixup(IMAGES, IMAGES, torch.ones(3)), r"ratio of shape \(3,\): expected one number per image, \(2,\)"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()


class ElsewhereGenerator:
    """Stands for a generator on an accelerator that this machine may not have."""

    device = torch.device("cuda")


@pytest.mark.parametrize("view", [lambda r: translate(IMAGES, 1, rng=r), lambda r: affine(IMAGES, rng=r)])
def test_a_generator_on_another_device_is_named(view):
    with pytest.raises(
        InputError, match=r"rng on cuda for images on cpu: make it there, torch.Generator\(device='cpu'\)"
    ):
        view(ElsewhereGenerator())
