"""The loop: the only place that iterates over batches, for every stage of every method."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Player, Training
from mekd_plugin.errors import MekdError
from mekd_plugin.rows import Rows
from mekd_plugin.training.checkpoint import load_state, save_state
from mekd_plugin.training.metrics import Metrics
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.recording import WORTH_RECORDING
from mekd_plugin.training.stepping import Stepper
from mekd_plugin.training.trained_player import TrainedPlayer
from mekd_plugin.views import translate

__all__ = ["Loop", "TrainingDiverged", "stage_seed"]


class TrainingDiverged(MekdError):
    """A loss is no longer a finite number."""


def stage_seed(seed: int, name: str, rank: int = 0) -> int:
    """The seed of a stage's random numbers: a stage draws the same ones whatever ran before it."""
    digest = seed & 0xFFFFFFFF
    for byte in f"{name}/{rank}".encode():
        digest = (digest * 16777619 ^ byte) & 0xFFFFFFFFFFFF
    return digest


@dataclass
class Loop:
    """Runs training stages.

    Attributes:
        processes: device and peers.
        recipe: the student's.
        seed: the run's; every stage derives its own from it.
        metrics: where scalars go.
        checkpoint: file for the unfinished stage's state; None keeps none.
        checkpoint_steps: how often it is written.
        identity: the run's; its checkpoint carries it, and another run's is refused.
        log_steps: how often scalars are read off the device.
        observers: called after each of the student's steps as ``observer(step, student)``, ``step`` counted from 1 over
            all stages; evaluation and snapshots are observers.
        progress: whether to draw a progress bar.
        recorded: whether a GPU replays the recording of a step, where the stage calls it recordable and is long enough.
        student_steps: how many steps the student has taken in finished stages.
        student_fraction: what part of the recipe's steps that is, at least 0, not counting stages that set their own
            number of steps.
        settled_metrics: lines of metrics that belong to finished stages.
    """

    processes: Processes
    recipe: Recipe
    seed: int
    metrics: Metrics
    checkpoint: Path | None = None
    checkpoint_steps: int = 250
    identity: str = ""
    log_steps: int = 50
    observers: list[Callable[[int, nn.Module], None]] = field(default_factory=list)
    progress: bool = True
    recorded: bool = True
    student_steps: int = 0
    student_fraction: float = 0.0
    settled_metrics: int = 0

    def run(self, stage: Training, student: nn.Module, teacher: BlackBox) -> None:
        """Train one stage to its end, from the checkpoint where it holds this stage."""
        steps = self.steps_of(stage)
        size = stage.batch_size or self.recipe.batch_size
        players = dict(stage.players)
        if stage.trains_student:
            players["student"] = Player(
                student, self.recipe.make_optimizer, lambda optimizer: self.recipe.make_schedule(optimizer, steps)
            )
        recorded = self.recorded and steps >= WORTH_RECORDING
        stepper = Stepper.prepare(stage, players, self.processes, self.recipe, recorded=recorded)
        torch.manual_seed(stage_seed(self.seed, stage.name, self.processes.shard.rank))
        start = self._resume(stage.name, stepper.players, teacher)
        bar = tqdm(total=steps, initial=start, desc=stage.name, leave=False, disable=None if self.progress else True)
        with contextlib.closing(stepper), bar, _stop_between_steps() as stopped:
            for step in range(start, steps):
                rows = self._rows(stage, step, size, teacher.value_range[0])
                scalars = stepper.take(rows, teacher)
                done = step + 1
                saving = self.checkpoint is not None and done % self.checkpoint_steps == 0
                reporting = saving or done % self.log_steps == 0 or done == steps
                stopping = self._stops(stopped, agreed=reporting)
                saving |= stopping and self.checkpoint is not None
                if reporting or saving:  # what is saved was seen to be finite
                    self._log(stage, done, scalars, teacher, bar)
                if stage.trains_student:
                    self._observe(done, student)
                if saving:
                    self._save(stage.name, done, stepper.players, teacher)
                if stopping:
                    kept = (
                        "nothing is kept without a directory" if self.checkpoint is None else "go on with resume=True"
                    )
                    raise KeyboardInterrupt(f"stopped after step {done} of stage {stage.name!r}; {kept}")
                bar.update()
        stepper.finish()
        self.finish(stage)
        self.settled_metrics = self.metrics.position

    def steps_of(self, stage: Training) -> int:
        """How many steps the stage takes: its own number, or its fraction of the recipe's.

        Those of the student's stages are cut out of one line, so that no step is lost to rounding.
        """
        if stage.steps is not None:
            return stage.steps
        if not stage.trains_student:
            return max(1, round(stage.fraction * self.recipe.steps))
        begun, ended = self.student_fraction, self.student_fraction + stage.fraction
        return round(ended * self.recipe.steps) - round(begun * self.recipe.steps)

    def finish(self, stage: Training) -> None:
        """Count the steps of a stage that was trained."""
        if stage.trains_student:
            self.student_steps += self.steps_of(stage)
            self.student_fraction += stage.fraction if stage.steps is None else 0.0

    def _rows(self, stage: Training, step: int, size: int, fill: float) -> Rows:
        rows = stage.rows.batch(step, size, self.processes.shard).to(self.processes.device)
        if rows.images.dim() != 4:  # noise has no pixels to move, nor channels to come last
            return rows
        if self.recipe.channels_last:
            rows = replace(rows, images=rows.images.contiguous(memory_format=torch.channels_last))
        if stage.trains_student and self.recipe.translate:
            rows = replace(rows, images=translate(rows.images, self.recipe.translate, fill=fill))
        return rows

    def _log(self, stage: Training, done: int, scalars: Mapping[str, Tensor], teacher: BlackBox, bar: Any) -> None:
        values = {name: float(value) for name, value in scalars.items()}
        if not all(abs(value) < float("inf") for value in values.values()):
            raise TrainingDiverged(
                f"stage {stage.name!r}, step {done}: {values} is not finite; lower the learning rate, or look at the "
                "teacher's responses (everything up to the last checkpoint is kept)"
            )
        self.metrics.write({"stage": stage.name, "step": done, **values, "queries": teacher.ledger.total})
        shown: dict[str, Any] = {name: f"{values[name]:.3f}" for name in ("loss", "agreement") if name in values}
        bar.set_postfix(shown | {"queries": teacher.ledger.total}, refresh=False)

    def _stops(self, stopped: threading.Event, *, agreed: bool) -> bool:
        """Whether to stop after this step: of several processes all of them, where they meet for the next log line.

        Ctrl-C may reach one of them alone, and between two steps the others would wait for it in vain.
        """
        if self.processes.shard.world == 1:
            return stopped.is_set()
        return agreed and self.processes.any(stopped.is_set())

    def _observe(self, done: int, student: nn.Module) -> None:
        for observer in self.observers:
            observer(self.student_steps + done, student)

    def _save(self, name: str, done: int, players: Mapping[str, TrainedPlayer], teacher: BlackBox) -> None:
        position = None if teacher.journal is None else teacher.journal.position
        if self.processes.main and self.checkpoint is not None:
            state = {
                "stage": name,
                "step": done,
                "players": {player: trained.state() for player, trained in players.items()},
                "random": _random_state(self.processes.device),
                "position": position,
                "metrics": self.metrics.position,
            }
            save_state(self.checkpoint, state, identity=self.identity)
        if self.processes.shard.world > 1:
            self._reseed(name, done)
        if teacher.journal is not None and position is not None:
            self.processes.agree(True)  # no process forgets before the first one's file is whole
            teacher.journal.forget(position)

    def _reseed(self, name: str, step: int) -> None:
        """At a checkpoint of several processes, each begins a new random stream: one file cannot hold them all."""
        torch.manual_seed(stage_seed(self.seed, f"{name}/{step}", self.processes.shard.rank))

    def _resume(self, name: str, players: Mapping[str, TrainedPlayer], teacher: BlackBox) -> int:
        kept = self.checkpoint is not None and self.checkpoint.exists()
        state = load_state(self.checkpoint, identity=self.identity) if kept and self.checkpoint is not None else None
        if state is None or state["stage"] != name:
            self.metrics.rewind(self.settled_metrics)
            return 0
        for player, trained in players.items():
            trained.restore(state["players"][player], str(self.checkpoint))
        if self.processes.shard.world == 1:
            _restore_random_state(state["random"], self.processes.device)
        else:
            self._reseed(name, state["step"])
        if teacher.journal is not None:
            teacher.journal.rewind(state["position"])
        self.metrics.rewind(state["metrics"])
        return int(state["step"])


def _random_state(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _restore_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


@contextlib.contextmanager
def _stop_between_steps() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a request to stop after the step under way; a second one stops at once."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def request(signum: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = signal.signal(signal.SIGINT, request)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
