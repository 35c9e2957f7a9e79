"""DAFL's three terms, and that no black box serves it."""

import math

import pytest
import torch
from mekd_plugin.baselines.dafl import DAFL, generator_losses
from torch import nn

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.blackbox.whitebox import WhiteBox
from mekd_plugin.errors import NeedsNotMet
from mekd_plugin.functional import kd_divergence
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows, Shard
from mekd_plugin.testing import CLASSES, SHAPE, ToyTeacher, toy_student

WORLD = {"num_classes": CLASSES, "image_shape": SHAPE, "latent_dim": 16}


def test_the_terms_are_the_equation():
    logits, features = torch.randn(4, 3), torch.randn(4, 5)
    found = generator_losses(logits, features)
    rows = logits.softmax(dim=1).tolist()
    means = [sum(row[c] for row in rows) / 4 for c in range(3)]
    assert float(found["one_hot"]) == pytest.approx(-sum(math.log(max(row)) for row in rows) / 4, rel=1e-4)
    assert float(found["evenness"]) == pytest.approx(sum(p * math.log(p) for p in means), rel=1e-4)
    strength = sum(abs(value) for row in features.tolist() for value in row) / 20
    assert float(found["activation"]) == pytest.approx(-strength, rel=1e-5)


def test_the_generator_minimises_the_weighted_sum_through_the_teachers_features():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, CLASSES)).eval()
    teacher = WhiteBox(module, "logits", CLASSES, budget=320)
    method = DAFL(activation_weight=0.5, evenness_weight=3.0, **WORLD)
    stage = next(method.stages(teacher, torch.empty(0, *SHAPE), toy_student()))
    generator, seen = stage.players["generator"].module, []
    batch = stage.rows.batch(0, 32, Shard())

    def update(losses):
        seen.append(torch.autograd.grad(losses["generator"], list(generator.parameters())))

    told = stage.step(batch, update, lambda images: teacher.query(images, stage="generator"))
    rows = stage.players["replay"].module.rows()
    terms = generator_losses(module(rows.images[:32]), module[:3](rows.images[:32]))
    expected = terms["one_hot"] + 0.5 * terms["activation"] + 3 * terms["evenness"]
    assert float(told["loss"]) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert teacher.ledger.total == 32, "an image counts once"
    assert any(slope.abs().sum() > 0 for slope in seen[0])
    assert all(weight.grad is None for weight in module.parameters())


def test_a_black_box_refuses_it():
    with pytest.raises(NeedsNotMet, match="white-box reference, not a source-blind method"):
        DAFL(**WORLD).check(BlackBox(ToyTeacher(), "logits", CLASSES))


def test_the_student_learns_the_divergence():
    logits, scores = torch.randn(2, 3), torch.randn(2, 3)
    rows = Rows(torch.zeros(2, *SHAPE), Response(scores, "logits", 3))
    loss = DAFL(temperature=2.0, **WORLD).losses(lambda images: logits, rows)["loss"]
    assert torch.allclose(loss, kd_divergence(logits, scores, 2.0))
