"""A student against its teacher: a shift of the distribution told from a mix-up of images."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch

from mekd_plugin.errors import InputError
from mekd_plugin.transport import compare_responses, per_class, wasserstein

QUICK = {"resamples": 4, "permutations": 19}


@pytest.fixture(scope="module")
def teacher():
    rng = torch.Generator().manual_seed(0)
    classes = torch.arange(80) % 4
    return 6 * torch.eye(4)[classes] + torch.randn(80, 4, generator=rng)


def test_a_permuted_copy_is_equivalent_by_definition_1_and_agrees_nowhere(teacher):
    found = compare_responses(teacher.roll(1, dims=0), teacher, **QUICK)
    for space in (found.logits, found.probabilities):
        assert space.w1.value == space.w2.value == space.sliced.value == 0
        assert space.sinkhorn.value < 1e-2 and space.gaussian.value < 1e-6
        assert space.shift_share == 0 and space.mix_up == space.paired.value > 0.1
    assert found.logits.paired.value > 6 and found.agreement < 0.05
    assert found.logits.test.p_value > 0.05  # the distributions are the same, and the test says so


def test_a_shift_of_all_responses_is_no_mix_up(teacher):
    shift = torch.tensor([2.0, -2.0, 0.0, 0.0])
    found = compare_responses(teacher + shift, teacher, **QUICK)
    length = float(shift.norm())
    for value in (
        found.logits.w1,
        found.logits.w2,
        found.logits.gaussian,
        found.logits.paired,
        found.logits.max_sliced,
    ):
        assert value.value == pytest.approx(length, rel=1e-5)
    assert found.logits.sinkhorn.value == pytest.approx(length, rel=1e-3)
    assert found.logits.mix_up < 1e-5 and found.logits.shift_share == pytest.approx(1)
    assert found.logits.test.p_value == 1 / 20


def test_a_constant_per_image_is_no_difference(teacher):
    found = compare_responses(teacher + torch.arange(80.0)[:, None], teacher, **QUICK)
    assert found.logits.paired.value < 1e-4 and found.agreement == 1
    assert found.probabilities.paired.value < 1e-6


def test_probabilities_are_softened(teacher):
    found = compare_responses(teacher.flip(1), teacher, temperature=2.0, **QUICK)
    p, q = (teacher.flip(1) / 2).softmax(1), (teacher / 2).softmax(1)
    assert found.probabilities.paired.value == pytest.approx(float((p - q).norm(dim=1).mean()), rel=1e-5)
    assert found.probabilities.w1.value == pytest.approx(wasserstein(p, q).value, rel=1e-4)
    assert found.temperature == 2


def test_classes_are_the_teachers_own_unless_given(teacher):
    student = teacher.clone()
    student[teacher.argmax(1) == 2] += torch.tensor([0.0, 3.0, 0.0, -3.0])
    found = compare_responses(student, teacher, **QUICK)
    assert found.classes[2].value == pytest.approx(18**0.5, rel=1e-5)
    assert [found.classes[label].value for label in (0, 1, 3)] == [0, 0, 0]
    assert found.classes_paired[2].value == pytest.approx(18**0.5, rel=1e-5)
    labels = np.zeros(80, dtype=int)
    given = compare_responses(student, teacher, classes=labels, **QUICK)
    assert given.classes[1] is None and given.classes[0].size == (80, 80)


def test_the_record_is_json_and_says_the_gap(teacher):
    record = json.loads(json.dumps(compare_responses(teacher * 1.5, teacher, **QUICK).as_record()))
    logits = record["logits"]
    assert logits["mix_up"] == pytest.approx(max(logits["paired"]["value"] - logits["w1"]["value"], 0))
    assert logits["w1"]["low"] <= logits["w1"]["value"] <= logits["w1"]["high"]
    assert set(record["classes"]) == {"0", "1", "2", "3"} and record["images"] == 80


def test_one_image_and_equal_responses_are_answered(teacher):
    single = compare_responses(teacher[:1], teacher[1:2], **QUICK)
    assert single.logits.w1.value == pytest.approx(single.logits.paired.value) and single.logits.paired.low is None
    same = compare_responses(teacher, teacher, **QUICK)
    assert same.logits.paired.value == same.logits.w1.value == 0 and same.logits.shift_share == 1


def test_a_class_that_a_side_lacks_is_none():
    x, y = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[2.0], [5.0]])
    found = per_class(x, y, torch.tensor([0, 0, 1]), torch.tensor([0, 2]), 4, partial(wasserstein, order=2))
    assert found[0].value == pytest.approx(2.5**0.5)  # (2^2 + 1^2) / 2
    assert found[1] is None and found[2] is None and found[3] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student": torch.zeros(80, 3)}, r"student's responses of shape \(80, 3\), teacher's \(80, 4\)"),
        ({"student": torch.zeros(79, 4)}, "expected the same images and classes"),
        ({"temperature": 0.0}, "temperature=0.0: expected a positive number"),
        ({"classes": torch.full((80,), 4)}, r"classes from 4 to 4: expected \[0, 4\)"),
        ({"student": torch.full((80, 4), float("nan"))}, "student holds values that are not finite"),
    ],
)
def test_responses_that_do_not_fit_are_refused(teacher, change, message):
    with pytest.raises(InputError, match=message):
        compare_responses(**{"student": teacher, "teacher": teacher, **change})


def test_a_single_class_says_nothing():
    with pytest.raises(InputError, match="expected scores of at least 2 classes"):
        compare_responses(torch.zeros(10, 1), torch.ones(10, 1))
