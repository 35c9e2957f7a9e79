"""How every suite takes a method in: what is printed of the edge, of the stages and of the method's warnings."""

from __future__ import annotations

import logging
import re

import pytest
import torch

import mekd_plugin as mekd
from mekd_plugin.errors import InputError
from mekd_plugin.harness.guests import open_guest, run_to_student, stages_told
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student

TINY = {"preset": "tiny", "emulation": "gan", "surrogate": None, "emulation_settings": {"steps": 5}}


def guest(method="kd", teacher=None, **settings):
    images = settings.pop("images", toy_images(60, seed=1))
    return open_guest(method, toy_student(), teacher or ToyTeacher(), images, suite="suite", **settings)


def told(capsys):
    """What was printed, with SECONDS for as long as a stage took."""
    said = re.sub(r"after \d+ s$", "after SECONDS", capsys.readouterr().out, flags=re.M)
    return [line.removeprefix("[mekd] suite, ") for line in said.splitlines()]


def test_the_edge_is_told_and_what_it_was_drawn_from(capsys):
    guest(images_at_hand=1257, budget=100)
    assert told(capsys)[0] == "kd: the edge holds 60 of 1,257 images"
    guest(budget=100)
    assert told(capsys)[0] == "kd: the edge holds 60 of 60 images"


def test_what_is_said_of_the_boundary_reaches_it():
    hosted = guest(teacher=ToyTeacher(), cost_per_1000=2.0, cost_limit=0.2, num_classes=CLASSES)
    assert hosted.ledger.budget == 100
    with pytest.raises(InputError, match="cost_limit: belong to the BlackBox that was handed in"):
        guest(teacher=mekd.BlackBox(ToyTeacher(), "logits", CLASSES), cost_limit=3.0)


def test_each_stage_is_told_as_it_begins_and_ends_then_the_methods_warnings(capsys):
    hosted = guest("mekd", budget=300, **TINY)
    warnings = hosted.method.report()["warnings"]
    assert told(capsys) == [
        "mekd: the edge holds 60 of 60 images",
        "mekd: stage deprivatization begins",
        "mekd: stage deprivatization ended after SECONDS",
        "mekd: stage bank begins: 300 answers",
        "mekd: stage bank ended: 300 of 300 images sent, 300 distinct (bank 300)",
        *(f"mekd: warning: {warning}" for warning in warnings),
    ]
    assert warnings  # five steps make no generator


def test_a_caller_that_drives_the_stages_is_told_when_it_lets_ours_run(capsys):
    hosted = guest("mekd", budget=300, stepwise=True, **TINY)
    assert len(told(capsys)) == 1 and hosted.stage.name == "deprivatization"
    run_to_student(hosted, suite="suite", method="mekd")
    lines = told(capsys)
    assert lines[0] == "mekd: stage deprivatization begins" and lines[-1].startswith("mekd: warning: ")


def test_nothing_is_told_of_what_was_kept(capsys, tmp_path):
    guest("mekd", budget=300, directory=tmp_path, **TINY).close()
    told(capsys)
    teacher = ToyTeacher()
    guest("mekd", teacher, budget=300, directory=tmp_path, **TINY)
    assert teacher.count == 0 and not any("deprivatization begins" in line for line in told(capsys))


def test_our_own_loop_says_nothing_unless_somebody_listens(capsys):
    level = logging.getLogger("mekd_plugin.training").level
    with stages_told("suite, kd"):
        pass
    box = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=100)
    mekd.host(toy_student(), box, toy_images(60, seed=1), method="kd", progress=False)
    assert capsys.readouterr().out == "" and logging.getLogger("mekd_plugin.training").level == level


def test_the_value_range_is_that_of_the_images():
    images = 0.5 * toy_images(60, seed=1)
    teacher = ToyTeacher()
    guest("mekd", teacher, images=images, budget=100, **TINY)
    assert torch.cat(teacher.asked).abs().max() <= 0.5


def test_a_teacher_behind_the_boundary_is_described_once():
    box = mekd.BlackBox(ToyTeacher(), "logits", CLASSES)
    with pytest.raises(InputError, match="budget, answer: belong to the BlackBox"):
        guest(teacher=box, budget=100, answer=tuple)
