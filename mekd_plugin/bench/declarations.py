"""When each comparison of a benchmark was declared: before there was anything to compare, or afterwards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mekd_plugin.bench.comparisons import Comparison
from mekd_plugin.bench.statistics import compare
from mekd_plugin.errors import CheckpointError, InputError
from mekd_plugin.files import write_atomically
from mekd_plugin.records import RunRecord

__all__ = ["Declaration", "Declarations"]

_FILE = "declared.json"


@dataclass(frozen=True)
class Declaration:
    """A comparison, and when it was declared.

    Attributes:
        comparison: by the labels of rows.
        at: time, ISO 8601; None where an earlier version did not keep it.
        beforehand: whether no seed had finished both of its rows yet.
    """

    comparison: Comparison
    at: str | None
    beforehand: bool


class Declarations:
    """All comparisons that were ever declared for a directory of results; kept in ``declared.json`` there.

    Args:
        out: the benchmark's directory.

    Raises:
        CheckpointError: the file is damaged: whether something was declared beforehand can no longer be told.
    """

    def __init__(self, out: Path) -> None:
        self._path = out / _FILE
        self._known = self._read() if self._path.exists() else _of_an_earlier_version(out / "results.json")

    def declare(self, comparisons: Sequence[Comparison], records: Sequence[RunRecord]) -> None:
        """Write down those that are new, before anything else is run.

        Args:
            comparisons: of this call of the benchmark.
            records: what is known by now.
        """
        known = {one.comparison.identity for one in self._known}
        new = [one for one in comparisons if one.identity not in known]
        if not new:
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        seen = {(row["a"], row["b"], row["metric"]) for row in compare(records, new) if row["pairs"]}
        self._known += [Declaration(one, now, (one.a, one.b, one.metric) not in seen) for one in new]
        content = [{**vars(one.comparison), "at": one.at, "beforehand": one.beforehand} for one in self._known]
        write_atomically(self._path, (json.dumps(content, indent=1) + "\n").encode())

    def compared(self, comparisons: Sequence[Comparison], records: Sequence[RunRecord]) -> list[dict[str, Any]]:
        """The rows of ``results.json``: see :func:`~mekd_plugin.bench.statistics.compare`, and ``declared_at``."""
        told = {one.comparison.identity: one for one in self._known}
        now = {one.identity for one in comparisons}
        gone = [one.beforehand for one in self._known if one.comparison.identity not in now]
        late = [one for one in comparisons if one.identity in told and not told[one.identity].beforehand]
        rows = compare(records, comparisons, late, gone.count(True), gone.count(False))
        times = {(one.a, one.b, one.metric): told[one.identity].at for one in comparisons if one.identity in told}
        return [{**row, "declared_at": times.get((row["a"], row["b"], row["metric"]))} for row in rows]

    def _read(self) -> list[Declaration]:
        try:
            return [
                Declaration(Comparison(one["a"], one["b"], one["metric"]), one["at"], bool(one["beforehand"]))
                for one in json.loads(self._path.read_text())
            ]
        except (OSError, ValueError, KeyError, TypeError, InputError) as error:
            raise CheckpointError(
                f"{self._path} is damaged ({error}): when comparisons were declared can no longer be told. Restore it, "
                "or remove it: what is declared from then on counts as declared afterwards"
            ) from error


def _of_an_earlier_version(results: Path) -> list[Declaration]:
    """What results say that were written before declarations were kept."""
    try:
        rows = json.loads(results.read_text())["comparisons"]
        if any("declared" in row for row in rows):
            return []  # of this version, whose file is gone: nothing is believed
        found = {Comparison(row["a"], row["b"], row["metric"]): None for row in rows}
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return []
    return [Declaration(one, None, True) for one in found]
