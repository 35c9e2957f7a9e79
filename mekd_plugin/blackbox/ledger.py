"""The ledger: every image that was sent to a teacher, by stage, and the budget that is never passed.

What is about to be asked is written down before it is asked, so a process that is killed never under-counts. A batch
whose answer was lost between asking and keeping is *uncertain*: it is counted, and will be asked, and counted, again.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mekd_plugin.blackbox.spending import EARLIER, FIRST_LINE, Spending, line, read_ledger
from mekd_plugin.errors import CheckpointError, InputError, QueryBudgetExceeded
from mekd_plugin.files import AppendedFile, writable_directory

__all__ = ["EARLIER", "Ledger", "Peers"]


def _alone(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Peers:
    """The processes of one run, which share a budget and ask in step.

    Attributes:
        rank: of this process, from 0.
        world: how many there are.
        gather: CPU tensors, of any length along the first axis (0 too) and else alike -> their concatenation along it
            in the order of ranks, on every process.
    """

    rank: int = 0
    world: int = 1
    gather: Callable[[Tensor], Tensor] = _alone


class Ledger:
    """What was spent on asking a teacher.

    In a run of several processes every ledger holds the numbers of all of them, and all raise together; each must then
    call ``intend`` as often as the others, with no image where it has none to send.

    Args:
        budget: images that may be sent in all; None for no limit.

    Attributes:
        budget: as given.
        processes: set by the loop in a run of several processes.

    Raises:
        InputError: a budget that is no whole number from 0.
    """

    def __init__(self, budget: int | None = None) -> None:
        if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int) or budget < 0):
            raise InputError(f"budget={budget!r}: expected a whole number of images from 0, or None for no limit")
        self._budget = budget
        self.processes = Peers()
        self._spending = Spending()
        self._pending: tuple[int, str, int] | None = None
        self._serial = 0
        self._file: AppendedFile | None = None
        self._attached: set[Path] = set()

    @property
    def by_stage(self) -> dict[str, int]:
        """Images sent, by stage, in the order in which the stages first asked (a copy)."""
        return dict(self._spending.sent)

    @property
    def total(self) -> int:
        """Images sent; an image sent twice counts twice."""
        return sum(self._spending.sent.values())

    @property
    def distinct(self) -> int:
        """Different images sent."""
        return len(self._spending.seen)

    @property
    def uncertain(self) -> int:
        """Images among ``total`` whose answers were not kept: lost with a killed process, or still awaited."""
        return sum(self._spending.unkept.values())

    @property
    def budget(self) -> int | None:
        """Images that may be sent in all; None without a limit. It is set once."""
        return self._budget

    @property
    def remaining(self) -> int | None:
        """Images that may still be sent; None without a budget."""
        return None if self.budget is None else self.budget - self.total

    def available(self, stage: str) -> int | None:
        """What the stages before ``stage`` left of the budget: the same number when ``stage`` is replayed.

        Returns:
            None without a budget.
        """
        if self.budget is None:
            return None
        stages = list(self._spending.sent)
        before = set(stages[: stages.index(stage)] if stage in stages else stages) | {EARLIER}
        return self.budget - sum(count for name, count in self._spending.sent.items() if name in before)

    def check_budget(self, count: int, stage: str) -> None:
        """Refuse ``count`` further images if they would pass the budget.

        Raises:
            QueryBudgetExceeded: they would; what was spent is said by stage.
        """
        if self.remaining is not None and count > self.remaining:
            raise QueryBudgetExceeded(
                f"asking about {count:,} images for {stage!r} would pass the query budget of {self.budget:,}: "
                f"{self.total:,} are spent ({self._spending}) and {self.remaining:,} remain; "
                "nothing was sent. Raise the budget, or ask about fewer images"
            )

    def intend(self, fingerprints: Tensor, stage: str) -> int:
        """Count images as sent, and write that down, before they are sent.

        Args:
            fingerprints: ``(n,)`` int64 on the CPU, one for each image this process will send.
            stage: what they are sent for.

        Returns:
            The number of this question in this process's file, from 1; 0 for one without images.

        Raises:
            QueryBudgetExceeded: they would pass the budget; then nothing is counted, and nothing may be sent.
            InputError: the intention cannot be written down; likewise.
        """
        if not isinstance(stage, str) or not stage:
            raise InputError(f"stage={stage!r}: expected the name of what the images are sent for")
        everyone = self.processes.gather(fingerprints)
        self.check_budget(len(everyone), stage)
        if len(fingerprints):
            self._write_intent(len(fingerprints), stage, fingerprints.numpy())
        self._spending.send(stage, len(everyone), everyone.numpy())
        serial = self._serial if len(fingerprints) else 0
        self._pending = (serial, stage, len(everyone))
        return serial

    def settle(self) -> None:
        """The images last intended were answered, and the answers kept."""
        if self._pending is None:
            return
        serial, stage, count = self._pending
        if serial and self._file is not None:
            # Not synced: if the machine stops here, the batch is called uncertain, which errs on the honest side.
            self._file.append(line({"kept": serial}), sync=False)
        self._spending.keep(stage, count)
        self._pending = None

    def attach(self, directory: str | Path | None, rank: int = 0, *, answered: int | None = None) -> None:
        """Begin, or go on with, a run whose spending is kept in ``directory``.

        Every ``ledger-<rank>.jsonl`` there is read; this process appends to its own. What this ledger had counted
        before is carried over as the stage ``"earlier runs"``: a budget is the teacher's, not the run's.

        Args:
            directory: where the run is kept; None for a run that is kept in memory only.
            rank: of this process.
            answered: number of the last question whose answer was kept elsewhere, which settles it.

        Raises:
            InputError: the directory cannot be written.
            CheckpointError: a file in it is damaged.
        """
        self.detach()
        if directory is None:
            self._spending = self._spending.folded()
            return
        folder = writable_directory(Path(directory)).resolve()
        own = folder / f"ledger-{rank}.jsonl"
        own_spending = Spending()
        length, self._serial, unkept = read_ledger(own, own_spending) if own.exists() else (0, 0, None)
        self._file = AppendedFile(own, length)
        if length == 0:
            self._file.append(line(FIRST_LINE))
        if unkept is not None and unkept == answered:
            self._file.append(line({"kept": unkept}))
        self.processes.gather(torch.zeros(1))  # nobody reads before everybody has put its own file right ...
        found = Spending()
        for path in sorted(folder.glob("ledger-*.jsonl"), key=_rank_of):
            read_ledger(path, found)
        self.processes.gather(torch.zeros(1))  # ... and nobody goes on before everybody has read
        known = found if folder in self._attached else Spending()
        self._carry_over(found, known, write=rank == 0)
        self._attached.add(folder)

    def detach(self) -> None:
        """Let go of the directory; what was counted stays counted."""
        if self._file is not None:
            self._file.close()
        self._file = self._pending = None

    def as_record(self) -> dict[str, Any]:
        """``{"by_stage": {...}, "total": n, "distinct": n, "uncertain": n}``, for a run's record."""
        return {
            "by_stage": self.by_stage,
            "total": self.total,
            "distinct": self.distinct,
            "uncertain": self.uncertain,
        }

    def __str__(self) -> str:
        limit = "" if self.budget is None else f" of {self.budget:,}"
        lost = f", {self.uncertain:,} uncertain" if self.uncertain else ""
        return f"{self.total:,}{limit} images sent, {self.distinct:,} distinct{lost} ({self._spending})"

    def _write_intent(self, count: int, stage: str, fingerprints: np.ndarray, *, kept: bool = False) -> None:
        self._serial += 1
        if self._file is not None:
            images = base64.b64encode(fingerprints.astype("<i8").tobytes()).decode()
            self._file.append(line({"ask": count, "serial": self._serial, "stage": stage, "images": images}))
            if kept:
                self._file.append(line({"kept": self._serial}))

    def _carry_over(self, found: Spending, known: Spending, *, write: bool) -> None:
        """Take over ``found``, and with it what this ledger had counted that ``known`` does not hold."""
        lost = max(0, self.uncertain - sum(known.unkept.values()))
        kept = max(0, self.total - sum(known.sent.values()) - lost)
        new = np.setdiff1d(self._spending.seen.numbers(), found.seen.numbers())
        for count, is_kept in ((kept, True), (lost, False)):
            if count and write:
                self._write_intent(count, EARLIER, new, kept=is_kept)
            if count:
                found.send(EARLIER, count, new)
            if is_kept:
                found.keep(EARLIER, count)
        self._spending = found


def _rank_of(path: Path) -> int:
    match = re.fullmatch(r"ledger-(\d+)\.jsonl", path.name)
    if match is None:
        raise CheckpointError(f"{path} is not a ledger of ours: expected ledger-<rank>.jsonl; move it away")
    return int(match[1])
