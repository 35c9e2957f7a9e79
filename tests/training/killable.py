"""A distillation that kills its own process at a chosen place, for the crash tests: ``killable.py DIRECTORY PLACE N``.

PLACE is ``before`` or ``after`` (the teacher's answer to its N-th batch of this life), ``student`` (step N) or
``never``.
"""

import json
import os
import signal
import sys
from pathlib import Path

from mekd_plugin import BlackBox, distill
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe

directory, place, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
toy = ToyTeacher()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def teacher(images):
    if place == "before" and len(toy.asked) == number:
        die()
    scores = toy(images)
    with (directory.parent / f"{directory.name}.asked").open("a") as log:
        log.write(f"{len(images)}\n")
    if place == "after" and len(toy.asked) == number + 1:
        die()
    return scores


def evaluate(student):
    if place == "student":
        die()
    return {}


result = distill(
    toy_student(),
    BlackBox(teacher, "logits", CLASSES, batch_size=64),
    toy_images(60, seed=1),
    "mekd",
    preset="tiny",
    emulation_settings={"steps": 60, "batch_size": 16, "response_weight": 0.5},
    queries=300,
    recipe=Recipe(steps=60, batch_size=32),
    directory=directory,
    resume=True,
    checkpoint_steps=20,
    evaluate=evaluate,
    evaluate_steps=[number] if place == "student" else [],
    device="cpu",
    progress=False,
)
print(json.dumps(result.ledger.as_record()))
