"""Who owns a run's directory: the process that works in it, and the run that it holds."""

from __future__ import annotations

import json
import os
import platform
import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from filelock import FileLock, Timeout

from mekd_plugin.errors import CheckpointError
from mekd_plugin.files import write_atomically

__all__ = ["DirectoryLock", "spent_by_then", "threads_of_run"]


_LONGEST_SETTING = 120
"""Characters of a setting in a message: a mapping of hyperparameters may be far longer."""
_HELD: WeakValueDictionary[Path, DirectoryLock] = WeakValueDictionary()
"""The directories that this process holds, each with its lock."""


class DirectoryLock:
    """One run at a time in a directory; the system lets go of it when its process ends, however it ends.

    Args:
        directory: the run's.
        let_go: called where another run of this process takes the directory over from an idle one.

    Attributes:
        idle: whether the run waits for a host's loop; another run of this process may then take the directory over, as
            a notebook cell that is run again does.
    """

    def __init__(self, directory: Path, let_go: Callable[[], None]) -> None:
        self._path, self._let_go = directory.resolve() / "run.lock", let_go
        self._lock = FileLock(self._path)
        self._note = directory / "run.holder.json"
        self.idle = False

    def acquire(self) -> bool:
        """Take the directory, and note who did; returns whether nobody else had it."""
        earlier = _HELD.get(self._path)
        if earlier is not None and earlier.idle:
            earlier.release()
            earlier._let_go()
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        _HELD[self._path] = self
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        note = {"process": os.getpid(), "machine": platform.node(), "since": since}
        write_atomically(self._note, json.dumps(note).encode())
        return True

    def release(self) -> None:
        """Release it to others."""
        if self._lock.is_locked:
            _HELD.pop(self._path, None)
            self._note.unlink(missing_ok=True)
            self._lock.release()

    def holder(self) -> str:
        """Who has it, in words."""
        try:
            note = json.loads(self._note.read_text())
            return f"{note['process']} on {note['machine']}, since {note['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "which has not noted its number yet"


def threads_of_run(path: Path, signature: str) -> int:
    """The number of threads that a kept run computes with, if it is the run of ``signature``.

    Args:
        path: its ``run.json``.
        signature: that of the run asked for.

    Raises:
        CheckpointError: the file cannot be read, or is another run's; the message says how they differ.
    """
    try:
        known: dict[str, Any] = json.loads(path.read_text())
        there, threads = str(known["signature"]), int(known["threads"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} does not say which run it is ({type(error).__name__}: {error}): put the file back, or start the "
            "run in another directory"
        ) from error
    if there != signature:
        raise CheckpointError(
            f"{path.parent} holds another run: {_difference(there, signature)}; resume with the same settings, or name "
            "another directory"
        )
    return threads


def spent_by_then(directory: Path | None) -> int:
    """Images that a kept run had sent by its last line of metrics; 0 if that is not known."""
    if directory is None:
        return 0
    largest = 0
    try:
        lines = (directory / "metrics.jsonl").read_bytes().splitlines()
    except OSError:
        return 0
    for line in lines:
        try:
            largest = max(largest, int(json.loads(line).get("queries", 0)))
        except (ValueError, TypeError, AttributeError):
            continue
    return largest


def _difference(there: str, wanted: str) -> str:
    """What differs between two signatures: ``seed=0 there, seed=1 asked for``."""
    theirs, ours = _settings(there), _settings(wanted)
    gone, new = ((Counter(one) - Counter(other)).elements() for one, other in ((theirs, ours), (ours, theirs)))
    told = [" ".join(_shortened(part) for part in parts) for parts in (gone, new)]
    if not any(told):
        return "the same settings in another order"
    return f"{told[0] or 'nothing of it'} there, {told[1] or 'nothing of it'} asked for"


def _settings(signature: str) -> list[str]:
    """Its parts, ``name=value`` each; a value may hold spaces."""
    return re.split(r" (?=[\w.]+=)", signature)


def _shortened(part: str) -> str:
    return part if len(part) <= _LONGEST_SETTING else f"{part[:_LONGEST_SETTING]}..."
