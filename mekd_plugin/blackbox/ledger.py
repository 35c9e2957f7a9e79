"""The ledger: how many images were sent to a teacher, by stage, within a budget that is never exceeded.

Each question is written down before it is asked, so that the count is never too low, even if the process is killed. A
batch whose answer was lost before it was kept is *uncertain*: it counts, and it counts again when it is asked again. A
batch that the service refused before doing any work does not count. Threads take turns; a forked process is refused.
"""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mekd_plugin.blackbox.journal import Journal
from mekd_plugin.blackbox.ledger_file import LedgerFile, read_ledger
from mekd_plugin.blackbox.spending import EARLIER, LOST, NO_IMAGES, Question, Spending
from mekd_plugin.checks import as_whole
from mekd_plugin.errors import CheckpointError, InputError, QueryBudgetExceeded
from mekd_plugin.files import writable_directory

__all__ = ["EARLIER", "LOST", "Ledger", "Peers"]


def _alone(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Peers:
    """The processes of one run, which share a budget and ask in step.

    Attributes:
        rank: of this process, from 0.
        world: how many there are.
        gather: returns, on every process, the CPU tensors of all of them, concatenated along the first axis in the
            order of ranks. The tensors may differ in length along that axis, and may be empty.
    """

    rank: int = 0
    world: int = 1
    gather: Callable[[Tensor], Tensor] = _alone


class Ledger:
    """Counts the images that a teacher is asked about.

    In a run of several processes each ledger counts the images of all processes, and all raise an error together. Each
    process must call ``intend`` as often as the others, with no images if it has none to send.

    Args:
        budget: images that may be sent in all; None for no limit.
        bought_with: what set that number, such as ``"cost_limit=20"``, for messages.

    Attributes:
        budget: as given.
        peers: the processes of the run; set by the loop where there are several.

    Raises:
        InputError: the budget is not a whole number from 0.
    """

    def __init__(self, budget: int | None = None, *, bought_with: str = "") -> None:
        if budget is not None:
            budget = as_whole("budget", budget, at_least=0, of="images", otherwise="None for no limit", strict=True)
        self._budget = budget
        self._bought_with = bought_with
        self.peers = Peers()
        self._spending = Spending()
        self._pending: dict[int, Question] = {}
        self._last = -1
        self._lock = threading.RLock()
        self._owner = os.getpid()
        self._serial = 0
        self._file: LedgerFile | None = None
        self._attached: set[Path] = set()

    @property
    def by_stage(self) -> dict[str, int]:
        """Images sent, by stage, in the order in which the stages first asked (a copy)."""
        return dict(self._spending.sent)

    @property
    def total(self) -> int:
        """Images sent; an image sent twice counts twice."""
        return self._spending.total

    @property
    def evaluation(self) -> int:
        """Images sent to measure a student; they are not part of ``total``, ``by_stage`` or the budget."""
        return self._spending.evaluation

    @property
    def distinct(self) -> int:
        """Different images among ``total``."""
        return self._spending.distinct

    @property
    def uncertain(self) -> int:
        """Images among ``total`` without an answer: it was lost, or has not come yet."""
        return sum(self._spending.unkept.values())

    @property
    def budget(self) -> int | None:
        """Images that may be sent in all; None for no limit. It cannot be changed."""
        return self._budget

    @property
    def limit(self) -> str:
        """The budget in words, for a message: ``"the query budget of 13,333 (cost_limit=20)"``."""
        return f"the query budget of {self.budget:,}" + (f" ({self._bought_with})" if self._bought_with else "")

    @property
    def remaining(self) -> int | None:
        """Images that may still be sent; None without a budget."""
        return None if self.budget is None else self.budget - self.total

    def available(self, stage: str) -> int | None:
        """What the stages before ``stage`` left of the budget; None without one.

        The number is the same when a resumed run comes to ``stage`` again.
        """
        if self.budget is None:
            return None
        stages = list(self._spending.sent)
        before = set(stages[: stages.index(stage)] if stage in stages else stages) | {EARLIER, LOST}
        return self.budget - sum(count for name, count in self._spending.sent.items() if name in before)

    def check_process(self) -> None:
        """Check that this is the process that made the ledger.

        Raises:
            InputError: it is a fork of that process.
        """
        if os.getpid() != self._owner:
            raise InputError(
                f"a teacher is asked in process {os.getpid()}, but process {self._owner} made its black box and counts "
                "its queries: ask in that process. In a Dataset with num_workers, return the images and ask about the "
                "batch in the training loop; with several processes of a launcher, make a black box in each of them"
            )

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Within it, no other thread can ask.

        Raises:
            InputError: this process is a fork of the ledger's own, so nothing would be counted.
        """
        self.check_process()
        with self._lock:
            yield

    def check_budget(self, count: int, stage: str) -> None:
        """Check that the budget covers ``count`` more images.

        Raises:
            QueryBudgetExceeded: it does not; the message lists what each stage has spent.
        """
        if self.remaining is not None and count > self.remaining:
            raise QueryBudgetExceeded(
                f"asking about {count:,} images for {stage!r} would pass {self.limit}: "
                f"{self.total:,} are spent ({self._spending}) and {self.remaining:,} remain; "
                "nothing was sent. Raise the budget, or ask about fewer images"
            )

    def intend(self, fingerprints: Tensor, stage: str, *, evaluation: bool = False, in_turn: bool = False) -> int:
        """Count images as sent, and write that down, before they are sent.

        After an error nothing was counted, and nothing may be sent.

        Args:
            fingerprints: ``(n,)`` int64 on the CPU, one for each image that this process will send.
            stage: under which they are counted.
            evaluation: count them separately, outside the budget.
            in_turn: whether the caller has its turn already, perhaps by another thread that waits for this one.

        Returns:
            The number of this question in this process's file, from 1; 0 if it has no images.

        Raises:
            QueryBudgetExceeded: they would exceed the budget.
            InputError: the file cannot be written, or this process is a fork of the ledger's own.
        """
        if not isinstance(stage, str) or not stage:
            raise InputError(f"stage={stage!r}: expected the name of what the images are sent for")
        with nullcontext() if in_turn else self.in_turn():
            everyone = self.peers.gather(fingerprints)
            if not evaluation:
                self.check_budget(len(everyone), stage)
            if len(fingerprints):
                self._write_intent(Question(stage, len(fingerprints), evaluation), fingerprints.numpy())
            question = Question(stage, len(everyone), evaluation)
            serial = self._serial if len(fingerprints) else 0
            self._spending.send(question, everyone.numpy(), serial)
            self._pending[serial], self._last = question, serial
            return serial

    def settle(self, serial: int | None = None) -> None:
        """Note that a question was answered and its answers were kept; None means the last one."""
        serial = self._last if serial is None else serial
        if serial not in self._pending:
            return
        question = self._pending.pop(serial)
        if serial and self._file is not None:
            # Not synced: if the machine stops here, the batch stays uncertain, and the count is never too low.
            self._file.keep(serial, sync=False)
        self._spending.keep(question, serial)

    def leave(self, serial: int) -> None:
        """Note that a question will have no answer, which leaves its images uncertain."""
        self._pending.pop(serial, None)
        self._spending.close(serial)

    def take_back(self, serial: int | None = None) -> None:
        """Uncount a question, None the last one: the service refused it and did no work.

        Other processes of the run still count it until they read the files again.
        """
        serial = self._last if serial is None else serial
        if serial not in self._pending:
            return
        question = self._pending.pop(serial)
        if serial and self._file is not None:
            self._file.take_back(serial)
        self._spending.take_back(question, serial)

    def attach(
        self, directory: str | Path | None, rank: int = 0, *, journal: Journal | None = None, at_least: int = 0
    ) -> bool:
        """Begin or resume a run whose counts are kept in ``directory``.

        All files ``ledger-<rank>.jsonl`` are read; this process appends to its own. A budget is the teacher's and not
        the run's, so what this ledger had counted before is carried over, under the stage ``"earlier runs"``. If other
        files know of more images than the ledger's, that file was cut, emptied or lost: the difference is counted, with
        a warning.

        Args:
            directory: where the run is kept; None keeps it in memory only.
            rank: this process's.
            journal: this process's; its questions are counted under their own stages.
            at_least: how many images all processes had sent, according to other files of the run. The difference counts
                under ``"lost from the ledger"``, and as uncertain.

        Returns:
            Whether anything had been asked in that directory before.

        Raises:
            InputError: the directory cannot be written.
            CheckpointError: a file in it is damaged.
        """
        self.check_process()
        self.detach()
        if directory is None:
            self._spending = self._spending.folded()
            return False
        folder = writable_directory(Path(directory)).resolve()
        own = self._file = LedgerFile(folder / f"ledger-{rank}.jsonl")
        if journal is not None and (restored := own.restore(journal)):
            knew = own.spending.total + own.spending.evaluation
            _warn_of_loss(own.path, knew, knew + restored, "they count again under their stages")
        self._serial = own.serial
        # No process reads before all have repaired their own files ...
        at_least = int(self.peers.gather(torch.tensor([at_least])).max())
        found = Spending()
        for path in sorted(folder.glob("ledger-*.jsonl"), key=_rank_of):
            read_ledger(path, found)
        self.peers.gather(torch.zeros(1))  # ... and none goes on before all have read
        goes_on = bool(found.total or found.evaluation or at_least)
        in_files, known = found.total, found if folder in self._attached else Spending()
        self._carry_over(found, known, write=rank == 0)
        # The run's other files know nothing of what this ledger counted elsewhere.
        in_run = self.total if folder in self._attached else in_files
        self._attached.add(folder)
        if missing := max(0, at_least - in_run):
            _warn_of_loss(own.path, in_run, at_least, f"they count as {LOST!r}, and as uncertain")
            if rank == 0:
                self._write_intent(Question(LOST, missing), NO_IMAGES)
            self._spending.send(Question(LOST, missing), NO_IMAGES)
        return goes_on

    def detach(self) -> None:
        """Close the file; what was counted stays counted."""
        if self._file is not None:
            self._file.close()
        self._file, self._pending = None, {}

    def as_record(self) -> dict[str, Any]:
        """``{"by_stage": {...}, "total": n, "distinct": n, "uncertain": n, "evaluation": n}``, for a run's record."""
        return {
            "by_stage": self.by_stage,
            "total": self.total,
            "distinct": self.distinct,
            "uncertain": self.uncertain,
            "evaluation": self.evaluation,
        }

    def __str__(self) -> str:
        limit = "" if self.budget is None else f" of {self.budget:,}"
        lost = f", {self.uncertain:,} uncertain" if self.uncertain else ""
        beside = f"; {self.evaluation:,} for evaluation beside them" if self.evaluation else ""
        return f"{self.total:,}{limit} images sent, {self.distinct:,} distinct{lost} ({self._spending}){beside}"

    __repr__ = __str__

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.RLock()

    def _write_intent(self, question: Question, fingerprints: np.ndarray, *, kept: bool = False) -> None:
        self._serial += 1
        if self._file is not None:
            self._file.announce(question, fingerprints, self._serial)
            if kept:
                self._file.keep(self._serial)

    def _carry_over(self, found: Spending, known: Spending, *, write: bool) -> None:
        """Go on from ``found``, plus whatever this ledger had counted that is not in ``known``."""
        lost = max(0, self.uncertain - sum(known.unkept.values()))
        kept = max(0, self.total - known.total - lost)
        new = np.setdiff1d(self._spending.numbers(), found.numbers())
        if kept:
            question = Question(EARLIER, kept)
            if write:
                self._write_intent(question, new, kept=True)
            found.send(question, new)
            found.keep(question)
        if lost:
            question = Question(EARLIER, lost)
            if write:
                self._write_intent(question, new)
            found.send(question, new)
        if evaluated := max(0, self.evaluation - known.evaluation):
            question = Question(EARLIER, evaluated, evaluation=True)
            if write:
                self._write_intent(question, NO_IMAGES, kept=True)
            found.send(question, NO_IMAGES)
        self._spending = found


def _warn_of_loss(path: Path, knew: int, known: int, how: str) -> None:
    warnings.warn(
        f"{path} knows of {knew:,} images and other files of the run of {known:,}: it was cut, emptied or lost. The "
        f"missing {known - knew:,} are taken as sent; {how}",
        stacklevel=3,
    )


def _rank_of(path: Path) -> int:
    match = re.fullmatch(r"ledger-(\d+)\.jsonl", path.name)
    if match is None:
        raise CheckpointError(f"{path} is not a ledger of this package: expected ledger-<rank>.jsonl; move it away")
    return int(match[1])
