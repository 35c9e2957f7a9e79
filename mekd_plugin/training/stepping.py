"""A training stage under way: its players in their seats, and one step of it, whoever draws the batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Player, Training
from mekd_plugin.errors import InputError
from mekd_plugin.rows import Rows
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.trained_player import TrainedPlayer

__all__ = ["Stepper"]


@dataclass(frozen=True)
class Stepper:
    """Takes the steps of one stage.

    Attributes:
        stage: that is trained.
        seats: its players by name.
        processes: device and peers.
        precision: of the recipe.
    """

    stage: Training
    seats: Mapping[str, TrainedPlayer]
    processes: Processes
    precision: str

    @classmethod
    def seat(cls, stage: Training, players: Mapping[str, Player], processes: Processes, recipe: Recipe) -> Stepper:
        """Put the players on their device, each with its optimiser, alike in every process."""
        if not players:
            raise InputError(f"stage {stage.name!r} has no player: there is nothing to train")
        seats = {
            name: TrainedPlayer.take(player, processes.device, channels_last=recipe.channels_last)
            for name, player in players.items()
        }
        for seat in seats.values():
            processes.align(seat.module)
        return cls(stage, seats, processes, recipe.precision)

    def take(self, rows: Rows, teacher: BlackBox) -> dict[str, Tensor]:
        """One step on ``rows``, which lie on the device; what the stage's step asks for is asked first."""
        if self.stage.ask is not None:
            asked = self.stage.ask(rows)
            rows = replace(rows, asked=asked.answered(teacher.query(asked.images, stage=self.stage.name)))
        with torch.autocast(self.processes.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.stage.step(rows, self._update)

    def finish(self) -> None:
        """Leave each player with its averaged weights, where it has such, alike in every process."""
        for seat in self.seats.values():
            if seat.averaged is not None:
                seat.module.load_state_dict(seat.averaged.module.state_dict())
            self.processes.align(seat.module)

    def _update(self, losses: Mapping[str, Tensor]) -> None:
        if unknown := set(losses) - set(self.seats):
            raise InputError(f"losses for {sorted(unknown)}, but this stage's players are {sorted(self.seats)}")
        moved = [(self.seats[name], loss) for name, loss in losses.items()]
        with torch.autocast(self.processes.device.type, enabled=False):
            for seat, _ in moved:
                seat.optimizer.zero_grad(set_to_none=True)
            for index, (seat, loss) in enumerate(moved):
                torch.autograd.backward(loss, inputs=seat.weights, retain_graph=index + 1 < len(moved))
            for seat, _ in moved:
                self.processes.average([weight.grad for weight in seat.weights if weight.grad is not None])
                seat.step()
