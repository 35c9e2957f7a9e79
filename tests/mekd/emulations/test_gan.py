import math

import pytest
import torch

from mekd_plugin.errors import InputError, UnknownName
from mekd_plugin.functional import discriminator_loss, generator_loss
from mekd_plugin.mekd.emulations.emulation import make_emulation
from mekd_plugin.mekd.emulations.gan import GAN, deprivatization, response_strength
from mekd_plugin.networks.discriminators import paper_discriminator, small_discriminator
from mekd_plugin.networks.generators import Generator
from mekd_plugin.responses import Response
from mekd_plugin.rows import ImageRows, Shard


def stage_for(generator, discriminator, *, weight=0.0):
    return deprivatization(
        generator,
        discriminator,
        ImageRows(torch.rand(16, 1, 8, 8) * 2 - 1, seed=0),
        steps=3,
        batch_size=8,
        learning_rates=(2e-4, 2e-4),
        average=None,
        shift=1,
        response_weight=weight,
        reuse="",
    )


def nobody(images):
    raise AssertionError("this stage asks nothing")


def test_the_two_losses_pull_apart():
    fake = torch.zeros(4, requires_grad=True)
    telling, fooling = discriminator_loss(torch.zeros(4), fake), generator_loss(fake)
    (push,) = torch.autograd.grad(telling, fake, retain_graph=True)
    (pull,) = torch.autograd.grad(fooling, fake)
    assert torch.allclose(push, -pull) and push[0] > 0


def test_strength_weighs_an_image_in_the_generators_loss():
    fake = torch.tensor([0.0, 2.0])
    more = generator_loss(fake, torch.tensor([1.0, 0.0])) - generator_loss(fake)
    assert float(more) == pytest.approx(math.log(2) / 2)


def test_strength_is_the_size_of_the_strongest_response_not_its_index():
    scores = torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.0, 4.0], [0.0, 0.0, 0.0]])
    strength = response_strength(Response(scores, "logits", 3))
    assert float(strength[0]) == pytest.approx(float(strength[1]))
    assert float(strength[2]) == pytest.approx(1 / 3) and strength[0] > strength[2]
    hard = response_strength(Response(torch.tensor([0, 2]), "hard", 3))
    assert hard.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("make", [small_discriminator, paper_discriminator])
def test_a_step_moves_each_player_by_its_own_loss(make):
    generator, discriminator = Generator(3, (1, 8, 8), width=4), make((1, 8, 8))
    stage = stage_for(generator, discriminator)
    modules = {"discriminator": discriminator, "generator": generator}
    seen, strayed = {}, []

    def update(losses):
        for name, loss in losses.items():
            seen[name] = torch.autograd.grad(loss, list(modules[name].parameters()), retain_graph=True)
            if name == "discriminator":
                strayed.extend(torch.autograd.grad(loss, list(generator.parameters()), allow_unused=True))

    scalars = stage.step(stage.rows.batch(0, 8, Shard()), update, nobody)
    assert all(any(gradient.abs().sum() > 0 for gradient in gradients) for gradients in seen.values())
    assert strayed and all(gradient is None for gradient in strayed), "what D learns runs back through G"
    assert list(seen) == ["discriminator", "generator"], "G is to pass the D that just learned"
    assert set(scalars) == {"loss", "discriminator"}


def test_a_weighted_step_learns_from_the_images_that_were_asked_about():
    generator = Generator(3, (1, 8, 8), width=4)
    stage = stage_for(generator, small_discriminator((1, 8, 8), width=4), weight=0.5)
    asked, losses = [], {}

    def query(images):
        asked.append(images)
        return Response(torch.randn(8, 3), "logits", 3)

    stage.step(stage.rows.batch(0, 8, Shard()), losses.update, query)
    (images,) = asked
    assert images.shape == (8, 1, 8, 8) and not images.requires_grad
    (gradient,) = torch.autograd.grad(losses["generator"], [generator.layers[0].weight])
    assert gradient.abs().sum() > 0


def world(classes=3):
    return {"num_classes": classes, "image_shape": (1, 8, 8), "seed": 0, "hard_scale": 1.0}


def test_settings_are_those_of_the_preset_and_ones_own():
    emulation = make_emulation("gan", "tiny", {"steps": 7, "learning_rates": ["1e-3", 2e-3]}, **world())
    assert emulation.settings.steps == 7 and emulation.settings.learning_rates == (1e-3, 2e-3)
    assert emulation.generator_width == 16 and emulation.queries == "once"
    assert make_emulation(GAN, "paper", None, **world()).queries == "every step"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "emulation.steps=0: expected a whole number from 1"),
        ({"steps": 1.5}, "emulation.steps=1.5: expected a whole number"),
        ({"batch_size": 1}, "emulation.batch_size=1: expected a whole number from 2"),
        ({"average": 2}, "emulation.average=2: expected a number above 0 below 1"),
        ({"shift": -1}, "emulation.shift=-1"),
        ({"learning_rates": (1e-3, -1)}, "emulation.learning_rates=-1: expected a number above 0"),
        ({"learning_rates": 1e-3}, "emulation.learning_rates=0.001: expected two numbers"),
        ({"discriminator": "big"}, "emulation.discriminator='big': expected one of small, paper"),
        ({"style_dim": -1}, "emulation.style_dim=-1"),
        ({"generator_width": 0}, "emulation.generator_width=0"),
        ({"response_weight": float("nan")}, "emulation.response_weight=nan"),
        ({"stpes": 3}, "unknown setting of emulation GAN 'stpes'.*did you mean 'steps'"),
        (3, "emulation_settings=3: expected names and values"),
    ],
)
def test_settings_are_checked_when_they_are_given(settings, message):
    with pytest.raises(InputError, match=message):
        make_emulation("gan", "quick", settings, **world())


def test_an_unknown_emulation_is_named():
    with pytest.raises(UnknownName, match="unknown emulation 'gna'.*did you mean 'gan'"):
        make_emulation("gna", "quick", None, **world())
    with pytest.raises(InputError, match="expected the name of one, or a subclass of Emulation"):
        make_emulation(Generator, "quick", None, **world())


def test_a_generator_for_other_classes_or_another_network_is_not_adopted():
    emulation = make_emulation("gan", "quick", None, **world())
    with pytest.raises(InputError, match="made for 4 classes .* this run has 3 classes"):
        emulation.adopt(Generator(4, (1, 8, 8), width=4))
    with pytest.raises(InputError, match="generator=Linear: expected a mekd_plugin.networks.Generator"):
        emulation.adopt(torch.nn.Linear(3, 3))
    emulation.adopt(Generator(3, (1, 8, 8), style_dim=5, width=4))
    assert emulation.style_dim == 5 and emulation.draw(2, 6).shape == (4, 8)
    assert torch.equal(emulation.draw(2, 6), emulation.draw(2, 6))
