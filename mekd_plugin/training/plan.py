"""What a distillation will ask, cost and take, before anything is asked: a rehearsal with a stand-in teacher."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mekd_plugin import registry
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Asking
from mekd_plugin.training.inputs import as_images, as_teacher, classes_of
from mekd_plugin.training.loop import Loop
from mekd_plugin.training.metrics import Metrics
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.recipe import Recipe

__all__ = ["Plan", "plan"]

_REHEARSED_STEPS = 4
_REHEARSED_ROWS = 128


@dataclass(frozen=True)
class Plan:
    """What a distillation will ask and take.

    Attributes:
        queries: images sent, by stage.
        price: of them at the given price; None without one.
        seconds: estimated on this machine, without the teacher's own time to answer.
    """

    queries: dict[str, int]
    price: float | None
    seconds: float

    @property
    def total(self) -> int:
        """All queries."""
        return sum(self.queries.values())

    def __str__(self) -> str:
        stages = ", ".join(f"{name} {count:,}" for name, count in self.queries.items()) or "none"
        price = "" if self.price is None else f", price {self.price:,.2f}"
        return f"{self.total:,} queries ({stages}){price}, about {self.seconds:,.0f} s"


def plan(
    student: nn.Module,
    teacher: BlackBox | Callable[[Tensor], Any],
    images: Tensor | Iterable[Any],
    method: str = "mekd",
    *,
    responses: str | None = None,
    num_classes: int | None = None,
    budget: int | None = None,
    preset: str = "quick",
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str = "auto",
    price_per_1000: float | None = None,
    **hyperparameters: Any,
) -> Plan:
    """Rehearse :func:`mekd_plugin.distill` for a few steps a stage with a teacher that answers at random.

    The arguments are those of ``distill``, and ``price_per_1000`` queries. The real teacher is not asked, and
    ``student`` is not changed. A method in rounds that looks at its student is planned by the rounds it rehearsed.
    """
    boundary = as_teacher(teacher, responses=responses, num_classes=num_classes, budget=budget)
    edge = as_images(images, boundary)
    stand_in = copy.deepcopy(student)
    classes = classes_of(boundary, stand_in, edge[:2], num_classes)
    shape = (edge.shape[1], edge.shape[2], edge.shape[3])
    settings = recipe or Recipe.preset(preset)
    processes = Processes.join(device)
    with processes.own_randomness():
        distiller = registry.create(
            method, preset=preset, num_classes=classes, image_shape=shape, seed=seed, **hyperparameters
        )
        distiller.check(boundary)
        impostor = BlackBox(
            lambda asked: torch.randn(len(asked), classes),
            "hard" if boundary.responses == "hard" else "logits",
            classes,
            budget=boundary.ledger.remaining,
            value_range=boundary.value_range,
        )
        loop = Loop(processes, settings, seed, Metrics(), progress=False)
        queries: dict[str, int] = {}
        seconds = 0.0
        for stage in distiller.stages(impostor, edge, stand_in):
            before, began = impostor.ledger.total, time.perf_counter()
            if isinstance(stage, Asking):
                rehearsed, whole = min(stage.size, _REHEARSED_ROWS), stage.size
                stage.bank.fill(impostor, stage.draw, rehearsed, stage=stage.name, label=stage.label)
            else:
                whole = loop.steps_of(stage)
                rehearsed = min(whole, _REHEARSED_STEPS)
                loop.run(replace(stage, steps=1), stand_in, impostor)  # the first step sets things up: not timed
                before, began = impostor.ledger.total, time.perf_counter()
                loop.run(replace(stage, steps=rehearsed), stand_in, impostor)
            seconds += (time.perf_counter() - began) * whole / rehearsed
            asked = round((impostor.ledger.total - before) * whole / rehearsed)
            if asked:
                queries[stage.name] = asked
    price = None if price_per_1000 is None else sum(queries.values()) / 1000 * price_per_1000
    return Plan(queries, price, seconds)
