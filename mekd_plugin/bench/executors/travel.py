"""Files of a run that is done on another machine: they go there before it, and come home before each question.

Home is the machine of the benchmark, and its disk holds the truth. A worker begins with what home has of a run, and
:meth:`Luggage.send` brings back what changed since: right before a question leaves, when the ledger has counted it, at
each evaluation, and at the end. So home knows of every question before the teacher does, and a worker that is lost with
its disk loses no more than a killed process: the answers to one batch, which count as uncertain, and some training.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mekd_plugin.errors import MekdError
from mekd_plugin.files import writable_directory, write_atomically

__all__ = ["GIVEN", "Change", "Home", "Luggage", "StaleAttempt"]

GIVEN = "given"
"""The folder of files that only go out, such as a teacher's."""

_BLOCK = 2**16
_COMPLETE = "complete.json"
_ARRIVING = ".arriving"


class StaleAttempt(MekdError):
    """A worker that was taken for dead reports, and another one has its run by now; nothing of it is kept."""


class Change(NamedTuple):
    """A file that changed.

    Attributes:
        name: relative, with slashes; ``out/...`` or ``cache/...``.
        start: how many of its first bytes are as home has them.
        content: those that follow.
    """

    name: str
    start: int
    content: bytes


class Home:
    """Hands runs' files out, and takes them back; one process of the benchmark's machine.

    Args:
        out: the benchmark's directory; ``out/...`` on the worker.
        cache: that of trained teachers; ``cache/...`` on the worker.
    """

    def __init__(self, out: Path, cache: Path) -> None:
        self._out, self._cache = out, cache
        self._attempts: dict[str, int] = {}
        for folder in sorted((out / _ARRIVING).glob("*")):  # of a benchmark that was killed
            self._settle(folder)

    def begin(self, key: str, names: Sequence[str], given: str | None = None) -> tuple[int, dict[str, bytes]]:
        """The number of this attempt at a job, from 1, and the files that it starts from.

        Args:
            key: of the job. Whoever has an earlier attempt under way is not listened to from here on.
            names: what to hand out, as patterns of relative names.
            given: a file of any place to hand out besides, as ``given/...``.
        """
        attempt = self._attempts[key] = self._attempts.get(key, 0) + 1
        found = sorted({path for name in names for path in self._files(name)})
        files = {self._name(path): path.read_bytes() for path in found}
        if given is not None:
            files[f"{GIVEN}/{Path(given).name}"] = Path(given).read_bytes()
        return attempt, files

    def receive(self, key: str, attempt: int, changes: Sequence[Change], gone: Sequence[str]) -> None:
        """Take in what changed, all of it or nothing, and on the disk when this returns.

        Raises:
            StaleAttempt: the job was begun anew.
        """
        if attempt != self._attempts.get(key):
            raise StaleAttempt(f"attempt {attempt} at {key} goes on after another began: it stops here")
        folder = self._out / _ARRIVING / key
        shutil.rmtree(folder, ignore_errors=True)
        staged: list[str] = []
        for name, start, content in changes:
            path = self._path(name)
            if start:
                with path.open("rb") as file:
                    content = file.read(start) + content
            if name.startswith("cache/"):  # perhaps on another disk; its name says what it holds
                write_atomically(writable_directory(path.parent) / path.name, content)
            else:
                write_atomically(writable_directory(folder) / str(len(staged)), content)
                staged.append(name)
        if staged or gone:
            content = json.dumps({"staged": staged, "gone": list(gone)}).encode()
            write_atomically(writable_directory(folder) / _COMPLETE, content)
            self._settle(folder)

    def _settle(self, folder: Path) -> None:
        """Put what arrived whole into its place, and forget what did not; may be repeated after a kill."""
        try:
            arrived = json.loads((folder / _COMPLETE).read_bytes())
        except FileNotFoundError:
            arrived = {"staged": [], "gone": []}
        for number, name in enumerate(arrived["staged"]):
            path = self._path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if (folder / str(number)).exists():
                os.replace(folder / str(number), path)
        for name in arrived["gone"]:
            self._path(name).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        root, *parts = PurePosixPath(name).parts
        if root not in ("out", "cache") or not parts or ".." in parts:
            raise MekdError(f"{name!r} is no file of a run: expected out/... or cache/...")
        return (self._out if root == "out" else self._cache).joinpath(*parts)

    def _name(self, path: Path) -> str:
        root, base = ("out", self._out) if path.is_relative_to(self._out) else ("cache", self._cache)
        return PurePosixPath(root, path.relative_to(base)).as_posix()

    def _files(self, name: str) -> Iterator[Path]:
        root, _, pattern = name.partition("/")
        base = self._out if root == "out" else self._cache
        return (path for path in base.glob(pattern) if path.is_file() and not _stays(path))


@dataclass(frozen=True)
class _Known:
    """A file as home has it: how it looked on the disk, and digests of its blocks."""

    look: tuple[int, int, int]
    blocks: tuple[bytes, ...]


class Luggage:
    """The files of a run away from home.

    Args:
        folder: an empty one of this machine.
        files: what home handed out.
        send: takes changes and the names of files that are gone, and returns when home has them.
    """

    def __init__(
        self, folder: Path, files: dict[str, bytes], send: Callable[[list[Change], list[str]], object]
    ) -> None:
        self._folder, self._send = folder, send
        self._known: dict[str, _Known] = {}
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            self._known[name] = _Known(_look(path), _blocks(content))

    def send(self) -> None:
        """Bring home what changed since the last time. To be called by the run itself, while it writes nothing."""
        changes: list[Change] = []
        seen: dict[str, _Known] = {}
        for path in _below(self._folder):
            name = path.relative_to(self._folder).as_posix()
            known, look = self._known.get(name), _look(path)
            if known is not None and known.look == look:
                seen[name] = known
                continue
            content = path.read_bytes()
            blocks = _blocks(content)
            same = _shared(known.blocks, blocks) if known is not None else 0
            seen[name] = _Known(look, blocks)
            if known is None or blocks != known.blocks:
                changes.append(Change(name, same * _BLOCK, content[same * _BLOCK :]))
        gone = sorted(self._known.keys() - seen.keys())
        if changes or gone:
            self._send(changes, gone)
        self._known = seen


def _below(folder: Path) -> Iterator[Path]:
    """The files to bring home, at any depth."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not _stays(path) and not _unfinished(path))


def _stays(path: Path) -> bool:
    """Whether a file means something on its own machine only: locks, and files half written."""
    return path.name.startswith(".") or path.suffix == ".lock" or path.name == "run.holder.json"


def _unfinished(path: Path) -> bool:
    """Whether a file is a bank's column that is being filled: a killed run draws it again from its journal."""
    if path.suffix != ".npy":
        return False
    marker = path.parent / "bank.json"
    return not marker.exists() or path.name not in marker.read_text()


def _look(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _blocks(content: bytes) -> tuple[bytes, ...]:
    starts = range(0, len(content), _BLOCK)
    return tuple(hashlib.blake2b(content[start : start + _BLOCK], digest_size=16).digest() for start in starts)


def _shared(before: Iterable[bytes], now: Iterable[bytes]) -> int:
    """How many whole blocks at the beginning are the same."""
    count = 0
    for one, other in zip(before, now, strict=False):
        if one != other:
            break
        count += 1
    return count
