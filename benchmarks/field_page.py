"""The page of a whole field of methods: the query frontier of each panel, its table, and what was declared beforehand.

    python benchmarks/field_page.py DIR [MORE ...] --title "The field, on digits" --out PAGE.md

The numbers are those of the records; nothing is asked and nothing is trained. Figures go to a folder ``figures`` beside
the page, as PNG and SVG.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from results_page import CONFIGS, Table, command, read

from mekd_plugin.bench.comparison_table import SIGNIFICANT
from mekd_plugin.bench.figures import draw_pictures
from mekd_plugin.bench.pricing import format_price
from mekd_plugin.bench.public_spending import public_spending
from mekd_plugin.bench.statistics import PANEL
from mekd_plugin.bench.table import fair_play, interval_note, panel_in_markdown, panels
from mekd_plugin.errors import MekdError
from mekd_plugin.files import writable_directory, write_atomically
from mekd_plugin.records import RunRecord, described_responses

_OF_GROUP = tuple(name for name in PANEL if name != "budget")


def page(
    tables: Sequence[Table],
    *,
    title: str,
    made_by: str,
    place: Path,
    notes: Sequence[str] = (),
    configs: Path = CONFIGS,
) -> str:
    """The page in Markdown; its figures are written.

    Args:
        tables: what to show, a part of the page for each.
        title: of the page.
        made_by: the command that makes the page.
        place: folder of the page; the figures go to ``figures`` in it.
        notes: paragraphs that stand under the declared comparisons.
        configs: folder of the configurations that the commands may name.

    Raises:
        InputError: a directory holds no settings that a command could repeat.
    """
    lines = [f"# {title}", "", f"Made by `{made_by}`.", "", *findings(tables), ""]
    lines += [line for note in notes for line in (note, "")]
    lines += at_a_glance(tables)
    shown = []
    for number, table in enumerate(tables, start=1):
        parts = panels(table.results.summary, table.results.comparisons)
        shown += parts
        groups = dict.fromkeys(tuple(part.rows[0].get(name, "full") for name in _OF_GROUP) for part in parts)
        for index, group in enumerate(groups, start=1):
            runs = [run for run in table.results.runs if tuple(getattr(run, name) for name in _OF_GROUP) == group]
            about = dict(zip(_OF_GROUP, group, strict=True))
            lines += [f"## {about['dataset']}: {about['teacher']} to {about['student']}, {described_responses(about)} "
                      "responses", ""]  # fmt: skip
            name = f"frontier_{about['dataset']}_{about['responses']}_{number}_{index}".replace(":", "_").replace(
                "/", "_"
            )
            lines += _frontier(runs, table, place, name)
            for part in parts:
                if tuple(part.rows[0].get(name, "full") for name in _OF_GROUP) == group:
                    lines += panel_in_markdown(part, heading="###")
        lines += ["```sh", command(table, configs), "```", ""]
    lines += [interval_note(shown), "", "Fair play:", "", *(f"- {rule}" for rule in fair_play(shown))]
    return "\n".join(lines) + "\n"


def at_a_glance(tables: Sequence[Table]) -> list[str]:
    """Every row's mean accuracy in each panel, and the settings that are not a method's own."""
    summary = [row for table in tables for row in table.results.summary]
    groups = dict.fromkeys(tuple(row.get(name) for name in PANEL) for row in summary)
    told_apart = [name for index, name in enumerate(PANEL) if len({group[index] for group in groups}) > 1]
    titles = [", ".join(_shown(value) for name, value in zip(PANEL, group, strict=True) if name in told_apart) or "all"
              for group in groups]  # fmt: skip
    seeds = sorted({row["finished"] for row in summary if row["finished"]})
    lines = ["| accuracy % | " + " | ".join(titles) + " | leaves the edge |", "|---" + "|---:" * len(titles) + "|---|"]
    for label in dict.fromkeys(row["label"] for row in summary):
        own = {tuple(row.get(name) for name in PANEL): row for row in summary if row["label"] == label}
        cells = [_mean_of(own.get(group), seeds[-1] if seeds else 0) for group in groups]
        one = next(iter(own.values()))
        mark = " (white box)" if one.get("white_box") else ""
        lines.append(f"| `{label}`{mark} | " + " | ".join(cells) + f" | {one['leaves_edge']} |")
    mean = "One seed" if seeds == [1] else f"Means of {seeds[-1]} seeds"
    mean += ", or of as many as stand in brackets" if len(seeds) > 1 else ""
    said = f"{mean}; intervals are in the tables below, and the reasons of the rows without a number."
    return [*lines, "", said + _settings(tables), ""]


def _mean_of(row: Mapping[str, Any] | None, seeds: int) -> str:
    """A row's mean accuracy; with the number of its seeds where others have more."""
    if row is None or row["student_accuracy"] is None:
        return "-"
    mean = f"{100 * row['student_accuracy']['mean']:.1f}"
    return mean if row["finished"] == seeds else f"{mean} ({row['finished']})"


def _settings(tables: Sequence[Table]) -> str:
    """The hyperparameters that rows have other than their method's defaults."""
    told = {}
    for table in tables:
        given = {name: values for name, values in table.results.config.get("hyperparameters", {}).items() if values}
        told |= given
        for name, one in table.results.config.get("variants", {}).items():
            told[name] = {"method": one["method"], **given.get(one["method"], {}), **one.get("set", {})}
    rows = [f"`{name}`: " + ", ".join(f"{key} {_shown(value)}" for key, value in given.items())
            for name, given in told.items()]  # fmt: skip
    return f" Settings other than the defaults: {'; '.join(rows)}." if rows else ""


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if type(value) is int else json.dumps(value)


def findings(tables: Sequence[Table]) -> list[str]:
    """What came of each declared comparison: where it is significant, and in whose favour."""
    told: dict[tuple[str, str, str], list[str]] = {}
    for table in tables:
        for row in table.results.comparisons:
            pair = told.setdefault((row["a"], row["b"], row["metric"]), [])
            if row.get("declared") == "afterwards":
                continue
            if row["p_holm"] is None:
                pair.append("not tested")
            elif row["p_holm"] >= SIGNIFICANT:
                pair.append("no difference that can be told from chance")
            else:
                pair.append("higher" if row["difference"] > 0 else "lower")
    lines = []
    for (a, b, metric), found in told.items():
        counts = {said: found.count(said) for said in dict.fromkeys(found)}
        words = "; ".join(f"{said} in {count} of {len(found)} panels" for said, count in counts.items())
        lines.append(f"- `{a}` against `{b}`, {metric.replace('_', ' ')}: {words or 'declared afterwards'}.")
    if not lines:
        return ["No comparison was declared before this ran: all numbers are descriptive."]
    return ["Declared before anything ran, and corrected for each other within a panel (Holm):", "", *lines]


def _frontier(runs: Sequence[RunRecord], table: Table, place: Path, name: str) -> list[str]:
    """The figure of a group of panels, where it has finished runs of two budgets or more."""
    budgets = {run.budget for run in runs if run.status == "finished"}
    if len(budgets) < 2:
        return []
    price = table.results.config.get("price_per_1000")
    wanted = "accuracy_against_queries"
    nowhere = Path(os.devnull)  # no run's own files are drawn
    drawn = draw_pictures(runs, runs, lambda key: nowhere, per_1000=price, theme="light", names=[wanted])
    figures = writable_directory(place / "figures")
    for form, content in (("png", drawn[wanted].png), ("svg", drawn[wanted].svg)):
        write_atomically(figures / f"{name}.{form}", content)
    marks = public_spending(runs[0].dataset, runs[0].responses)
    said = f"No public code that was read documents a run on {runs[0].dataset}, so there is no mark of what it asks."
    if marks:
        said = "Strokes: what public code asks in its documented run, counted on its defaults."
    costs = "" if price is None else f" Above: the price at {format_price(price)} per 1,000 queries."
    return [
        f"![Accuracy against queries](figures/{name}.png)",
        "",
        "*Mean accuracy after the last step against the images sent, with its 95 % interval; behind, the best mean "
        f"that is to be had for so many or fewer.{costs} Full lines: no real image left the edge; dotted: real images, "
        f"or mixtures of them, did. {said} The same as [SVG](figures/{name}.svg).*",
        "",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the flags, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directories", nargs="+", type=Path, help="of `mekd bench --out`")
    parser.add_argument("--title", required=True, help="of the page")
    parser.add_argument("--note", action="append", default=[], help="a paragraph for the page; may be given again")
    parser.add_argument("--configs", type=Path, default=CONFIGS, help="folder of configurations that commands may name")
    parser.add_argument("--out", type=Path, required=True, help="the page")
    words = sys.argv[1:] if arguments is None else list(arguments)
    given = parser.parse_args(words)
    try:
        text = page(
            [read(directory) for directory in given.directories],
            title=given.title,
            made_by=f"python benchmarks/field_page.py {shlex.join(words)}",
            place=given.out.parent,
            notes=given.note,
            configs=given.configs,
        )
    except MekdError as error:
        parser.error(str(error))
    write_atomically(writable_directory(given.out.parent) / given.out.name, text.encode())


if __name__ == "__main__":
    main()
