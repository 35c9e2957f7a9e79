"""The table of results as files for other programs: CSV with plain numbers, LaTeX with booktabs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mekd_plugin.bench.comparison_table import COMPARISON_TITLES, ComparisonRow
from mekd_plugin.bench.table import Panel, interval_note

__all__ = ["as_csv", "as_latex"]

_SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "<": "$<$",
    ">": "$>$",
}


def as_csv(summary: Sequence[Mapping[str, Any]]) -> str:
    """The summary of ``results.json``, a line for each label and setting.

    A number with an interval has four columns: ``NAME`` (the mean), ``NAME_low``, ``NAME_high`` and ``NAME_kind`` (see
    :class:`~mekd_plugin.bench.statistics.Interval`); shares are fractions in [0, 1]. What is not known is empty.
    """
    intervals = {name for row in summary for name, value in row.items() if isinstance(value, Mapping)}
    lines = [_flat(row, intervals) for row in summary]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def as_latex(parts: Sequence[Panel]) -> str:
    """A ``table`` for each panel, with the comparisons below; bold is what a declared comparison found significant."""
    lines = [r"% Needs \usepackage{booktabs}; wide tables want \usepackage{graphicx} and \resizebox."]
    for number, part in enumerate(parts, start=1):
        lines += [r"\begin{table}", r"\centering", rf"\caption{{{_escaped(part.title)}}}"]
        lines += [rf"\label{{tab:mekd-{number}}}"]
        numeric = [column.numeric for column in part.columns]
        lines += _tabular(numeric, [column.title for column in part.columns], [_row(cells) for cells in part.cells])
        if part.compared:
            rows = [_row(_with_bold(row)) for row in part.compared]
            numeric = [index > 1 for index in range(len(COMPARISON_TITLES))]
            lines += [r"\par\medskip", *_tabular(numeric, COMPARISON_TITLES, rows)]
        lines += [rf"\par\smallskip{{\footnotesize {_escaped(note)}\par}}" for note in part.notes]
        if number == len(parts):
            lines.append(rf"\par\smallskip{{\footnotesize {_escaped(interval_note(parts))}\par}}")
        lines += [r"\end{table}", ""]
    return "\n".join(lines)


def _flat(row: Mapping[str, Any], intervals: set[str]) -> dict[str, Any]:
    line: dict[str, Any] = {}
    for name, value in row.items():
        if name in intervals:
            known = value or {}
            line |= {name: known.get("mean")} | {f"{name}_{end}": known.get(end) for end in ("low", "high", "kind")}
        else:
            line[name] = "; ".join(map(str, value)) if isinstance(value, list) else value
    return line


def _tabular(numeric: Sequence[bool], titles: Sequence[str], rows: Sequence[str]) -> list[str]:
    columns = "".join("r" if right else "l" for right in numeric)
    return [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _row(titles), r"\midrule", *rows, r"\bottomrule",
            r"\end{tabular}"]  # fmt: skip


def _with_bold(row: ComparisonRow) -> list[str]:
    return [f"**{cell}**" if row.significant and index == 2 else cell for index, cell in enumerate(row.cells)]


def _row(cells: Sequence[str]) -> str:
    told = [_escaped(cell) for cell in cells]
    # A line that begins with a bracket would be taken for an option of the line break before it.
    told = [f"{{}}{cell}" if cell.startswith("[") else cell for cell in told]
    return " & ".join(re.sub(r"^\*\*(.*)\*\*$", r"\\textbf{\1}", cell) for cell in told) + r" \\"


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(sign, sign) for sign in text)
