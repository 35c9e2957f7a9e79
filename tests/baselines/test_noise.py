"""Images that nobody took: their range, their kinds, and that a draw is a function of its range."""

import pytest
import torch
from mekd_plugin.baselines.noise import Noise, procedural_images, smooth_noise, uniform_noise
from mekd_plugin.baselines.other_domain import OtherDomain

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import InputError
from mekd_plugin.functional import cross_entropy_labels, kd_divergence
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_student

KINDS = {"uniform": uniform_noise, "smooth": smooth_noise, "procedural": procedural_images}


def drawn(kind, shape=(3, 16, 16), count=40, seed=0):
    return KINDS[kind](count, shape, torch.Generator().manual_seed(seed))


def roughness(images):
    """The mean step from a pixel to its neighbour, against the spread of the image."""
    steps = (images[..., 1:] - images[..., :-1]).abs().flatten(1).mean(dim=1)
    return (steps / images.flatten(1).std(dim=1).clamp_min(1e-3)).mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 12)])
def test_images_lie_in_their_range_and_differ(kind, shape):
    images = drawn(kind, shape)
    assert images.shape == (40, *shape) and 0 <= images.min() and images.max() <= 1
    assert len(images.flatten(1).unique(dim=0)) == 40
    assert torch.equal(images, drawn(kind, shape))


def test_noise_of_several_scales_is_smooth_and_spans_the_range():
    images = drawn("smooth")
    assert roughness(images) < 0.5 * roughness(drawn("uniform"))
    assert (images.flatten(1).amin(dim=1) == 0).all() and (images.flatten(1).amax(dim=1) == 1).all()


def test_procedural_images_are_flat_with_edges():
    images = drawn("procedural")
    still = ((images[..., 1:] - images[..., :-1]).abs() < 1e-6).float().mean()
    assert still > 0.5, "most neighbours within a shape are alike"
    grounds = images.flatten(1).mode(dim=1).values
    assert (grounds == 0).any() and (grounds == 1).any(), "some are drawn on black, some on white"


@pytest.mark.parametrize("span", [(-1.0, 1.0), (0.0, 255.0)])
def test_questions_are_in_the_teachers_range_and_depend_on_their_place_alone(span):
    method = Noise(kind="smooth", num_classes=CLASSES, image_shape=(1, 8, 8), seed=3)
    teacher = BlackBox(ToyTeacher(), "logits", CLASSES, value_range=span, budget=90)
    asking = next(method.stages(teacher, torch.empty(0, 1, 8, 8), toy_student()))
    assert asking.size == 90
    images = asking.draw(256, 300).images
    assert images.min() == span[0] and images.max() == span[1]
    assert torch.equal(images, asking.draw(256, 300).images)
    assert not torch.equal(images, asking.draw(0, 44).images)


@pytest.mark.parametrize("method", [Noise, OtherDomain])
def test_the_losses_are_those_of_kd(method):
    made = method(temperature=3.0, smoothing=0.1, num_classes=3, image_shape=(1, 4, 4))
    logits, scores = torch.randn(2, 3), torch.randn(2, 3)

    def loss(response):
        return made.losses(lambda images: logits, Rows(torch.zeros(2, 1, 4, 4), response))["loss"]

    assert torch.allclose(loss(Response(scores, "logits", 3)), kd_divergence(logits, scores, 3.0))
    labels = torch.tensor([0, 2])
    assert torch.equal(loss(Response(labels, "hard", 3)), cross_entropy_labels(logits, labels, 0.1))


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="kind='white': expected one of uniform, smooth, procedural"):
        Noise(kind="white", num_classes=3, image_shape=(1, 4, 4))
