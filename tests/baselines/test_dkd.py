"""The decoupled divergence against naive loops over its equation."""

import math

import pytest
import torch
from mekd_plugin.baselines.dkd import DKD, decoupled_divergence

from mekd_plugin.errors import InputError
from mekd_plugin.functional import kd_divergence
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows

TEACHER = [[2.0, -1.0, 0.5, 0.0], [0.0, 0.0, 3.0, -2.0]]
STUDENT = [[1.0, 1.0, -2.0, 0.3], [-0.5, 0.25, 0.0, 4.0]]


def softmax(scores):
    weights = [math.exp(score) for score in scores]
    return [weight / sum(weights) for weight in weights]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def naive(teacher, learner, t):
    target = others = 0.0
    for y_t, y_s in zip(teacher, learner, strict=True):
        k = y_t.index(max(y_t))
        p, q = softmax([y / t for y in y_t]), softmax([y / t for y in y_s])
        target += kl([p[k], 1 - p[k]], [q[k], 1 - q[k]])
        rest = [c for c in range(len(p)) if c != k]
        others += kl([p[c] / (1 - p[k]) for c in rest], [q[c] / (1 - q[k]) for c in rest])
    return t**2 * target / len(teacher), t**2 * others / len(teacher)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_both_parts_are_the_equation(temperature):
    parts = decoupled_divergence(torch.tensor(STUDENT), torch.tensor(TEACHER), temperature)
    target, others = naive(TEACHER, STUDENT, temperature)
    assert float(parts.target) == pytest.approx(target, rel=1e-5)
    assert float(parts.others) == pytest.approx(others, rel=1e-5)


def test_hintons_divergence_is_the_target_part_and_the_others_by_the_teachers_doubt():
    teacher, learner = torch.tensor(TEACHER[:1]), torch.tensor(STUDENT[:1])
    parts = decoupled_divergence(learner, teacher, 4.0)
    doubt = 1 - (teacher / 4).softmax(dim=1).max()
    whole = kd_divergence(learner, teacher, 4.0)
    assert float(parts.target + doubt * parts.others) == pytest.approx(float(whole), rel=1e-5)


def test_the_method_weighs_the_parts():
    rows = Rows(torch.zeros(2, 1, 4, 4), Response(torch.tensor(TEACHER), "logits", 4))
    method = DKD(alpha=0.5, beta=3.0, temperature=2.0, num_classes=4, image_shape=(1, 4, 4))
    loss = method.losses(lambda images: torch.tensor(STUDENT), rows)["loss"]
    target, others = naive(TEACHER, STUDENT, 2.0)
    assert float(loss) == pytest.approx(0.5 * target + 3.0 * others, rel=1e-5)


def test_the_part_of_the_others_does_not_see_the_targets_score():
    learner = torch.tensor(STUDENT, requires_grad=True)
    (gradient,) = torch.autograd.grad(decoupled_divergence(learner, torch.tensor(TEACHER), 4.0).others, learner)
    assert gradient[0, 0] == 0 == gradient[1, 2], "the targets are classes 0 and 2"
    assert (gradient != 0).sum() == 6


def test_a_sure_teacher_and_a_sure_student_keep_every_gradient_finite():
    learner = torch.tensor([[200.0, 0.0, -50.0]], requires_grad=True)
    parts = decoupled_divergence(learner, torch.tensor([[0.0, 300.0, 0.0]]), 1.0)
    (gradient,) = torch.autograd.grad(parts.target + parts.others, learner)
    assert torch.isfinite(parts.target) and torch.isfinite(gradient).all()


def test_other_shapes_are_refused():
    with pytest.raises(InputError, match=r"\(2, 3\) against teacher_scores of shape \(2, 4\)"):
        decoupled_divergence(torch.zeros(2, 3), torch.zeros(2, 4), 4.0)
    with pytest.raises(InputError, match="beta=-1"):
        DKD(beta=-1, num_classes=4, image_shape=(1, 4, 4))
