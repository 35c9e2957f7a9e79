"""RepDistiller: its own script, with the problem's networks, data set and SGD."""

from __future__ import annotations

import contextlib
import io
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import torch

from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem, Trial
from mekd_plugin.harness.launch import launch
from mekd_plugin.harness.repdistiller import SUITE
from mekd_plugin.harness.repdistiller.data import as_theirs
from mekd_plugin.harness.repdistiller.launched import distill_names

__all__ = ["COMMANDS", "trial"]

COMMANDS = """
```sh
# REPDISTILLER_HOME is the clone; the scripts write below save/.
mekd harness repdistiller -- train_teacher.py --dataset digits --model mekd-lenet5 --epochs 30 --num_workers 0
mekd harness repdistiller -- train_student.py --dataset digits --distill mekd -a 0 -b 1 --epochs 10 --num_workers 0 \\
    --path_t save/models/mekd-lenet5_*/mekd-lenet5_last.pth --model_s mekd-resnet8 --mekd budget=3000 real_images=200
```
"""
_EPOCHS = 10


def trial(method: str, problem: ReferenceProblem, directory: Path) -> Trial:
    """Train ``method`` by ``train_student.py``."""
    named = {ours: name for name, ours in distill_names().items()}
    work = Path(tempfile.mkdtemp(dir=directory)).resolve()
    (work / "trial-teacher_of").mkdir()
    torch.save({"model": as_theirs(problem.teacher).state_dict()}, work / "trial-teacher_of" / "problem.pth")
    settings: dict[str, Any] = {"budget": problem.budget, "real_images": problem.real_images, "seed": problem.seed}
    settings |= {"steps": max(1, problem.steps // _EPOCHS), **problem.settings.get(method, {})}
    epochs = min(_EPOCHS, problem.steps)
    command = [
        *("train_student.py", "--dataset", problem.data.name, "--distill", named[method]),
        *("--path_t", str(work / "trial-teacher_of" / "problem.pth"), "--model_s", "trial-student"),
        *("-a", "0", "-b", "1", "--lr_decay_epochs", "1000"),
        *("--epochs", str(epochs), "--batch_size", str(problem.batch_size), "--num_workers", "0"),
        *("--learning_rate", str(problem.learning_rate), "--weight_decay", "0", "--print_freq", "1000000"),
        *("--mekd", *(f"{key}={json.dumps(value)}" for key, value in settings.items())),
    ]
    unseen = ["progress=false", *([] if problem.cache is None else [f"cache={problem.cache}"])]
    SUITE.networks = {"trial-teacher": lambda: problem.teacher, "trial-student": problem.student}
    said = io.StringIO()
    try:
        with contextlib.chdir(work), contextlib.redirect_stdout(said):
            launch(SUITE, [*command, *unseen], meter=False)
    finally:
        SUITE.networks = {}
    lines = said.getvalue().splitlines()
    ledger = next(work.glob("save/student_model/*/ledger.json"))
    return Trial(
        accuracy=round(float(re.findall(r"Acc@1 ([\d.]+) Acc@5", said.getvalue())[-1]) / 100, 5),
        steps=epochs * int(settings["steps"]),
        queries=json.loads(ledger.read_text()),
        command="mekd harness repdistiller -- " + " ".join(command).replace(f"{work}/", ""),
        last_lines=lines[-6:],
    )
