"""ART: the attack of a method on the digits, its thieved classifier trained by ART with the problem's SGD."""

from __future__ import annotations

from pathlib import Path

import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from mekd_plugin.harness.art import black_box_classifier
from mekd_plugin.harness.art.guest import attack_of
from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem, Trial

__all__ = ["COMMANDS", "trial"]

COMMANDS = """
```python
import torch
from art.estimators.classification import PyTorchClassifier

import mekd_plugin as mekd
from mekd_plugin.data import load
from mekd_plugin.harness.art import black_box_classifier
from mekd_plugin.networks import build
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.supervised import train_teacher

mekd.register("art")
from art.attacks.extraction import MEKDExtraction

digits = load("digits")
images, labels, shape = digits.train_images, digits.train_labels, digits.image_shape
teacher = train_teacher(build("lenet5", 10, shape, seed=0), images, labels, num_classes=10, recipe=Recipe(steps=600))
student = build("resnet8", 10, shape, seed=0)
optimizer = torch.optim.SGD(student.parameters(), lr=0.02, momentum=0.9)
loss = torch.nn.CrossEntropyLoss()
thieved = PyTorchClassifier(student, loss, shape, 10, optimizer=optimizer, clip_values=(-1.0, 1.0), device_type="cpu")
victim = black_box_classifier(teacher, shape, 10)
attack = MEKDExtraction(victim, responses="logits", nb_stolen=3000, nb_epochs=10)
thieved = attack.extract(images[:200].numpy(), thieved_classifier=thieved)
print((thieved.predict(digits.test_images.numpy()).argmax(axis=1) == digits.test_labels.numpy()).mean())
```
"""


def trial(method: str, problem: ReferenceProblem, directory: Path) -> Trial:
    """Extract a classifier by the attack of ``method``."""
    data, student = problem.data, problem.student()
    thieved = PyTorchClassifier(
        student,
        nn.CrossEntropyLoss(),
        input_shape=data.image_shape,
        nb_classes=data.num_classes,
        optimizer=torch.optim.SGD(student.parameters(), lr=problem.learning_rate, momentum=0.9),
        clip_values=(-1.0, 1.0),
        device_type="cpu",
    )
    victim = black_box_classifier(problem.teacher, data.image_shape, data.num_classes)
    batches = problem.budget // problem.batch_size
    attack = attack_of(method)(
        victim,
        responses="logits",
        nb_stolen=problem.budget,
        batch_size_fit=problem.batch_size,
        nb_epochs=max(1, round(problem.steps / batches)),
        seed=problem.seed,
        directory=str(directory),
        verbose=False,
        validation=0.0,  # else an epoch is 45 batches, and no number of epochs makes the other loops' steps
        cache=problem.cache,
        **problem.settings.get(method, {}),
    )
    thieved = attack.extract(problem.images.numpy(), thieved_classifier=thieved)
    guessed = thieved.predict(data.test_images.numpy()).argmax(axis=1)
    accuracy = float((guessed == data.test_labels.numpy()).mean())
    return Trial(
        accuracy,
        attack.nb_epochs * batches,
        attack.ledger.as_record(),
        f"{type(attack).__name__}(victim, responses='logits', nb_stolen={problem.budget}, "
        f"batch_size_fit={problem.batch_size}, nb_epochs={attack.nb_epochs}).extract(x, thieved_classifier=thieved)",
        [f"accuracy of the thieved classifier: {100 * accuracy:.2f} %", str(attack.ledger)],
    )
