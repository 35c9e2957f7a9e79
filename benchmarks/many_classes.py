"""MEKD with its default emulation where there are 100 and 1,000 classes: does it train, how long, in how much memory?

    python benchmarks/many_classes.py [--quick] [--classes 10 100 1000]

A class is a random 8x8 prototype, an image one of them under noise, and the teacher's scores are the negative squared
distances to the prototypes. The edge holds four images of each class, and ten questions for each are asked; all else is
preset ``quick``, but for the numbers of steps. Each number of classes has a process of its own, on one thread.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from measuring import environment, finish
from torch import Tensor, nn

import mekd_plugin as mekd
from mekd_plugin.training.recipe import Recipe

SHAPE = (1, 8, 8)
IMAGES, QUESTIONS, TESTED = 4, 10, 2000  # of a class; of a class; in all
NOISE, SHARPNESS = 0.3, 0.5
STEPS = {"student": 1000, "surrogate": 300}
QUICK = {"student": 20, "surrogate": 20}


class Prototypes(nn.Module):
    """Images ``(N, 1, 8, 8)`` -> scores ``(N, C)``: how near each prototype is."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.register_buffer("prototypes", torch.rand(classes, 64, generator=rng) * 2 - 1)

    prototypes: Tensor

    def forward(self, images: Tensor) -> Tensor:
        return -SHARPNESS * torch.cdist(images.flatten(1), self.prototypes).square()

    def images(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """As many images of each class as of any other, and their classes."""
        rng = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % len(self.prototypes)
        noise = NOISE * torch.randn(count, 64, generator=rng)
        return (self.prototypes[labels] + noise).clamp(-1, 1).view(count, *SHAPE), labels


def student_of(classes: int) -> nn.Module:
    """Two hidden layers of 256."""
    torch.manual_seed(1)
    layers = [nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, classes)]
    return nn.Sequential(*layers)


def measured(classes: int, steps: Mapping[str, int]) -> dict[str, Any]:
    """One run, in this process."""
    torch.set_num_threads(1)
    teacher = Prototypes(classes)
    edge, _ = teacher.images(IMAGES * classes, seed=1)
    test, labels = teacher.images(max(TESTED, classes), seed=2)
    clock = StageClock()
    with warnings.catch_warnings(record=True) as said, clock:
        warnings.simplefilter("always")
        result = mekd.distill(
            student_of(classes),
            mekd.BlackBox(teacher, "logits", classes, budget=QUESTIONS * classes),
            edge,
            recipe=Recipe(steps=steps["student"], translate=0),
            surrogate_steps=steps["surrogate"],
            emulation_settings={"surrogate_steps": steps["surrogate"]},
            device="cpu",
            progress=False,
        )
    right = mekd.predict(result.student, test).argmax(dim=1) == labels
    return {
        "classes": classes,
        "edge_images": len(edge),
        "queries": result.ledger.total,
        "seconds": {name: round(value, 1) for name, value in clock.seconds.items()},
        "processor_seconds": round(result.seconds["processor"], 1),
        "peak_memory_mb": round(result.peak_memory_mb),
        "accuracy": round(float(right.float().mean()), 4),
        "teacher_accuracy": round(float((teacher(test).argmax(dim=1) == labels).float().mean()), 4),
        "warnings": [str(warning.message) for warning in said],
    }


class StageClock(logging.Handler):
    """Seconds of each stage by its name, from the lines that training logs; of a name that comes twice, their sum."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.seconds: dict[str, float] = {}
        self._logger, self._begun = logging.getLogger("mekd_plugin.training"), 0.0

    def __enter__(self) -> None:
        self._level = self._logger.level
        self._logger.addHandler(self)
        self._logger.setLevel(logging.INFO)

    def __exit__(self, *error: object) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        _, name, what = record.getMessage().split(" ", 3)[:3]
        if what.startswith("begins"):
            self._begun = record.created
        elif what.startswith("ended"):
            self.seconds[name] = self.seconds.get(name, 0.0) + record.created - self._begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 steps; nothing is kept")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="keep the record in this file, --quick or not")
    chosen = parser.parse_args()
    if chosen.one is not None:
        print(json.dumps(measured(chosen.one, QUICK if chosen.quick else STEPS)))
        return
    runs = []
    for classes in chosen.classes:
        command = [sys.executable, __file__, "--one", str(classes), *(["--quick"] if chosen.quick else [])]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        runs.append(json.loads(told.splitlines()[-1]))
    record = {
        "benchmark": "mekd by default, on 8x8 prototypes under noise",
        "steps": QUICK if chosen.quick else STEPS,
        "environment": environment(),
        "runs": runs,
    }
    finish("many_classes", record, keep=not chosen.quick, out=chosen.out)


if __name__ == "__main__":
    main()
