"""A service that answers with the names of its classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mekd_plugin.blackbox import BlackBox
from mekd_plugin.errors import InputError, TeacherAnswerError

NAMES = ["cat", "dog", "eel"]


def told(images, names=NAMES):
    """A name for each image, by its brightness."""
    return [names[int(value)] for value in (images.mean(dim=(1, 2, 3)) + 1) * 1.49]


@pytest.mark.parametrize("form", [list, np.array, tuple])
def test_names_become_their_places(form):
    images = torch.stack([torch.full((1, 8, 8), value) for value in (-1.0, 0.0, 1.0)])
    box = BlackBox(lambda images: form(told(images)), "hard", classes=NAMES)
    assert box.query(images).labels.tolist() == [0, 1, 2] and box.num_classes == 3 and box.classes == tuple(NAMES)


def test_scores_by_name_are_put_in_order():
    answers = [{"dog": 0.75, "cat": 0.25}, {"eel": 1.0}]
    box = BlackBox(
        lambda images: {"results": answers}, "probabilities", answer=lambda out: out["results"], classes=NAMES
    )
    assert box.query(torch.zeros(2, 1, 8, 8)).values.tolist() == [[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]]


def test_a_name_that_nobody_declared_is_said():
    box = BlackBox(lambda images: ["dogs"] * len(images), "hard", classes=NAMES)
    with pytest.raises(TeacherAnswerError, match="class 'dogs', which is not among classes=: did you mean 'dog'"):
        box.query(torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"classes": "cat,dog"}, "expected at least two names in order"),
        ({"classes": ["cat"]}, "expected at least two names"),
        ({"classes": ["cat", 3]}, r"classes\[1\]=3: expected the name of a class"),
        ({"classes": ["cat", "dog", "cat"]}, "'cat' is there more than once"),
        ({"classes": NAMES, "num_classes": 4}, "num_classes=4, and classes= names 3: leave one out"),
    ],
)
def test_names_that_cannot_be_used_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        BlackBox(told, "hard", **settings)


def test_names_in_another_order_are_another_teacher():
    boxes = [BlackBox(told, "hard", 3, classes=names, identity="service") for names in (NAMES, NAMES[::-1], None)]
    assert len({box.identity for box in boxes}) == 3 and boxes[2].identity == "service"
