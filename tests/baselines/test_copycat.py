"""Copycat CNN learns classes alone, of another domain's images."""

import math

import pytest
import torch
from mekd_plugin.baselines.copycat import Copycat

from mekd_plugin import distill
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import InputError
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows, Shard
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_strokes, toy_student
from mekd_plugin.training.recipe import Recipe

STUDENT = [[1.0, 1.0, -2.0], [-0.5, 0.25, 0.0]]
SCORES = Response(torch.tensor([[3.0, -1.0, 0.0], [0.0, 0.1, 0.2]]), "logits", 3)
CLASSES_ALONE = Response(torch.tensor([0, 2]), "hard", 3)


def test_the_loss_is_the_cross_entropy_with_the_class_of_the_answer():
    expected = 0.0
    for label, scores in zip([0, 2], STUDENT, strict=True):
        total = sum(math.exp(score) for score in scores)
        target = [0.1 / 3 + (0.9 if index == label else 0.0) for index in range(3)]
        expected -= sum(t * (score - math.log(total)) for t, score in zip(target, scores, strict=True)) / 2
    method = Copycat(smoothing=0.1, num_classes=3, image_shape=(1, 4, 4))
    for response in (SCORES, CLASSES_ALONE):
        loss = method.losses(lambda images: torch.tensor(STUDENT), Rows(torch.zeros(2, 1, 4, 4), response))["loss"]
        assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("balance", [True, False])
def test_rare_classes_are_shown_more_often_where_it_is_so_set(balance):
    method = Copycat(balance=balance, queries=200, num_classes=CLASSES, image_shape=(1, 8, 8))
    teacher = BlackBox(ToyTeacher(), "logits", CLASSES)
    stages = method.stages(teacher, toy_strokes(200, seed=5), toy_student())
    stage = next(stages)
    stage.bank.fill(teacher, stage.draw, stage.size, stage=stage.name)
    training = next(stages)
    counts = stage.bank.response.labels.bincount(minlength=CLASSES).float()
    seen = torch.cat([training.rows.numbers(step, 100, Shard()) for step in range(60)])
    shown = stage.bank.response.labels[seen].bincount(minlength=CLASSES).float()
    shares = torch.ones(CLASSES) / CLASSES if balance else counts / counts.sum()
    assert counts.max() > 1.2 * counts.min(), "the toy's strokes would be balanced already"
    assert (shown / shown.sum() - shares).abs().max() < 0.03


def test_without_a_pool_it_says_what_is_missing():
    box = BlackBox(ToyTeacher(), "logits", CLASSES, budget=50)
    with pytest.raises(InputError, match="Copycat asks about images of another domain: hand them in, pool=images"):
        distill(toy_student(), box, toy_strokes(20, seed=5), "copycat", recipe=Recipe(steps=2))
