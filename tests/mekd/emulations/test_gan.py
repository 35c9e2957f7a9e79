import math

import pytest
import torch

from mekd_plugin.functional import discriminator_loss, generator_loss
from mekd_plugin.mekd.emulations.gan import deprivatization, generator_health, response_strength
from mekd_plugin.networks.generators import Generator, paper_discriminator, small_discriminator
from mekd_plugin.responses import Response
from mekd_plugin.rows import ImageRows, Rows, Shard


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

    scalars = stage.step(stage.rows.batch(0, 8, Shard()), update)
    assert stage.ask is None
    assert all(any(gradient.abs().sum() > 0 for gradient in gradients) for gradients in seen.values())
    assert strayed and all(gradient is None for gradient in strayed), "what D learns runs back through G"
    assert list(seen) == ["discriminator", "generator"], "G is to pass the D that just learned"
    assert set(scalars) == {"loss", "discriminator"}


def test_a_weighted_step_learns_from_the_images_that_were_asked_about():
    generator = Generator(3, (1, 8, 8), width=4)
    stage = stage_for(generator, small_discriminator((1, 8, 8), width=4), weight=0.5)
    rows = stage.rows.batch(0, 8, Shard())
    asked = stage.ask(rows)
    assert not asked.images.requires_grad and asked.extra["generated"].requires_grad
    answered = asked.answered(Response(torch.randn(8, 3), "logits", 3))
    losses = {}
    stage.step(Rows(rows.images, asked=answered), losses.update)
    (gradient,) = torch.autograd.grad(losses["generator"], [generator.layers[0].weight])
    assert gradient.abs().sum() > 0


def rows_of(images, labels, classes):
    return Rows(images, Response(labels, "hard", classes))


def test_a_healthy_generator_has_nothing_to_complain_of():
    real = torch.rand(60, 1, 8, 8) * 2 - 1
    made = rows_of(torch.rand(90, 1, 8, 8) * 2 - 1, torch.arange(90) % 3, 3)
    health = generator_health(made, real)
    assert health.warnings == [] and health.confidence is None
    assert health.class_shares == pytest.approx([1 / 3] * 3)


def test_a_missing_class_is_named():
    made = rows_of(torch.rand(90, 1, 8, 8) * 2 - 1, torch.arange(90) % 2, 3)
    (warning,) = generator_health(made, torch.rand(60, 1, 8, 8) * 2 - 1).warnings
    assert "hardly draws class 2 " in warning and "gan_steps" in warning


def test_collapse_copies_and_noise_are_told_apart():
    real = torch.rand(60, 1, 8, 8) * 2 - 1
    labels = torch.arange(60) % 3
    collapsed = generator_health(rows_of(torch.zeros(60, 1, 8, 8), labels, 3), real).warnings
    assert any("mode collapse" in warning for warning in collapsed)
    copies = generator_health(rows_of(real.clone(), labels, 3), real).warnings
    assert any("may copy them" in warning for warning in copies)
    tight = torch.full((60, 1, 8, 8), -0.9) + 0.05 * torch.rand(60, 1, 8, 8)
    noise = generator_health(rows_of(torch.rand(60, 1, 8, 8).round() * 2 - 1, labels, 3), tight).warnings
    assert any("look like none of the real ones" in warning for warning in noise)


def test_distances_are_root_mean_squares_a_pixel():
    real = torch.stack([torch.full((1, 4, 4), value) for value in (-1.0, -0.5, 0.0)])
    made = rows_of(torch.stack([torch.full((1, 4, 4), value) for value in (0.2, 0.2, 0.2)]), torch.tensor([0, 1, 2]), 3)
    health = generator_health(made, real)
    assert health.distance_to_real == pytest.approx(0.2) and health.real_to_real == pytest.approx(0.5)
