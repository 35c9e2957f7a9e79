"""A method as a guest in somebody else's loop, which draws batches and steps the student; the method does the rest."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.ledger import Ledger
from mekd_plugin.distiller import Asking, Distiller, Remembered, Student, Training
from mekd_plugin.errors import InputError, NeedsNotMet
from mekd_plugin.rows import Rows
from mekd_plugin.training.evaluation import agreement
from mekd_plugin.training.execution import Run
from mekd_plugin.training.loop import stage_seed
from mekd_plugin.training.players import Players
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.stepping import Stepper
from mekd_plugin.training.trained_player import TrainedPlayer

__all__ = ["BankDataset", "Batch", "Hosted"]

_NO_LABEL = -100
Batch = tuple[Tensor, Tensor, Tensor]
"""Images ``(N, channels, height, width)``, the teacher's labels ``(N,)`` int64, the rows' numbers ``(N,)`` int64."""


class Hosted:
    """A method in somebody else's loop; :func:`mekd_plugin.host` makes it.

    The student's optimiser, schedule, precision, augmentation, evaluation and checkpoints are the host's. The method
    brings the rows to learn from, the losses on them, and the steps of its own further players.

    Where the host's loop asks (:meth:`ask`, or rows that are asked about anew at every step) and goes on after an
    interruption, with its checkpoint and ``resume=True``, what it asked since that checkpoint is answered from the
    directory for as long as it asks the same; once it asks otherwise, the answers that are left are given up, with a
    warning. Of several processes each has to ask the same.

    Attributes:
        players: a module with the method's further players of the student's stage, their optimisers' state, the number
            of steps and of questions; as a child of the host's module it is saved and loaded with its checkpoints.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._stages = enumerate(run.stages())
        self._stepper: Stepper | None = None
        self._fresh: dict[int, Rows] = {}
        self.players = Players(run.processes, run.teacher)
        self._advance()
        self._leave_to_host(True)

    @property
    def method(self) -> Distiller:
        """The method."""
        return self._run.distiller

    @property
    def ledger(self) -> Ledger:
        """What was asked, by stage."""
        return self._run.teacher.ledger

    @property
    def processes(self) -> Processes:
        """The place of this process among those that share the method's rows."""
        return self._run.processes

    @property
    def stage(self) -> Training:
        """The stage under way."""
        return self._stage

    def run_to_student(self) -> None:
        """Train every stage before the student's in our own loop, or take it over from where it is kept."""
        self._leave_to_host(False)
        while not self._stage.trains_student:
            self._run.train(self._index, self._stage)
            self._advance()
        self._leave_to_host(True)

    def step(self, rows: Rows) -> dict[str, Tensor]:
        """One step of a stage before the student's, whose players are all the method's own; returns scalars to log.

        Raises:
            InputError: the stage trains the student, which is the host's to step.
        """
        if self._stage.trains_student:
            raise InputError(f"stage {self._stage.name!r} trains the student: call losses(), and step it yourself")
        if self._stepper is None:
            self._stepper = Stepper.prepare(self._stage, self._stage.players, self._run.processes, self._run.recipe)
        self.players.steps += 1
        return self._stepper.take(rows.to(self._run.processes.device), self._run.teacher)

    def finish_stage(self) -> None:
        """End the stage that :meth:`step` trained, keep its outcome, and go on to the next one.

        Raises:
            InputError: it was not trained here.
        """
        if self._stepper is None:
            raise InputError(f"stage {self._stage.name!r} was not trained here: call step() first, or run_to_student()")
        self._stepper.finish()
        self._stepper = None
        self.players.steps = 0
        self._run.store.finish(self._index, self._stage)
        self._leave_to_host(False)
        self._advance()
        self._leave_to_host(True)

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        """``{"loss": what the student minimises, ...its parts}``, for the host to differentiate.

        Where gradients are recorded this is a training step: the further players (a critic) take their gradients from
        the same forward pass, and their step with the next call, since the graph that the host is about to
        differentiate holds their weights. That graph leaves no gradient in them.

        Args:
            student: images -> logits ``(N, C)``; called once, on ``rows.images``.
            rows: answered ones, of :meth:`rows` or :meth:`ask`.
        """
        forward = Remembered(student)
        if not torch.is_grad_enabled():
            return self.method.losses(forward, rows)
        self.players.settle()
        with self.players.frozen():
            parts = self.method.losses(forward, rows)
        self.players.learn(self.method.player_losses(forward, rows))
        return parts

    def loader(self, batch_size: int, *, steps: int | None = None) -> DataLoader[Batch]:
        """An epoch of the rows of the stage under way, in the order of our own loop; the next goes on where it ended.

        Rows that were not asked about, of a stage before the student's, have the label -100, which torch's
        cross-entropy leaves out.

        Args:
            batch_size: rows per batch.
            steps: batches per epoch; None takes as many as the rows that the teacher answered fill.

        Raises:
            InputError: ``steps`` is missing where rows are asked anew at every step, or the bank holds no whole batch.
        """
        if steps is None:
            count = self._bank("give steps=, the batches of an epoch").asked
            steps = count // (batch_size * self.processes.shard.world)
            if steps == 0:
                raise InputError(f"batch_size={batch_size}: expected at most the {count} rows of the bank")
        return DataLoader(_Batches(self, batch_size), batch_size=None, sampler=_Steps(self.players, steps))

    def dataset(self) -> BankDataset:
        """The bank's rows one by one, for a host with its own sampler, batches and augmentation.

        Weights are not in it: a bank that shows some rows more often does so in :meth:`loader` alone.

        Raises:
            InputError: the method asks anew at every step, so it has no bank.
        """
        return BankDataset(self._bank("take the batches of loader(), it has no dataset").rows())

    def rows(self, images: Tensor, numbers: Tensor) -> Rows:
        """The rows of a batch of :meth:`loader` or :meth:`dataset`, with ``images`` as the host augmented them."""
        source = self._stage.rows
        if isinstance(source, Bank):
            known = source.rows()
            found = known[numbers.to(known.images.device)]
        else:
            found = self._fresh.pop(int(numbers[0]))
        return Rows(images, found.response, found.extra).to(images.device)

    def ask(self, images: Tensor) -> Rows:
        """Ask about the host's own images, a query each, for a host that trains on its own loader.

        Raises:
            NeedsNotMet: the method draws its images itself.
        """
        if self.method.needs.leaves_edge != "real images":
            raise NeedsNotMet(
                f"{type(self.method).__name__} sends {self.method.needs.leaves_edge}, which it draws itself: train on "
                "the rows of loader() or dataset()"
            )
        return Rows(images).answered(self._run.teacher.query(images, stage="host's images"))

    def held_out_agreement(self, student: nn.Module) -> float | None:
        """Share of held-out answers on which the student names the teacher's class; None without any."""
        held = self._run.held_out
        return None if held is None else agreement(student, held.images, held.answers())

    def close(self) -> None:
        """Let the further players take their last step, and let go of the directory."""
        self.players.settle()
        self._run.close()

    def _leave_to_host(self, host_asks: bool) -> None:
        """Note whose loop is under way: the host's, which may ask otherwise when it is resumed, or our own."""
        self._run.wait_for_host(host_asks)
        journal = self._run.teacher.journal
        if journal is not None:
            journal.strict = not host_asks or self.processes.shard.world > 1

    def _advance(self) -> None:
        """Go on to the next training stage: ask what comes before it, take over what is kept."""
        with self._run.processes.own_randomness():
            for index, stage in self._stages:
                if isinstance(stage, Asking):
                    self._run.ask(stage)
                elif stage.trains_student or not self._run.store.take_finished(index, stage):
                    self._index, self._stage = index, stage
                    break
            else:
                raise NeedsNotMet(
                    f"{type(self.method).__name__} has no stage that trains the student: there is nothing for a host's "
                    "loop to do"
                )
        if self._stage.trains_student and not self._stage.by_losses:
            raise NeedsNotMet(
                f"{type(self.method).__name__} takes a step of its own in stage {self._stage.name!r}, which a host's "
                "loop cannot run: use mekd_plugin.distill, and declare Needs(in_step=True), so that this is said "
                "before anything is asked"
            )
        if self._stage.trains_student:
            processes, recipe = self._run.processes, self._run.recipe
            self.players.take(
                {
                    name: TrainedPlayer.prepare(player, processes.device, channels_last=recipe.channels_last)
                    for name, player in self._stage.players.items()
                    if player.optimizer
                    is not None  # what only keeps rows serves stages after, which a host has none of
                }
            )

    def _bank(self, otherwise: str) -> Bank:
        source = self._stage.rows
        if not isinstance(source, Bank):
            raise InputError(f"{type(self.method).__name__} fills no bank that could be shown row by row: {otherwise}")
        return source

    def draw(self, step: int, size: int) -> Batch:
        """The rows of a step as the host's loop passes them round; :meth:`rows` finds them again by their numbers."""
        source, shard = self._stage.rows, self.processes.shard
        if isinstance(source, Bank):
            numbers = source.numbers(step, size, shard)
            rows = source.rows()[numbers]
        else:
            # By the step, whatever the host drew in between: resumed, it asks the same, and the journal answers.
            with self.processes.own_randomness():
                torch.manual_seed(stage_seed(self._run.seed, f"{self._stage.name}/{step}", shard.rank))
                rows = source.batch(step, size, shard)
            numbers = torch.arange(step * size, (step + 1) * size)
            self._fresh[step * size] = rows
        labels = torch.full_like(numbers, _NO_LABEL) if rows.response is None else rows.response.labels
        return rows.images, labels, numbers


class BankDataset(Dataset[tuple[Tensor, int, int]]):
    """Answered rows as ``(image, the teacher's label, row number)``.

    Args:
        rows: answered.
    """

    def __init__(self, rows: Rows) -> None:
        self.images = rows.images
        self.targets: list[int] = rows.answers().labels.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self.images[index], self.targets[index], index


class _Batches(Dataset[Batch]):
    """Batches by the number of their step."""

    def __init__(self, hosted: Hosted, size: int) -> None:
        self._hosted, self._size = hosted, size

    def __getitem__(self, step: int) -> Batch:
        return self._hosted.draw(step, self._size)


class _Steps(Sampler[int]):
    """The numbers of an epoch's steps, from the first one that was not taken."""

    def __init__(self, players: Players, count: int) -> None:
        self._players, self._count = players, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._players.steps, self._players.steps + self._count))
