"""InverseNet: truncation and distance against naive loops, its three rounds, and the inverse that it leaves."""

import math

import pytest
import torch
from mekd_plugin.baselines.inversenet import InverseNet, TruncatedInverse, boundary_distance, truncated
from torch import nn

from mekd_plugin import distill
from mekd_plugin.bench.audit import draw_images, latents_of
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import InputError, NeedsNotMet
from mekd_plugin.functional import cross_entropy_labels, kd_divergence
from mekd_plugin.networks.generators import Generator
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe

WORLD = {"num_classes": CLASSES, "image_shape": (1, 8, 8)}


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_truncation_keeps_the_largest(keep):
    probabilities = torch.randn(6, 4).softmax(dim=1)
    for row, kept in zip(probabilities.tolist(), truncated(probabilities, keep).tolist(), strict=True):
        least = sorted(row)[-keep]
        assert kept == [value if value >= least else 0.0 for value in row]


def test_the_distance_to_the_boundary_of_a_linear_student_is_exact():
    student, images = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), torch.randn(5, 1, 8, 8)
    weight, bias = (part.tolist() for part in (student[1].weight, student[1].bias))
    for image, found in zip(images.flatten(1).tolist(), boundary_distance(student, images).tolist(), strict=True):
        scores = [sum(w * x for w, x in zip(row, image, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
        first, second = sorted(range(4), key=lambda index: -scores[index])[:2]
        apart = math.dist(weight[first], weight[second])
        assert found == pytest.approx((scores[first] - scores[second]) / apart, rel=1e-4)


def test_a_distance_leaves_the_student_as_it_was():
    student = toy_student().train()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    assert (boundary_distance(student, toy_images(9, seed=1)) >= 0).all()
    assert student.training and all(weight.grad is None for weight in student.parameters())
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_the_loss_is_that_of_kd():
    logits, scores = torch.randn(4, 3), torch.randn(4, 3)
    rows = Rows(torch.zeros(4, 1, 8, 8), Response(scores, "logits", 3))
    method = InverseNet(temperature=3.0, smoothing=0.1, **WORLD)
    assert torch.allclose(method.losses(lambda images: logits, rows)["loss"], kd_divergence(logits, scores, 3.0))
    labels = scores.argmax(dim=1)
    hard = Rows(rows.images, Response(labels, "hard", 3))
    assert torch.equal(method.losses(lambda images: logits, hard)["loss"], cross_entropy_labels(logits, labels, 0.1))


def test_a_hard_answer_is_a_certainty_to_the_decoder():
    method = InverseNet(decoder_width=4, **WORLD)
    method._decoder = Generator(CLASSES, (1, 8, 8), width=4)
    scores = method.inverse().hard_scale * torch.eye(3)
    assert torch.allclose(truncated(scores.softmax(dim=1)), torch.eye(3), atol=1e-6)


def test_the_inverse_hears_only_of_the_classes_that_it_keeps():
    inverse = TruncatedInverse(Generator(4, (1, 8, 8), width=4).eval(), keep=1)
    scores = torch.tensor([[3.0, 0.0, 1.0, -1.0]])
    assert torch.equal(inverse(scores), inverse(scores[:, [0, 2, 1, 3]]))
    assert not torch.equal(inverse(scores), inverse(scores[:, [1, 0, 2, 3]]))


class OtherTeacher(ToyTeacher):
    """Another one, with other answers to the same images."""

    def forward(self, images):
        return super().forward(images).roll(1, dims=1) * images.mean(dim=(1, 2, 3)).unsqueeze(1)


def run(teacher, *, student=0, budget=200, **settings):
    settings = {"decoder_steps": 60, "decoder_width": 8, **settings}
    return distill(
        toy_student(student), BlackBox(teacher, "logits", CLASSES, budget=budget), toy_images(60, seed=1), "inversenet",
        recipe=Recipe(steps=20, batch_size=16), progress=False, validation=0.0, **settings,
    )  # fmt: skip


def sent(teacher, **settings):
    """All that was asked, in order, ``(budget, 64)``."""
    run(teacher, **settings)
    return torch.cat(teacher.asked).flatten(1)


def test_what_each_round_follows_from():
    first, again, student, teacher = (
        sent(made, student=seed)
        for made, seed in ((ToyTeacher(), 0), (ToyTeacher(), 0), (ToyTeacher(), 1), (OtherTeacher(), 0))
    )
    assert len(first) == 200 and torch.equal(first, again)
    core, confident, decoded = slice(0, 90), slice(90, 180), slice(180, 200)
    for other in (student, teacher):
        assert torch.equal(first[core], other[core]), "the core set is that of the images alone"
        in_common = (torch.cdist(first[confident], other[confident]).amin(dim=1) < 1e-4).float().mean()
        assert in_common < 0.9, "another student is confident of other images"
        assert not torch.equal(first[decoded], other[decoded])
    assert len(first.unique(dim=0)) == 200


def test_the_second_round_is_what_the_first_student_is_surest_of():
    shares = {"shares": [0.5, 0.25, 0.25], "candidates": 2.0}
    teacher, seen = ToyTeacher(), []
    made = InverseNet(decoder_steps=1, **shares, **WORLD)
    box, student = BlackBox(teacher, "logits", CLASSES, budget=80), toy_student()
    for stage in made.stages(box, toy_images(60, seed=1), student):
        if hasattr(stage, "bank"):
            stage.bank.fill(box, stage.draw, stage.size, stage=stage.name)
            seen.append(stage.bank.images[sum(map(len, seen)) :])
        if stage.name == "student_2":
            break
    core, confident = seen
    assert (len(core), len(confident)) == (40, 20)
    distances = boundary_distance(student, confident)
    assert (distances.diff() <= 0).all() and distances.min() > boundary_distance(student, core).median()


def test_it_leaves_an_inverse_whose_images_are_those_of_the_class():
    teacher = ToyTeacher()
    result = run(teacher, budget=400, decoder_steps=150)
    scores = 6 * torch.eye(CLASSES).repeat(5, 1)
    latents = latents_of(result.inverse, scores - scores.mean(dim=1, keepdim=True), torch.empty(15, 0))
    drawn = draw_images(result.inverse, latents, (-1.0, 1.0))
    assert drawn.shape == (15, 1, 8, 8) and drawn.abs().amax() <= 1
    means = torch.stack([toy_images(300, seed=7)[label::CLASSES].mean(dim=0) for label in range(CLASSES)])
    nearest = torch.cdist(drawn.flatten(1), means.flatten(1)).argmin(dim=1)
    assert (nearest == scores.argmax(dim=1)).float().mean() > 0.9
    assert set(result.report["generator"]) >= {"class_shares", "confidence", "distance_to_real"}
    assert sum(result.report["generator"]["class_shares"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "budget", "error", "words"),
    [
        ({"shares": [0.5, 0.5]}, 90, InputError, "expected three"),
        ({"keep": 4}, 90, InputError, "keep=4"),
        ({"student_share": 0.0}, 90, InputError, "student_share=0"),
        ({}, 15, NeedsNotMet, "InverseNet needs at least 16 queries"),
    ],
)
def test_what_cannot_work_is_refused_unasked(settings, budget, error, words):
    teacher = ToyTeacher()
    box = BlackBox(teacher, "logits", CLASSES, budget=budget)
    with pytest.raises(error, match=words):
        distill(toy_student(), box, toy_images(20, seed=1), "inversenet", recipe=Recipe(steps=2), **settings)
    assert teacher.count == 0
