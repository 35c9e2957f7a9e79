"""What a teacher's name stands for: a network to train here, a file, a function, a service, or recorded answers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

__all__ = ["ASKED", "digest_of_teacher", "file_of_teacher", "kind_of_teacher"]

ASKED = ("onnx", "function", "service", "recorded")
"""Kinds of teachers that are no modules here, and can only be asked."""


def kind_of_teacher(name: str) -> Literal["onnx", "file", "function", "service", "recorded", "network"]:
    """What a teacher's name stands for; a ``"network"`` is trained by the benchmark."""
    if name.startswith(("http://", "https://")):
        return "service"
    if name.startswith("recorded:"):
        return "recorded"
    if name.endswith(".onnx"):
        return "onnx"
    if "@" in name or name.endswith((".safetensors", ".pt", ".pth")):
        return "file"
    return "function" if ":" in name and not name.startswith("torchvision:") else "network"


def file_of_teacher(teacher: str) -> Path | None:
    """The file that a teacher's name names, of recorded answers their table; None where it names none that is there."""
    if kind_of_teacher(teacher) == "service":
        return None
    path = Path(teacher.removeprefix("recorded:").rpartition("@")[2])
    path = next((found for name in ("bank.json", "answers.csv") if (found := path / name).is_file()), path)
    return path if path.is_file() else None


def digest_of_teacher(teacher: str) -> str | None:
    """A hash of a teacher's file: another file under the old name is another teacher."""
    path = file_of_teacher(teacher)
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()[:12]
