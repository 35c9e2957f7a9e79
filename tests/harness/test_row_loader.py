"""Batches for suites that pass on images and labels only, and the edge's part of their training sets."""

from __future__ import annotations

import pytest
import torch

import mekd_plugin as mekd
from mekd_plugin.errors import InputError
from mekd_plugin.harness.row_loader import RowLoader, draw_edge_images
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student

BATCH = 16


def lessons_of(student, responses="logits", **settings):
    box = mekd.BlackBox(ToyTeacher(), responses, CLASSES, budget=100)
    hosted = mekd.host(student, box, toy_images(60, seed=1), method="kd", progress=False, validation=0.0)
    return RowLoader(hosted, student, BATCH, **settings)


def test_an_epoch_is_as_long_as_it_says():
    lessons = lessons_of(toy_student())
    assert len(lessons) == 100 // BATCH == len(list(lessons))
    assert len(lessons.dataset) == len(lessons) * BATCH
    assert len(lessons_of(toy_student(), steps=3)) == 3


def test_each_epoch_begins_in_train_mode():
    student = toy_student()
    lessons = lessons_of(student)
    student.eval()
    next(iter(lessons))
    assert student.training


@pytest.mark.parametrize("responses", ["logits", "hard"])
def test_labels_and_scores_are_the_teachers(responses):
    lessons = lessons_of(toy_student(), responses, entries=3)
    images, labels, numbers = next(iter(lessons))
    with torch.no_grad():
        answers = ToyTeacher()(images)
    assert torch.equal(labels, answers.argmax(dim=1)) and len(numbers) == BATCH
    assert torch.equal(lessons.teacher(images).argmax(dim=1), labels)


def test_the_loss_is_that_of_the_batch_under_way():
    student = toy_student()
    lessons = lessons_of(student)
    assert len(next(iter(lessons))) == 2
    for images, _ in lessons:
        logits = student(images)
        assert torch.equal(lessons.rows.images, images)
        expected = lessons.hosted.method.losses(lambda images: logits, lessons.rows)["loss"]  # noqa: B023
        assert torch.equal(lessons.loss(logits), expected)


def test_no_batch_is_under_way_before_the_first():
    with pytest.raises(InputError, match="no batch is under way"):
        lessons_of(toy_student()).loss(torch.zeros(BATCH, CLASSES))


class Jittered(torch.utils.data.Dataset):
    """Its images are random at each look."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index + torch.rand(1, 2, 2), 0


def test_the_edges_images_are_those_of_the_seed():
    state = torch.random.get_rng_state()
    first, second = (draw_edge_images(Jittered(), real_images=6, real_fraction=0.1, seed=3) for _ in range(2))
    assert torch.equal(first, second) and first.shape == (6, 1, 2, 2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not torch.equal(first, draw_edge_images(Jittered(), real_images=6, real_fraction=0.1, seed=4))
    assert len(draw_edge_images(Jittered(), real_images=None, real_fraction=0.5, seed=0)) == 5


@pytest.mark.parametrize(("count", "share"), [(11, 0.1), (1, 0.1), (None, 0.1)])
def test_too_many_or_too_few_images_are_named(count, share):
    with pytest.raises(InputError, match=f"{count or 1} real images: expected 2 to 10; set real_images"):
        draw_edge_images(Jittered(), real_images=count, real_fraction=share, seed=0)
