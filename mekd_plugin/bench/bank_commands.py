"""What ``mekd bank export | import | show`` do and print, once their flags are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mekd_plugin.blackbox.remote.tables import Table, read_table, write_bank, write_table

__all__ = ["export", "show", "take_in"]


def export(directory: Path, out: Path, *, hashes: bool, console: Console) -> None:
    """Write the answers of a run's bank to ``out``."""
    table = read_table(directory)
    write_table(table, out, hashes_only=hashes)
    _say(f"{len(table):,} answers of {table.identity} are in {out}", console)


def take_in(source: Path, out: Path, settings: Mapping[str, Any], *, console: Console) -> None:
    """Make a bank of a table."""
    table = read_table(source, **settings)
    write_bank(table, out)
    _say(
        f"{len(table):,} answers of {table.identity} are the bank in {out}; `--teacher recorded:{out}` asks it", console
    )


def show(directory: Path, *, console: Console) -> None:
    """Print what the answers are, line by line."""
    for line in _lines(read_table(directory)):
        _say(line, console)


def _lines(table: Table) -> list[str]:
    response = table.response
    distinct = len(torch.unique(table.fingerprints))
    counts = torch.bincount(response.labels, minlength=response.num_classes)
    if table.images is None:
        left = f"{len(table):,} images, {distinct:,} distinct; only their fingerprints were kept"
    else:
        low, high = table.value_range
        shape = "x".join(map(str, table.images.shape[1:]))
        left = f"{len(table):,} images of {shape} in [{low:g}, {high:g}], {distinct:,} distinct"
    shares = ", ".join(f"{label}: {int(count):,}" for label, count in enumerate(counts[:20].tolist()))
    return [
        f"what left: {left}",
        f"what came back: {response.kind} about {response.num_classes} classes; {shares}"
        + (" ..." if len(counts) > 20 else ""),
        f"when: {table.answered or 'not noted'}",
        f"from: {table.teacher or 'not noted'}",
    ]


def _say(line: str, console: Console) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
