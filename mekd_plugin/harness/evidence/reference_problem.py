"""The small problem on which every suite is tried: the digits, and what our own loop makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.data import edge_images, load
from mekd_plugin.data.datasets import ImageData
from mekd_plugin.networks import build
from mekd_plugin.training.evaluation import accuracy
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.run import distill
from mekd_plugin.training.supervised import train_teacher

__all__ = ["Shuffled", "Trial", "ReferenceProblem"]


@dataclass(frozen=True)
class Trial:
    """A method through a suite's own loop.

    Attributes:
        accuracy: of the student on the test set, in [0, 1], as the suite measured it.
        steps: of the student.
        queries: the ledger's record.
        command: what was run.
        last_lines: of its output.
    """

    accuracy: float
    steps: int
    queries: dict[str, Any]
    command: str
    last_lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ReferenceProblem:
    """The digits at 16x16, a LeNet5 that may only be asked, and a ResNet-8 to teach.

    Attributes:
        seed: of the edge's images, the student and the method.
        shuffled: whether the teacher's answers go to other images than were asked about: the control.
        budget: queries in all.
        real_images: the edge's.
        steps: of the student; a suite that counts epochs comes as near as it can.
        batch_size: rows a step.
        learning_rate: of SGD with momentum 0.9, which every suite has.
        cache: directory in which trials share a trained generator.
    """

    seed: int = 0
    shuffled: bool = False
    budget: int = 3000
    real_images: int = 200
    steps: int = 460
    batch_size: int = 64
    learning_rate: float = 0.02
    cache: Path | None = None
    teacher_network: ClassVar[str] = "lenet5"
    student_network: ClassVar[str] = "resnet8"
    settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mekd": {"emulation_settings": {"surrogate_steps": 300}, "surrogate_steps": 600}
    }

    @cached_property
    def data(self) -> ImageData:
        """The digits, in [-1, 1]."""
        return load("digits")

    @cached_property
    def images(self) -> Tensor:
        """The edge's unlabelled images."""
        return edge_images(self.data, real_images=self.real_images, seed=self.seed).images

    @cached_property
    def teacher(self) -> nn.Module:
        """Trained with labels, about as good on the test set as it gets."""
        network = build(self.teacher_network, self.data.num_classes, self.data.image_shape, seed=0)
        data, recipe = self.data, Recipe(steps=600)
        trained = train_teacher(
            network, data.train_images, data.train_labels, num_classes=data.num_classes, recipe=recipe, progress=False
        )
        return Shuffled(trained) if self.shuffled else trained

    def student(self) -> nn.Module:
        """Untrained."""
        return build(self.student_network, self.data.num_classes, self.data.image_shape, seed=self.seed)

    def accuracy(self, network: nn.Module) -> float:
        """On the test set."""
        return accuracy(network, self.data.test_images, self.data.test_labels)

    def ours(self, method: str) -> Trial:
        """The method in our own loop, with the suites' optimiser and as many steps."""
        recipe = Recipe(
            self.steps, self.batch_size, "sgd", self.learning_rate, weight_decay=0.0, schedule="constant", translate=0
        )
        teacher = BlackBox(self.teacher, "logits", self.data.num_classes, budget=self.budget)
        result = distill(
            self.student(),
            teacher,
            self.images,
            method=method,
            recipe=recipe,
            seed=self.seed,
            cache=self.cache,
            progress=False,
            **self.settings.get(method, {}),
        )
        return Trial(self.accuracy(result.student), result.steps, result.ledger.as_record(), f"mekd.distill: {method}")


class Shuffled(nn.Module):
    """A teacher whose answers go to other images of the batch: nothing can be learnt from it.

    Args:
        teacher: that knows the answers.
    """

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, images: Tensor) -> Tensor:
        """The answers, in another order."""
        answers: Tensor = self.teacher(images)
        return answers[torch.randperm(len(answers), device=answers.device)]
