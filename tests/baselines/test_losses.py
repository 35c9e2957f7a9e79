"""Each baseline's loss against naive loops written from its equation."""

import math

import pytest
import torch
from mekd_plugin.baselines.distribution_alignment import DistributionAlignment
from mekd_plugin.baselines.kd import KD
from mekd_plugin.baselines.logit_mimicry import LogitMimicry

from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows

WORLD = {"num_classes": 3, "image_shape": (1, 4, 4)}
TEACHER = [[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]]
STUDENT = [[1.0, 1.0, -2.0], [-0.5, 0.25, 0.0]]


def rows(response):
    return Rows(torch.zeros(2, *WORLD["image_shape"]), response)


def student(images):
    return torch.tensor(STUDENT)


SOFT = rows(Response(torch.tensor(TEACHER), "logits", 3))
HARD = rows(Response(torch.tensor([0, 2]), "hard", 3))


def softmax(scores):
    weights = [math.exp(score) for score in scores]
    return [weight / sum(weights) for weight in weights]


def divergence(teacher, learner, temperature):
    total = 0.0
    for y_t, y_s in zip(teacher, learner, strict=True):
        p, q = (softmax([score / temperature for score in scores]) for scores in (y_t, y_s))
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(teacher)


def test_kd_is_the_softened_divergence():
    loss = KD(temperature=4.0, **WORLD).losses(student, SOFT)["loss"]
    assert float(loss) == pytest.approx(divergence(TEACHER, STUDENT, 4.0), rel=1e-5)


def test_kd_reads_probabilities_as_it_reads_logits():
    probabilities = Response(torch.tensor([softmax(scores) for scores in TEACHER]), "probabilities", 3)
    loss = KD(temperature=4.0, **WORLD).losses(student, rows(probabilities))["loss"]
    assert float(loss) == pytest.approx(divergence(TEACHER, STUDENT, 4.0), rel=1e-4)


def test_kd_on_hard_responses_is_smoothed_cross_entropy():
    expected = 0.0
    for label, scores in zip([0, 2], STUDENT, strict=True):
        target = [0.1 / 3 + (0.9 if index == label else 0.0) for index in range(3)]
        expected -= sum(t * math.log(p) for t, p in zip(target, softmax(scores), strict=True)) / 2
    loss = KD(smoothing=0.1, **WORLD).losses(student, HARD)["loss"]
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_logit_mimicry_is_the_squared_difference_of_centred_scores():
    expected = 0.0
    for y_t, y_s in zip(TEACHER, STUDENT, strict=True):
        mean_t, mean_s = sum(y_t) / 3, sum(y_s) / 3
        expected += sum(((a - mean_t) - (b - mean_s)) ** 2 for a, b in zip(y_t, y_s, strict=True)) / 6
    assert float(LogitMimicry(**WORLD).losses(student, SOFT)["loss"]) == pytest.approx(expected, rel=1e-5)


def test_the_critic_and_the_student_pull_in_opposite_directions():
    torch.manual_seed(0)
    method = DistributionAlignment(**WORLD)
    logits = torch.tensor(STUDENT, requires_grad=True)
    parts = method.losses(lambda images: logits, SOFT)
    (fool,) = torch.autograd.grad(parts["adversarial"], logits)
    telling = method.player_losses(lambda images: logits, SOFT)["critic"]
    assert torch.autograd.grad(telling, logits, allow_unused=True)[0] is None, "the critic's loss moves the student"
    fooled = logits.detach() + 1e-2 * fool.sign() * -1
    after = method.player_losses(lambda images: fooled, SOFT)["critic"]
    assert after > telling, "what helps the student must hurt the critic"


def test_distribution_alignment_is_the_weighted_sum_of_its_parts():
    torch.manual_seed(0)
    method = DistributionAlignment(temperature=2.0, **WORLD)
    parts = method.losses(student, SOFT)
    centred = torch.tensor(STUDENT) - torch.tensor(STUDENT).mean(1, keepdim=True)
    fooling = -sum(math.log(1 / (1 + math.exp(-float(score)))) for score in method.critic(centred)) / 2
    expected = 0.5 * divergence(TEACHER, STUDENT, 2.0) + 0.15 * fooling
    assert float(parts["loss"]) == pytest.approx(expected, rel=1e-5)


def test_a_perfect_student_has_nothing_to_learn():
    for method in (KD(**WORLD), LogitMimicry(**WORLD)):
        loss = method.losses(lambda images: torch.tensor(TEACHER) + 3.0, SOFT)["loss"]
        assert float(loss) == pytest.approx(0.0, abs=1e-6)
