"""A hosted method as a training task of timm's; imported when it is used, since it imports timm."""

from __future__ import annotations

from typing import Any

import torch
from timm.task import DistillationTeacher, TrainingTask
from timm.utils.model import unwrap_model
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from mekd_plugin.distiller import Remembered
from mekd_plugin.errors import InputError, NeedsNotMet
from mekd_plugin.training.hosting import Batch, Hosted

__all__ = ["HostedTask", "NormalisedTeacher"]


class HostedTask(TrainingTask):
    """Trains ``student`` on the rows of a hosted method; ``task(input, target)`` is a step's forward pass.

    ``target`` are the numbers of the rows ``(N,)`` int64, which :meth:`loader` gives beside their images; ``input`` may
    be augmented on the way. The result holds ``loss`` (to differentiate), its parts, ``output`` (the student's logits)
    and ``target`` (the teacher's labels of these rows, to measure ``output`` by: an accuracy against row numbers would
    mean nothing).

    EMA, evaluator, checkpoints and gradient clipping are timm's and see the student alone. The state of a method's
    further players, and the place in the order of the rows, is the *task state*: ``CheckpointSaver(task=task)`` writes
    it and ``resume_task_checkpoint`` reads it.

    Args:
        student: images -> logits, on ``device``.
        hosted: the method.
        device: of timm's task.
        dtype: of timm's task.
    """

    def __init__(
        self,
        student: nn.Module,
        hosted: Hosted,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(device=device, dtype=dtype, verbose=False)
        self.trainable_module: Any = student
        self.players = hosted.players
        self.hosted = hosted

    def loader(self, batch_size: int, *, steps: int | None = None) -> DataLoader[Batch]:
        """An epoch of ``(input, target)``: images and row numbers; the next one goes on where it ended.

        Args:
            batch_size: rows a step, on each process.
            steps: batches an epoch; None shows each row of a bank once.

        Raises:
            InputError: as :meth:`mekd_plugin.training.hosting.Hosted.loader`.
        """
        loader = self.hosted.loader(batch_size, steps=steps)
        loader.collate_fn = _input_and_target
        return loader

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The losses of a step, ``output`` and ``target``; with gradients recorded it is a training step.

        Raises:
            InputError: ``target`` are not row numbers but, say, Mixup's soft labels.
        """
        if target.dtype != torch.int64 or target.shape != input.shape[:1]:
            raise InputError(
                f"target of shape {tuple(target.shape)} and {target.dtype} for {len(input)} images: expected the rows' "
                "numbers (N,) int64 as task.loader() gives them; mixed images have no answer of the teacher"
            )
        rows = self.hosted.rows(input, target)
        student = Remembered(self.trainable_module)
        parts = self.hosted.losses(student, rows)
        return {**parts, "output": student(rows.images), "target": rows.answers().labels}

    def compile(self, backend: str = "inductor", mode: str | None = None, **settings: Any) -> Any:
        """Compile the student, for training and evaluation."""
        compiled = torch.compile(self.trainable_module, backend=backend, mode=mode, **settings)
        self.trainable_module = self.eval_model = compiled
        return compiled

    def prepare_distributed(self, device_ids: list[Any] | None = None, **settings: Any) -> HostedTask:
        """Wrap the student in DistributedDataParallel; every process learns from other rows, and one budget is shared.

        Raises:
            NeedsNotMet: the method was hosted by each process for itself.
        """
        world, shared = torch.distributed.get_world_size(), self.hosted.processes.shard.world
        if world != shared:
            raise NeedsNotMet(
                f"{world} processes, and the method was hosted by {shared}: each would ask the teacher for itself and "
                "learn from the same rows; start them with torchrun, which sets WORLD_SIZE before the task is made"
            )
        self.trainable_module = DistributedDataParallel(self.trainable_module, device_ids=device_ids, **settings)
        return self

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        """The players and the position; the EMA of the student has none of its own."""
        return {} if ema else {"players": self.players.state_dict()}

    def load_task_state(
        self,
        state: dict[str, Any] | None,
        strict: bool = True,
        module: nn.Module | None = None,
        ema: bool = False,
    ) -> None:
        """Take up :meth:`get_task_state`; a checkpoint without one (weights to start from) leaves all as it is."""
        if state and not ema:
            self.players.load_state_dict(state["players"], strict=strict)


class NormalisedTeacher(nn.Module):
    """timm's teacher, asked about images that are normalised for the student, as timm's own tasks ask it.

    Args:
        teacher: with its own mean and standard deviation.
        student: whose ``pretrained_cfg`` holds those of the images; without one the images go as they are.
    """

    def __init__(self, teacher: DistillationTeacher, student: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher
        config = getattr(unwrap_model(student), "pretrained_cfg", None)
        mean, std = (None, None) if config is None else (config["mean"], config["std"])
        like: Any = teacher.mean_kd
        self.mean, self.std = (
            None if values is None else like.new_tensor(values).view(1, -1, 1, 1) for values in (mean, std)
        )

    def forward(self, images: Tensor) -> Tensor:
        """The teacher's logits."""
        logits: Tensor = self.teacher(self.teacher.normalize_input(images, self.mean, self.std))
        return logits


def _input_and_target(batch: Batch) -> tuple[Tensor, Tensor]:
    images, _, numbers = batch
    return images, numbers
