"""What an API does to its answers: each rule by hand, on what it can be used, and that nobody sees more."""

from __future__ import annotations

import pytest
import torch

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.degradation import Degradation
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.blackbox.whitebox import WhiteBox
from mekd_plugin.errors import CheckpointError, InputError, NeedsNotMet
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows

PROBABILITIES = torch.tensor([[0.614, 0.231, 0.1549, 0.0001], [0.25, 0.25, 0.25, 0.25]])
PRINTS = torch.tensor([11, 12])


def degraded(text, values, kind, seed=0, prints=PRINTS):
    return Degradation.parse(text)(Response(values, kind, values.shape[1]), prints, seed).values


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("full", "probabilities", PROBABILITIES),
        ("rounded:2", "probabilities", [[0.61, 0.23, 0.15, 0.01], [0.25] * 4]),  # 0.01 lacked, and nobody else was at 0
        ("rounded:0", "probabilities", [[1.0, 0, 0, 0], [0.25] * 4]),  # all round to 0: nothing is known
        ("top1", "probabilities", [[0.614, *[0.386 / 3] * 3], [0.25] * 4]),
        ("topk:2", "probabilities", [[0.614, 0.231, 0.0775, 0.0775], [0.25] * 4]),
        ("rounded:1", "logits", [[0.6, 0.2, 0.2, 0.0], [0.2] * 4]),  # to even
    ],
)
def test_rules_by_hand(text, kind, expected):
    found = degraded(text, PROBABILITIES, kind)
    torch.testing.assert_close(found, torch.as_tensor(expected), atol=1e-6, rtol=0)
    assert found.dtype == torch.float32


def test_the_largest_logits_say_what_the_largest_probabilities_say():
    logits = PROBABILITIES.log() + torch.tensor([[5.0], [-3.0]])  # logits are defined up to a constant
    found = degraded("topk:2", logits, "logits")
    torch.testing.assert_close(found.softmax(1), degraded("topk:2", PROBABILITIES, "probabilities"))
    sure = degraded("top1", torch.tensor([[90.0, 0.0, 0.0]]), "logits")
    assert sure.isfinite().all() and sure.argmax() == 0


def test_noise_depends_on_image_class_and_seed_alone():
    count, classes = 4000, 5
    zero, prints = torch.zeros(count, classes), torch.arange(count) * 2**40 - 2**50
    noise = degraded("noisy:0.5", zero, "logits", 3, prints)
    assert noise.std() == pytest.approx(0.5, rel=0.03) and abs(noise.mean()) < 0.02
    correlation = torch.corrcoef(noise.T) - torch.eye(classes)
    assert correlation.abs().max() < 0.08 and len(noise.unique()) > 0.99 * noise.numel()
    order = torch.randperm(count)
    assert torch.equal(degraded("noisy:0.5", zero, "logits", 3, prints[order]), noise[order]), "its batch matters"
    other = degraded("noisy:0.5", zero, "logits", 4, prints)
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))[0, 1]) < 0.05
    told = degraded("noisy:0.2", PROBABILITIES, "probabilities")
    assert (told >= 0).all() and not torch.equal(told, PROBABILITIES)
    torch.testing.assert_close(told.sum(1), torch.ones(2))


@pytest.mark.parametrize(
    ("text", "name"), [("topk:1", "top1"), (" rounded:2 ", "rounded:2"), ("noisy:1e-1", "noisy:0.1"), ("full", "full")]
)
def test_one_name_for_each(text, name):
    assert str(Degradation.parse(text)) == name


@pytest.mark.parametrize(
    "text", ["", "round:2", "rounded", "rounded:x", "rounded:1.5", "topk:0", "top2", "noisy:0", "noisy", "full:1", None]
)
def test_what_is_none_is_refused(text):
    with pytest.raises(InputError, match="answers=.*expected"):
        Degradation.parse(text)


def test_what_cannot_be_done_to_such_answers_is_refused_before_anything_is_asked(probe):
    for text in ("rounded:2", "top1", "noisy:0.1"):
        with pytest.raises(NeedsNotMet, match=f"answers={text} of hard responses, which are a class and nothing else"):
            BlackBox(probe, "hard", answers=text)
    with pytest.raises(NeedsNotMet, match="answers=topk:3 of 3 classes leaves none out"):
        BlackBox(probe, "logits", 3, answers="topk:3")
    with pytest.raises(InputError, match="answers=top1 of a WhiteBox"):
        WhiteBox(probe, "logits", answers="top1")
    with pytest.raises(InputError, match="answers_seed=-1"):
        BlackBox(probe, "logits", answers="noisy:1", answers_seed=-1)
    assert not probe.sent and BlackBox(probe, "hard", answers="full").answers == "full"


@pytest.mark.parametrize("text", ["rounded:1", "top1", "noisy:0.5"])
def test_the_same_images_are_sent_and_only_what_is_left_comes_out(probe, new_probe, images, text):
    other = new_probe()
    box, full = BlackBox(probe, "logits", answers=text, answers_seed=5), BlackBox(other, "logits")
    told, whole = box.query(images), full.query(images)
    assert torch.equal(torch.cat(probe.sent), torch.cat(other.sent)) and box.ledger.total == full.ledger.total == 10
    assert not torch.equal(told.values, whole.values)
    alone = torch.cat([box.query(images[index : index + 1]).values for index in range(10)])
    torch.testing.assert_close(alone, told.values)
    torch.testing.assert_close(box.evaluate(images).values, told.values)
    torch.testing.assert_close(box.as_module()(images), told.values)


def test_the_degraded_answer_is_what_is_kept(tmp_path, probe, images):
    box = BlackBox(probe, "logits", 3, answers="rounded:1")
    box.keep(tmp_path)
    told = box.query(images).values
    box.release()
    again = BlackBox(probe, "logits", 3, answers="rounded:1")
    again.keep(tmp_path)
    assert torch.equal(again.query(images).values, told) and len(probe.sent) == 1
    again.release()
    for settings in ({}, {"answers": "rounded:2"}, {"answers": "noisy:0.1"}):
        with pytest.raises(CheckpointError, match="holds answers of the teacher"):
            BlackBox(probe, "logits", 3, **settings).keep(tmp_path)


def test_a_bank_of_other_answers_is_another_teachers(probe, images):
    bank = Bank()
    bank.fill(BlackBox(probe, "logits", 3, answers="top1"), lambda start, stop: Rows(images[start:stop]), 10, stage="a")
    assert torch.equal(bank.response.values, BlackBox(probe, "logits", 3, answers="top1").query(images).values)
    for settings in ({}, {"answers": "topk:2"}, {"answers": "noisy:1"}):
        with pytest.raises(InputError, match="answered by the teacher .* answers=top1, and this one is"):
            box = BlackBox(probe, "logits", 3, **settings)
            bank.fill(box, lambda start, stop: Rows(images[start:stop]), 10, stage="a")
    seeds = {BlackBox(probe, "logits", 3, answers="noisy:1", answers_seed=seed).identity for seed in (0, 1)}
    assert len(seeds) == 2, "other noise, other answers"
