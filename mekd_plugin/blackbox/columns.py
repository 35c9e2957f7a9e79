"""The columns of a bank: tensors with one entry per row, in memory, or in a directory, mapped where they are large.

In a directory each column is one ``.npy`` file, and ``bank.json`` names the files that belong together, with their
checksums and what the bank is about. It is written last and renamed into place, so a fill that was killed leaves the
bank as it was before. NumPy has no bfloat16: such a column is stored as the int16 numbers of the same bits.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mekd_plugin.errors import DamagedFile, InputError
from mekd_plugin.files import cannot_write, writable_directory, write_atomically
from mekd_plugin.responses import Kind
from mekd_plugin.sealing import CHECKSUM, check_seal, file_checksum, seal

__all__ = ["Columns", "Fill", "Origin"]

_SCHEMA = 2
_SLACK = 0.01  # what rounding may add to a probability
_COPIED = 4096  # rows copied at a time when a bank grows


@dataclass(frozen=True)
class Fill:
    """How a fill ended: the rows there were, and the journal of its run with the position in it ("" for none)."""

    rows: int
    journal: str = ""
    position: int = 0


@dataclass(frozen=True)
class Origin:
    """Whose answers a bank holds, and to which images.

    Attributes:
        run: identity of the run that kept it; "" for none.
        teacher: its identity; "" before the first fill.
        value_range: smallest and largest pixel value of the images; None before the first fill.
        drawn_by: digest of the generator that drew the images; None where a method names none.
    """

    run: str = ""
    teacher: str = ""
    value_range: tuple[float, float] | None = None
    drawn_by: str | None = None


@dataclass(frozen=True)
class _Column:
    tensor: Tensor
    drawn: bool  # came with the rows; else computed from them later
    file: str | None = None
    mapped: np.ndarray | None = None
    checksum: str = ""  # of the file


class Columns:
    """Named columns that grow by whole fills: :meth:`write` any number of times, then :meth:`finish`.

    Args:
        memory_limit: bytes of a column above which it is mapped, if there is a directory.

    Attributes:
        rows: of the fills that were finished.
        fills: how each was finished, by the rows it was asked for.
        answers: kind and number of classes of the teacher's answers in them; None before the first.
        origin: where they come from.
    """

    def __init__(self, memory_limit: int) -> None:
        self._memory_limit = memory_limit
        self._directory: Path | None = None
        self._scratch: Path | None = None
        self._device: torch.device | str = "cpu"
        self._columns: dict[str, _Column] = {}
        self._unfinished: dict[str, _Column] = {}
        self._number = 0
        self.rows = 0
        self.fills: dict[int, Fill] = {}
        self.answers: tuple[Kind, int] | None = None
        self.origin = Origin()

    def __getitem__(self, name: str) -> Tensor:
        return self._columns[name].tensor

    def lengths(self) -> dict[str, int]:
        """Entries of each column."""
        return {name: len(column.tensor) for name, column in self._columns.items()}

    def to(self, device: torch.device | str) -> None:
        """Move the columns that are in memory, and those still to come; mapped ones stay on disk."""
        self._device = device
        self._columns = {name: self._placed(column) for name, column in self._columns.items()}

    def let_go(self) -> None:
        """Leave the directory as it is from here on: further columns are kept in memory."""
        self._directory = None

    def beside(self) -> Columns:
        """Empty ones that keep nothing: a large column of theirs lies in a file that goes with its last use."""
        other = Columns(self._memory_limit)
        other._scratch = self._directory
        return other

    def replaced(self, name: str, tensor: Tensor, answers: tuple[Kind, int]) -> Columns:
        """The same columns with another one in place of ``name``, in memory."""
        other = Columns(self._memory_limit)
        other._columns = {**self._columns, name: _Column(tensor, drawn=True)}
        other.rows, other.answers, other.origin = self.rows, answers, self.origin
        return other

    def keep(self, directory: str | Path, *, read_only: bool = False) -> None:
        """Keep the columns in ``directory``, and take over what finished fills left there.

        Raises:
            InputError: it cannot be written.
            DamagedFile: what is there is no longer what was written, or cannot be a bank.
        """
        self._directory = Path(directory) if read_only else writable_directory(Path(directory))
        marker = self._directory / "bank.json"
        if not marker.exists():
            return
        try:
            content = marker.read_bytes()
            found = json.loads(content)
            check_seal(content, found[CHECKSUM])
            if found["mekd bank"] != _SCHEMA:
                raise ValueError(f"schema {found['mekd bank']}, expected {_SCHEMA}")
            columns = {name: self._load(**entry) for name, entry in found["columns"].items()}
            rows, number, answers = int(found["rows"]), int(found["number"]), (found["kind"], int(found["num_classes"]))
            fills = {int(size): Fill(**fill) for size, fill in found["fills"].items()}
            origin = Origin(**found["origin"])
            if origin.value_range is not None:
                origin = replace(origin, value_range=(origin.value_range[0], origin.value_range[1]))
            short = [name for name, column in columns.items() if column.drawn and len(column.tensor) != rows]
            if short:
                raise ValueError(f"columns {short} have not {rows} rows")
            for name, column in columns.items():
                if column.drawn:
                    _check_content(name, column.tensor, answers)
            if not {"images", "response"} <= columns.keys():
                raise ValueError(f"columns {sorted(columns)}, expected images and response among them")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError) as error:
            raise DamagedFile(
                f"the bank in {self._directory} is damaged ({error}): put back a copy of the directory, or move it "
                "away to ask again, which the query budget has to pay for"
            ) from error
        self._columns, self.rows, self._number = columns, rows, number
        self.answers, self.fills, self.origin = answers, fills, origin

    def write(self, begin: int, size: int, columns: Mapping[str, Tensor], answers: tuple[Kind, int]) -> None:
        """Write rows from ``begin`` on, in a fill that will end with ``size`` rows.

        Raises:
            InputError: the columns are not those of the rows before, or the directory cannot hold them.
        """
        if self.answers not in (None, answers):
            raise InputError(f"responses of {answers} after responses of {self.answers}: expected one teacher a bank")
        before = self._unfinished or {name: column for name, column in self._columns.items() if column.drawn}
        if before and set(columns) != set(before):
            raise InputError(f"columns {sorted(columns)}: expected {sorted(before)}, as in the rows before")
        for name, column in columns.items():
            like = before[name].tensor if before else column
            if column.shape[1:] != like.shape[1:] or column.dtype != like.dtype:
                raise InputError(
                    f"column {name!r} holds {column.dtype} of shape {tuple(column.shape[1:])} a row: expected "
                    f"{like.dtype} of {tuple(like.shape[1:])}, as in the rows before"
                )
            if name not in self._unfinished:
                self._unfinished[name] = self._allocate(name, size, column, drawn=True)
                for start in range(0, self.rows, _COPIED):
                    stop = min(start + _COPIED, self.rows)
                    self._unfinished[name].tensor[start:stop] = self[name][start:stop]
            self._unfinished[name].tensor[begin : begin + len(column)] = column.detach()
        self.answers = answers

    def finish(self, asked_for: int, fill: Fill) -> None:
        """Make the unfinished fill the bank, at once and whole; columns added for fewer rows are dropped.

        Raises:
            InputError: the directory cannot hold it.
        """
        for name, column in self._unfinished.items():
            self._unfinished[name] = self._stored(name, self._cut(name, column, fill.rows))
        replaced: dict[str, _Column] = {}
        if self._unfinished:  # else no row came to those that there were
            replaced = self._columns
            self._columns, self._unfinished = {name: self._placed(c) for name, c in self._unfinished.items()}, {}
        self.rows = fill.rows
        self.fills[asked_for] = fill
        self._mark(replaced.values())

    def discard_unfinished(self) -> None:
        """Leave no trace of a fill that failed."""
        unfinished, self._unfinished = self._unfinished, {}
        if self._directory is not None:
            for name, column in unfinished.items():
                del column
                self._path(name).unlink(missing_ok=True)
        if not self.rows:
            self.answers = None

    def add(self, name: str, count: int, parts: Iterable[tuple[int, Tensor]]) -> None:
        """Add a column of ``count`` entries, handed in as ``(begin, entries)``; replaces one of that name."""
        column: _Column | None = None
        try:
            for begin, part in parts:
                column = column or self._allocate(name, count, part, drawn=False)
                column.tensor[begin : begin + len(part)] = part.detach()
        except BaseException:
            if column is not None and column.file is not None:
                self._path(name).unlink(missing_ok=True)
            raise
        if column is not None:
            replaced = [self._columns[name]] if name in self._columns else []
            self._columns[name] = self._placed(self._stored(name, column))
            self._mark(replaced)

    def _placed(self, column: _Column) -> _Column:
        return column if column.mapped is not None else replace(column, tensor=column.tensor.to(self._device))

    def _allocate(self, name: str, count: int, like: Tensor, *, drawn: bool) -> _Column:
        """Room for ``count`` entries shaped as those of ``like``: in memory, or in a mapped file."""
        shape = (count, *like.shape[1:])
        size = count * like[:1].numel() * like.element_size()
        if size <= self._memory_limit or (self._directory is None and self._scratch is None):
            return _Column(torch.empty(shape, dtype=like.dtype), drawn)
        dtype = _storable(name, like[:0]).numpy().dtype
        if self._directory is None:
            mapped = _mapped_without_name(self._scratch, shape, dtype)
            return _Column(torch.from_numpy(mapped).view(like.dtype), drawn, mapped=mapped)
        path = self._path(name)
        try:
            mapped = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            if hasattr(os, "posix_fallocate"):
                # A full disk is an error here; found out by a write to the map, it would kill the process.
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise cannot_write(path, error) from error
        return _Column(torch.from_numpy(mapped).view(like.dtype), drawn, path.name, mapped)

    def _cut(self, name: str, column: _Column, rows: int) -> _Column:
        """``column`` without the room for rows that were not answered."""
        if len(column.tensor) == rows:
            return column
        kept = _Column(column.tensor[:rows].clone(), column.drawn)
        if column.file is not None:
            self._path(name).unlink()  # before a shorter one is written in its place
        return kept

    def _stored(self, name: str, column: _Column) -> _Column:
        """``column``, on disk if there is a directory."""
        if self._directory is None:
            return column
        if isinstance(column.mapped, np.memmap):
            column.mapped.flush()
            return replace(column, checksum=file_checksum(self._path(name)))
        path = self._path(name)
        content = _storable(name, column.tensor).numpy()
        try:
            with path.open("wb") as file:
                np.save(file, content, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            path.unlink(missing_ok=True)
            raise cannot_write(path, error) from error
        return replace(column, file=path.name, checksum=file_checksum(path))

    def _load(self, file: str, drawn: bool, dtype: str, checksum: str) -> _Column:
        path = (self._directory or Path()) / file
        if file_checksum(path) != checksum:
            raise ValueError(f"the checksum of {file} differs")
        # Copy-on-write: PyTorch wants writable memory, the file must not change.
        mapped = np.load(path, mmap_mode="c", allow_pickle=False)
        kept = mapped if mapped.nbytes > self._memory_limit else None
        tensor = torch.from_numpy(np.array(mapped) if kept is None else mapped).view(getattr(torch, dtype))
        return _Column(tensor, drawn, file, kept, checksum)

    def _mark(self, replaced: Iterable[_Column]) -> None:
        """Write which files are the bank, then delete those that no longer are."""
        self._number += 1
        if self._directory is None or self.answers is None:
            return
        kind, num_classes = self.answers
        marker: dict[str, Any] = {
            "mekd bank": _SCHEMA,
            "rows": self.rows,
            "number": self._number,
            "kind": kind,
            "num_classes": num_classes,
            "origin": asdict(self.origin),
            "columns": {
                name: {
                    "file": column.file,
                    "drawn": column.drawn,
                    "dtype": str(column.tensor.dtype).removeprefix("torch."),
                    "checksum": column.checksum,
                }
                for name, column in self._columns.items()
            },
            "fills": {str(size): asdict(fill) for size, fill in self.fills.items()},
        }
        write_atomically(self._directory / "bank.json", seal(marker))
        for column in replaced:
            if column.file is not None:
                (self._directory / column.file).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        """File of a column that is being written; ``_number`` keeps it apart from the one it may replace."""
        return (self._directory or Path()) / f"{name}-{self._number}.npy"


def _mapped_without_name(directory: Path | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Room in a file of ``directory`` that has no name there: the system removes it with its last use."""
    size = math.prod(shape) * dtype.itemsize
    try:
        with TemporaryFile(dir=directory) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # as for a file with a name
            else:
                file.truncate(size)
            return np.memmap(file, dtype=dtype, mode="r+", shape=shape)
    except OSError as error:
        raise cannot_write(directory or Path(), error) from error


def _storable(name: str, tensor: Tensor) -> Tensor:
    """``tensor`` in a type that NumPy has, bit for bit."""
    tensor = tensor.detach().cpu()
    stored = tensor.contiguous().view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    try:
        stored[:0].numpy()
    except TypeError as error:
        raise InputError(f"column {name!r} is {tensor.dtype}, which no .npy file holds: use float32") from error
    return stored


def _check_content(name: str, column: Tensor, answers: tuple[str, int]) -> None:
    """Refuse what cannot be images, or answers of that kind about so many classes."""
    kind, classes = answers
    limits: tuple[float, float] = (-math.inf, math.inf)
    if name == "images":
        if column.dim() != 4 or not column.is_floating_point():
            raise ValueError(f"images of {column.dtype}, shape {tuple(column.shape)}")
    if name == "response":
        shape, floating = ((len(column),), False) if kind == "hard" else ((len(column), classes), True)
        if column.shape != shape or column.is_floating_point() != floating:
            raise ValueError(
                f"{kind} responses of {column.dtype}, shape {tuple(column.shape)}, expected "
                f"{'whole numbers' if kind == 'hard' else 'scores'} of shape {tuple(shape)} about {classes} classes"
            )
        if kind == "hard":
            limits = (0, classes - 1)
        elif kind == "probabilities":
            limits = (-_SLACK, 1 + _SLACK)
    for begin in range(0, len(column), _COPIED):
        part = column[begin : begin + _COPIED]
        if part.numel() == 0:
            continue
        low, high = (float(value) for value in part.aminmax())  # NaN if there is one
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"column {name!r} holds values that are not finite")
        if low < limits[0] or high > limits[1]:
            raise ValueError(f"column {name!r} holds values from {low:g} to {high:g}, expected {limits}")
