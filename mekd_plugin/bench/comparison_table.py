"""The table of declared comparisons: for the terminal, for Markdown and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.markup import escape
from rich.table import Table as RichTable

from mekd_plugin.bench.comparisons import ACCURACY
from mekd_plugin.bench.statistics import FEWEST_PAIRS, SIGNIFICANT, possible_tests

__all__ = [
    "COMPARISON_TITLES",
    "SHARES",
    "SIGNIFICANT",
    "ComparisonRow",
    "comparison_note",
    "comparison_rows",
    "comparisons_in_markdown",
    "comparisons_in_terminal",
    "format_difference",
    "format_probability",
]

COMPARISON_TITLES = ("Compared", "By", "Difference", "95 % interval", "p", "p, Holm", "Seeds")
AFTERWARDS = "declared afterwards"

SHARES = frozenset(
    {
        *("teacher_accuracy", ACCURACY, "best_test_accuracy", "agreement", "held_out_agreement", "adapted_accuracy"),
        "calibration_error",
        *("generator.class_match", "generator.coverage"),
    }
)
"""Numbers of a record that are shown in per cent."""


class ComparisonRow(NamedTuple):
    """A comparison in text.

    Attributes:
        cells: for each of ``COMPARISON_TITLES``.
        significant: whether the difference is, of a comparison that was declared beforehand.
        pairs: seeds that both rows have.
        beforehand: whether it was declared before there was anything to compare.
    """

    cells: list[str]
    significant: bool
    pairs: int = 0
    beforehand: bool = True


def comparison_rows(comparisons: Sequence[Mapping[str, Any]]) -> list[ComparisonRow]:
    """Comparisons of one panel, as ``results.json`` has them, in text."""
    return [_row(one) for one in comparisons]


def comparison_note(tables: Sequence[Sequence[ComparisonRow]], seeds: int) -> str:
    """What tables of comparisons show, and which tests are possible; without any, that all is descriptive.

    Args:
        tables: the comparisons of each panel.
        seeds: how many the rows of the panels have at most.
    """
    rows = [row for table in tables for row in table]
    if not rows:
        return f"No comparison was declared, so nothing here is tested: all is descriptive. {possible_tests(seeds)}"
    pairs = max(row.pairs for row in rows)
    early = max(sum(row.beforehand for row in table) for table in tables)
    when = "Comparisons were declared before anything ran"
    if late := sum(not row.beforehand for row in rows):
        when = f"Comparisons were declared before anything ran, but for {late} {AFTERWARDS}, when there were results"
    return (
        f"{when}. Difference: mean over the seeds that both rows finished, first less second, in points for shares; "
        "interval and p of the paired t-test, two-sided; p corrected by Holm for the comparisons of the table. Bold: "
        f"declared beforehand, and corrected p below {SIGNIFICANT}; all else is descriptive. "
        f"{possible_tests(pairs, max(early, 1))}"
    )


def comparisons_in_markdown(rows: Sequence[ComparisonRow]) -> list[str]:
    """Lines of a table, with an empty one at its end; none where nothing was declared."""
    if not rows:
        return []
    lines = ["| " + " | ".join(COMPARISON_TITLES) + " |", "|---|---|" + "---:|" * (len(COMPARISON_TITLES) - 2)]
    for row in rows:
        cells = [cell.replace("|", r"\|") for cell in row.cells]
        if row.significant:
            cells[2] = f"**{cells[2]}**"
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def comparisons_in_terminal(rows: Sequence[ComparisonRow]) -> RichTable:
    """A table for the terminal."""
    table = RichTable(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for index, title in enumerate(COMPARISON_TITLES):
        table.add_column(title, justify="left" if index < 2 else "right")
    for row in rows:
        table.add_row(*map(escape, row.cells), style="bold" if row.significant else None)
    return table


def format_difference(comparison: Mapping[str, Any]) -> tuple[str, str]:
    """A difference and its interval in text, with their signs; in points (hundredths) for accuracies and shares."""
    if comparison["difference"] is None:
        return "-", "-"
    share = comparison["metric"] in SHARES

    def signed(value: float) -> str:
        return f"{100 * value:+.2f}" if share else f"{value:+,.4g}"

    interval = comparison["interval"]
    ends = "-" if interval is None else f"[{signed(interval[0])}, {signed(interval[1])}]"
    return signed(comparison["difference"]), ends


def _row(one: Mapping[str, Any]) -> ComparisonRow:
    difference, interval = format_difference(one)
    seeds = f"{one['pairs']}" + (f" ({one['unpaired']} left out)" if one.get("unpaired") else "")
    why = "too few seeds" if one["pairs"] < FEWEST_PAIRS else "no spread over the seeds"
    beforehand = one.get("declared") != "afterwards"
    cells = [
        f"{one['a']} against {one['b']}" + ("" if beforehand else f" ({AFTERWARDS})"),
        one["metric"].replace("_", " "),
        difference,
        interval,
        why if one["p"] is None else format_probability(one["p"]),
        "-" if one["p_holm"] is None else format_probability(one["p_holm"]),
        seeds,
    ]
    significant = beforehand and one["p_holm"] is not None and one["p_holm"] < SIGNIFICANT
    return ComparisonRow(cells, significant, one["pairs"], beforehand)


def format_probability(p: float) -> str:
    """A p-value in text."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
