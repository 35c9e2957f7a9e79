"""The look of a table of results in a terminal."""

from __future__ import annotations

from rich import box
from rich.markup import escape
from rich.table import Table

__all__ = ["titled_table"]


def titled_table(title: str, *, narrow: bool = False) -> Table:
    """An empty table below its title; ``narrow`` saves the space to the left of each cell."""
    return Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0) if narrow else (0, 1),
        pad_edge=False,
    )
