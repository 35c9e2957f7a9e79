"""A run's scalars over its steps: in memory, as JSON lines, and for TensorBoard where wanted."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from mekd_plugin.errors import MissingDependency
from mekd_plugin.files import write_atomically

__all__ = ["Metrics"]


class Metrics:
    """An append-only list of records such as ``{"stage": "alignment", "step": 50, "loss": 0.3}``.

    Args:
        path: JSON-lines file; records that it holds already are read up to the first damaged line. None keeps no file.
        tensorboard: directory for event files; None writes none.

    Raises:
        MissingDependency: ``tensorboard`` is asked for but not installed.
    """

    def __init__(self, path: Path | None = None, *, tensorboard: Path | None = None) -> None:
        self.history: list[dict[str, Any]] = []
        self._path = path
        self._board = None
        if path is not None and path.exists():
            lines = path.read_bytes().splitlines()
            for line in lines:
                record = _record(line)
                if record is None:
                    break
                self.history.append(record)
            if len(lines) - len(self.history) > 1:  # a killed process tears no more than the last line
                warnings.warn(
                    f"{path} is damaged from line {len(self.history) + 1} on: those scalars are lost; the weights are "
                    "not concerned",
                    stacklevel=2,
                )
            self.rewind(len(self.history))
        if tensorboard is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingDependency(
                    "TensorBoard is not installed; `pip install tensorboard`, or leave it out (metrics.jsonl is "
                    "written anyway)"
                ) from error
            self._board = SummaryWriter(str(tensorboard))

    @property
    def position(self) -> int:
        """How many records there are."""
        return len(self.history)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record."""
        self.history.append(record)
        if self._path is not None:
            with self._path.open("a") as stream:
                stream.write(json.dumps(record) + "\n")
        if self._board is not None:
            for name, value in record.items():
                if name not in ("stage", "step") and isinstance(value, int | float):
                    self._board.add_scalar(f"{record['stage']}/{name}", value, record["step"])

    def rewind(self, position: int) -> None:
        """Drop the records from ``position`` on."""
        del self.history[position:]
        if self._path is not None and (self._path.exists() or self.history):
            write_atomically(self._path, b"".join(json.dumps(record).encode() + b"\n" for record in self.history))

    def close(self) -> None:
        """Flush what TensorBoard has not written yet."""
        if self._board is not None:
            self._board.close()


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and {"stage", "step"} <= record.keys() else None
