"""What was spent on a teacher, as numbers and as the lines of a ledger's file.

A line announces a question before it is asked, ``{"ask": images, "serial": n, "stage": name, "images": fingerprints}``,
with ``"evaluation": true`` for one that no budget limits. Another says that its answer was kept, ``{"kept": n}``, or
that the service refused it and did no work, ``{"refused": n}``.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mekd_plugin.blackbox.image_hashes import DistinctCounter
from mekd_plugin.errors import CheckpointError

__all__ = ["EARLIER", "FIRST_LINE", "LOST", "NO_IMAGES", "Question", "Spending", "line", "question_line", "read_ledger"]

EARLIER = "earlier runs"
"""The stage under which a run finds what was spent before it began."""

LOST = "lost from the ledger"
"""The stage of images that other files of the run know of, and its ledger no longer."""

FIRST_LINE = {"mekd ledger": 2}
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
    _latest: np.ndarray = field(default_factory=NO_IMAGES.copy)  # of the last question, which may yet be taken back

    @property
    def total(self) -> int:
        return sum(self.sent.values())

    @property
    def distinct(self) -> int:
        return len(self.seen) if not len(self._latest) else len(np.union1d(self.seen.numbers(), self._latest))

    def send(self, question: Question, fingerprints: np.ndarray) -> None:
        stage, count, evaluation = question
        if evaluation:
            self.evaluation += count
        elif count:
            self.sent[stage] = self.sent.get(stage, 0) + count
            self.unkept[stage] = self.unkept.get(stage, 0) + count
            self._be_sure()
            self._latest = fingerprints

    def keep(self, question: Question) -> None:
        stage, count, evaluation = question
        if not evaluation:
            self.unkept[stage] = self.unkept.get(stage, 0) - count
            self._be_sure()

    def take_back(self, question: Question) -> None:
        """The last question was refused before any work: it cost nothing."""
        stage, count, evaluation = question
        if evaluation:
            self.evaluation -= count
        elif count:
            self.sent[stage] -= count
            self.unkept[stage] -= count
            self._latest = NO_IMAGES
            if not self.sent[stage]:
                del self.sent[stage], self.unkept[stage]

    def numbers(self) -> np.ndarray:
        """The different fingerprints, sorted."""
        self._be_sure()
        return self.seen.numbers()

    def folded(self) -> Spending:
        """The same, all of it under the stage ``"earlier runs"``."""
        self._be_sure()
        total, unkept = self.total, sum(self.unkept.values())
        return Spending({EARLIER: total} if total else {}, {EARLIER: unkept}, self.seen, self.evaluation)

    def _be_sure(self) -> None:
        if len(self._latest):
            self.seen.add(self._latest)
            self._latest = NO_IMAGES

    def __str__(self) -> str:
        return ", ".join(f"{stage} {count:,}" for stage, count in self.sent.items()) or "nothing yet"


def line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def question_line(question: Question, serial: int, fingerprints: np.ndarray) -> bytes:
    """The announcement of a question."""
    images = base64.b64encode(fingerprints.astype("<i8").tobytes()).decode()
    entry = {"ask": question.images, "serial": serial, "stage": question.stage, "images": images}
    return line({**entry, "evaluation": True} if question.evaluation else entry)


class Tail(NamedTuple):
    """How a ledger's file ends.

    Attributes:
        length: bytes of it that are whole lines.
        serial: number of the last question; 0 for none.
        unkept: that number again if its answer was not kept, else None.
    """

    length: int = 0
    serial: int = 0
    unkept: int | None = None


def read_ledger(path: Path, spending: Spending) -> Tail:
    """Add a file's entries to ``spending``.

    Raises:
        CheckpointError: it is damaged elsewhere than in its last line, or of another version.
    """
    length, serial, unkept = Tail()
    lines = path.read_bytes().splitlines(keepends=True)
    open_questions: dict[int, Question] = {}
    for number, text in enumerate(lines, start=1):
        try:
            if not text.endswith(b"\n"):
                raise ValueError("a line without an end")
            entry = json.loads(text)
            if number == 1:
                if entry != FIRST_LINE:
                    raise CheckpointError(
                        f"{path} is not a ledger that this version can read: go on with the version that wrote it, or "
                        "start a new run in another directory"
                    )
            elif "ask" in entry:
                serial, unkept = entry["serial"], entry["serial"]
                images = np.frombuffer(base64.b64decode(entry["images"]), dtype="<i8").astype(np.int64)
                question = Question(entry["stage"], entry["ask"], entry.get("evaluation", False))
                open_questions[serial] = question
                spending.send(question, images)
            elif "refused" in entry:
                spending.take_back(open_questions.pop(entry["refused"]))
                unkept = None
            else:
                spending.keep(open_questions.pop(entry["kept"]))
                unkept = None
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break  # torn by a kill while it was written: what it announced was never asked
            raise CheckpointError(
                f"{path} is damaged in line {number} ({error}): what was spent can no longer be told; restore the "
                "file, or start a new run in another directory"
            ) from error
        length += len(text)
    return Tail(length, serial, unkept)
