"""The installed methods as a table: what `mekd list` prints, and README shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mekd_plugin.registry import distillers

__all__ = ["NEEDS", "as_markdown", "methods", "written_into"]

NEEDS = ("responses", "leaves_edge", "pool", "queries", "gradients")
"""Attributes of a method's needs that a listing shows."""
_LEAST_FIRST = ("nothing of the edge", "synthetic images", "mixtures", "real images")
_ANSWERS = {"soft": "soft", "hard": "hard", "either": "soft or hard"}
_BEGIN, _END = "<!-- methods: python docs/methods_table.py writes them -->", "<!-- end of the methods -->"


def methods(*, needs: bool = False) -> list[dict[str, Any]]:
    """A row for each method of every installed package, by name.

    Args:
        needs: whether to load each method, and say what it needs and where it is from; else metadata is all that is
            read.

    Returns:
        ``{"name", "aliases", "package"}``, and with ``needs`` the names in :data:`NEEDS` and ``"reference"``.

    Raises:
        MekdError: a method cannot be loaded.
    """
    registry, rows = distillers(), list[dict[str, Any]]()
    for entry in registry.entries():
        row: dict[str, Any] = {"name": entry.name, "aliases": list(entry.aliases), "package": entry.owner}
        if needs:
            method = registry.get(entry.name)
            row |= {name: getattr(method.needs, name) for name in NEEDS} | {"reference": method.reference}
        rows.append(row)
    return rows


def as_markdown(rows: Iterable[Mapping[str, Any]]) -> str:
    """The table of README: those that send the least come first, then by name; rows of :func:`methods` with needs."""
    lines = [
        "| name | alias | leaves the edge | images from | asks | answers | source |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (_LEAST_FIRST.index(row["leaves_edge"]), row["name"])):
        cells = [
            f"`{row['name']}`",
            ", ".join(f"`{alias}`" for alias in row["aliases"]),
            row["leaves_edge"],
            {"edge": "the edge", "none": "nowhere"}.get(row["pool"], row["pool"]),
            {"rounds": "in rounds"}.get(row["queries"], row["queries"]),
            _ANSWERS[row["responses"]] + (", **gradients**" if row["gradients"] else ""),
            row["reference"],
        ]
        lines.append("| " + " | ".join(cells).replace("|  |", "| |") + " |")
    return "\n".join(lines)


def written_into(text: str, table: str) -> str:
    """A page with ``table`` between its two marks.

    Raises:
        ValueError: the page has no marks.
    """
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {_BEGIN!r} and {_END!r}: put them where the table belongs")
    return f"{before}{_BEGIN}\n{table}\n{_END}{after}"
