"""What a distillation will ask, cost and take, before anything is asked: a rehearsal with a stand-in teacher."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.ledger import Peers
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.blackbox.whitebox import WhiteBox
from mekd_plugin.checks import as_number
from mekd_plugin.distiller import Asking, Distiller, Training
from mekd_plugin.errors import InputError
from mekd_plugin.modes import rehearsing
from mekd_plugin.rows import Rows, RowSource, Shard
from mekd_plugin.training.execution import Run
from mekd_plugin.training.loop import Loop
from mekd_plugin.training.metrics import Metrics
from mekd_plugin.training.preflight import trainable_copy
from mekd_plugin.training.problem import Problem
from mekd_plugin.training.run import door

__all__ = ["Plan", "plan"]

_REHEARSED_STEPS = 4
_REHEARSED_ROWS = 128
_LONG_STEP = 2.0  # seconds
_COUNTED_AT_A_TIME = 2**20  # images
_LARGE_BATCH = 2**21  # numbers in a batch of images: 128 of 3 x 74 x 74
_SMALL_BATCHES = (2, 4)  # what stands for a large one


@dataclass(frozen=True)
class Plan:
    """What a distillation will ask and take.

    Attributes:
        queries: images sent, by stage.
        price: what they cost; None where no price is known.
        seconds: estimated on this machine, without the teacher's own time to answer.
        extrapolated: whether the images are so large that ``seconds`` comes from a far smaller batch, in proportion; it
            is rather too high than too low, since a large batch takes less time for each image.
    """

    queries: dict[str, int]
    price: float | None
    seconds: float
    extrapolated: bool = False

    @property
    def total(self) -> int:
        """All queries."""
        return sum(self.queries.values())

    def __str__(self) -> str:
        stages = ", ".join(f"{name} {count:,}" for name, count in self.queries.items()) or "none"
        price = "" if self.price is None else f", price {self.price:,.2f}"
        how = ", extrapolated from a small batch" if self.extrapolated else ""
        return f"{self.total:,} queries ({stages}){price}, about {self.seconds:,.0f} s{how}"


@door
def plan(
    student: nn.Module,
    teacher: BlackBox | Callable[[Tensor], Any],
    images: Tensor | Iterable[Any] | None = None,
    method: str | type[Distiller] | Distiller = "mekd",
    *,
    price_per_1000: float | None = None,
    **problem: Any,
) -> Plan:
    """Rehearse :func:`mekd_plugin.distill` for a few steps of each stage with a teacher that answers at random.

    The real teacher is not asked, and ``student`` is not changed. A method in rounds fills its banks whole, since what
    a later round asks about depends on them; one that looks at its student is planned by the rounds that it rehearsed.
    Of large images only a few are rehearsed, and a step's time is extrapolated from a batch of four.

    Args:
        student: as in :func:`mekd_plugin.distill`.
        teacher: as in :func:`mekd_plugin.distill`.
        images: as in :func:`mekd_plugin.distill`.
        method: as in :func:`mekd_plugin.distill`.
        price_per_1000: the price of 1,000 queries, at least 0; None takes the teacher's own ``cost_per_1000``.
        **problem: as in :func:`mekd_plugin.distill`.

    Raises:
        QueryBudgetExceeded: the budget does not cover the method's questions; nothing was asked.
        NeedsNotMet: it does not last until a student is trained that asks at every step.
        MekdError: as :func:`mekd_plugin.distill`.
    """
    if price_per_1000 is not None:
        price_per_1000 = as_number("price_per_1000", price_per_1000, at_least=0)
        if problem.get("cost_per_1000") is not None:
            raise InputError(
                f"price_per_1000={price_per_1000:g} and cost_per_1000={problem['cost_per_1000']}: both are the price "
                "of 1,000 queries, give one of them (cost_limit goes with cost_per_1000)"
            )
    posed = Problem.of(problem, student=student, teacher=teacher, images=images, method=method)
    with posed.open() as run, rehearsing():
        run.check_budget()
        stand_in, impostor = trainable_copy(student), _impostor(run)
        if stand_in is None:
            raise InputError(
                f"the student {type(student).__name__} cannot be copied, and a plan rehearses with a copy: hand in an "
                "nn.Module with weights of its own, not a traced one"
            )
        shard = run.processes.shard
        impostor.ledger.peers = Peers(shard.rank, shard.world, run.processes.gather)
        loop = Loop(run.processes, run.recipe, run.seed, Metrics(), progress=False)
        filled: dict[int, int] = {}
        queries: dict[str, int] = {}
        seconds, extrapolated, image_size = 0.0, False, math.prod(run.distiller.image_shape)
        if run.probes:
            queries["probe"] = 1
            _count(1, "probe", impostor)
        for stage in run.distiller.stages(impostor, run.images, stand_in):
            if isinstance(stage, Asking):
                bank = filled.setdefault(id(stage.bank), len(stage.bank))
                rehearsal = _rehearse_asking(stage, stage.size - bank, impostor, image_size)
                filled[id(stage.bank)] = max(bank, stage.size)
            else:
                rehearsal = _rehearse_training(stage, loop, stand_in, impostor, image_size)
            extrapolated |= rehearsal.extrapolated
            seconds += rehearsal.seconds
            if rehearsal.queries:
                queries[stage.name] = queries.get(stage.name, 0) + rehearsal.queries
            # What was not rehearsed is counted all the same, so that later stages find what it leaves of the budget.
            _count(max(0, rehearsal.queries - rehearsal.asked), stage.name, impostor)
    if price_per_1000 is None:
        price_per_1000 = run.teacher.cost_per_1000
    price = None if price_per_1000 is None else sum(queries.values()) / 1000 * price_per_1000
    return Plan(queries, price, seconds, extrapolated)


def _count(images: int, stage: str, impostor: BlackBox) -> None:
    """Count images that nobody asks about, once for all processes together."""
    for begin in range(0, images, _COUNTED_AT_A_TIME):
        part = min(_COUNTED_AT_A_TIME, images - begin) if impostor.ledger.peers.rank == 0 else 0
        impostor.ledger.intend(torch.zeros(1, dtype=torch.int64).expand(part), stage)
        impostor.ledger.settle()


class _Rehearsal(NamedTuple):
    """What a stage will ask and take.

    Attributes:
        queries: images that the whole stage asks about.
        seconds: that it takes.
        asked: images that the rehearsal itself asked about.
        extrapolated: whether it took smaller batches than the stage will.
    """

    queries: int
    seconds: float
    asked: int
    extrapolated: bool


def _rehearse_asking(stage: Asking, rows: int, impostor: BlackBox, image_size: int) -> _Rehearsal:
    """Fill the bank with part of ``rows``, or with all of them where the draws of a later fill may depend on them."""
    count = max(0, rows)
    large = _REHEARSED_ROWS * image_size > _LARGE_BATCH
    part = min(count, max(_SMALL_BATCHES) if large else _REHEARSED_ROWS)
    if stage.grows or len(stage.bank):
        part = count
    before, began = impostor.ledger.total, time.perf_counter()
    if part:
        stage.bank.fill(impostor, stage.draw, len(stage.bank) + part, stage=stage.name, label=stage.label)
    asked, seconds = impostor.ledger.total - before, time.perf_counter() - began
    share = count / part if part else 0.0
    return _Rehearsal(round(asked * share), seconds * share, asked, large and part < count)


def _rehearse_training(
    stage: Training, loop: Loop, student: nn.Module, impostor: BlackBox, image_size: int
) -> _Rehearsal:
    """Take a few steps; the first one, which sets things up, is timed only if it takes long in itself."""
    steps, before = loop.steps_of(stage), impostor.ledger.total
    size = stage.batch_size or loop.recipe.batch_size
    extrapolated = steps > 0 and size > max(_SMALL_BATCHES) and size * image_size > _LARGE_BATCH

    rows = _Counted(stage.rows)

    def take(count: int, size: int) -> tuple[float, float]:
        """Images asked about per step, and seconds per step."""
        nonlocal rows
        rows = _Counted(stage.rows)
        begun, began = impostor.ledger.total, time.perf_counter()
        loop.run(replace(stage, rows=rows, steps=count, batch_size=size), student, impostor)
        return (impostor.ledger.total - begun) / count, (time.perf_counter() - began) / count

    asked = seconds = 0.0
    if extrapolated:
        few, more = _SMALL_BATCHES
        asked, seconds = take(1, few)
        asked_more, seconds = take(1, more)
        extrapolated = rows.seen == more  # a source may give all that it has, whatever it is asked for
        asked = asked + (size - few) / (more - few) * (asked_more - asked) if extrapolated else asked_more
        seconds *= size / more if extrapolated else 1
    elif 0 < steps <= _REHEARSED_STEPS:
        asked, seconds = take(steps, size)
    elif steps:
        asked, seconds = take(1, size)
        first = asked
        if loop.processes.agree(seconds < _LONG_STEP):
            asked, seconds = take(_REHEARSED_STEPS, size)
            asked = (first + _REHEARSED_STEPS * asked) / (1 + _REHEARSED_STEPS)
    loop.finish(stage)
    return _Rehearsal(round(asked * steps), seconds * steps, impostor.ledger.total - before, extrapolated)


class _Counted:
    """A source's rows, and how many of them came last."""

    def __init__(self, source: RowSource) -> None:
        self._source = source
        self.seen = 0

    def batch(self, step: int, size: int, shard: Shard) -> Rows:
        rows = self._source.batch(step, size, shard)
        self.seen = len(rows)
        return rows


def _impostor(run: Run) -> BlackBox:
    """A teacher that answers at random in the real one's place, with what is left of its budget."""
    classes, teacher = run.distiller.num_classes, run.teacher
    settings: dict[str, Any] = {"budget": teacher.ledger.remaining, "value_range": teacher.value_range}
    if isinstance(teacher, WhiteBox):
        return WhiteBox(copy.deepcopy(teacher.module), teacher.responses, classes, **settings)
    kind = "hard" if teacher.responses == "hard" else "logits"
    return BlackBox(lambda asked: torch.randn(len(asked), classes), kind, classes, **settings)
