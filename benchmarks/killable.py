"""One life of a run whose teacher is in another process, which may kill this one.

``kills.py`` answers its questions over a pipe, and is told ``("ready", None)``, ``("ask", images)``, ``("step", n)``
and at last ``("end", the ledger)``.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mekd_plugin import BlackBox, available, distill
from mekd_plugin.distiller import Distiller
from mekd_plugin.registry import distillers
from mekd_plugin.testing import CLASSES, SHAPE, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe

__all__ = ["CASES", "QUESTION", "STEPS", "Case", "live"]

STEPS, QUESTION = 60, 64
"""The student's steps; images in a question, at most."""
_BATCH, _ROWS = 16, 300
_OTHER_SHAPES = Path(__file__).parents[1] / "tests"


@dataclass(frozen=True)
class Case:
    """A method as it is run here.

    Attributes:
        method: a registered name, or that of a class of ``tests/test_other_shapes.py``.
        settings: the method's own.
        needs_all: whether it cannot do with fewer answers than it planned, as a bank can, which gets shorter.
        limited: whether there is a budget.
    """

    method: str
    settings: Mapping[str, Any] = field(default_factory=lambda: {"queries": _ROWS})
    needs_all: bool = False
    limited: bool = True


_GENERATOR = {"steps": 60, "batch_size": _BATCH}
_GAN = {"emulation": "gan", "surrogate": None, "emulation_settings": _GENERATOR}

_OWN: dict[str, dict[str, Any]] = {"db3kd": {"searched": 30}, "dfme": {"queries": 560}}
"""What sets the number of questions where it is not ``queries``, or is another: ten whole iterations of ``dfme``."""

CASES: dict[str, Case] = {
    name: Case(name, _OWN.get(name, {"queries": _ROWS}))
    for name in available()
    if not distillers().get(name).needs.gradients
} | {
    "mekd, a GAN": Case("mekd", {**_GAN, "queries": _ROWS}),
    "mekd, asking in stage 1": Case(
        "mekd",
        {**_GAN, "emulation_settings": {**_GENERATOR, "response_weight": 0.5}, "queries": _ROWS},
        limited=False,
    ),
    "mekd, fresh": Case("mekd", {**_GAN, "mode": "fresh", "latent_temperature": 3.0}, needs_all=True),
    "in rounds": Case("ActiveMixup"),
    "at every step": Case("ForwardDifferences", {}, needs_all=True),
}
"""Every registered method that can do with answers, and some of other shapes."""


def _method_of(case: Case) -> tuple[str | type[Distiller], dict[str, Any]]:
    if case.method in available():
        return case.method, {**distillers().get(case.method).presets.get("tiny", {}), **case.settings}
    sys.path.append(str(_OTHER_SHAPES))
    import test_other_shapes

    return getattr(test_other_shapes, case.method), dict(case.settings)


def live(name: str, directory: Path, budget: int, kills: Connection) -> None:
    """Begin the run of a case, or go on with it; what it says goes to a log beside its directory."""
    with (directory.parent / f"{directory.name}.log").open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    torch.set_num_threads(1)
    case = CASES[name]
    method, settings = _method_of(case)

    def ask(images: Tensor) -> Tensor:
        kills.send(("ask", images.numpy()))
        return torch.from_numpy(kills.recv())

    steps = itertools.count(1)

    def evaluate(student: nn.Module) -> dict[str, float]:
        kills.send(("step", next(steps)))
        return {}

    needs = distillers().get(method).needs if isinstance(method, str) else method.needs
    pool = toy_images(60, seed=7) if needs.pool == "other domain" else None
    kills.send(("ready", None))
    teacher = BlackBox(ask, "logits", CLASSES, budget=budget or None, batch_size=QUESTION, identity="the toy's teacher")
    result = distill(
        toy_student(),
        teacher,
        toy_images(60, seed=1),
        method,
        recipe=Recipe(steps=STEPS, batch_size=_BATCH),
        image_shape=SHAPE,
        pool=pool,
        directory=directory,
        resume=True,
        checkpoint_steps=7,
        log_steps=5,
        evaluate=evaluate,
        evaluate_steps=range(1, 2 * STEPS + 1),  # a method in rounds takes more than the recipe's
        device="cpu",
        progress=False,
        **settings,
    )
    kills.send(("end", result.ledger.as_record()))
