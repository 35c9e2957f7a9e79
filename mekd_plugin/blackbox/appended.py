"""A file that survives a killed process, because it is only ever appended to, record by record."""

from __future__ import annotations

import os
from pathlib import Path

from mekd_plugin.errors import InputError

__all__ = ["AppendedFile", "cannot_write"]


class AppendedFile:
    """A file that only grows; what ``append`` returned from is on the disk, whole.

    Args:
        path: of the file, made if it does not exist.
        length: bytes of it to keep: what lies behind them is a torn record of a killed process, and is cut.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, path: Path, length: int) -> None:
        self._path, self._length = path, length
        try:
            self._file = path.open("ab", buffering=0)
            self._file.truncate(length)
        except OSError as error:
            raise cannot_write(path, error) from error

    def append(self, record: bytes, *, sync: bool = True) -> None:
        """Write ``record`` at the end; ``sync`` waits until the disk has it, and not just the operating system.

        A write that fails leaves the file as it was.

        Raises:
            InputError: the disk is full, or the file cannot be written any more.
        """
        try:
            remaining = memoryview(record)
            while remaining:
                remaining = remaining[self._file.write(remaining) or 0 :]
            if sync:
                os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(self._length)
            raise cannot_write(self._path, error) from error
        self._length += len(record)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def cannot_write(path: Path, error: OSError) -> InputError:
    """The error for a file that the system would not let be written."""
    return InputError(f"cannot write {path}: {error.strerror or error}; free some space or name another directory")
