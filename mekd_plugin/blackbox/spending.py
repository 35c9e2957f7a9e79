"""What was spent on a teacher, as numbers and as the lines of a ledger's file.

A line announces a question before it is asked, ``{"ask": images, "serial": n, "stage": name, "images": fingerprints}``;
another says that its answer was kept, ``{"kept": n}``.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mekd_plugin.blackbox.image_hashes import DistinctCounter
from mekd_plugin.errors import CheckpointError

__all__ = ["EARLIER", "FIRST_LINE", "Spending", "line", "read_ledger"]

EARLIER = "earlier runs"
"""The stage under which a run finds what was spent before it began."""

FIRST_LINE = {"mekd ledger": 1}


@dataclass
class Spending:
    """Images sent by stage, those of them whose answers were not kept, and the fingerprints of them all."""

    sent: dict[str, int] = field(default_factory=dict)
    unkept: dict[str, int] = field(default_factory=dict)
    seen: DistinctCounter = field(default_factory=DistinctCounter)

    def send(self, stage: str, count: int, fingerprints: np.ndarray) -> None:
        if count:
            self.sent[stage] = self.sent.get(stage, 0) + count
            self.unkept[stage] = self.unkept.get(stage, 0) + count
            self.seen.add(fingerprints)

    def keep(self, stage: str, count: int) -> None:
        self.unkept[stage] = self.unkept.get(stage, 0) - count

    def folded(self) -> Spending:
        """The same, all of it under the stage ``"earlier runs"``."""
        total, unkept = sum(self.sent.values()), sum(self.unkept.values())
        return Spending({EARLIER: total} if total else {}, {EARLIER: unkept}, self.seen)

    def __str__(self) -> str:
        return ", ".join(f"{stage} {count:,}" for stage, count in self.sent.items()) or "nothing yet"


def line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def read_ledger(path: Path, spending: Spending) -> tuple[int, int, int | None]:
    """Add a file's entries to ``spending``.

    Returns:
        Bytes of the file that are whole lines; the last question's number (0 for none); that number again if its
        answer was not kept, else None.
    """
    length, serial, unkept = 0, 0, None
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    open_questions: dict[int, tuple[str, int]] = {}
    for number, text in enumerate(lines, start=1):
        try:
            if not text.endswith(b"\n"):
                raise ValueError("a line without an end")
            entry = json.loads(text)
            if number == 1:
                if entry != FIRST_LINE:
                    raise CheckpointError(f"{path} is not a ledger that this version can read: move it away")
            elif "ask" in entry:
                serial, unkept = entry["serial"], entry["serial"]
                images = np.frombuffer(base64.b64decode(entry["images"]), dtype="<i8").astype(np.int64)
                open_questions[serial] = (entry["stage"], entry["ask"])
                spending.send(entry["stage"], entry["ask"], images)
            else:
                spending.keep(*open_questions.pop(entry["kept"]))
                unkept = None
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break  # torn by a kill while it was written: what it announced was never asked
            raise CheckpointError(
                f"{path} is damaged in line {number} ({error}): what was spent can no longer be told; restore the "
                "file, or start a new run in another directory"
            ) from error
        length += len(text)
    return length, serial, unkept
