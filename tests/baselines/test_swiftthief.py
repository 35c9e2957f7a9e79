"""SwiftThief: contrasts and choices against naive loops, and what its later questions follow from."""

import math

import pytest
import torch
from mekd_plugin.baselines.swiftthief import (
    SwiftThief,
    by_rarity,
    rare_ones_first,
    self_supervised_contrast,
    soft_supervised_contrast,
)

from mekd_plugin import distill
from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import InputError, NeedsNotMet
from mekd_plugin.rows import Shard
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe

WORLD = {"num_classes": CLASSES, "image_shape": (1, 8, 8)}


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def test_the_self_supervised_contrast_is_simsiams():
    p, z = torch.randn(6, 4), torch.randn(6, 4)
    first, second = p.tolist(), z.tolist()
    expected = -sum(cosine(first[i], second[(i + 3) % 6]) for i in range(6)) / 6
    assert self_supervised_contrast(p, z).item() == pytest.approx(expected, abs=1e-6)


def naive_contrast(p, z, answers):
    classes, total, pairs = len(answers[0]), 0.0, 0
    sure = [1 + sum(y * math.log(y) for y in row if y) / math.log(classes) for row in answers]
    for i in range(len(p)):
        for j in range(len(p)):
            weight = sure[i] * sure[j] * cosine(answers[i], answers[j])
            if i != j and weight > 0:
                total -= weight * cosine(p[i], z[j])
                pairs += 1
    return total / pairs


@pytest.mark.parametrize("hard", [False, True])
def test_the_soft_supervised_contrast_is_its_equation(hard):
    p, z, answers = torch.randn(6, 4), torch.randn(6, 4), torch.randn(6, 3).softmax(dim=1)
    if hard:
        answers = torch.eye(3)[torch.tensor([0, 0, 1, 2, 1, 0])]
    expected = naive_contrast(p.tolist(), z.tolist(), answers.tolist())
    assert soft_supervised_contrast(p, z, answers).item() == pytest.approx(expected, abs=1e-5)


def test_answers_that_say_nothing_attract_nothing():
    p, z = torch.randn(4, 2), torch.randn(4, 2)
    assert soft_supervised_contrast(p, z, torch.full((4, 5), 0.2)).item() == pytest.approx(0, abs=1e-6)
    assert soft_supervised_contrast(p, z, torch.eye(4)).item() == 0.0


def test_projections_get_no_gradient():
    p, z = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    (self_supervised_contrast(p, z) + soft_supervised_contrast(p, z, torch.rand(4, 3).softmax(dim=1))).backward()
    assert z.grad is None and p.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("counts", "left", "rare"),
    [
        ([10, 10, 10], 5, False),
        ([10, 10, 1], 6, True),
        ([10, 10, 1], 7, False),
        ([20, 1, 0], 13, True),
        ([1, 9], 0, False),
    ],
)
def test_rare_classes_come_first_when_the_rest_is_needed_for_them(counts, left, rare):
    assert rare_ones_first(torch.tensor(counts), left) == rare


def test_the_choice_for_rare_classes_is_that_of_naive_loops():
    features, known = torch.randn(40, 3), torch.randn(15, 3)
    labels = torch.tensor([0] * 8 + [1] * 4 + [3] * 3)
    counts, free, expected = {0: 8, 1: 4, 3: 3}, list(range(40)), []
    for _ in range(5):
        rarest = min(counts, key=lambda label: (counts[label], label))

        def density(row, rarest=rarest):
            near = [known[index] for index in range(15) if labels[index] == rarest]
            return sum(math.exp(-float((features[row] - other).square().sum()) / (2 * 0.5**2)) for other in near)

        best = sorted(free, key=lambda row: -density(row))[:2]
        expected += best
        free = [row for row in free if row not in best]
        counts[rarest] += 2
    assert by_rarity(features.double(), known.double(), labels, 4, 10).tolist() == expected


class OtherTeacher(ToyTeacher):
    """Another one, to whom nearly all is of one class."""

    def forward(self, images):
        return super().forward(images) + torch.tensor([9.0, 0.0, 0.0])


def asked(teacher, *, student=0, budget=150, responses="logits", **settings):
    """All that was asked of ``teacher``, in order, ``(budget, 64)``."""
    distill(
        toy_student(student), BlackBox(teacher, responses, CLASSES, budget=budget), toy_images(60, seed=1),
        "swiftthief", recipe=Recipe(steps=12, batch_size=16), progress=False, validation=0.0,
        **{"rounds": 3, "head_width": 16, **settings},
    )  # fmt: skip
    assert teacher.count == budget
    return torch.cat(teacher.asked).flatten(1)


@pytest.mark.parametrize("responses", ["logits", "hard"])
def test_later_questions_follow_from_the_student_and_the_answers(responses):
    first, again, other = (asked(ToyTeacher(), student=seed, responses=responses) for seed in (0, 0, 1))
    told = asked(OtherTeacher(), responses=responses)
    assert torch.equal(first, again)
    for changed in (other, told):
        assert torch.equal(first[:50], changed[:50])
        in_common = (torch.cdist(first[50:], changed[50:]).amin(dim=1) < 1e-4).float().mean()
        assert in_common < 0.95
    assert len(first.unique(dim=0)) == len(first)


def test_classes_that_are_rare_are_asked_about_more_often():
    """Two thirds of the pool are of the first class; the others catch up where the features tell them apart."""
    images = toy_images(240, seed=1)
    pool = torch.cat([images[0::CLASSES], images[1::CLASSES][:10], images[2::CLASSES][:10]])
    labels = torch.tensor([0] * 80 + [1] * 10 + [2] * 10)
    features = ToyTeacher()(pool).detach()
    known = torch.tensor([*range(30), 80, 81, 82, 90, 91])
    found = by_rarity(features, features[known], labels[known], CLASSES, 10)
    assert (labels[found] != 0).float().mean() > 0.8


def test_a_step_teaches_student_and_head_from_asked_and_unasked_images():
    made, student, teacher = SwiftThief(head_width=8, **WORLD), toy_student(), ToyTeacher()
    box, updates = BlackBox(teacher, "logits", CLASSES, budget=60), []
    for stage in made.stages(box, toy_images(60, seed=1), student):
        if hasattr(stage, "bank"):
            stage.bank.fill(box, stage.draw, stage.size, stage=stage.name)
            continue
        rows = stage.rows.batch(0, 8, Shard())
        known, other = (part.flatten(1) for part in (stage.rows._rows.images, rows.extra["unasked"]))
        assert isinstance(stage.rows._rows, Bank) and torch.cdist(other, known).amin() > 1e-3, "asked about already"
        told = stage.step(rows, updates.append, box.query)
        break
    (losses,) = updates
    assert set(losses) == {"student", "head"} and set(stage.players) == {"head"}
    assert losses["head"].item() == pytest.approx(float(told["soft_supervised"] + told["self_supervised"]), abs=1e-5)
    expected = float(told["matching"]) + 0.1 * losses["head"].item()
    assert losses["student"].item() == pytest.approx(expected, abs=1e-5)
    for name, weights in (("student", student.parameters()), ("head", stage.players["head"].module.parameters())):
        gradients = torch.autograd.grad(losses[name], [weight for weight in weights], retain_graph=True)
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    ("settings", "budget", "error", "words"),
    [
        ({"rounds": 1}, 90, InputError, "rounds=1"),
        ({"contrasted": 0.0}, 90, InputError, "contrasted=0"),
        ({"contrast_weight": -1}, 90, InputError, "contrast_weight=-1"),
        ({"rounds": 8}, 15, NeedsNotMet, "SwiftThief needs at least 16 queries"),
    ],
)
def test_what_cannot_work_is_refused_unasked(settings, budget, error, words):
    teacher = ToyTeacher()
    box = BlackBox(teacher, "logits", CLASSES, budget=budget)
    with pytest.raises(error, match=words):
        distill(toy_student(), box, toy_images(20, seed=1), "swiftthief", recipe=Recipe(steps=2), **settings)
    assert teacher.count == 0
