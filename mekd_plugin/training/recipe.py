"""The student's training recipe: the same for every method, or a comparison of methods says nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, MultiStepLR, OneCycleLR

from mekd_plugin.checks import as_flag, as_number, as_one_of, as_whole
from mekd_plugin.errors import InputError

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How a student is trained.

    Attributes:
        steps: optimiser steps in which the student learns all answers. A method in rounds takes further ones before.
        batch_size: rows per step, on each process.
        optimizer: ``"adamw"`` or ``"sgd"`` (momentum 0.9).
        learning_rate: highest rate.
        weight_decay: decoupled for AdamW, coupled for SGD.
        schedule: ``"one_cycle"``, ``"multistep"`` (x0.1 after 1/3 and 2/3 of the steps, the paper's 80 and 160 of 240
            epochs) or ``"constant"``.
        translate: pixels by which a row's image is shifted at random at every step, its answer kept; costs no query.
        precision: ``"no"`` (float32) or ``"bf16"`` (automatic mixed precision).
        channels_last: memory format of images and convolutions; faster on CPUs and GPUs, rounds differently.
    """

    steps: int = 2000
    batch_size: int = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 3e-3
    weight_decay: float = 5e-3
    schedule: Literal["one_cycle", "multistep", "constant"] = "one_cycle"
    translate: int = 1
    precision: Literal["no", "bf16"] = "no"
    channels_last: bool = True

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "steps": as_whole("steps", self.steps, at_least=1),
            "batch_size": as_whole("batch_size", self.batch_size, at_least=2),  # batch norm needs two rows
            "optimizer": as_one_of("optimizer", self.optimizer, ("adamw", "sgd")),
            "learning_rate": as_number("learning_rate", self.learning_rate, above=0),
            "weight_decay": as_number("weight_decay", self.weight_decay, at_least=0),
            "schedule": as_one_of("schedule", self.schedule, ("one_cycle", "multistep", "constant")),
            "translate": as_whole("translate", self.translate, at_least=0),
            "precision": as_one_of("precision", self.precision, ("no", "bf16")),
            "channels_last": as_flag("channels_last", self.channels_last),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Recipe:
        """A recipe by name, with ``changes``.

        Args:
            name: ``"quick"``; ``"fast"`` (half its steps); ``"thorough"`` (16,000 steps of 128); or ``"paper"`` (240
                epochs of 500 steps of 128, SGD 0.1).
            **changes: fields that differ.

        Raises:
            InputError: there is no such preset or field, or a value cannot be used.
        """
        presets = {
            "quick": cls(),
            "fast": cls(steps=1000),
            "thorough": cls(steps=16_000, batch_size=128),
            "paper": cls(
                steps=120_000,
                batch_size=128,
                optimizer="sgd",
                learning_rate=0.1,
                weight_decay=5e-4,
                schedule="multistep",
                translate=0,
            ),
        }
        known = {field.name for field in fields(cls)}
        if unknown := set(changes) - known:
            raise InputError(f"a recipe has no setting {sorted(unknown)}; it has {sorted(known)}")
        return replace(presets[as_one_of("preset", name, tuple(presets))], **changes)

    def make_optimizer(self, weights: Iterable[nn.Parameter]) -> Optimizer:
        """The student's optimiser."""
        if self.optimizer == "sgd":
            return SGD(weights, lr=self.learning_rate, momentum=0.9, weight_decay=self.weight_decay)
        return AdamW(weights, lr=self.learning_rate, weight_decay=self.weight_decay)

    def make_schedule(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        """The schedule over the ``steps`` of one stage."""
        if self.schedule == "one_cycle":
            return OneCycleLR(optimizer, max_lr=self.learning_rate, total_steps=max(steps, 2))
        if self.schedule == "multistep":
            return MultiStepLR(optimizer, milestones=[steps // 3, 2 * steps // 3], gamma=0.1)
        return ConstantLR(optimizer, factor=1.0, total_iters=0)
