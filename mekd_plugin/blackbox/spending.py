"""What was spent on a teacher, as numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mekd_plugin.blackbox.image_hashes import DistinctCounter

__all__ = ["EARLIER", "LOST", "NO_IMAGES", "Question", "Spending", "Staged"]

EARLIER = "earlier runs"
"""The stage under which a run finds what was spent before it began."""

LOST = "lost from the ledger"
"""The stage of images that other files of the run know of, and its ledger no longer."""

NO_IMAGES = np.empty(0, dtype=np.int64)


class Question(NamedTuple):
    """Images that were asked about at once."""

    stage: str
    images: int
    evaluation: bool = False


@dataclass
class Spending:
    """Images sent by stage, those of them whose answers were not kept, and the fingerprints of them all.

    Images sent for an evaluation are counted apart, by their number alone.
    """

    sent: dict[str, int] = field(default_factory=dict)
    unkept: dict[str, int] = field(default_factory=dict)
    seen: DistinctCounter = field(default_factory=DistinctCounter)
    evaluation: int = 0
    _open: dict[int, np.ndarray] = field(default_factory=dict)  # of questions that may yet be taken back, by number

    @property
    def total(self) -> int:
        return sum(self.sent.values())

    @property
    def distinct(self) -> int:
        return (
            len(np.unique(np.concatenate([self.seen.numbers(), *self._open.values()])))
            if self._open
            else len(self.seen)
        )

    def send(self, question: Question, fingerprints: np.ndarray, serial: int = 0) -> None:
        """Count a question; ``serial`` tells it from others that are open at the same time."""
        stage, count, evaluation = question
        if evaluation:
            self.evaluation += count
        elif count:
            self.sent[stage] = self.sent.get(stage, 0) + count
            self.unkept[stage] = self.unkept.get(stage, 0) + count
            self.close(serial)
            self._open[serial] = fingerprints

    def keep(self, question: Question, serial: int = 0) -> None:
        stage, count, evaluation = question
        if not evaluation:
            self.unkept[stage] = self.unkept.get(stage, 0) - count
            self.close(serial)

    def close(self, serial: int) -> None:
        """The question will not be taken back any more."""
        if serial in self._open:
            self.seen.add(self._open.pop(serial))

    def take_back(self, question: Question, serial: int = 0) -> None:
        """The question was refused before any work: it cost nothing."""
        stage, count, evaluation = question
        if evaluation:
            self.evaluation -= count
        elif count:
            self.sent[stage] -= count
            self.unkept[stage] -= count
            self._open.pop(serial, None)
            if not self.sent[stage]:
                del self.sent[stage], self.unkept[stage]

    def numbers(self) -> np.ndarray:
        """The different fingerprints, sorted."""
        for serial in list(self._open):
            self.close(serial)
        return self.seen.numbers()

    def folded(self) -> Spending:
        """The same, all of it under the stage ``"earlier runs"``."""
        self.numbers()
        total, unkept = self.total, sum(self.unkept.values())
        return Spending({EARLIER: total} if total else {}, {EARLIER: unkept}, self.seen, self.evaluation)

    def __str__(self) -> str:
        return ", ".join(f"{stage} {count:,}" for stage, count in self.sent.items()) or "nothing yet"


class Staged:
    """Something whose queries count for a stage that can be named for a while."""

    _stage: str

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Within it, queries count for the stage ``name``: ``with module.stage("test"): ...`` tells scoring apart."""
        before, self._stage = self._stage, name
        try:
            yield
        finally:
            self._stage = before
