"""A teacher that wants another size: images grow on their way out, and everything at home stays as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mekd_plugin as mekd
from mekd_plugin.blackbox import Bank, BlackBox, WhiteBox
from mekd_plugin.errors import CheckpointError, InputError
from mekd_plugin.rows import Rows
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe

SHORT = {"recipe": Recipe(steps=2, batch_size=8), "progress": False, "device": "cpu", "validation": 0.0}


def enlarged(images, size):
    return nn.functional.interpolate(images, size, mode="bilinear", antialias=True).clamp(-1, 1)


@pytest.mark.parametrize(("given", "size"), [(20, (20, 20)), ((5, 12), (5, 12))])
def test_what_is_sent_has_the_teachers_size_and_what_is_kept_the_images_own(given, size):
    teacher, images = ToyTeacher(), toy_images(10, seed=1)
    box = BlackBox(teacher, "logits", CLASSES, teacher_size=given, batch_size=4)
    bank = Bank()
    bank.fill(box, lambda start, stop: Rows(images[start:stop]), 10, stage="bank")
    sent = torch.cat(teacher.asked)
    assert torch.equal(sent, enlarged(images, size))
    assert torch.equal(bank.images, images), "the bank is in the size of the student"
    assert torch.equal(box.as_sent(bank.images), sent), "and what was sent can be made from it"
    assert torch.equal(bank.response.values, ToyTeacher()(enlarged(images, size)))
    assert box.teacher_size == size and box.ledger.total == box.ledger.distinct == 10


def test_rounding_holds_for_what_is_sent_and_for_what_is_kept():
    teacher, images = ToyTeacher(), toy_images(6, seed=1)
    box = BlackBox(teacher, "logits", CLASSES, teacher_size=13, quantize="uint8")
    bank = Bank()
    bank.fill(box, lambda start, stop: Rows(images[start:stop]), 6, stage="bank")
    for pixels in (torch.cat(teacher.asked), bank.images):
        levels = (pixels + 1) * 127.5
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    assert torch.equal(box.as_sent(bank.images), teacher.asked[0])


def test_without_it_images_leave_as_they_are():
    teacher, images = ToyTeacher(), toy_images(4, seed=1)
    box = BlackBox(teacher, "logits", CLASSES)
    box.query(images)
    assert torch.equal(teacher.asked[0], images) and "teacher_size" not in box.identity


def test_an_evaluation_a_module_and_a_probe_are_enlarged_too():
    asked = []

    def ask(images):
        asked.append(tuple(images.shape[1:]))
        return images.flatten(1)[:, :CLASSES]

    box = BlackBox(ask, "logits", CLASSES, teacher_size=16)
    box.evaluate(toy_images(2, seed=0))
    box.probe((1, 8, 8))
    box.as_module()(toy_images(2, seed=0))
    assert asked == 3 * [(1, 16, 16)]
    with pytest.raises(InputError, match="expected -1 to 1"):
        box.as_module()(3 * toy_images(2, seed=0))


def test_a_module_is_foreseen_in_its_own_size():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(256, CLASSES))
    BlackBox(linear, "logits", teacher_size=16).foresee((1, 8, 8), CLASSES)
    with pytest.raises(InputError, match=r"cannot take images of shape \(1, 12, 12\)"):
        BlackBox(linear, "logits", teacher_size=12).foresee((1, 8, 8), CLASSES)


def run(directory=None, **settings):
    teacher, images = ToyTeacher(), toy_images(30, seed=1)
    words = {"responses": "logits", "num_classes": CLASSES, "budget": 40, "directory": directory, **SHORT, **settings}
    return mekd.distill(toy_student(), teacher, images, "kd", **words), teacher


def test_a_run_says_its_size_and_is_resumed_with_that_one_only(tmp_path):
    result, teacher = run(tmp_path, teacher_size=(16, 12))
    assert {tuple(batch.shape[1:]) for batch in teacher.asked} == {(1, 16, 12)}
    assert "teacher_size=16x12" in result.signature and result.image_shape == (1, 8, 8)
    for other in ({"teacher_size": 16}, {}):
        with pytest.raises(CheckpointError, match="teacher_size=16x12"):
            run(tmp_path, resume=True, **other)
    again, silent = run(tmp_path, resume=True, teacher_size=(16, 12))
    assert silent.count == 0 and again.ledger.total == 40


def test_a_bank_of_another_size_is_another_teachers(tmp_path):
    _, teacher = run(tmp_path / "run", teacher_size=16)
    bank = Bank.load(tmp_path / "run" / "banks" / "transfer_set")
    again = BlackBox(ToyTeacher(), "logits", CLASSES, teacher_size=16).as_sent(bank.images)
    assert torch.equal(again, torch.cat(teacher.asked)), "from the disk, too"
    images = toy_images(60, seed=1)
    with pytest.raises(InputError, match="answered by the teacher .* teacher_size=16x16, and this one is"):
        bank.fill(BlackBox(ToyTeacher(), "logits", CLASSES), lambda a, b: Rows(images[a:b]), 60, stage="more")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "teacher_size=0: expected a whole number of pixels from 1"),
        ((4, 0), "teacher_size=0"),
        ((1, 2, 3), r"teacher_size=\(1, 2, 3\): expected the side of a square, or \(height, width\)"),
        ("large", "teacher_size='large'"),
    ],
)
def test_what_is_no_size_is_refused(size, words):
    with pytest.raises(InputError, match=words):
        BlackBox(ToyTeacher(), "logits", CLASSES, teacher_size=size)


def test_it_is_said_once_and_not_of_a_white_box():
    box = BlackBox(ToyTeacher(), "logits", CLASSES)
    with pytest.raises(InputError, match="teacher_size belongs to the BlackBox"):
        mekd.distill(toy_student(), box, toy_images(8, seed=0), "kd", teacher_size=16, **SHORT)
    with pytest.raises(InputError, match="resize inside the module"):
        WhiteBox(ToyTeacher(), "logits", CLASSES, teacher_size=16)
