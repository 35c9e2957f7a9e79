"""KD_Lib: ``train_student`` of a distiller, with the problem's SGD."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem, Trial
from mekd_plugin.harness.kd_lib import classes

__all__ = ["COMMANDS", "trial"]

COMMANDS = """
```python
import torch
from torch.utils.data import DataLoader, TensorDataset

import mekd_plugin as mekd
from mekd_plugin.data import load
from mekd_plugin.networks import build
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.supervised import train_teacher

mekd.register("kd_lib")  # $KD_LIB_HOME is the clone
from KD_Lib.KD import MEKD

digits = load("digits")
images, labels, shape = digits.train_images, digits.train_labels, digits.image_shape
teacher = train_teacher(build("lenet5", 10, shape, seed=0), images, labels, num_classes=10, recipe=Recipe(steps=600))
student = build("resnet8", 10, shape, seed=0)
train_loader = DataLoader(TensorDataset(images[:200], labels[:200]), 64, shuffle=True)
val_loader = DataLoader(TensorDataset(images[200:], labels[200:]), 256)
optimizer = torch.optim.SGD(student.parameters(), 0.02, momentum=0.9)
distiller = MEKD(teacher, student, train_loader, val_loader, None, optimizer, budget=3000)
distiller.train_student(epochs=10, plot_losses=False)
```
"""
_EPOCHS = 10


def trial(method: str, problem: ReferenceProblem, directory: Path) -> Trial:
    """Train ``method``; the epoch is chosen on training images, not on the test set."""
    data, student = problem.data, problem.student()
    labelled = DataLoader(TensorDataset(data.train_images, data.train_labels), problem.batch_size, shuffle=True)
    distiller = classes()[method](
        problem.teacher,
        student,
        labelled,
        labelled,
        None,
        torch.optim.SGD(student.parameters(), problem.learning_rate, momentum=0.9),
        images=problem.images,
        budget=problem.budget,
        steps=max(1, problem.steps // _EPOCHS),
        seed=problem.seed,
        cache=problem.cache,
        progress=False,
        **problem.settings.get(method, {}),
    )
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        distiller.train_student(min(_EPOCHS, problem.steps), False, True, str(directory / "student.pt"))
        distiller.val_loader = DataLoader(TensorDataset(data.test_images, data.test_labels), 256)
        accuracy = distiller.evaluate()
    return Trial(
        accuracy,
        distiller.hosted.players.steps,
        distiller.hosted.ledger.as_record(),
        f"{type(distiller).__name__}(teacher, student, train_loader, val_loader, None, optimizer, "
        f"budget={problem.budget}, ...).train_student(epochs={_EPOCHS})",
        said.getvalue().splitlines()[-4:],
    )
