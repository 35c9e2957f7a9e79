"""A stage's steps without the loop around them, as they stand or as the replay of a recorded one.

What a recording saves is the processor's time between a GPU's kernels, so it helps where the kernels are short. Without
the loop, its observers, log lines and the seconds of the recording itself are left out of both.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import torch
from measuring import Arm

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Player, Training
from mekd_plugin.networks import build
from mekd_plugin.rows import Rows, Shard
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.stepping import Stepper


def bare_steps(
    stage: Training, players: Mapping[str, Player], recipe: Recipe, device: str, *, batch: int, recorded: bool
) -> Arm:
    """Steps of ``stage`` without the loop around them.

    Args:
        stage: that does not ask.
        players: of the stage, the student among them where it takes part.
        recipe: for precision and memory format.
        device: to step on.
        batch: rows a step.
        recorded: whether all steps but the first few replay a recorded one, which needs CUDA.

    Raises:
        RuntimeError: they were to be, and the step was not recorded.
    """
    processes = Processes.join(device)
    stepper = Stepper.prepare(stage, players, processes, recipe, recorded=recorded)
    nobody = BlackBox(build("lenet5_half", 2, (1, 16, 16)), "logits", 2)  # never asked
    steps = itertools.count()

    def rows_at(step: int) -> Rows:
        rows = stage.rows.batch(step, batch, Shard()).to(processes.device)
        if recipe.channels_last:
            rows = replace(rows, images=rows.images.contiguous(memory_format=torch.channels_last))
        return rows

    def run(count: int) -> None:
        for _ in range(count):
            stepper.take(rows_at(next(steps)), nobody)
        if stepper.recorder is not None and not stepper.recorder.segments:
            raise RuntimeError(f"stage {stage.name!r} was not recorded within {count} steps")

    return run
