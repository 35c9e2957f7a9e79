"""A training step as a CUDA graph: recorded once, then replayed without a word from Python for each kernel.

What it saves is the processor's time between kernels, so it helps where the kernels are short. Shapes are fixed, and
the rows of a step are copied into those that the graph was recorded with. The same steps can be taken without a
recording, which shows what the graph alone brings, and that it computes the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from measuring import Arm
from torch import Tensor

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Player, Training
from mekd_plugin.networks import build
from mekd_plugin.rows import Rows, Shard
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.stepping import Stepper

WARM_UP = 3


def bare_steps(
    stage: Training, players: Mapping[str, Player], recipe: Recipe, device: str, *, batch: int, recorded: bool
) -> Arm:
    """Steps of ``stage`` without the loop around them; the first three, on one batch, are taken here.

    Args:
        stage: that does not ask.
        players: of the stage, the student among them where it takes part; their optimisers must be fit for a graph.
        recipe: for precision and memory format.
        device: to step on.
        batch: rows a step.
        recorded: whether each step is the replay of one recorded step, which needs CUDA.
    """
    processes = Processes.join(device)
    stepper = Stepper.prepare(stage, players, processes, recipe)
    nobody = BlackBox(build("lenet5_half", 2, (1, 16, 16)), "logits", 2)  # never asked

    def rows_at(step: int) -> Rows:
        rows = stage.rows.batch(step, batch, Shard()).to(processes.device)
        if recipe.channels_last:
            rows = replace(rows, images=rows.images.contiguous(memory_format=torch.channels_last))
        return rows

    def step() -> None:
        stepper.take(held, nobody)

    held = rows_at(0)
    take = record(step) if recorded else warm(step)
    steps = itertools.count(1)

    def run(count: int) -> None:
        for _ in range(count):
            for old, new in zip(tensors(held), tensors(rows_at(next(steps))), strict=True):
                old.copy_(new)
            take()

    return run


def warm(step: Callable[[], None]) -> Callable[[], None]:
    for _ in range(WARM_UP):
        step()
    return step


def record(step: Callable[[], None]) -> Callable[[], None]:
    """Record ``step`` after a warm-up, in which optimisers make their state and cuDNN chooses; what replays it."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        warm(step)
    torch.cuda.current_stream().wait_stream(aside)
    recording = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recording):
        step()
    return recording.replay


def tensors(rows: Rows) -> Iterator[Tensor]:
    """Images, answers and further columns, always in the same order."""
    yield rows.images
    if rows.response is not None:
        yield rows.response.values
    for name in sorted(rows.extra):
        yield rows.extra[name]
