"""One of several processes of a run, for test_processes.py: ``two_processes.py DIRECTORY METHOD BUDGET``."""

import json
import os
import sys
from pathlib import Path

import torch

from mekd_plugin import BlackBox, distill
from mekd_plugin.errors import QueryBudgetExceeded
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe

folder, method, budget = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
rank = int(os.environ["RANK"])
toy = ToyTeacher()
seen = []


class Student(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = toy_student(seed=rank)  # differs: the run must give every process the first one's weights

    def forward(self, images):
        if self.training:
            seen.append(images.detach().clone())
        return self.inner(images)


report = {"rank": rank}
settings = {"preset": "tiny", "gan_steps": 40, "response_weight": 0.5, "gan_batch_size": 16} if method == "mekd" else {}
try:
    result = distill(
        Student(),
        BlackBox(toy, "logits", CLASSES, budget=budget),
        toy_images(60, seed=1),
        method,
        recipe=Recipe(steps=40, batch_size=16, translate=0),
        directory=folder / "run",
        device="cpu",
        progress=False,
        **settings,
    )
    report["ledger"] = result.ledger.as_record()
    weights = torch.cat([value.flatten().double() for value in result.student.state_dict().values()])
    report["weights"] = float(weights.sum()), float(weights.square().sum())
    report["rows"] = [float(batch.double().sum()) for batch in seen]
except QueryBudgetExceeded as error:
    report["refused"] = str(error)
report["asked"] = toy.count
(folder / f"report-{rank}.json").write_text(json.dumps(report))
