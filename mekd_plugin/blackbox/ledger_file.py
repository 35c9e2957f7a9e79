"""A ledger's file: lines that are only ever added.

A line announces a question before it is asked, ``{"ask": images, "serial": n, "stage": name, "images": fingerprints}``,
with ``"evaluation": true`` for one that no budget limits. Another says that its answer was kept, ``{"kept": n}``, or
that the service refused it and did no work, ``{"refused": n}``.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mekd_plugin.blackbox.journal import Journal
from mekd_plugin.blackbox.spending import EARLIER, LOST, NO_IMAGES, Question, Spending
from mekd_plugin.errors import CheckpointError
from mekd_plugin.files import AppendedFile

__all__ = ["LedgerFile", "read_ledger"]

_FIRST = {"mekd ledger": 2}


class LedgerFile:
    """The file that one process adds to.

    Args:
        path: of the file, made if it does not exist; a torn last line is cut.

    Attributes:
        path: as given.
        serial: number of the last question; 0 for none.
        spending: what the file said when it was opened.

    Raises:
        InputError: it cannot be written.
        CheckpointError: it is damaged anywhere but in its last line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spending = Spending()
        length, self.serial, self._unkept = read_ledger(path, self.spending) if path.exists() else Tail()
        self._file = AppendedFile(path, length)
        if length == 0:
            self._file.append(_line(_FIRST))

    def announce(self, question: Question, fingerprints: np.ndarray, serial: int) -> None:
        """A question is about to be asked; on disk when this returns."""
        self._file.append(_announcement(question, serial, fingerprints))
        self.serial = serial

    def keep(self, serial: int, *, sync: bool = True) -> None:
        """Its answer was kept."""
        self._file.append(_line({"kept": serial}), sync=sync)

    def take_back(self, serial: int) -> None:
        """It was refused before any work."""
        self._file.append(_line({"refused": serial}), sync=False)

    def restore(self, journal: Journal) -> int:
        """Write down what the journal holds answers to and the file does not; returns its images."""
        last = journal.last_serial or 0
        for serial in sorted(self._unkept & journal.serials):  # killed between the answer and the line about it
            self.keep(serial)
        if self.serial >= last:
            return 0
        found: list[tuple[int, Question, np.ndarray]] = []
        forgotten = journal.forgotten
        if self.serial < forgotten.serial:
            known = self.spending.sent
            evaluated = self.spending.evaluation
            missing = []
            for question in forgotten.questions:
                told = min(question.images, evaluated if question.evaluation else known.get(question.stage, 0))
                evaluated -= told if question.evaluation else 0
                if told < question.images:
                    missing.append(question._replace(images=question.images - told))
            # Numbered up to the last: killed half-way, the next life still sees that some are missing.
            first = forgotten.serial + 1 - len(missing)
            found = [(first + index, question, NO_IMAGES) for index, question in enumerate(missing)]
        found += journal.questions_after(max(self.serial, forgotten.serial))
        for serial, question, fingerprints in found:
            self.announce(question, fingerprints, serial)
            self.keep(serial)
        self.serial = last
        return sum(question.images for _, question, _ in found)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class Tail(NamedTuple):
    """How a ledger's file ends.

    Attributes:
        length: bytes of it that are whole lines.
        serial: number of the last question; 0 for none.
        unkept: numbers of the questions whose answers were not kept.
    """

    length: int = 0
    serial: int = 0
    unkept: frozenset[int] = frozenset()


def read_ledger(path: Path, spending: Spending) -> Tail:
    """Add a file's entries to ``spending``.

    Raises:
        CheckpointError: it is damaged anywhere but in its last line, or of another version.
    """
    length, serial, _ = Tail()
    lines = path.read_bytes().splitlines(keepends=True)
    open_questions: dict[int, Question] = {}
    for number, text in enumerate(lines, start=1):
        try:
            if not text.endswith(b"\n"):
                raise ValueError("a line without an end")
            entry = json.loads(text)
            if number == 1:
                if entry != _FIRST:
                    raise CheckpointError(
                        f"{path} is not a ledger that this version can read: go on with the version that wrote it, or "
                        "start a new run in another directory"
                    )
            elif "ask" in entry:
                own, serial = entry["serial"], max(serial, entry["serial"])
                images = np.frombuffer(base64.b64decode(entry["images"]), dtype="<i8").astype(np.int64)
                question = Question(entry["stage"], entry["ask"], entry.get("evaluation", False))
                if question.stage not in (EARLIER, LOST) and len(images) not in (0, question.images):
                    raise ValueError(f"{question.images} images with {len(images)} fingerprints")
                open_questions[own] = question
                spending.send(question, images, own)
            else:
                refused = "refused" in entry
                own = entry["refused" if refused else "kept"]
                if own not in open_questions:
                    raise ValueError(f"question {own} is not open: did two processes write here at a time?")
                (spending.take_back if refused else spending.keep)(open_questions.pop(own), own)
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break  # torn by a kill while it was written: what it announced was never asked
            raise CheckpointError(
                f"{path} is damaged in line {number} ({error}): what was spent can no longer be told; restore the "
                "file, or start a new run in another directory"
            ) from error
        length += len(text)
    spending.numbers()  # what is open now will not be taken back any more
    return Tail(length, serial, frozenset(open_questions))


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _announcement(question: Question, serial: int, fingerprints: np.ndarray) -> bytes:
    images = base64.b64encode(fingerprints.astype("<i8").tobytes()).decode()
    entry = {"ask": question.images, "serial": serial, "stage": question.stage, "images": images}
    return _line({**entry, "evaluation": True} if question.evaluation else entry)
