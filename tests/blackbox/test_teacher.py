from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mekd_plugin.blackbox import BlackBox, Ledger
from mekd_plugin.errors import InputError, QueryBudgetExceeded, TeacherAnswerError


def test_answers_are_the_teachers_in_eval_mode(probe, images):
    response = BlackBox(probe, "logits").query(images)
    assert torch.equal(response.values, probe.eval()(images).detach())
    assert response.kind == "logits" and response.num_classes == 3


def test_soft_is_short_for_logits(probe):
    assert BlackBox(probe, "soft").responses == "logits"


def test_every_image_counts_also_the_second_time(probe, images):
    box = BlackBox(probe, "logits")
    box.query(images, stage="first")
    box.query(images[:4], stage="second")
    assert box.ledger.by_stage == {"first": 10, "second": 4}
    assert (box.ledger.total, box.ledger.distinct, box.ledger.uncertain) == (14, 10, 0)
    assert probe.images == 14


def test_sends_batches_of_batch_size(probe, images):
    BlackBox(probe, "logits", batch_size=4).query(images)
    assert [len(batch) for batch in probe.sent] == [4, 4, 2]


def test_batch_size_does_not_change_answers(probe, images):
    whole = BlackBox(probe, "logits").query(images)
    parts = BlackBox(probe, "logits", batch_size=3).query(images)
    torch.testing.assert_close(whole.values, parts.values)


def test_runs_in_eval_and_inference_mode_and_restores_each_flag(probe, images):
    probe.train()
    probe.norm.eval()
    before = probe.norm.running_mean.clone()
    BlackBox(probe, "logits").query(images)
    assert probe.modes == [(False, True)]
    assert probe.training and probe.head.training and not probe.norm.training
    assert torch.equal(probe.norm.running_mean, before)


def test_flags_are_restored_when_the_teacher_fails(probe, images, killed):
    probe.train()
    probe.die_in_batch = 1
    with pytest.raises(killed):
        BlackBox(probe, "logits").query(images)
    assert probe.training


def test_budget_is_refused_before_anything_is_sent(probe, images):
    box = BlackBox(probe, "logits", budget=15)
    box.query(images, stage="ask")
    message = r"10 images for 'more' would pass the query budget of 15: 10 are spent \(ask 10\) and 5 remain"
    with pytest.raises(QueryBudgetExceeded, match=message):
        box.query(images, stage="more")
    assert probe.images == 10 and box.ledger.by_stage == {"ask": 10}
    box.query(images[:5], stage="more")
    assert box.ledger.remaining == 0


def test_a_budget_smaller_than_one_batch_is_refused(probe, images):
    with pytest.raises(QueryBudgetExceeded, match="nothing yet"):
        BlackBox(probe, "logits", budget=5).query(images)
    assert probe.images == 0


def test_a_question_of_many_batches_is_refused_as_a_whole(probe, images):
    box = BlackBox(probe, "logits", budget=9, batch_size=4)
    with pytest.raises(QueryBudgetExceeded, match="asking about 10 images"):
        box.query(images)
    assert probe.images == box.ledger.total == 0


def test_two_boxes_can_share_a_budget(probe, new_probe, images):
    ledger = Ledger(12)
    first, second = BlackBox(probe, "logits", ledger=ledger), BlackBox(new_probe(), "hard", ledger=ledger)
    first.query(images)
    with pytest.raises(QueryBudgetExceeded):
        second.query(images[:3])


def test_hard_responses_are_the_arg_max_taken_inside(probe, images):
    response = BlackBox(probe, "hard").query(images)
    assert torch.equal(response.values, probe.eval()(images).argmax(1))
    assert response.values.dtype == torch.int64 and response.num_classes == 3


@pytest.mark.parametrize(
    "convert", [torch.Tensor.int, torch.Tensor.numpy, lambda labels: labels.numpy().astype(np.uint8)]
)
def test_hard_responses_can_be_class_indices(images, convert):
    labels = torch.arange(10) % 4
    response = BlackBox(lambda batch: convert(labels), "hard", 4).query(images)
    assert torch.equal(response.values, labels)


def test_probabilities_are_taken_as_declared(probe, images):
    box = BlackBox(lambda batch: probe(batch).softmax(1).numpy(), "probabilities", 3)
    assert torch.allclose(box.query(images).values.sum(1), torch.ones(10))


def test_answers_have_the_images_precision(images):
    box = BlackBox(lambda batch: torch.zeros(len(batch), 3, dtype=torch.float64), "logits", 3)
    assert box.query(images).values.dtype == torch.float32
    assert box.query(images.double()).values.dtype == torch.float64
    assert box.query(images.bfloat16()).values.dtype == torch.float32


def test_images_of_another_precision_are_converted_for_a_module(probe, images):
    assert BlackBox(probe, "logits").query(images.double()).values.dtype == torch.float64
    assert probe.sent[0].dtype == torch.float32


def test_autocast_around_the_query_does_not_reach_the_teacher(probe, images):
    box = BlackBox(probe, "logits")
    plain = box.query(images).values
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(box.query(images).values, plain)


def test_quantize_sends_the_256_levels_of_the_range(probe):
    images = torch.tensor([0.0, 0.103, 1.0, 0.501]).repeat(4).view(1, 1, 4, 4)
    BlackBox(probe, "logits", quantize="uint8", value_range=(0, 1)).query(images)
    levels = probe.sent[0] * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    torch.testing.assert_close(levels.flatten()[:4], torch.tensor([0.0, 26.0, 255.0, 128.0]))


def test_quantized_images_are_distinct_as_they_were_sent(probe, images):
    box = BlackBox(probe, "logits", quantize="uint8")
    box.query(images.clamp(-0.9, 0.9))
    box.query(images.clamp(-0.9, 0.9) + 1e-5)
    assert box.ledger.total == 20 and box.ledger.distinct < 14


def test_a_teacher_that_works_in_place_does_not_touch_the_images(images):
    before = images.clone()
    BlackBox(nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 2)), "logits").query(images)
    assert torch.equal(images, before)


def test_no_response_shares_memory_with_the_teacher(images):
    kept = torch.zeros(10, 3)
    response = BlackBox(lambda batch: kept, "logits", 3).query(images)
    response.values.add_(1)
    assert kept.sum() == 0


def test_number_of_classes_is_learnt_or_declared(probe, images):
    box = BlackBox(probe, "logits")
    with pytest.raises(InputError, match="not known before its first answer"):
        _ = box.num_classes
    box.query(images)
    assert box.num_classes == 3
    box.expect_classes(3)
    with pytest.raises(InputError, match="num_classes=4: this teacher answers about 3 classes"):
        box.expect_classes(4)


def test_expected_classes_bind_the_teacher(probe, images):
    box = BlackBox(probe, "logits")
    box.expect_classes(5)
    with pytest.raises(TeacherAnswerError, match="batch 1 has scores of 3 classes: expected 5 classes"):
        box.query(images)
    assert box.ledger.uncertain == 10


def test_a_stage_can_be_given_to_queries_that_name_none(probe, images):
    box = BlackBox(probe, "logits")
    with box.asking_for("search"):
        box.query(images)
        box.query(images, stage="own")
    box.query(images)
    assert box.ledger.by_stage == {"search": 10, "own": 10, "query": 10}


def test_repr_says_what_was_spent(probe, images):
    box = BlackBox(probe, "logits", budget=5000)
    assert "num_classes=?" in repr(box)
    box.query(images)
    assert "num_classes=3, 10 of 5,000 images sent, 10 distinct (query 10)" in repr(box)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "responses= is missing"),
        ({"responses": "scores", "num_classes": 3}, "responses='scores'"),
        ({"responses": "logits"}, "num_classes= is missing"),
        ({"responses": "logits", "num_classes": 1}, "num_classes=1: expected a whole number from 2"),
        ({"responses": "logits", "num_classes": 2.0}, "num_classes=2.0"),
        ({"responses": "logits", "num_classes": 3, "budget": -1}, "budget=-1"),
        ({"responses": "logits", "num_classes": 3, "budget": 1.5}, "budget=1.5"),
        ({"responses": "logits", "num_classes": 3, "budget": True}, "budget=True"),
        ({"responses": "logits", "num_classes": 3, "budget": 1, "ledger": Ledger()}, "budget=1 and ledger= are both"),
        ({"responses": "logits", "num_classes": 3, "batch_size": 0}, "batch_size=0"),
        ({"responses": "logits", "num_classes": 3, "quantize": "jpeg"}, "quantize='jpeg'"),
        ({"responses": "logits", "num_classes": 3, "value_range": (1, 0)}, r"value_range=\(1, 0\)"),
        ({"responses": "logits", "num_classes": 3, "value_range": (0, float("inf"))}, "two finite numbers"),
        ({"responses": "logits", "num_classes": 3, "value_range": 255}, "value_range=255"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message):
    with pytest.raises(InputError, match=message):
        BlackBox(lambda batch: batch, **arguments)


def test_a_module_needs_its_responses_declared_too(probe):
    with pytest.raises(InputError, match="never guessed"):
        BlackBox(probe)


def test_a_teacher_must_be_callable():
    with pytest.raises(InputError, match="a teacher of type str"):
        BlackBox("resnet20", "logits", 3)


def test_a_black_box_is_no_teacher_for_another(probe):
    with pytest.raises(InputError, match="a BlackBox already"):
        BlackBox(BlackBox(probe, "logits"), "logits", 3)


@pytest.mark.parametrize("stage", ["", 3])
def test_a_stage_needs_a_name(probe, images, stage):
    with pytest.raises(InputError, match="expected the name"):
        BlackBox(probe, "logits").query(images, stage=stage)
    assert probe.images == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: the devices of teacher and images differ")
def test_answers_come_back_on_the_images_device(probe, images):
    box = BlackBox(probe, "logits", device="cuda")
    assert box.query(images).values.device.type == "cpu"
    assert box.query(images.cuda()).values.device.type == "cuda"
    assert box.ledger.distinct == 10


def test_another_teacher_has_another_identity():
    first, second = (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)) for _ in range(2))
    box = BlackBox(first, "logits", 3)
    assert box.identity != BlackBox(second, "logits", 3).identity
    second.load_state_dict(first.state_dict())
    assert box.identity == BlackBox(second, "logits", 3).identity
    assert BlackBox(len, "hard", 3).identity == "builtins.len"
