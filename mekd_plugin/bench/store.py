"""Records on disk: one file per run, written whole, so that a kill at any moment leaves a readable directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from mekd_plugin.blackbox.ledger_file import read_ledger
from mekd_plugin.blackbox.spending import Spending
from mekd_plugin.errors import InputError, MekdError
from mekd_plugin.files import cannot_write, writable_directory, write_atomically
from mekd_plugin.records import Queries, Results, RunRecord

__all__ = ["Store", "is_finished", "spent_in", "write_record"]


class Store:
    """The directory of a benchmark.

    Args:
        out: created where missing.
        resume: whether to go on with results that are there already.

    Raises:
        InputError: it cannot be written, or holds results and ``resume`` is false.
    """

    def __init__(self, out: Path, *, resume: bool = False) -> None:
        try:
            is_file = out.exists() and not out.is_dir()
        except OSError as error:
            raise cannot_write(out, error) from error  # such as a name that is too long
        if is_file:
            raise InputError(f"{out} is a file: name a directory for the results")
        self.runs = out / "runs"
        if not resume and self.runs.is_dir() and any(self.runs.iterdir()):
            raise InputError(
                f"{out} holds results already: add --resume to go on (what is finished is not done again), or name "
                "another directory with --out"
            )
        self.out = writable_directory(out)
        writable_directory(self.runs)

    def directory(self, key: str) -> Path:
        """Where a run keeps its files."""
        return self.runs / key

    def read(self, key: str) -> RunRecord | None:
        """A run's record; None where there is none yet, or none that can be trusted, so that the run is done again."""
        try:
            record = RunRecord.from_json(json.loads((self.directory(key) / "record.json").read_text()))
        except (OSError, ValueError):
            return None
        return record if record.key == key else None  # another run's, in the wrong place

    def finished(self, key: str) -> bool:
        """Whether the run needs nothing more; a failed one is tried again."""
        record = self.read(key)
        return record is not None and record.status == "finished"

    def write(self, record: RunRecord) -> None:
        """Keep a record."""
        write_record(writable_directory(self.directory(record.key)) / "record.json", record)

    def write_failure(self, record: RunRecord) -> str:
        """Keep the record of a failed run where that can be done, with what it had spent until then; returns why it
        failed, and why it was not kept.
        """
        reason = record.error or "unknown"
        try:
            self.write(replace(record, queries=spent_in(self.directory(record.key))))
        except (MekdError, OSError) as error:  # a full disk must not take the others down
            return f"{reason}; its record could not be written: {error}"
        return reason

    @contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Hold a run, waiting for another process that holds it; the system lets go of a killed process's claims."""
        folder = writable_directory(self.directory(key))
        with FileLock(folder / "claim.lock"):
            yield

    def strangers(self, keys: set[str]) -> int:
        """How many recorded runs belong to other settings than those of ``keys``."""
        return sum(folder.name not in keys and (folder / "record.json").exists() for folder in self.runs.iterdir())

    def write_results(self, results: Results) -> Path:
        """Assemble ``results.json``."""
        path = self.out / "results.json"
        write_atomically(path, _encode(results.to_json()))
        return path


def is_finished(path: Path, key: str) -> bool:
    """Whether ``path`` is the record of the finished run ``key``; looking writes nothing."""
    try:
        record = RunRecord.from_json(json.loads(path.read_text()))
    except (OSError, ValueError):
        return False
    return record.key == key and record.status == "finished"


def spent_in(directory: Path) -> Queries:
    """What a run has asked by now, by the ledgers in its directory; 0 where there are none, or they are damaged."""
    spending = Spending()
    try:
        for path in sorted(directory.glob("ledger-*.jsonl")):
            read_ledger(path, spending)
    except (MekdError, OSError):
        return Queries()
    unkept = sum(spending.unkept.values())
    return Queries(dict(spending.sent), spending.total, spending.distinct, unkept, spending.evaluation)


def write_record(path: Path, record: RunRecord) -> None:
    """Write a run's record, whole."""
    write_atomically(path, _encode(record.to_json()))


def _encode(content: object) -> bytes:
    # JSON has no NaN: it would be written as such, and no other program could read it.
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
