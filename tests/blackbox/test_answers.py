from __future__ import annotations

import numpy as np
import pytest
import torch

from mekd_plugin.blackbox import BlackBox
from mekd_plugin.errors import InputError, TeacherAnswerError


def logits(count=10, classes=3):
    return torch.arange(count * classes, dtype=torch.float32).view(count, classes)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((1, 1, 4, 4)), "images of type ndarray"),
        (torch.zeros(1, 4, 4), r"shape \(1, 4, 4\): expected \(N, channels, height, width\)"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.uint8), "dtype torch.uint8: expected floating point"),
        (torch.zeros(0, 1, 4, 4), "expected at least one image"),
        (torch.full((1, 1, 4, 4), float("nan")), "NaN or infinite"),
        (torch.full((1, 1, 4, 4), float("inf")), "NaN or infinite"),
        (
            torch.linspace(0, 255, 16).view(1, 1, 4, 4),
            "values from 0 to 255: expected -1 to 1; rescale them, or declare",
        ),
    ],
)
def test_images_that_cannot_be_sent(probe, wrong, message):
    with pytest.raises(InputError, match=message):
        BlackBox(probe, "logits").query(wrong)
    assert probe.images == 0


def test_resampling_may_leave_the_range_by_a_rounding_error(probe):
    BlackBox(probe, "logits").query(torch.full((1, 1, 4, 4), 1 + 1e-6))


@pytest.mark.parametrize(
    ("responses", "answer", "message"),
    [
        ("logits", logits(9), r"batch 1 has shape \(9, 3\): expected one answer for each of 10 images"),
        ("logits", torch.tensor(1.0), r"shape \(\)"),
        ("logits", logits(10, 4), r"scores of 4 classes: expected 3 classes \(num_classes=\)"),
        ("logits", logits().view(10, 3, 1), r"shape \(10, 3, 1\) of torch.float32: expected \(N, C\) scores"),
        ("logits", torch.arange(10), r"shape \(10,\) of torch.int64: expected \(N, C\) scores"),
        ("logits", logits().long(), "scores of dtype torch.int64"),
        ("logits", logits().log(), "NaN or infinite scores, first for its image 0"),
        ("logits", torch.full((10, 3), float("nan")), "NaN or infinite scores"),
        ("logits", {"logits": logits()}, "has a dict: expected one tensor or NumPy array"),
        ("logits", (logits(), logits()), "has a tuple: expected one tensor"),
        ("logits", np.array([["cat"] * 3] * 10), "an array of dtype <U3: expected numbers"),
        ("logits", None, "a NoneType"),
        (
            "probabilities",
            logits(),
            r'values from 0 to 29: expected probabilities in \[0, 1\]; are they responses="logits"',
        ),
        ("probabilities", torch.full((10, 3), 0.5), "sum to 1.5 for its image 0: expected a sum of 1"),
        ("hard", torch.arange(10), "class indices from 0 to 9: expected 0 to 2"),
        ("hard", torch.full((10,), -1), "class indices from -1 to -1"),
        ("hard", torch.zeros(10), r"shape \(10,\) of torch.float32: expected \(N,\) integer class indices or \(N, C\)"),
        ("hard", torch.zeros(10, dtype=torch.bool), "of torch.bool"),
        ("hard", torch.full((10, 3), float("inf")), "NaN or infinite scores"),
    ],
)
def test_nonsense_is_refused_by_its_batch(images, responses, answer, message):
    box = BlackBox(lambda batch: answer, responses, 3)
    with pytest.raises(TeacherAnswerError, match=message):
        box.query(images)
    assert box.ledger.total == box.ledger.uncertain == 10


def test_the_batch_that_is_named_is_the_one_that_failed(images):
    answers = [logits(4), logits(4), logits(2) / 0]
    box = BlackBox(lambda batch: answers.pop(0), "logits", 3, batch_size=4)
    with pytest.raises(TeacherAnswerError, match="batch 3 has NaN"):
        box.query(images)


def test_a_teacher_that_changes_its_number_of_classes_is_refused(probe, images):
    box = BlackBox(probe, "logits")
    box.query(images)
    probe.head = torch.nn.Linear(16, 4)
    with pytest.raises(TeacherAnswerError, match="scores of 4 classes: expected 3"):
        box.query(images)


def test_one_class_is_no_classifier(images):
    with pytest.raises(TeacherAnswerError, match="scores of 1 classes: expected at least 2 classes"):
        BlackBox(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 1)), "logits").query(images)


def test_class_indices_do_not_tell_the_number_of_classes(images):
    class Labels(torch.nn.Module):
        def forward(self, images):
            return torch.zeros(len(images), dtype=torch.int64)

    with pytest.raises(InputError, match="give the black box num_classes="):
        BlackBox(Labels(), "hard").query(images)
