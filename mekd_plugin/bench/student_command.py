"""``mekd student DIR``: what a saved student is, and what it would be on an edge."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from mekd_plugin.training.saved_student import SavedStudent, load_student

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
    lines = [*_lines(saved), "", str(saved.profile(images, threads=threads, int8=int8))]
    if int8 is not None:
        lines.append(f"int8: {int8}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _lines(saved: SavedStudent) -> list[str]:
    about, (low, high) = saved.about, saved.about["value_range"]
    names = "" if about["classes"] is None else f": {', '.join(about['classes'])}"
    steps = (
        ""
        if about.get("transform") is None
        else f"; files go through {', '.join(name for name, _ in about['transform'])}"
    )
    lines = [
        f"{about['network'] or about['module']}, images {saved.image_shape} in [{low:g}, {high:g}]{steps}",
        f"{about['num_classes']} classes{names}",
    ]
    if (told := about.get("held_out")) is not None:
        share, low, high = (100 * told[name] for name in ("value", "low", "high"))
        lines.append(
            f"agrees with its teacher on {share:.1f} % [{low:.1f}, {high:.1f}] of {told['images']:,} "
            f"held-out {told['on']}"
        )
    return lines
