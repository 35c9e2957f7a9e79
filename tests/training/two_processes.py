"""One of several processes of a run, for the tests: ``two_processes.py DIRECTORY METHOD BUDGET [STOP_AT SIGNAL]``.

At step STOP_AT the first process sends SIGNAL to itself, and to no other.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from mekd_plugin import BlackBox, distill, plan
from mekd_plugin.errors import QueryBudgetExceeded
from mekd_plugin.mekd.method import MEKD
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe

folder, method, budget = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) or None
rank = int(os.environ["RANK"])
toy = ToyTeacher()
seen = []


class Student(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = toy_student(seed=rank)  # differs: the run must give every process the first one's weights

    def forward(self, images):
        if self is student and self.training:  # and not the copy that is tried beforehand
            seen.append(images.detach().clone())
        return self.inner(images)


student = Student()
report = {"rank": rank}
stop_at = int(sys.argv[4]) if len(sys.argv) > 4 else None
settings = {}
if method == "mekd":
    settings = {
        "preset": "tiny",
        "emulation": "gan",
        "surrogate": None,
        "emulation.steps": 40,
        "emulation.response_weight": 0.5,
        "emulation.batch_size": 16,
        "queries": 600,
    }


class Unforeseen(MEKD):
    """Does not say that its student asks, so that the budget ends while it trains."""

    def queries_of_training(self, rows):
        return 0


if method in ("fresh", "unforeseen"):
    method = "mekd" if method == "fresh" else Unforeseen
    settings = {"preset": "tiny", "emulation.steps": 40, "mode": "fresh", "latent_temperature": 5.0}


def evaluate(student):
    if stop_at is not None:
        os.kill(os.getpid(), signal.Signals[sys.argv[5]])
    return {}


settings |= {"recipe": Recipe(steps=40, batch_size=16, translate=0), "device": "cpu"}
try:
    if budget is None:
        report["planned"] = plan(
            student, BlackBox(toy, "logits", CLASSES), toy_images(60, seed=1), method, **settings
        ).queries
    result = distill(
        student,
        BlackBox(toy, "logits", CLASSES, budget=budget),
        toy_images(60, seed=1),
        method,
        directory=folder / "run",
        resume=True,
        checkpoint_steps=10,
        evaluate=evaluate,
        evaluate_steps=[] if stop_at is None else [stop_at],
        progress=False,
        **settings,
    )
    report["ledger"] = result.ledger.as_record()
    weights = torch.cat([value.flatten().double() for value in result.student.state_dict().values()])
    report["weights"] = float(weights.sum()), float(weights.square().sum())
    report["rows"] = [float(batch.double().sum()) for batch in seen]
except QueryBudgetExceeded as error:
    report["refused"] = str(error)
except KeyboardInterrupt as stopped:
    report["stopped"] = str(stopped)
report["asked"] = toy.count
(folder / f"report-{rank}.json").write_text(json.dumps(report))
