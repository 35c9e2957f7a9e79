"""Active Mixup: what stands for a pair against naive loops, and that its later questions follow from its student."""

import pytest
import torch
from mekd_plugin.baselines.active_mixup import ActiveMixup, least_sure_mixtures

from mekd_plugin import distill
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import InputError, NeedsNotMet
from mekd_plugin.functional import cross_entropy_labels, kd_divergence
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows
from mekd_plugin.testing import CLASSES, DistillerContract, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe

WORLD = {"num_classes": CLASSES, "image_shape": (1, 8, 8)}


def test_the_mixture_that_stands_for_a_pair_is_the_one_of_which_the_student_is_least_sure():
    student, images = toy_student().eval().requires_grad_(False), toy_images(12, seed=1)
    one, other, ratios = images[:5], images[5:10], torch.rand(4, 5)
    ratio, answers = least_sure_mixtures(student, one, other, ratios)
    for pair in range(5):
        sure, found = 2.0, (None, None)
        for row in range(4):
            share = float(ratios[row, pair])
            mixed = share * one[pair] + (1 - share) * other[pair]
            told = student(mixed.unsqueeze(0)).softmax(dim=1)[0]
            if float(told.max()) < sure:
                sure, found = float(told.max()), (share, told.tolist())
        assert float(ratio[pair]) == pytest.approx(found[0])
        assert answers[pair].tolist() == pytest.approx(found[1], abs=1e-5)


def test_the_loss_is_that_of_kd():
    logits, scores = torch.randn(4, 3), torch.randn(4, 3)
    rows = Rows(torch.zeros(4, 1, 8, 8), Response(scores, "logits", 3))
    method = ActiveMixup(temperature=3.0, smoothing=0.1, **WORLD)
    assert torch.allclose(method.losses(lambda images: logits, rows)["loss"], kd_divergence(logits, scores, 3.0))
    labels = scores.argmax(dim=1)
    hard = Rows(rows.images, Response(labels, "hard", 3))
    assert torch.equal(method.losses(lambda images: logits, hard)["loss"], cross_entropy_labels(logits, labels, 0.1))


def asked(*, student=0, budget=120, images=30, **settings):
    """All that was asked, in order, ``(budget, 64)``."""
    teacher = ToyTeacher()
    distill(
        toy_student(student), BlackBox(teacher, "logits", CLASSES, budget=budget), toy_images(images, seed=1),
        "active_mixup", recipe=Recipe(steps=20, batch_size=16), progress=False, validation=0.0,
        **{"rounds": 2, "first_share": 0.5, **settings},
    )  # fmt: skip
    assert teacher.count == budget
    return torch.cat(teacher.asked).flatten(1)


def test_pairs_are_looked_at_in_parts(monkeypatch):
    """All pairs' images at once would take 25 GB for 50,000 questions about small ones in colour."""
    whole = asked()
    monkeypatch.setattr("mekd_plugin.baselines.active_mixup._PART", 7)
    assert torch.allclose(asked(), whole)


def test_the_second_selection_changes_when_the_first_student_does():
    first, again, other = asked(), asked(), asked(student=1)
    assert torch.equal(first, again)
    assert torch.equal(first[:60], other[:60])
    in_common = (torch.cdist(first[60:], other[60:]).amin(dim=1) < 1e-4).float().mean()
    assert in_common < 0.9, "another student is unsure of other mixtures"


def pairs_of(sent, images):
    """The two images that each row is a mixture of, found by least squares."""
    share = torch.linalg.lstsq(images.T, sent.T).solution.T
    assert ((share > 0.25) == (share.abs() > 0.01)).all(), "mixtures of two, at ratios from 0.3 to 0.7"
    return share.topk(2, dim=1).indices.sort(dim=1).values


def test_each_pair_is_asked_about_at_most_once_while_there_are_others():
    images = toy_images(30, seed=1).flatten(1)
    found = pairs_of(asked(rounds=4), images)
    assert len(found.unique(dim=0)) == len(found)


def test_few_images_are_mixed_again_at_other_ratios():
    sent = asked(images=6, budget=100)
    assert len(pairs_of(sent, toy_images(6, seed=1).flatten(1)).unique(dim=0)) == 15
    assert len(sent.unique(dim=0)) == len(sent)


def test_the_images_themselves_come_first_where_they_may_leave():
    assert ActiveMixup(**WORLD).needs.leaves_edge == "mixtures"
    assert ActiveMixup(originals=True, **WORLD).needs.leaves_edge == "real images"
    sent, images = asked(originals=True), toy_images(30, seed=1).flatten(1)
    assert (images.unsqueeze(1) == sent[:30]).all(dim=2).any(dim=1).all()
    assert (torch.cdist(sent[30:], images).amin(dim=1) > 0.1).all()


class TestWithOriginals(DistillerContract):
    """As in the paper, with the images themselves: what leaves is said, and a stopped run resumes."""

    method = "active_mixup"
    settings = {"originals": True}
    budget, steps = 300, 60
    test_beats_an_untrained_student_and_shuffled_answers = None


@pytest.mark.parametrize(
    ("settings", "budget", "error", "words"),
    [
        ({"rounds": 1}, 90, InputError, "rounds=1"),
        ({"candidates": 0.5}, 90, InputError, "candidates=0.5"),
        ({"originals": "yes"}, 90, InputError, "originals='yes': expected True or False"),
        ({"rounds": 4, "first_share": 0.25}, 7, NeedsNotMet, "ActiveMixup needs at least 8 queries"),
        ({"rounds": 4, "first_share": 0.25, "queries": 5}, 90, InputError, "5 queries in 4 rounds"),
    ],
)
def test_what_cannot_work_is_refused_unasked(settings, budget, error, words):
    teacher = ToyTeacher()
    box = BlackBox(teacher, "logits", CLASSES, budget=budget)
    with pytest.raises(error, match=words):
        distill(toy_student(), box, toy_images(20, seed=1), "active_mixup", recipe=Recipe(steps=2), **settings)
    assert teacher.count == 0
