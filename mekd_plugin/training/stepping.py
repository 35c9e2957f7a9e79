"""A training stage under way: its players, and one step of it, whoever draws the batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Player, Training
from mekd_plugin.errors import InputError
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.recording import Recorder
from mekd_plugin.training.trained_player import TrainedPlayer

__all__ = ["Stepper"]


@dataclass(frozen=True)
class Stepper:
    """Takes the steps of one stage.

    Attributes:
        stage: the one that is trained.
        players: the stage's, by name, each with its optimiser.
        processes: device and peers.
        precision: the recipe's.
        recorder: takes the steps on a GPU, where they can be recorded; None computes each as it stands.
    """

    stage: Training
    players: Mapping[str, TrainedPlayer]
    processes: Processes
    precision: str
    recorder: Recorder | None = None

    @classmethod
    def prepare(
        cls,
        stage: Training,
        players: Mapping[str, Player],
        processes: Processes,
        recipe: Recipe,
        *,
        recorded: bool = False,
    ) -> Stepper:
        """Put the players on their device, each with its optimiser, alike in every process.

        Args:
            stage: the one to train.
            players: all of its players.
            processes: device and peers.
            recipe: for precision and memory format.
            recorded: whether to record its step where that can be done: on one GPU, a step that is recordable.
        """
        if not players:
            raise InputError(f"stage {stage.name!r} has no player: there is nothing to train")
        trained = {
            name: TrainedPlayer.prepare(player, processes.device, channels_last=recipe.channels_last)
            for name, player in players.items()
        }
        for player in trained.values():
            processes.align(player.module)
        recorder = None
        if recorded and stage.recordable and processes.device.type == "cuda" and processes.shard.world == 1:
            recorder = Recorder(processes.device, stage.name)
        return cls(stage, trained, processes, recipe.precision, recorder)

    def take(self, rows: Rows, teacher: BlackBox) -> dict[str, Tensor]:
        """One step on ``rows``, which are on the device; schedules then advance, however many updates it made."""

        def query(images: Tensor) -> Response:
            return teacher.query(images, stage=self.stage.name)

        def step(rows: Rows) -> dict[str, Tensor]:
            with torch.autocast(self.processes.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                return self.stage.step(rows, self._update, query)

        scalars = step(rows) if self.recorder is None else self.recorder.take(rows, step)
        for player in self.players.values():
            player.advance()
        return scalars

    def finish(self) -> None:
        """Leave each player with its averaged weights, where it has any, alike in every process."""
        for player in self.players.values():
            if player.averaged is not None:
                player.module.load_state_dict(player.averaged.module.state_dict())
            self.processes.align(player.module)

    def close(self) -> None:
        """Let go of what was recorded."""
        if self.recorder is not None:
            self.recorder.close()

    def _update(self, losses: Mapping[str, Tensor]) -> None:
        if unknown := set(losses) - set(self.players):
            raise InputError(f"losses for {sorted(unknown)}, but this stage's players are {sorted(self.players)}")
        moved = [(self.players[name], loss) for name, loss in losses.items()]
        if fixed := [name for name in losses if self.players[name].optimizer is None]:
            raise InputError(f"losses for {fixed}, which have no optimizer: their stage fits them without gradients")
        with torch.autocast(self.processes.device.type, enabled=False):
            for player, _ in moved:
                if player.optimizer is not None:
                    player.optimizer.zero_grad(set_to_none=True)
            for index, (player, loss) in enumerate(moved):
                torch.autograd.backward(loss, inputs=player.weights, retain_graph=index + 1 < len(moved))
            players = [player for player, _ in moved]
            if self.recorder is None:
                self._move(players)
            else:
                weights = [weight for player in players for weight in player.weights]
                self.recorder.update(weights, partial(self._move, players))
        torch.clear_autocast_cache()  # it holds copies of weights as they were

    def _move(self, players: Sequence[TrainedPlayer]) -> None:
        for player in players:
            self.processes.average([weight.grad for weight in player.weights if weight.grad is not None])
            player.step()
