"""Published numbers as a table of their own: for the terminal, for Markdown and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape

from mekd_plugin.bench.published import PublishedResult, published_for
from mekd_plugin.bench.terminal_table import titled_table

__all__ = ["PUBLISHED_NOTE", "PUBLISHED_TITLES", "Published", "in_markdown", "in_terminal", "published_beside"]

PUBLISHED_TITLES = ("Published by others", "Accuracy %", "Teacher to student", "What differs from the runs above")
PUBLISHED_NOTE = (
    "These numbers were not measured here. They are copied from the sources below, from runs with other teachers, "
    "recipes and rules, so no comparison and no test includes them."
)
_NONE = "No published number is known here."
_NOT_KNOWN = "not known"


class Published(NamedTuple):
    """The published numbers beside one table of results.

    Attributes:
        title: what they have in common with that table.
        cells: for each number, a text for each of ``PUBLISHED_TITLES``; empty where nothing is known.
        notes: what the numbers are, and their sources, by the figures in brackets that cells point at them with.
    """

    title: str
    cells: list[list[str]]
    notes: list[str]


def published_beside(rows: Sequence[Mapping[str, Any]]) -> Published:
    """What is published about the data set and kind of answers of a table; those of the same networks come first.

    Args:
        rows: of the summary in ``results.json``, all of one panel.
    """
    first = rows[0]
    images = next((row["real_images"] for row in rows if row["real_images"] is not None), None)
    here = {**first, "real_images": images}
    found = published_for(first["dataset"], first["responses"])
    found.sort(key=lambda one: (one.teacher, one.student) != (first["teacher"], first["student"]))
    sources = list(dict.fromkeys((one.source, one.where, one.protocol) for one in found))
    marks = {source: f"[{number}]" for number, source in enumerate(sources, start=1)}
    cells = []
    for one in found:
        mark = marks[one.source, one.where, one.protocol]
        differences = _differences(one, here) or [f"see {mark}"]
        cells.append([f"{one.method} {mark}", one.accuracy, _networks(one), "; ".join(differences)])
    notes = [f"{mark} {source}; {where}. {protocol}." for (source, where, protocol), mark in marks.items()]
    about = f"Published for {first['dataset']}, {first['responses']} responses; not runs of this benchmark"
    return Published(about, cells, [PUBLISHED_NOTE, *notes] if cells else [_NONE])


def in_markdown(block: Published) -> list[str]:
    """Lines of one table, with its heading and its notes."""
    lines = [f"## {block.title}", ""]
    if block.cells:
        lines += ["| " + " | ".join(PUBLISHED_TITLES) + " |", "|---|---:|---|---|"]
        lines += ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in block.cells]
        lines.append("")
    return [*lines, *(f"- {note}" for note in block.notes), ""]


def in_terminal(block: Published, console: Console) -> None:
    """Print the table and its notes."""
    table = titled_table(block.title, narrow=True)
    for title in PUBLISHED_TITLES:
        table.add_column(title, justify="right" if title == "Accuracy %" else "left", overflow="fold")
    for row in block.cells:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table if block.cells else escape(block.title))
    for note in block.notes:
        console.print(f"- {escape(note)}", style="dim", highlight=False)


def _networks(one: PublishedResult) -> str:
    if one.teacher is None and one.student is None:
        return _NOT_KNOWN
    reached = f" ({one.teacher_accuracy} %)" if one.teacher_accuracy else ""
    return f"{one.teacher or _NOT_KNOWN}{reached} to {one.student or _NOT_KNOWN}"


def _differences(one: PublishedResult, here: Mapping[str, Any]) -> list[str]:
    """What a published number does not share with the table that it stands beside."""
    told = []
    if (one.teacher or here["teacher"]) != here["teacher"] or (one.student or here["student"]) != here["student"]:
        told.append("other networks")
    if one.responses is None:
        told.append(f"soft or hard {_NOT_KNOWN}")
    if here.get("answers", "full") != "full":
        told.append(f"answers in full (here {here['answers']})")
    budget = f"{here['budget']:,}" if here["budget"] else "no limit"
    queries = "queries not said" if one.queries is None else f"{one.queries:,} queries"
    if one.queries is None or one.queries != here["budget"]:
        told.append(f"{queries} (here {budget})")
    images = here["real_images"]
    if images is not None and one.images != round(images):
        said = "images not said" if one.images is None else f"{one.images:,} images at home"
        told.append(f"{said} (here {images:,.0f})")
    return [*told, one.differs] if one.differs else told
