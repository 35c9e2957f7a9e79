"""IDEAL's losses against loops over the equation, and its two ways of asking."""

import math

import pytest
import torch
from mekd_plugin.baselines.ideal import Ideal, generation_loss

from mekd_plugin import distill
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Asking, Training
from mekd_plugin.errors import InputError
from mekd_plugin.functional import cross_entropy_labels, kd_divergence
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows, Shard
from mekd_plugin.testing import CLASSES, SHAPE, ToyTeacher, toy_student
from mekd_plugin.training.recipe import Recipe

WORLD = {"num_classes": CLASSES, "image_shape": SHAPE}
LOGITS, TARGETS = [[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]], [0, 1]


def softmax(scores):
    weights = [math.exp(score) for score in scores]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("balance", ["batch", "each image"])
def test_the_generators_loss_is_the_equation(balance):
    rows = [softmax(row) for row in LOGITS]
    expected = -sum(math.log(row[target]) for row, target in zip(rows, TARGETS, strict=True)) / 2
    if balance == "batch":
        means = [sum(row[c] for row in rows) / 2 for c in range(3)]
        expected += 5 * sum(p * math.log(p) for p in means)
    else:
        expected += 5 * sum(p * math.log(p) for row in rows for p in row) / 6
    loss = generation_loss(torch.tensor(LOGITS), torch.tensor(TARGETS), 5.0, balance)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_students_losses_are_those_of_kd():
    method = Ideal(temperature=3.0, smoothing=0.1, latent_dim=16, **WORLD)
    logits, scores, labels = torch.tensor(LOGITS), torch.randn(2, 3), torch.tensor([0, 2])

    def loss(response):
        return method.losses(lambda images: logits, Rows(torch.zeros(2, *SHAPE), response))["loss"]

    assert torch.allclose(loss(Response(scores, "logits", 3)), kd_divergence(logits, scores, 3.0))
    assert torch.equal(loss(Response(labels, "hard", 3)), cross_entropy_labels(logits, labels, 0.1))


def second_round(student):
    """The images that the second round asks about, by a generator that took two steps on this student."""
    torch.manual_seed(0)
    method = Ideal(rounds=2, generator_steps=2, latent_dim=16, batch_size=8, **WORLD)
    teacher = BlackBox(ToyTeacher(), "logits", CLASSES, budget=40)
    asked = []
    for stage in method.stages(teacher, torch.empty(0, *SHAPE), student):
        if isinstance(stage, Asking):
            stage.bank.fill(teacher, stage.draw, stage.size, stage=stage.name)
            asked.append(stage.bank.images[len(stage.bank) - 20 :])
        elif isinstance(stage, Training) and not stage.trains_student:
            generator = stage.players["generator"].module
            weights = list(generator.parameters())
            for step in range(2):

                def update(losses, weights=weights):
                    for weight, slope in zip(weights, torch.autograd.grad(losses["generator"], weights), strict=True):
                        weight.data -= 0.5 * slope

                stage.step(stage.rows.batch(step, 8, Shard()), update, None)
    return asked[1]


def test_what_the_second_round_asks_hangs_on_the_student():
    assert torch.equal(second_round(toy_student(0)), second_round(toy_student(0)))
    assert not torch.equal(second_round(toy_student(0)), second_round(toy_student(1)))


def test_the_public_codes_way_asks_about_every_view():
    teacher = ToyTeacher()
    box = BlackBox(teacher, "hard", CLASSES)
    settings = {"rounds": 2, "generator_steps": 1, "latent_dim": 16, "queries": 20, "ask_views": True}
    recipe = Recipe(steps=6, batch_size=8)
    result = distill(toy_student(), box, None, "ideal", recipe=recipe, progress=False, image_shape=SHAPE, **settings)
    assert result.ledger.by_stage == {"student_1": 3 * 8, "student_2": 3 * 8} and teacher.count == 48
    assert Ideal(ask_views=True, **WORLD).needs.in_step
    with pytest.raises(InputError, match="queries=3: with ask_views"):
        Ideal(ask_views=True, rounds=2, queries=3, **WORLD)
