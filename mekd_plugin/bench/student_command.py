"""``mekd student DIR``: what a saved student is, and what it would be on an edge."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from mekd_plugin.training.saved_student import load_student

__all__ = ["show"]


def show(directory: Path, *, images: Path | None, threads: int, int8: Path | None, console: Console) -> None:
    """Print what ``student.json`` says, and the student's profile on this machine.

    Args:
        directory: of ``result.save`` or ``mekd distill --out``.
        images: a folder of image files on which float32 and int8 are compared; None for noise.
        threads: that an operator may use.
        int8: where to write the quantised model; None keeps none.
        console: to print on.
    """
    saved = load_student(directory)
    lines = [str(saved), "", str(saved.profile(images, threads=threads, int8=int8))]
    if int8 is not None:
        lines.append(f"int8: {int8}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
