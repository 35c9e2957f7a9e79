from __future__ import annotations

import pytest
import torch
from torch import nn

from mekd_plugin.errors import InputError
from mekd_plugin.networks.discriminators import paper_discriminator
from mekd_plugin.networks.generators import PAPER_BN_EPS, Generator, NoiseGenerator, sample_latent

IMAGE_SHAPES = [
    (1, 8, 8),
    (1, 16, 16),
    (1, 30, 30),
    (1, 31, 17),
    (1, 1, 2),
    (3, 32, 32),
    (1, 28, 28),
    (3, 64, 64),
    (3, 12, 20),
]


@pytest.mark.parametrize("image_shape", IMAGE_SHAPES, ids=str)
@pytest.mark.parametrize(("num_classes", "style_dim"), [(2, 0), (10, 54), (1000, 0)])
def test_generator_draws_images_of_the_asked_shape(image_shape, num_classes, style_dim):
    generator = Generator(num_classes, image_shape, style_dim=style_dim, width=8).to("meta")
    latent = sample_latent(generator, 3)
    assert latent.shape == (3, generator.latent_dim) == (3, num_classes + style_dim)
    assert latent.is_meta
    assert generator(latent).shape == (3, *image_shape)


def test_generator_stays_in_the_value_range_and_passes_a_gradient_to_the_latent():
    generator = Generator(10, (1, 16, 16), width=8)
    latent = sample_latent(generator, 5).requires_grad_()
    images = generator(latent)
    assert images.abs().max() <= 1
    images.square().sum().backward()
    assert (latent.grad.abs().sum(dim=1) > 0).all()


def test_generators_config_builds_it_again():
    generator = Generator(7, (3, 16, 24), style_dim=5, width=4, eps=PAPER_BN_EPS)
    again = Generator(**generator.config)
    again.load_state_dict(generator.state_dict())
    assert again.config == generator.config


@pytest.mark.parametrize(
    "network",
    [Generator(10, (1, 32, 32), eps=PAPER_BN_EPS), paper_discriminator((1, 32, 32))],
    ids=["generator", "discriminator"],
)
def test_the_papers_networks_have_eps_and_not_momentum_of_08_and_dcgan_weights(network):
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 3
    assert all(norm.eps == 0.8 and norm.momentum == 0.1 and not norm.bias.any() for norm in norms)
    convolution = max((m for m in network.modules() if isinstance(m, nn.Conv2d)), key=lambda m: m.weight.numel())
    assert convolution.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert convolution.weight.mean().item() == pytest.approx(0.0, abs=1e-3)


def test_sample_latent_is_reproducible_standard_normal_noise():
    generator = Generator(10, (1, 8, 8), style_dim=2, width=4).double()
    first, again = (sample_latent(generator, 2000, rng=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again) and first.dtype == torch.float64
    assert first.mean().abs() < 0.03 and abs(first.std() - 1) < 0.03


@pytest.mark.parametrize("image_shape", [(0, 32, 32), (1, 0, 32), (1, 32, -3)], ids=str)
def test_an_image_size_that_is_none_is_named(image_shape):
    with pytest.raises(InputError, match=r"expected \(channels, height, width\), each at least 1"):
        Generator(10, image_shape)


def test_a_size_that_4_does_not_divide_is_the_middle_of_the_next_larger_one():
    generator, larger = Generator(3, (2, 30, 17), width=4).eval(), Generator(3, (2, 32, 20), width=4).eval()
    larger.load_state_dict(generator.state_dict())  # the same weights under the same names
    latent = torch.randn(5, 3)
    assert torch.equal(generator(latent), larger(latent)[:, :, 1:31, 1:18])


@pytest.mark.parametrize("wrong", [{"num_classes": 1}, {"style_dim": -1}, {"width": 0}])
def test_bad_sizes_are_named(wrong):
    with pytest.raises(InputError, match="expected at least 2 classes, a style_dim of 0 or more"):
        Generator(**{"num_classes": 10, "image_shape": (1, 8, 8), **wrong})


def test_images_from_noise_have_contrast_before_any_step():
    torch.manual_seed(0)
    generator = NoiseGenerator(24, num_classes=4, image_shape=(3, 8, 8), width=16)
    latents = torch.randn(32, 24)
    images = generator(latents)
    assert (
        images.shape == (32, 3, 8, 8) and images.std() > 0.4 > Generator(4, (3, 8, 8), width=16)(latents[:, :4]).std()
    )
    generator.eval()
    assert torch.allclose(generator(latents), generator.before_tanh(latents).tanh())


def test_images_from_noise_have_any_size():
    generator = NoiseGenerator(8, num_classes=4, image_shape=(3, 9, 7), width=4).eval()
    latents = torch.randn(2, 8)
    assert generator(latents).shape == (2, 3, 9, 7)
    assert torch.allclose(generator(latents), generator.before_tanh(latents).tanh())


def test_noise_needs_a_coordinate_for_each_class():
    with pytest.raises(InputError, match="latent_dim=3: expected at least as many coordinates as there are classes, 4"):
        NoiseGenerator(3, num_classes=4, image_shape=(3, 8, 8))
