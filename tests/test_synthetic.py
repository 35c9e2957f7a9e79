"""Rounds of made images: what a generator leaves as it was, the source of its rows, how the rounds share queries."""

import math

import pytest
import torch
from mekd_plugin.baselines.ideal import Ideal

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Asking, Training
from mekd_plugin.errors import InputError, NeedsNotMet
from mekd_plugin.networks.generators import NoiseGenerator
from mekd_plugin.rows import FixedRows, Rows, Shard
from mekd_plugin.synthetic import generate, mean_class_entropy
from mekd_plugin.testing import CLASSES, SHAPE, ToyTeacher, toy_student

WORLD = {"num_classes": CLASSES, "image_shape": SHAPE}


def test_the_entropy_of_the_mean_class_is_the_sum_over_classes():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    means = [(0.7 + 0.1) / 2, (0.2 + 0.1) / 2, (0.1 + 0.8) / 2]
    assert float(mean_class_entropy(probabilities)) == pytest.approx(-sum(p * math.log(p) for p in means))


@pytest.mark.parametrize("as_trained", [True, False])
def test_drawing_changes_nothing_of_the_generator(as_trained):
    generator = NoiseGenerator(16, width=16, **WORLD).eval()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    latents = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    images = generate(generator, latents, (0.0, 255.0), as_trained=as_trained)
    assert images.shape == (300, *SHAPE) and 0 <= images.min() and images.max() <= 255
    assert torch.equal(images, generate(generator, latents, (0.0, 255.0), as_trained=as_trained))
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert not generator.training


def test_a_round_shows_its_rows_equally_often():
    rows = Rows(torch.arange(10.0)[:, None], extra={"target": torch.arange(10)})
    source = FixedRows(rows, seed=0)
    batches = [source.batch(step, 4, Shard()) for step in range(5)]
    assert torch.cat([batch.extra["target"] for batch in batches]).bincount().tolist() == [2] * 10
    assert all(torch.equal(batch.images[:, 0], batch.extra["target"].float()) for batch in batches)
    assert len(source.batch(0, 64, Shard())) == 10


@pytest.mark.parametrize("student_share", [0.6, 0.0])
def test_rounds_share_the_budget_and_the_last_takes_the_recipe(student_share):
    method = Ideal(rounds=4, generator_steps=1, latent_dim=16, student_share=student_share, **WORLD)
    teacher = BlackBox(ToyTeacher(), "logits", CLASSES, budget=50)
    sizes, fractions = [], []
    for stage in method.stages(teacher, torch.empty(0, *SHAPE), toy_student()):
        if isinstance(stage, Asking):
            stage.bank.fill(teacher, stage.draw, stage.size, stage=stage.name)
            sizes.append(len(stage.bank))
            assert stage.grows == (stage.size < 50)
        elif isinstance(stage, Training) and stage.trains_student:
            fractions.append(stage.fraction)
    assert sizes == [12, 25, 38, 50] and fractions == pytest.approx([0.2, 0.2, 0.2, 1.0] if student_share else [1.0])
    assert teacher.ledger.distinct == 50


def test_classes_are_drawn_equally_often_and_anew_in_each_round():
    method = Ideal(latent_dim=16, **WORLD)
    first, second = method.latents(1, 31), method.latents(2, 31)
    assert sorted(first.extra["target"].bincount().tolist()) == [10, 10, 11]
    assert torch.equal(first.images, method.latents(1, 31).images)
    assert not torch.equal(first.images, second.images)


def test_two_questions_a_round_are_the_least():
    method = Ideal(rounds=10, latent_dim=16, **WORLD)
    with pytest.raises(NeedsNotMet, match="at least 20 queries, and the query budget is 19"):
        method.check_budget(19, 0)
    with pytest.raises(InputError, match="queries=19: expected at least 20, two for each of 10 rounds"):
        Ideal(rounds=10, queries=19, latent_dim=16, **WORLD)


@pytest.mark.parametrize("output_norm", [False, True])
def test_a_latent_has_a_coordinate_for_each_class(output_norm):
    method = Ideal(latent_dim=2, output_norm=output_norm, num_classes=7, image_shape=SHAPE)
    generator = method.new_generator()
    assert generator(method.latents(1, 5).images).shape == (5, *SHAPE)
    assert isinstance(generator, NoiseGenerator) == output_norm
