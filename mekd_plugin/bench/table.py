"""The table of results: cells as text, for the terminal, for Markdown and for the report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as RichTable

from mekd_plugin.bench.comparison_table import (
    ComparisonRow,
    comparison_note,
    comparison_rows,
    comparisons_in_markdown,
)
from mekd_plugin.bench.pricing import format_price
from mekd_plugin.bench.published_table import in_markdown, published_beside
from mekd_plugin.bench.statistics import PANEL, panel_name
from mekd_plugin.bench.terminal_table import titled_table
from mekd_plugin.records import described_responses

__all__ = [
    "COLUMNS",
    "FAIR_PLAY",
    "Panel",
    "fair_play",
    "format_interval",
    "interval_note",
    "markdown",
    "panel_in_markdown",
    "panels",
    "terminal",
]

FAIR_PLAY = (
    "Every image sent to the teacher counts as a query, in every stage, each augmented view and each repeat included; "
    "only answers read again from the bank are free. An answer lost with a killed process counts too.",
    "The recipe is the same for all methods: steps, batch size, optimiser, unqueried augmentation. It stands in the "
    "settings. A method in rounds takes it whole in the last one; what it trains before (generators, surrogates, "
    "students of earlier rounds) comes on top, and is in its seconds.",
    "Presets are chosen on a split of the training images or on held-out answers, never on the test set. The accuracy "
    "is that of the last step.",
    "Best on test (†) is the highest test accuracy over the points of the learning curve: it is chosen on the test "
    "set, and is there to be compared with publications that do the same.",
    "Agreement is the share of test images on which student and teacher name the same class. Test images are answered "
    "for the evaluation only; no method sees those answers, and they are not in its queries.",
    "Methods that send only synthetic images keep the real ones at home. Those that send real images, or mixtures of "
    "them, do not: the gap between the two groups is the price of privacy.",
)


_RULES = {
    "calibration_error": "ECE is the student's expected calibration error on the test set, over 15 bins of its "
    "confidence: how far it is from being as sure as it is right.",
    "class_match": "Class match (`--audit`) is the share of images G(y) that the teacher puts into the class of the "
    "answer y that they were drawn for; the answers are its own to test images. The questions count for the evaluation "
    "only; the interval of a single run is Wilson's over them.",
    "adapted_accuracy": "Adapted is the accuracy of the same student's answers after they were adapted to the test "
    "images that came in together, without labels and without asking anybody.",
    "membership_auc": "Membership AUC: somebody who sees what was sent guesses which of two images the edge holds, by "
    "the nearest image sent. 0.5 is guessing, 1 is certainty. TPR is the share of the edge's images found while 1 % of "
    "others are taken for the edge's.",
}


class _Column(NamedTuple):
    title: str
    numeric: bool
    only_with: str | None = None


_ALL_COLUMNS = (
    _Column("Method", False),
    _Column("Accuracy %", True),
    _Column("Adapted %", True, "adapted_accuracy"),
    _Column("Best on test † %", True),
    _Column("Agreement %", True),
    _Column("ECE %", True, "calibration_error"),
    _Column("Class match %", True, "class_match"),
    _Column("Queries", True),
    _Column("Price", True, "price"),
    _Column("Leaves the edge", False),
    _Column("Membership AUC", True, "membership_auc"),
    _Column("TPR at 1 % FPR %", True, "membership_true_positives"),
    _Column("Pool", False),
    _Column("Seconds", True),
    _Column("Seeds", True),
)
COLUMNS = tuple(column for column in _ALL_COLUMNS if column.only_with is None)
"""The columns that every table has."""

_NOT_IN_TERMINAL = {"Best on test † %", "Pool", "Membership AUC", "TPR at 1 % FPR %"}
_NOT_IN_NARROW_TERMINAL = {*_NOT_IN_TERMINAL, "ECE %"}
_SHORT_TITLES = {"Class match %": "Match %", "Agreement %": "Agree %", "Leaves the edge": "Sent", "Seconds": "s"}
_OF_TEST_IMAGES = ("student_accuracy", "adapted_accuracy", "best_test_accuracy", "agreement")
_OTHER_INTERVALS = ("class_match", "calibration_error", "membership_auc", "membership_true_positives")
_UNLIMITED = 1000
_LONG_NAME = 16


class Panel(NamedTuple):
    """Rows that can be compared with each other: one data set, teacher, student, kind of response, and budget.

    Attributes:
        title: what they have in common, and the teacher's accuracy.
        rows: summary rows.
        cells: text for each row and column.
        notes: failures and warnings, a sentence each.
        compared: the declared comparisons of these rows.
        columns: ``COLUMNS``, and those of what some row has.
    """

    title: str
    rows: list[dict[str, Any]]
    cells: list[list[str]]
    notes: list[str]
    compared: list[ComparisonRow]
    columns: tuple[_Column, ...] = COLUMNS


def fair_play(parts: Sequence[Panel]) -> list[str]:
    """The rules of the comparison, and what the columns mean that not every table has."""
    shown = {column.only_with for part in parts for column in part.columns}
    return [*FAIR_PLAY, *(rule for name, rule in _RULES.items() if name in shown)]


def format_interval(interval: Mapping[str, Any] | None, *, unit: float = 0.01) -> str:
    """``97.96 ± 0.55`` over seeds, ``97.96 (97.80, 98.12)`` of two of them, ``97.96 [96.41, 98.85]`` over the images of
    one run; in per cent, or in ``unit``.
    """
    if interval is None:
        return "-"
    mean, low, high = (interval[name] / unit for name in ("mean", "low", "high"))
    if interval["kind"] == "t":
        return f"{mean:.2f} ± {(high - low) / 2:.2f}"
    if interval["kind"] == "seeds":
        return f"{mean:.2f} ({low:.2f}, {high:.2f})"
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]" if interval["kind"] in ("wilson", "attack") else f"{mean:.2f}"


def panels(summary: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]] = ()) -> list[Panel]:
    """The summary in comparable parts, in order of appearance, each with its comparisons of ``results.json``."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in summary:
        identity = tuple(row.get(name, "full") for name in PANEL)  # "answers" is new
        groups.setdefault(identity, []).append(dict(row))
    parts = []
    for rows in groups.values():
        own = [comparison for comparison in comparisons if comparison["panel"] == panel_name(rows[0])]
        parts.append(_panel(rows, comparison_rows(own)))
    return parts


def _panel(rows: list[dict[str, Any]], compared: list[ComparisonRow]) -> Panel:
    shown = [
        column.only_with is None or any(row.get(column.only_with) is not None for row in rows)
        for column in _ALL_COLUMNS
    ]
    cells = [[cell for cell, seen in zip(_cells(row), shown, strict=True) if seen] for row in rows]
    columns = tuple(column for column, seen in zip(_ALL_COLUMNS, shown, strict=True) if seen)
    return Panel(_title(rows), rows, cells, _notes(rows), compared, columns)


def markdown(parts: Sequence[Panel], *, published: bool = False) -> str:
    """Tables in Markdown, with the rules of the comparison below; at the end what others published, if wanted."""
    lines = [line for part in parts for line in panel_in_markdown(part)]
    lines += [interval_note(parts), "", "Fair play:", "", *(f"- {rule}" for rule in fair_play(parts))]
    if published:
        lines += ["", *(line for part in parts for line in in_markdown(published_beside(part.rows)))][:-1]
    return "\n".join(lines) + "\n"


def panel_in_markdown(part: Panel, heading: str = "##") -> list[str]:
    """Lines of one table, with its heading, its notes and its comparisons."""
    lines = [f"{heading} {part.title}", "", "| " + " | ".join(column.title for column in part.columns) + " |"]
    lines.append("|" + "|".join("---:" if column.numeric else "---" for column in part.columns) + "|")
    lines += ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in part.cells]
    lines += ["", *(f"- {note}" for note in part.notes), *([""] if part.notes else [])]
    return lines + comparisons_in_markdown(part.compared)


def terminal(part: Panel, console: Console) -> RichTable:
    """A table for the terminal, without the columns that are only in the files; shortened where it would be cut."""
    table = _terminal(part, narrow=False)
    fits = Measurement.get(console, console.options.update(width=_UNLIMITED), table).maximum <= console.width
    return table if fits else _terminal(part, narrow=True)


def interval_note(parts: Sequence[Panel]) -> str:
    """What the intervals in these tables are, and which tests are possible."""
    rows = [row for part in parts for row in part.rows]
    found = {
        (name, row[name]["kind"]) for row in rows for name in (*_OF_TEST_IMAGES, *_OTHER_INTERVALS) if row.get(name)
    }
    notes = {
        "± is half the 95 % interval of the mean over the seeds (Student's t).": {
            (name, "t") for name in (*_OF_TEST_IMAGES, *_OTHER_INTERVALS)
        },
        "Two seeds are too few for an interval: (a, b) are the two themselves.": {
            (name, "seeds") for name in (*_OF_TEST_IMAGES, *_OTHER_INTERVALS)
        },
        "[low, high] is Wilson's 95 % interval over the test images of a single run; it says nothing about other "
        "seeds.": {(name, "wilson") for name in _OF_TEST_IMAGES},
        "Of a class match, [low, high] is Wilson's 95 % interval over the questions of a single run's audit.": {
            ("class_match", "wilson")
        },
        "Of a membership attack, [low, high] is its 95 % interval over the images that it was made with, in a single "
        "run.": {(name, "attack") for name in _OTHER_INTERVALS},
    }
    told = [text for text, kinds in notes.items() if kinds & found]
    seeds = max((row["finished"] for row in rows), default=0)
    return " ".join([*told, comparison_note([part.compared for part in parts], seeds)])


def _terminal(part: Panel, *, narrow: bool) -> RichTable:
    table = titled_table(part.title, narrow=narrow)
    hidden = _NOT_IN_NARROW_TERMINAL if narrow else _NOT_IN_TERMINAL
    shown = [index for index, column in enumerate(part.columns) if column.title not in hidden]
    for index in shown:
        column = part.columns[index]
        title = _SHORT_TITLES.get(column.title, column.title) if narrow else column.title
        table.add_column(title, justify="right" if column.numeric else "left", no_wrap=True)
    for row in part.cells:
        cells = [_narrow(cell, interval=index <= 1) for index, cell in enumerate(row)] if narrow else row
        table.add_row(*(escape(cells[index]) for index in shown))
    return table


def _narrow(cell: str, *, interval: bool) -> str:
    """A cell in fewer characters: one decimal, the kind of images without the word, a long name in two lines."""
    if not interval:
        cell = re.sub(r" (±|\[|\(\d).*", "", cell)
    if "$" not in cell:
        cell = re.sub(r"\d+\.\d\d", lambda found: f"{float(found[0]):.1f}", cell)
    head, underscore, tail = cell.rpartition("_")
    return f"{head}{underscore}\n{tail}" if len(cell) > _LONG_NAME and underscore else cell.removesuffix(" images")


def _title(rows: Sequence[Mapping[str, Any]]) -> str:
    first = rows[0]
    known = next((row["teacher_accuracy"] for row in rows if row["teacher_accuracy"] is not None), None)
    images = next((row["real_images"] for row in rows if row["real_images"] is not None), None)
    parts = [
        f"{first['dataset']}: {first['teacher']}" + (f" ({100 * known:.2f} %)" if known is not None else ""),
        f" to {first['student']}, {described_responses(first)} responses",
        f", {images:,.0f} unlabelled images" if images is not None else "",
        f", at most {first['budget']:,} queries" if first["budget"] else ", no query budget",
    ]
    return "".join(parts)


def _cells(row: Mapping[str, Any]) -> list[str]:
    total = row["finished"] + row["failed"] + row["not_applicable"]
    return [
        row["label"] + (" (white box: a reference)" if row["white_box"] else ""),
        format_interval(row["student_accuracy"])
        if row["finished"]
        else "failed"
        if row["failed"]
        else "not applicable",
        format_interval(row.get("adapted_accuracy")),
        format_interval(row["best_test_accuracy"]),
        format_interval(row["agreement"]),
        format_interval(row.get("calibration_error")),
        format_interval(row.get("class_match")),
        "-" if row["queries"] is None else f"{row['queries']:,.0f}",
        format_price(row["price"]),
        row["leaves_edge"] or "-",
        format_interval(row.get("membership_auc"), unit=1),
        format_interval(row.get("membership_true_positives")),
        row["pool"] or "-",
        "-" if row["seconds"] is None else f"{row['seconds']:,.0f}",
        f"{row['finished']}" if row["finished"] == total else f"{row['finished']} of {total}",
    ]


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    out = []
    for row in rows:
        counts = {"failed": row["failed"], "not applicable": row["not_applicable"]}
        if said := ", ".join(f"{count} {word}" for word, count in counts.items() if count):
            out.append(f"{row['label']}: {said}: {'; '.join(row['errors'])}")
    return out + [f"{row['label']}: {warning}" for row in rows for warning in row["warnings"]]
