"""timm: a method's task, in the loop of ``configs/timm_student.py``."""

from __future__ import annotations

import runpy
from pathlib import Path

from mekd_plugin.files import bundled
from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem, Trial
from mekd_plugin.harness.timm import task

__all__ = ["COMMANDS", "trial"]

COMMANDS = """
```sh
python configs/timm_student.py --method mekd --model test_resnet --output runs/timm
```
"""


def trial(method: str, problem: ReferenceProblem, directory: Path) -> Trial:
    """Train ``method`` in four epochs."""
    script = bundled("configs") / "timm_student.py"
    train = runpy.run_path(str(script))["train"]
    guest = task(
        method,
        problem.student(),
        problem.teacher,
        problem.images,
        budget=problem.budget,
        seed=problem.seed,
        cache=problem.cache,
        directory=directory / "method",
        progress=False,
        **problem.settings.get(method, {}),
    )
    lines: list[str] = []
    top1 = train(
        guest,
        (problem.data.test_images, problem.data.test_labels),
        epochs=4,
        steps=problem.steps // 4,
        batch_size=problem.batch_size,
        lr=problem.learning_rate,
        output=directory,
        log=lines.append,
    )
    command = f"{script.name}: train(task({method!r}, student, teacher, images), ...)"
    return Trial(top1 / 100, guest.players.steps, guest.hosted.ledger.as_record(), command, lines[-3:])
