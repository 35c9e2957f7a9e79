"""Files that are whole or not there: temporary file, flush to disk, rename."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mekd_plugin.errors import InputError

__all__ = ["bundled", "write_atomically", "writable_directory"]


def bundled(name: str) -> Path:
    """A folder that the wheel carries (``configs``, ``tutorials``), or of the source tree where we are used from there.

    Raises:
        InputError: there is none.
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
        raise _cannot_write(path, error) from error
    try:
        # A temporary file is its owner's alone; the finished one is for all who may look into the directory.
        os.chmod(temporary, path.parent.stat().st_mode & 0o666)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
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
        raise _cannot_write(path, error) from error
    return path


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot write {path}: {error.strerror or error}; free some space or name another directory")
