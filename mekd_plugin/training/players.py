"""A method's further players where the host's loop steps the student: their own steps, and their place in its state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.training.checkpoint import restore_optimizer
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.trained_player import TrainedPlayer

__all__ = ["Players"]


class Players(nn.Module):
    """The further players of a student's stage (a critic), as a child of the host's module.

    Its state holds their weights, their optimisers', the number of training steps and how far the questions had come,
    so the host's checkpoint holds them too.

    Args:
        processes: those that take their steps together.
        teacher: whose journal goes back to where the state was saved.

    Attributes:
        steps: training steps taken.
    """

    def __init__(self, processes: Processes, teacher: BlackBox | None = None) -> None:
        super().__init__()
        self._processes, self._teacher = processes, teacher
        self._began = 0
        self.networks = nn.ModuleDict()
        self.steps = 0
        self._trained: dict[str, TrainedPlayer] = {}
        self._pending: dict[str, tuple[Tensor | None, ...]] = {}

    def take(self, trained: Mapping[str, TrainedPlayer]) -> None:
        """Take on the players to train, alike in every process; what is asked from here on is the host's doing."""
        self._trained = dict(trained)
        self._began = self._position() or 0
        for player in trained.values():
            self._processes.align(player.module)
        self.networks.update({name: player.module for name, player in trained.items()})

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside this context, what is computed through the players leaves no gradient in their weights."""
        weights = [weight for player in self._trained.values() for weight in player.weights]
        for weight in weights:
            weight.requires_grad_(False)
        try:
            yield
        finally:
            for weight in weights:
                weight.requires_grad_(True)

    def learn(self, losses: Mapping[str, Tensor]) -> None:
        """Take each player's gradient now, and its step with :meth:`settle`, as the student's graph needs its weights.

        All gradients of a step are thus taken before any weight changes, as in our own loop.
        """
        for name, loss in losses.items():
            gradients = torch.autograd.grad(loss, self._trained[name].weights, allow_unused=True)
            # Here, where every process takes part, and not with the step: a checkpoint is written by one of them.
            self._processes.average([gradient for gradient in gradients if gradient is not None])
            self._pending[name] = gradients
        self.steps += 1

    def settle(self) -> None:
        """Step the players whose gradients wait."""
        for name, gradients in self._pending.items():
            player = self._trained[name]
            for weight, gradient in zip(player.weights, gradients, strict=True):
                weight.grad = gradient
            player.step()
            player.advance()
            for weight in player.weights:
                weight.grad = None
        self._pending = {}

    def get_extra_state(self) -> dict[str, Any]:
        """What ``state_dict`` holds besides the weights; called before these are read, so that none lags behind."""
        self.settle()
        return {
            "steps": self.steps,
            "asked": self._position(),
            "optimizers": {
                name: player.optimizer.state_dict() for name, player in self._trained.items() if player.optimizer
            },
        }

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take back what ``load_state_dict`` has read."""
        self._pending = {}
        self.steps = int(state["steps"])
        journal = None if self._teacher is None else self._teacher.journal
        asked = state.get("asked")
        # Beyond these bounds the state is of a run in another directory: its questions are not in this journal.
        if journal is not None and asked is not None and self._began <= asked <= journal.end:
            journal.rewind(asked)
        for name, optimizer in state["optimizers"].items():
            found = self._trained[name].optimizer
            if found is not None:
                restore_optimizer(found, optimizer)

    def __getstate__(self) -> dict[str, Any]:
        """A copy, as of a whole model, leads to no teacher."""
        return {**self.__dict__, "_teacher": None}

    def _position(self) -> int | None:
        journal = None if self._teacher is None else self._teacher.journal
        return None if journal is None else journal.position
