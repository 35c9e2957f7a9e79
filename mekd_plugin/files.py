"""Files that survive a killed process: written whole and renamed, or only ever appended to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import platformdirs

from mekd_plugin.errors import InputError

__all__ = ["AppendedFile", "bundled", "cache_directory", "cannot_write", "write_atomically", "writable_directory"]

CACHE_VARIABLE = "MEKD_CACHE"


def cache_directory() -> Path:
    """``$MEKD_CACHE``, or the platform's directory for what can be made again."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("mekd-plugin", appauthor=False))


def bundled(name: str) -> Path:
    """A folder that the wheel carries (``configs``, ``tutorials``), or the source tree's if that is where we run.

    Raises:
        InputError: there is no such folder.
    """
    package = Path(__file__).parent
    for place in (package.parent / name, package / "bundled" / name):
        if place.is_dir() and ((place.parent / "pyproject.toml").exists() or place.parent.name == "bundled"):
            return place
    raise InputError(f"this installation carries no {name}: install the package again")


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that a reader, or a process killed meanwhile, sees the old file or the new one.

    Raises:
        InputError: the disk is full or the directory cannot be written; no partial file stays behind.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        # A temporary file is its owner's alone; the finished one is for all who may look into the directory.
        os.chmod(temporary, path.parent.stat().st_mode & 0o666)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def writable_directory(path: Path) -> Path:
    """``path``, created where it was missing, after a probe that it can be written to.

    Raises:
        InputError: it cannot be created or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


class AppendedFile:
    """A file that only grows; once ``append`` returns, its record is on the disk, whole.

    Args:
        path: the file, made if it does not exist.
        length: bytes of it to keep: what follows them is a torn record of a killed process, and is cut off.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, path: Path, length: int) -> None:
        self._path, self._length, self._whole = path, length, True
        try:
            self._file = path.open("ab", buffering=0)
            self._file.truncate(length)
        except OSError as error:
            raise cannot_write(path, error) from error

    def append(self, record: bytes, *, at: int | None = None, sync: bool = True) -> None:
        """Write ``record`` at the end; ``sync`` waits until the disk has it, and not just the operating system.

        A write that fails, or is interrupted (Ctrl-C), leaves the file as it was.

        Args:
            record: the bytes.
            at: where the file ends as far as the caller knows: what follows was appended by a call that was interrupted
                before the caller took note of it, and is cut off. None trusts the file.
            sync: whether to wait for the disk.

        Raises:
            InputError: the disk is full, or the file cannot be written any more.
        """
        end = self._length if at is None else at
        if not self._whole or end != self._length:
            self._file.truncate(end)
        self._length, self._whole = end, False
        try:
            remaining = memoryview(record)
            while remaining:
                remaining = remaining[self._file.write(remaining) or 0 :]
            if sync:
                os.fsync(self._file.fileno())
            self._length, self._whole = end + len(record), True
        except BaseException as error:
            self._length, self._whole = end, False  # should even the next line be interrupted
            self._file.truncate(end)
            if isinstance(error, OSError):
                raise cannot_write(self._path, error) from error
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def cannot_write(path: Path, error: OSError) -> InputError:
    """The error for a file that the system would not let be written."""
    return InputError(f"cannot write {path}: {error.strerror or error}; free some space or name another directory")
