"""A player in training: its weights, optimiser, schedule and running mean, saved and restored together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mekd_plugin.distiller import Player
from mekd_plugin.errors import InputError
from mekd_plugin.training.checkpoint import load_weights_into, restore_optimizer

__all__ = ["TrainedPlayer"]


@dataclass
class TrainedPlayer:
    """What the loop keeps for each player."""

    module: nn.Module
    weights: list[nn.Parameter]
    optimizer: torch.optim.Optimizer | None
    schedule: torch.optim.lr_scheduler.LRScheduler | None
    averaged: AveragedModel | None

    @classmethod
    def prepare(cls, player: Player, device: torch.device, *, channels_last: bool) -> TrainedPlayer:
        """The player on ``device``, in training mode, with its optimiser, schedule and running mean."""
        module = player.module.to(device)
        if channels_last:
            module = module.to(memory_format=torch.channels_last)
        module.train()
        if player.optimizer is None:
            return cls(module, [], None, None, None)
        weights = [weight for weight in module.parameters() if weight.requires_grad]
        if not weights:
            raise InputError(f"{type(module).__name__} has no weight that requires a gradient: nothing to train")
        optimizer = player.optimizer(weights)
        schedule = None if player.schedule is None else player.schedule(optimizer)
        averaged = None
        if player.average is not None:
            averaged = AveragedModel(module, multi_avg_fn=_running_mean(player.average), use_buffers=True)
        return cls(module, weights, optimizer, schedule, averaged)

    def step(self) -> None:
        """Move the weights along their gradients, and their running mean after them."""
        if self.optimizer is not None:
            self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.module)

    def advance(self) -> None:
        """Advance the schedule: once per step of the stage."""
        if self.schedule is not None:
            self.schedule.step()

    def state(self) -> dict[str, Any]:
        return {
            "module": self.module.state_dict(),
            "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
        }

    def restore(self, state: Mapping[str, Any], origin: str) -> None:
        load_weights_into(self.module, state["module"], origin=origin)
        if self.optimizer is not None:
            restore_optimizer(self.optimizer, state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        if self.averaged is not None:
            load_weights_into(self.averaged, state["averaged"], origin=origin)


def _running_mean(decay: float) -> Callable[[Any, Any, Any], None]:
    """An exponential moving average whose decay grows from 0.1, so that the initial weights are soon forgotten."""

    @torch.no_grad()
    def average(averaged: Any, current: Any, count: Any) -> None:
        weight = 1 - ((1 + count) / (10 + count)).clamp(max=decay)
        for mean, value in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, weight.to(mean))
            else:
                mean.copy_(value)

    return average
