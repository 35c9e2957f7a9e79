from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from mekd_plugin.blackbox import BlackBox, Ledger
from mekd_plugin.errors import CheckpointError, InputError, QueryBudgetExceeded, TeacherAnswerError


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


def test_a_black_box_is_no_teacher_for_another(probe):
    with pytest.raises(InputError, match="a BlackBox already"):
        BlackBox(BlackBox(probe, "logits"), "logits", 3)


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


def test_numpy_integers_are_whole_numbers(probe, images):
    box = BlackBox(probe, "logits", np.int64(3), budget=np.int32(10), batch_size=np.int16(4))
    box.query(images)
    assert (box.num_classes, box.ledger.budget) == (3, 10) and type(box.num_classes) is int


@pytest.mark.parametrize(
    "settings",
    [{"device": "x"}, {"device": "cuda:77"}, {"device": 3.5}, {"batch_size": "8"}, {"identity": " "}],
    ids=str,
)
def test_other_arguments_that_cannot_be_used(probe, settings):
    (name,) = settings
    with pytest.raises(InputError, match=f"{name}=.*: expected a"):
        BlackBox(probe, "logits", **settings)


def test_an_evaluation_is_counted_apart_and_outside_the_budget(probe, images):
    box = BlackBox(probe, "logits", budget=10, batch_size=4)
    box.query(images, stage="bank")
    answers = box.evaluate(images)
    assert torch.equal(answers.values, box.evaluate(images, stage="audit").values)
    record = box.ledger.as_record()
    assert record == {"by_stage": {"bank": 10}, "total": 10, "distinct": 10, "uncertain": 0, "evaluation": 20}
    assert [len(batch) for batch in probe.sent[3:6]] == [4, 4, 2], "in batches of the teacher's size"
    assert "20 for evaluation beside them" in str(box.ledger) and box.ledger.remaining == 0
    with pytest.raises(QueryBudgetExceeded):
        box.query(images[:1])


def test_an_evaluation_by_a_failing_server_loses_nothing(images, tmp_path):
    received = []

    def server(batch):
        received.append(len(batch))
        if len(received) % 2 == 0:
            raise ConnectionResetError("gone")
        return batch.flatten(1)[:, :3].clone()

    for _life in range(9):
        box = BlackBox(server, "logits", 3, batch_size=2, identity="server")
        box.keep(tmp_path)
        try:
            values = box.evaluate(images).values
        except ConnectionError:
            continue
        finally:
            box.release()
        break
    assert torch.equal(values, images.flatten(1)[:, :3])
    assert box.ledger.evaluation == sum(received) == 18 and box.ledger.total == 0
    assert received.count(2) == 9, "five batches, and the four that were lost between them"


def test_a_function_is_probed_with_an_image_that_is_none(images):
    sent = []

    def teacher(batch):
        sent.append(batch)
        return torch.zeros(len(batch), 3)

    box = BlackBox(teacher, "logits", 3, value_range=(0, 1), budget=5)
    box.probe((3, 8, 6))
    (image,) = sent
    assert image.shape == (1, 3, 8, 6) and image.min() == 0 and image.max() == 1
    assert (image.diff(dim=2) > 0).all() and (image.diff(dim=3) > 0).all()
    assert box.ledger.by_stage == {"probe": 1} and box.ledger.available("bank") == 4


def test_a_probe_finds_what_is_wrong_with_the_answers():
    box = BlackBox(lambda batch: torch.ones(len(batch), 10) * 3, "probabilities", 10)
    with pytest.raises(TeacherAnswerError, match="batch 1 has values from 3 to 3"):
        box.probe((1, 4, 4))
    assert box.ledger.total == 1


def test_a_module_is_not_probed(probe):
    box = BlackBox(probe, "logits")
    box.probe((1, 4, 4))
    assert box.ledger.total == probe.images == 0


@pytest.mark.parametrize("forget", [False, True])
def test_a_probe_is_paid_for_once_in_a_run(images, tmp_path, forget):
    asked = []

    def teacher(batch):
        asked.append(len(batch))
        return batch.flatten(1)[:, :3].clone()

    for _life in range(2):
        box = BlackBox(teacher, "logits", 3, identity="t")
        box.keep(tmp_path)
        box.probe((1, 4, 4))
        if forget and box.journal.first:
            box.journal.rewind(2)
        else:
            box.query(images)
        if forget:
            box.journal.forget(2)
        box.release()
    assert asked == [1, 10] and box.ledger.by_stage == {"probe": 1, "query": 10}


@pytest.mark.parametrize("shape", [(1, 4), (0, 4, 4), "3x4x4", None])
def test_a_probe_needs_a_shape(shape):
    with pytest.raises(InputError, match=r"expected \(channels, height, width\)"):
        BlackBox(lambda batch: batch, "logits", 3).probe(shape)


def test_a_resumed_run_says_what_a_functions_name_does_not_tell(images, tmp_path, recwarn):
    def box(**settings):
        made = BlackBox(lambda batch: batch.flatten(1)[:, :3].clone(), "logits", 3, **settings)
        made.keep(tmp_path)
        return made

    box().query(images)
    assert not said_by_us(recwarn)
    with pytest.warns(UserWarning, match=r"known by its name alone, .*<lambda>, which does not tell .*identity="):
        box()
    with pytest.raises(CheckpointError, match="holds answers of the teacher .*<lambda>, and model 7 is asked now"):
        box(identity="model 7")


def test_a_declared_teacher_resumes_without_a_word(images, tmp_path, recwarn):
    for _life in range(2):
        box = BlackBox(lambda batch: batch.flatten(1)[:, :3].clone(), "logits", 3, identity="model 7")
        assert box.identity == "model 7"
        box.keep(tmp_path)
        box.query(images)
    assert not said_by_us(recwarn) and box.ledger.total == 10


def said_by_us(warned):
    return [str(warning.message) for warning in warned if warning.category is UserWarning]


def test_another_models_answers_are_not_taken_over(new_probe, images, tmp_path):
    box = BlackBox(new_probe(), "logits")
    box.keep(tmp_path)
    box.query(images)
    other = new_probe()
    torch.nn.init.ones_(other.head.weight)
    with pytest.raises(CheckpointError, match="resume with the same teacher"):
        BlackBox(other, "logits").keep(tmp_path)


def test_names_of_functions(new_probe):
    class Client:
        def __call__(self, images):
            return images

        def ask(self, images):
            return images

    def identity(teacher):
        return BlackBox(teacher, "logits", 3).identity

    assert identity(Client()).endswith("Client") and identity(Client().ask).endswith("Client.ask")
    assert "partial of " in identity(functools.partial(Client().ask, 3))
    named = Client()
    named.identity = "service v2"
    assert identity(named) == "service v2"
    first, second = new_probe(), new_probe()
    assert identity(first.forward) == identity(second.forward)
    torch.nn.init.ones_(second.head.weight)
    assert identity(first.forward) != identity(second.forward)
