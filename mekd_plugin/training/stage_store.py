"""What finished stages leave: kept for a run that is resumed, and shared between runs that would train the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Training
from mekd_plugin.errors import CheckpointError
from mekd_plugin.files import writable_directory
from mekd_plugin.training.checkpoint import load_state, load_weights_into, save_state, save_weights
from mekd_plugin.training.loop import Loop
from mekd_plugin.training.signature import tensor_digest
from mekd_plugin.version import __version__

__all__ = ["StageStore"]

_SECONDS = "processor seconds"  # no player's name


@dataclass(frozen=True)
class StageStore:
    """The trained networks of a run's stages.

    Attributes:
        loop: the loop that trains them.
        student: the run's.
        teacher: whose journal stands where the last finished stage left it.
        images: the edge's.
        directory: the run's; None keeps nothing.
        cache: the directory shared between runs; None shares nothing.
        identity: the run's; its files carry it, and another run's are refused.
    """

    loop: Loop
    student: nn.Module
    teacher: BlackBox
    images: Tensor
    directory: Path | None
    cache: Path | None
    identity: str = ""

    def finish(self, index: int, stage: Training) -> None:
        """Keep the outcome of a stage that was just trained."""
        path = self._stage_file(index, stage)
        if path is None or self.directory is None:
            return
        position = None if self.teacher.journal is None else self.teacher.journal.position
        if self.loop.processes.main:
            modules = self._modules(stage)
            state = {
                "modules": {name: module.state_dict() for name, module in modules.items()},
                "position": position,
                "metrics": self.loop.metrics.position,
                "student_steps": self.loop.student_steps,
                "student_fraction": self.loop.student_fraction,
            }
            save_state(writable_directory(path.parent) / path.name, state, identity=self.identity)
            for name, module in modules.items():
                if name != "student":
                    config = getattr(module, "config", None)
                    save_weights(module, self.directory / f"{name}.safetensors", config=config)
        if self.teacher.journal is not None and position is not None:
            self.loop.processes.agree(True)  # no process forgets before the first one's file is whole
            self.teacher.journal.forget(position)

    def take_finished(self, index: int, stage: Training) -> bool:
        """Take over the outcome that this run kept before it was interrupted; returns whether there is one."""
        path = self._stage_file(index, stage)
        if path is None or not self.loop.processes.agree(path.exists()):
            return False
        state = load_state(path, identity=self.identity)
        self._restore(stage, state["modules"], str(path))
        if self.teacher.journal is not None:
            self.teacher.journal.rewind(state["position"])
        self.loop.student_steps = state["student_steps"]
        self.loop.student_fraction = state["student_fraction"]
        self.loop.settled_metrics = state["metrics"]
        return True

    def take_shared(self, stage: Training) -> float | None:
        """Take over the outcome that another run shares; returns the processor seconds that it took there, or None
        where there is none.
        """
        path = self._shared_file(stage)
        if path is None or not self.loop.processes.agree(path.exists()):
            return None
        try:
            states = load_state(path)
        except CheckpointError:  # it holds nothing irreplaceable: it is made again
            path.unlink(missing_ok=True)
            return None
        self._restore(stage, states, str(path))
        return float(states.get(_SECONDS, 0.0))

    def share(self, stage: Training, processor_seconds: float) -> None:
        """Share the outcome of a stage that was just trained, where it may be, and what it took."""
        path = self._shared_file(stage)
        if path is not None and self.loop.processes.main:
            states = {name: module.state_dict() for name, module in self._modules(stage).items()}
            save_state(path, {**states, _SECONDS: processor_seconds})

    def _modules(self, stage: Training) -> dict[str, nn.Module]:
        modules = {name: player.module for name, player in stage.players.items()}
        return {**modules, "student": self.student} if stage.trains_student else modules

    def _stage_file(self, index: int, stage: Training) -> Path | None:
        return None if self.directory is None else self.directory / "stages" / f"{index}-{stage.name}.safetensors"

    def _restore(self, stage: Training, states: dict[str, dict[str, Tensor]], origin: str) -> None:
        for name, module in self._modules(stage).items():
            load_weights_into(module.to(self.loop.processes.device), states[name], origin=origin)
            if self.loop.recipe.channels_last:  # as it was when it was trained: another layout rounds differently
                module.to(memory_format=torch.channels_last)

    def _shared_file(self, stage: Training) -> Path | None:
        """Where runs with these images, seed and settings share this stage's outcome; only if it asks nothing."""
        if self.cache is None or stage.reuse is None or stage.trains_student:
            return None
        parts = (
            __version__,
            stage.reuse,
            str(self.loop.steps_of(stage)),
            tensor_digest(self.images),
            str(self.loop.seed),
            str(torch.get_num_threads()),
            f"{torch.__version__} {self.loop.processes.shard.world}",
            f"{self.loop.recipe.channels_last} {self.loop.recipe.precision} {self.loop.processes.device.type}",
        )
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
        return self.cache / f"{stage.name}-{key}.safetensors"
