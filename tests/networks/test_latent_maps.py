from __future__ import annotations

import torch

from mekd_plugin.mekd.folding import fold
from mekd_plugin.networks.generators import Generator
from mekd_plugin.networks.latent_maps import LatentClassifier, MappedGenerator


def mapped() -> MappedGenerator:
    torch.manual_seed(0)
    return MappedGenerator(Generator(3, (1, 8, 8), style_dim=2, width=4), width=8)


def test_the_map_begins_as_if_there_were_none():
    module = mapped().eval()
    asked = torch.randn(4, 3 + 5)
    assert torch.equal(module.latent(asked), asked[:, 3:])
    assert torch.equal(module(asked), module.generator(asked[:, 3:]))


def test_only_the_map_trains():
    module = mapped().train()
    assert not module.generator.training and module.map.training
    assert {name.split(".")[0] for name, weight in module.named_parameters() if weight.requires_grad} == {"map"}


def test_a_frozen_copy_with_a_folded_generator_draws_the_same_and_lets_a_gradient_through():
    module = mapped().eval()
    torch.nn.init.normal_(module.map[-1].weight)
    frozen = module.frozen_before(fold(module.generator))
    asked = torch.randn(4, 8, requires_grad=True)
    assert torch.allclose(frozen(asked), module(asked), atol=1e-5)
    frozen(asked).sum().backward()
    assert (asked.grad[:, :3].abs().sum(dim=1) > 0).all()
    assert not any(weight.requires_grad for weight in frozen.parameters())
    assert isinstance(module.generator, Generator), "the original keeps its own generator"


def test_a_classifier_gives_a_score_for_each_class():
    assert LatentClassifier(5, 3, 8)(torch.zeros(2, 5)).shape == (2, 3)
