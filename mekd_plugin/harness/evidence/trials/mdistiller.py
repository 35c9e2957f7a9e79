"""mdistiller: its own script, a configuration, and the problem's networks in its dictionary."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem, Trial
from mekd_plugin.harness.launch import launch
from mekd_plugin.harness.mdistiller import SUITE
from mekd_plugin.harness.mdistiller.data import as_theirs
from mekd_plugin.harness.mdistiller.guest import TRAINER

__all__ = ["COMMANDS", "trial"]

COMMANDS = """
```sh
# MDISTILLER_HOME is the clone, and MNIST's place is taken by the digits, which need no files.
mekd harness mdistiller -- tools/train.py --cfg configs/mdistiller/mnist/teacher.yaml DATASET.TYPE digits
mekd harness mdistiller -- tools/train.py --cfg configs/mdistiller/mnist/mekd.yaml DATASET.TYPE digits \\
    MEKD.REAL_IMAGES 200 MEKD.BUDGET 3000
```
"""


def _written(value: Any) -> Any:
    """As a node takes it: a mapping is a string of YAML."""
    return yaml.safe_dump(value, default_flow_style=True).strip() if isinstance(value, Mapping) else value


def trial(method: str, problem: ReferenceProblem, directory: Path) -> Trial:
    """Train ``method`` by ``tools/train.py``."""
    SUITE.reach("mdistiller.engine")
    from mdistiller.models import cifar_model_dict

    work = Path(tempfile.mkdtemp(dir=directory))  # of its own: an earlier trial's answers would be taken over
    teacher, epochs = as_theirs(problem.teacher), min(10, problem.steps)
    torch.save({"model": teacher.state_dict()}, work / "teacher.pt")
    cifar_model_dict["trial_teacher"] = (lambda num_classes: teacher, str(work / "teacher.pt"))
    cifar_model_dict["trial_student"] = (lambda num_classes: as_theirs(problem.student()), None)
    node = {
        "BUDGET": problem.budget,
        "REAL_IMAGES": problem.real_images,
        "SEED": problem.seed,
        "STEPS": problem.steps // epochs,
        "CACHE": problem.cache and str(problem.cache),
        **{key.upper(): _written(value) for key, value in problem.settings.get(method, {}).items()},
    }
    name = SUITE.nodes()[method]
    settings: dict[str, Any] = {
        "EXPERIMENT": {"PROJECT": "", "NAME": method},
        "DATASET": {"TYPE": problem.data.name, "NUM_WORKERS": 0},
        "DISTILLER": {"TYPE": name, "TEACHER": "trial_teacher", "STUDENT": "trial_student"},
        "SOLVER": {
            "TRAINER": TRAINER,
            "BATCH_SIZE": problem.batch_size,
            "EPOCHS": epochs,
            "LR": problem.learning_rate,
            "WEIGHT_DECAY": 0.0,
        },
        "LOG": {"PREFIX": str(work), "WANDB": False},
        name: node,
    }
    (work / f"{method}.yaml").write_text(yaml.safe_dump(settings))
    launch(SUITE, ["tools/train.py", "--cfg", str(work / f"{method}.yaml")], meter=False)
    log = (work / method / "worklog.txt").read_text()
    return Trial(
        accuracy=float(re.findall(r"test_acc: ([\d.]+)", log)[-1]) / 100,
        steps=problem.steps // epochs * epochs,
        queries=yaml.safe_load((work / method / "ledger.json").read_text()),
        command=f"mekd harness mdistiller -- tools/train.py --cfg {method}.yaml",
        last_lines=log.splitlines()[-9:],
    )
