"""A run under way: its stages in turn, each finished, taken over from a kept state, or shared between runs."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.ledger import EARLIER, Peers
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Asking, Distiller, Stage, Training
from mekd_plugin.errors import CheckpointError, InputError, MekdError, QueryBudgetExceeded
from mekd_plugin.files import writable_directory, write_atomically
from mekd_plugin.modes import mode_kept
from mekd_plugin.rows import Rows
from mekd_plugin.sealing import CHECKSUM, check_seal, seal
from mekd_plugin.training.checkpoint import load_state, load_weights_into, save_state, save_weights
from mekd_plugin.training.directory import DirectoryLock, spent_by_then, threads_of_run
from mekd_plugin.training.distillation import Distillation, images_sent, peak_memory_mb
from mekd_plugin.training.evaluation import as_scalars, measured_agreement
from mekd_plugin.training.loop import Loop, stage_seed
from mekd_plugin.training.metrics import Metrics
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.stage_store import StageStore
from mekd_plugin.version import __version__

__all__ = ["Evaluate", "Run"]

Evaluate = Callable[[nn.Module], dict[str, float]]
_FEWEST_HELD_OUT = 20
_REMAINS = ("ledger-*.jsonl", "journal-*.bin", "checkpoint.safetensors", "initial.safetensors", "stages/*", "banks/*")
"""What a run leaves behind; a directory that has such a file but no ``run.json`` is refused to a new run."""
_NETWORKS = ("generator.safetensors", "discriminator.safetensors")
"""What stages before the first question leave beside their own files."""
_LOGGER = logging.getLogger(__name__)


def _snapshot(step: int) -> str:
    """The file of a copy of the student after ``step`` of its steps."""
    return f"step-{step:06d}.safetensors"


@dataclass
class Run:
    """One distillation, from an open directory to its result; see :func:`mekd_plugin.distill` for the settings."""

    distiller: Distiller
    student: nn.Module
    teacher: BlackBox
    images: Tensor
    processes: Processes
    recipe: Recipe
    seed: int
    directory: Path | None
    cache: Path | None
    validation: float
    signature: str
    probes: bool = False
    held_out: Rows | None = None
    measure: Callable[[int, nn.Module], None] | None = None
    snapshots: Path | None = None
    refused: InputError | None = None
    lock: DirectoryLock | None = None
    opened: bool = False
    begun: bool = False
    banks: dict[str, Bank] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"prepare": 0.0, "distill": 0.0, "processor": 0.0})

    @property
    def identity(self) -> str:
        """Names the run in each of its files: a hash of its signature."""
        return hashlib.sha256(self.signature.encode()).hexdigest()[:16]

    def check_budget(self) -> None:
        """Refuse a budget that does not last until the student is trained by the recipe, before anything is.

        Raises:
            NeedsNotMet: it does not; the message says what it takes.
        """
        rows = self.recipe.batch_size * self.processes.shard.world
        self.distiller.check_training(self.teacher.ledger.budget, self.recipe.steps, rows)

    def open(
        self,
        *,
        resume: bool,
        progress: bool,
        tensorboard: bool = False,
        checkpoint_steps: int = 250,
        log_steps: int = 50,
        recorded: bool = True,
    ) -> None:
        """Claim the directory, or find in it the run to go on with."""
        directory = self.directory
        metrics_path = None
        shard = self.processes.shard
        self._claim()
        self.teacher.ledger.peers = Peers(shard.rank, shard.world, self.processes.gather)
        if directory is not None:
            identity = directory / "run.json"
            known_run = self.processes.agree(identity.exists())
            # The first process looks on behalf of all, since it is also the first to write.
            remains = [name for name in _REMAINS if self.processes.main and any(directory.glob(name))]
            if not known_run and self.processes.agree(bool(remains)):
                raise CheckpointError(
                    f"{directory} holds {', '.join(remains)} of a run whose run.json is lost: put that file back, or "
                    "name another directory"
                )
            if known_run and not resume:
                raise CheckpointError(f"{directory} holds a run already; resume it, or name another directory")
            if known_run:
                torch.set_num_threads(threads_of_run(identity, self.signature))
            elif self.processes.main:
                content = {"signature": self.signature, "threads": torch.get_num_threads(), "version": __version__}
                write_atomically(identity, json.dumps(content, indent=1).encode())
            metrics_path = directory / "metrics.jsonl" if self.processes.main else None
        self.opened = True
        self.teacher.keep(directory, rank=self.processes.shard.rank, at_least=spent_by_then(directory))
        board = directory / "tensorboard" if tensorboard and directory is not None else None
        self.loop = Loop(
            self.processes,
            self.recipe,
            self.seed,
            Metrics(metrics_path, tensorboard=board),
            checkpoint=None if directory is None else directory / "checkpoint.safetensors",
            checkpoint_steps=checkpoint_steps,
            identity=self.identity,
            log_steps=log_steps,
            progress=progress and self.processes.main,
            recorded=recorded,
        )
        self.store = StageStore(
            self.loop, self.student, self.teacher, self.images, directory, self.cache, self.identity
        )
        self.begun = True

    def begin_student(self) -> None:
        """Keep the student as it was handed in, or restore a resumed run's to that state."""
        if self.directory is None:
            return
        path = self.directory / "initial.safetensors"
        if self.processes.agree(path.exists()):
            load_weights_into(self.student, load_state(path, identity=self.identity), origin=str(self.directory))
        elif self.processes.main:
            save_state(path, self.student.state_dict(), identity=self.identity)

    def observe(self, evaluate: Evaluate | None, steps: Sequence[int], snapshots: int) -> None:
        """Have the student evaluated and copied while it trains."""
        if evaluate is not None and self.processes.main:
            wanted = set(steps)

            def measure(step: int, student: nn.Module) -> None:
                with mode_kept(student), self.processes.own_randomness():
                    told = evaluate(student)
                try:
                    self.loop.metrics.write({"stage": "evaluation", "step": step, **as_scalars(told)})
                except InputError as error:
                    if step < self.recipe.steps:
                        raise
                    self.refused = error  # the student is trained, or nearly: it is kept before anybody hears of it

            self.loop.observers.append(lambda step, student: measure(step, student) if step in wanted else None)
            self.measure = measure
        if snapshots and self.directory is not None and self.processes.main:
            folder = self.snapshots = writable_directory(self.directory / "snapshots")
            chosen = {round(self.recipe.steps ** (index / max(snapshots - 1, 1))) for index in range(snapshots)}

            def copy(step: int, student: nn.Module) -> None:
                if step in chosen:
                    save_weights(student, folder / _snapshot(step))

            self.loop.observers.append(copy)

    def execute(self) -> Distillation:
        """Run every stage in turn, then gather the result."""
        self.begin_student()
        for index, stage in enumerate(self.stages()):
            began, busy = time.perf_counter(), time.process_time()
            if isinstance(stage, Asking):
                self.ask(stage)
            elif not self.store.take_finished(index, stage):
                self.train(index, stage)
            distilling = isinstance(stage, Training) and stage.trains_student
            self.seconds["distill" if distilling else "prepare"] += time.perf_counter() - began
            self.seconds["processor"] += time.process_time() - busy
        self.student.eval()
        self._look_at_the_end()
        held_out = None
        if self.held_out is not None:
            held_out = measured_agreement(self.student, self.held_out.images, self.held_out.answers())
        if self.directory is not None and self.processes.main:
            save_weights(self.student, self.directory / "student.safetensors")
        report = self._report()
        for warning in report.get("warnings", []):
            warnings.warn(warning, stacklevel=3)
        self.close()
        if self.refused is not None:
            where = "the student handed in" if self.directory is None else f"{self.directory}: go on with resume=True"
            self.refused.add_note(f"the student is trained to its end, and kept in {where}")
            raise self.refused
        return Distillation(
            student=self.student,
            history=self.loop.metrics.history,
            ledger=self.teacher.ledger,
            report=report,
            steps=self.loop.student_steps,
            seconds=self.seconds,
            peak_memory_mb=peak_memory_mb(self.processes.device),
            held_out_agreement=None if held_out is None else held_out.value,
            held_out=held_out,
            held_out_on=images_sent(self.distiller),
            image_shape=self.distiller.image_shape,
            num_classes=self.distiller.num_classes,
            value_range=self.teacher.value_range,
            classes=self.teacher.classes,
            signature=self.signature,
            inverse=self.distiller.inverse(),
        )

    def _look_at_the_end(self) -> None:
        """Evaluate and copy the student that is handed over, wherever its steps ended."""
        end = self.loop.student_steps
        evaluated = {entry["step"] for entry in self.loop.metrics.history if entry["stage"] == "evaluation"}
        if self.measure is not None and end not in evaluated and self.refused is None:
            self.measure(end, self.student)
        if self.snapshots is not None:
            save_weights(self.student, self.snapshots / _snapshot(end))

    def _report(self) -> dict[str, Any]:
        """What the method has to say; of a run that was finished before, what it said then, when it saw the rows."""
        path = None if self.directory is None else self.directory / "report.json"
        if path is not None and self.processes.agree(path.exists()):
            try:
                content = path.read_bytes()
                kept: dict[str, Any] = json.loads(content)
                check_seal(content, kept[CHECKSUM])
                if kept["run"] == self.identity:
                    said: dict[str, Any] = kept["report"]
                    return said
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                pass  # it is made again, from what the method still knows
        report = self.distiller.report()
        if path is not None and self.processes.main:
            try:
                content = seal({"run": self.identity, "report": report})
            except (TypeError, ValueError):  # what is no JSON is said, and not kept
                return report
            write_atomically(path, content)
        return report

    def close(self) -> None:
        """Let go of the directory, when every process is done with it."""
        self.loop.metrics.close()
        self.processes.agree(True)
        self.let_go()

    def let_go(self) -> None:
        """Let go of the teacher's files and of the directory, as far as this run holds them."""
        if self.opened:
            self.teacher.release()
        self.opened = False
        self.unlock()

    def withdraw(self, refusal: MekdError) -> None:
        """Let go of the directory; a run that was refused before its first question leaves nothing that blocks another.

        What was trained is kept unless the run's own budget is the reason, which no run with another one could go on
        with; one that others have spent from may be whole again in a fresh black box.
        """
        stages = set(self.teacher.ledger.by_stage)
        journal = self.teacher.journal
        try:
            if self.begun and self.directory is not None and self.processes.main and journal is not None:
                self.teacher.release()
                kept = any(self.directory.glob("banks/*/bank.json"))
                if not stages - {EARLIER} and not journal.end and not kept:
                    own_budget = isinstance(refusal, QueryBudgetExceeded) and EARLIER not in stages
                    self._clear(self.directory, trained=own_budget)
                    if EARLIER in stages:
                        _forget_others(self.directory)
        finally:
            self.let_go()

    def _clear(self, directory: Path, *, trained: bool) -> None:
        """Take away the files of a run that asked nothing; with what was ``trained``, or where nothing was."""
        if not trained and any(next(directory.glob(name), None) for name in ("checkpoint.safetensors", "stages/*")):
            return
        # run.json last: killed half-way, the directory still says whose files these are.
        for name in (*_REMAINS, *_NETWORKS, "metrics.jsonl", "run.json"):
            for path in directory.glob(name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def unlock(self) -> None:
        """Let other processes have the directory."""
        if self.lock is not None:
            self.lock.release()
        self.lock = None

    def wait_for_host(self, waiting: bool) -> None:
        """Note whether the run waits for a host's loop, so that another one of this process may take its directory."""
        if self.lock is not None:
            self.lock.idle = waiting

    def _claim(self) -> None:
        """Hold the directory for as long as the run lives.

        Raises:
            CheckpointError: another process holds it.
        """
        if self.directory is None:
            return
        held = True
        if self.processes.main:
            self.lock = DirectoryLock(self.directory, self.let_go)
            held = self.lock.acquire()
        if not self.processes.agree(held):
            holder = "" if self.lock is None else f" ({self.lock.holder()})"
            self.lock = None
            raise CheckpointError(
                f"another process{holder} has a run in {self.directory} under way: wait for it, stop it, or name "
                "another directory"
            )

    def log(self, words: str, *values: object) -> None:
        """Log one line under this package's name, from only one of several processes."""
        if self.processes.main:
            _LOGGER.info(words, *values)

    def train(self, index: int, stage: Training) -> None:
        """Train a stage in our own loop, or take over the outcome of another run, and keep it."""
        taken_over = self.store.take_shared(stage)
        if taken_over is None:
            self.log("stage %s begins", stage.name)
            began, busy = time.perf_counter(), time.process_time()
            self.loop.run(stage, self.student, self.teacher)
            self.log("stage %s ended after %.0f s", stage.name, time.perf_counter() - began)
            self.store.share(stage, time.process_time() - busy)
        else:
            self.seconds["processor"] += taken_over
        self.store.finish(index, stage)

    def stages(self) -> Iterable[Stage]:
        """The method's stages; what it draws between two of them depends only on the seed and its place."""
        if self.probes:
            self.teacher.probe(self.distiller.image_shape)
        stages = self.distiller.stages(self.teacher, self.images, self.student)
        index, names = 0, set[str]()
        while True:
            torch.manual_seed(stage_seed(self.seed, f"before stage {index}"))
            try:
                stage = next(stages)
            except StopIteration:
                return
            if isinstance(stage, Training) and stage.name in names:
                raise InputError(f"two stages are named {stage.name!r}: what is kept of them would be mixed up")
            names.add(stage.name)
            yield stage
            index += 1

    def ask(self, stage: Asking) -> None:
        """Fill the bank; the rows that a kept one holds, or that the journal remembers, are not asked about again."""
        if self.banks.setdefault(stage.bank.name, stage.bank) is not stage.bank:
            raise InputError(
                f"two banks are named {stage.bank.name!r}: what is kept of them would be mixed up; give one of them "
                "another name"
            )
        if self.directory is not None and len(stage.bank) == 0:
            rank = self.processes.shard.rank
            name = stage.bank.name if rank == 0 else f"{stage.bank.name}-{rank}"
            stage.bank.keep(self.directory / "banks" / name, identity=self.identity)
        self.log("stage %s begins: %s answers", stage.name, f"{stage.size:,}")
        with tqdm(
            total=stage.size,
            desc=stage.name,
            unit=" queries",
            leave=False,
            disable=None if self.loop.progress else True,
        ) as bar:
            stage.bank.fill(
                self.teacher,
                stage.draw,
                stage.size,
                stage=stage.name,
                label=stage.label,
                progress=lambda done, wanted: _advance(bar, done),
            )
        self.log("stage %s ended: %s", stage.name, self.teacher.ledger)
        metrics = self.loop.metrics
        settled = self.loop.settled_metrics
        written = [entry["stage"] for entry in metrics.history[settled : settled + 1]]
        if written != [stage.name]:  # else this is a resumed run, and what follows that line belongs to later stages
            metrics.rewind(settled)
            metrics.write({"stage": stage.name, "step": len(stage.bank), "queries": self.teacher.ledger.total})
        self.loop.settled_metrics = settled + 1
        stage.bank.to(self.processes.device)
        count = 0 if stage.grows else round(self.validation * len(stage.bank))
        if count >= _FEWEST_HELD_OUT:
            self.held_out = stage.bank.hold_out(count)


def _forget_others(directory: Path) -> None:
    """Take away the counts of a run that asked nothing: what its black box asked elsewhere is not the run's."""
    metrics = directory / "metrics.jsonl"
    if metrics.exists():
        lines = [json.loads(line) for line in metrics.read_bytes().splitlines()]
        told = [{**line, "queries": 0} if "queries" in line else line for line in lines]
        write_atomically(metrics, b"".join(json.dumps(line).encode() + b"\n" for line in told))
    for name in ("ledger-*.jsonl", "journal-*.bin"):
        for path in directory.glob(name):
            path.unlink()


def _advance(bar: Any, done: int) -> None:
    bar.update(done - bar.n)
