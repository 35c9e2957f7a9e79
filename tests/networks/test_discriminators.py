from __future__ import annotations

import pytest
import torch
from torch import nn

from mekd_plugin.networks.discriminators import ProjectionDiscriminator, paper_discriminator, small_discriminator

IMAGE_SHAPES = [(1, 8, 8), (1, 16, 16), (3, 32, 32), (1, 28, 28), (3, 64, 64), (3, 12, 20)]


@pytest.mark.parametrize("image_shape", IMAGE_SHAPES, ids=str)
@pytest.mark.parametrize("make", [paper_discriminator, small_discriminator])
def test_discriminators_give_one_score_an_image(make, image_shape):
    assert make(image_shape).to("meta")(torch.empty(3, *image_shape, device="meta")).shape == (3,)


def test_the_small_discriminator_does_not_see_the_batch_and_the_papers_does():
    torch.manual_seed(0)
    images = torch.rand(4, 1, 16, 16)
    small, paper = small_discriminator((1, 16, 16)).double(), paper_discriminator((1, 16, 16)).double()
    images = images.double()
    torch.testing.assert_close(small(images)[:2], small(images[:2]))
    for module in paper.modules():
        if isinstance(module, nn.Dropout2d):
            module.eval()
    assert not torch.allclose(paper(images)[:2], paper(images[:2]))


@pytest.mark.parametrize("make", [paper_discriminator, small_discriminator])
def test_a_projection_discriminator_begins_as_the_one_it_takes_over(make):
    torch.manual_seed(0)
    alone = make((1, 16, 16)).eval()
    both = ProjectionDiscriminator(alone, 5).eval()
    images, answers = torch.randn(4, 1, 16, 16), torch.randn(4, 5)
    assert torch.equal(both(images, answers), alone(images))


def test_a_projection_discriminator_adds_how_well_the_answer_goes_with_the_image():
    torch.manual_seed(0)
    both = ProjectionDiscriminator(small_discriminator((1, 8, 8), width=4), 3)
    nn.init.normal_(both.embedding.weight)
    images, answers = torch.randn(2, 1, 8, 8), torch.randn(2, 3)
    found = both(images, answers)
    for row in range(2):
        features = both.features(images[row : row + 1])[0]
        expected = both.last.bias[0]
        for index, feature in enumerate(features):
            expected = expected + both.last.weight[0, index] * feature
            for label in range(3):
                expected = expected + answers[row, label] * both.embedding.weight[index, label] * feature
        assert torch.allclose(found[row], expected, atol=1e-4)
