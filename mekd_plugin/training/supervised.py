"""Train a teacher of your own, for benchmarks: the same loop, labels instead of answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Player, Query, Training, Update
from mekd_plugin.functional import cross_entropy_labels
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows, Shard, ShuffledIndices
from mekd_plugin.training.loop import Loop
from mekd_plugin.training.metrics import Metrics
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.recipe import Recipe

__all__ = ["train_teacher"]


class _LabelledRows:
    """Images with their true labels in place of answers."""

    def __init__(self, images: Tensor, labels: Tensor, num_classes: int, seed: int) -> None:
        self._rows = Rows(images, Response(labels, "hard", num_classes))
        self._order = ShuffledIndices(len(images), seed)

    def batch(self, step: int, size: int, shard: Shard) -> Rows:
        return self._rows[self._order.batch(step, size, shard)]


def train_teacher(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> nn.Module:
    """Train ``module`` on labelled images with cross-entropy, in place.

    Args:
        module: images ``(n, channels, height, width)`` -> logits ``(n, num_classes)``.
        images: ``(N, channels, height, width)``.
        labels: ``(N,)`` int64 in ``[0, num_classes)``.
        num_classes: C.
        recipe: how; the default is the students' own.
        seed: the seed of order and augmentation.
        device: as in :func:`mekd_plugin.distill`.
        progress: whether to draw a progress bar.

    Returns:
        ``module``, in evaluation mode.
    """
    settings = recipe or Recipe()

    def step(rows: Rows, update: Update, query: Query) -> dict[str, Tensor]:
        logits = module(rows.images)
        labels = rows.answers().labels
        loss = cross_entropy_labels(logits, labels)
        update({"teacher": loss})
        return {"loss": loss.detach(), "accuracy": (logits.argmax(dim=1) == labels).float().mean()}

    player = Player(module, settings.make_optimizer, lambda made: settings.make_schedule(made, settings.steps))
    stage = Training(
        "teacher",
        _LabelledRows(images, labels, num_classes, seed),
        step,
        {"teacher": player},
        steps=settings.steps,
        recordable=True,
    )
    processes = Processes.join(device)
    loop = Loop(processes, settings, seed, Metrics(), progress=progress and processes.main)
    nobody = BlackBox(lambda _: labels[:0], "hard", num_classes)
    devices = [processes.device] if processes.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        loop.run(stage, module, nobody)
    return module.eval()
