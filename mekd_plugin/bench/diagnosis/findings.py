"""An answer to one of the questions: a sentence, the numbers, and what its figure needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Finding"]


@dataclass(frozen=True)
class Finding:
    """One answered question.

    Attributes:
        name: short, also used for the figure's file.
        question: as it is asked.
        sentence: what the numbers say about this run, in plain words.
        record: the numbers, JSON.
        results: the typed results that the figure is drawn from.
    """

    name: str
    question: str
    sentence: str
    record: dict[str, Any]
    results: dict[str, Any]
