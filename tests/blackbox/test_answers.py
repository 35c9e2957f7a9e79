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


def soft(count=10, classes=1000, seed=0):
    return (torch.randn(count, classes, generator=torch.Generator().manual_seed(seed)) * 2).softmax(1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_a_softmax_of_any_precision_is_one(images, dtype, classes):
    box = BlackBox(lambda batch: soft(classes=classes).to(dtype), "probabilities", classes)
    values = box.query(images).values
    assert values.dtype == torch.float32 and torch.allclose(values.sum(1), torch.ones(10), atol=8e-3)


def test_what_is_a_rounding_error_of_bfloat16_is_none_of_float32(images):
    off = torch.full((10, 3), 0.998 / 3)
    BlackBox(lambda batch: off.bfloat16(), "probabilities", 3).query(images)
    with pytest.raises(TeacherAnswerError, match="sum to 0.998 .*rounds is declared by rounding=.*top_k=.*a sigmoid"):
        BlackBox(lambda batch: off, "probabilities", 3).query(images)


@pytest.mark.parametrize("classes", [3, 10, 1000])
@pytest.mark.parametrize("decimals", [1, 2, 4])
@pytest.mark.parametrize("cut", [False, True])
def test_rounded_probabilities_are_filled_in(images, classes, decimals, cut):
    exact = soft(classes=classes)
    scale = 10**decimals
    told = (exact * scale).floor() / scale if cut else (exact * scale).round() / scale
    values = BlackBox(lambda batch: told, "probabilities", classes, rounding=decimals).query(images).values
    torch.testing.assert_close(values.sum(1), torch.ones(10))
    assert bool((values >= 0).all())
    left_out = told == 0
    for row, zero, was in zip(values, left_out, told, strict=True):
        if zero.any() and was.sum() < 1:
            assert row[zero].unique().numel() == 1, "the rest is spread evenly over what was answered as 0"
            torch.testing.assert_close(row[~zero], was[~zero])


def test_the_best_five_are_kept_and_the_rest_is_spread(images):
    exact = soft(classes=100)
    best = exact.topk(5, dim=1)
    told = torch.zeros_like(exact).scatter(1, best.indices, best.values)
    values = BlackBox(lambda batch: told, "probabilities", 100, top_k=5).query(images).values
    torch.testing.assert_close(values.gather(1, best.indices), best.values)
    others = values.clone().scatter(1, best.indices, torch.nan)
    assert torch.allclose(others.nanmean(1), (1 - best.values.sum(1)) / 95)
    torch.testing.assert_close(values.sum(1), torch.ones(10))
    with pytest.raises(TeacherAnswerError, match="a sum of 1"):
        BlackBox(lambda batch: told, "probabilities", 100).query(images)


def test_best_two_to_two_decimals(images):
    told = torch.tensor([[0.67, 0.3, 0, 0]]).repeat(10, 1)
    values = BlackBox(lambda batch: told, "probabilities", 4, top_k=2, rounding=2).query(images).values
    torch.testing.assert_close(values[0], torch.tensor([0.67, 0.3, 0.015, 0.015]))


@pytest.mark.parametrize(
    ("settings", "answer", "message"),
    [
        (
            {"top_k": 2},
            torch.tensor([[0.4, 0.3, 0.2, 0.0]] * 10),
            "3 probabilities for one image: expected at most top_k",
        ),
        ({"top_k": 2}, torch.tensor([[0.1, 0.1, 0.0, 0.0]] * 10), "sum to 0.2 .*"),
        ({"top_k": 2}, torch.tensor([[0.9, 0.3, 0.0, 0.0]] * 10), "sum to 1.2"),
        ({"rounding": 2}, torch.tensor([[0.4, 0.3, 0.1, 0.1]] * 10), "sum to 0.9"),
        ({"rounding": 2}, torch.tensor([[2.0, 0.0, 0.0, 0.0]] * 10), 'responses="logits"'),
    ],
)
def test_declarations_are_checked_by_what_is_answered(images, settings, answer, message):
    with pytest.raises(TeacherAnswerError, match=message):
        BlackBox(lambda batch: answer, "probabilities", 4, **settings).query(images)


@pytest.mark.parametrize(
    ("responses", "settings", "message"),
    [
        ("logits", {"rounding": 2}, "rounding=2 with responses='logits'"),
        ("hard", {"top_k": 5}, "top_k=5 with responses='hard'"),
        ("probabilities", {"rounding": 0}, "rounding=0"),
        ("probabilities", {"top_k": 2.5}, "top_k=2.5"),
    ],
)
def test_declarations_that_cannot_be_used(responses, settings, message):
    with pytest.raises(InputError, match=message):
        BlackBox(lambda batch: batch, responses, 3, **settings)


def test_lists_of_numbers_are_answers(images):
    scores = logits()
    values = BlackBox(lambda batch: scores.tolist(), "logits", 3).query(images).values
    assert values.dtype == torch.float32 and torch.equal(values, scores)
    whole = BlackBox(lambda batch: [[1, 0, 2]] * 10, "logits", 3).query(images).values
    assert whole[0].tolist() == [1, 0, 2] and whole.dtype == torch.float32
    labels = BlackBox(lambda batch: [1] * 10, "hard", 3).query(images)
    assert labels.values.tolist() == [1] * 10 and labels.values.dtype == torch.int64


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([["a", "b", "c"]] * 10, "lists of strs: expected lists of numbers"),
        ([[None, 1.0, 2.0]] * 10, "lists of NoneTypes"),
        ([[True, False, True]] * 10, "lists of bools"),
        ([[1.0, 2.0]] * 5 + [[1.0]] * 5, "lists of different lengths"),
        ([{"label": "cat"}] * 10, "lists of dicts"),
        ([logits(), logits()], "a list of Tensors: expected one tensor or NumPy array, or lists of numbers"),
        ([[1.0, 2.0, 3.0]] * 9, r"shape \(9, 3\)"),
        ([], r"shape \(0,\)"),
    ],
)
def test_other_lists_are_not(images, answer, message):
    with pytest.raises(TeacherAnswerError, match=message):
        BlackBox(lambda batch: answer, "logits", 3).query(images)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("quantize", [None, "uint8"])
def test_half_precision_images_are_images(probe, images, dtype, quantize):
    box = BlackBox(probe, "logits", quantize=quantize)
    assert box.query(images.to(dtype)).values.dtype == torch.float32
    assert probe.sent[0].dtype == torch.float32 and box.ledger.distinct == 10
    function = BlackBox(lambda batch: batch.flatten(1), "logits", 16, quantize=quantize)
    assert function.query(images.to(dtype)).values.dtype == torch.float32


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "images of type NoneType"),
        (5, "images of type int"),
        (torch.zeros(1, 1, 4, 4).to_sparse(), "layout torch.sparse_coo: expected a dense tensor"),
        (torch.zeros(1, 1, 4, 4, device="meta"), "meta device have no values"),
    ],
)
def test_other_things_that_are_no_images(probe, wrong, message):
    with pytest.raises(InputError, match=message):
        BlackBox(probe, "logits").query(wrong)
    assert probe.images == 0
