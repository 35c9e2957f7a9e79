"""The report: results.json, the table as Markdown, CSV and LaTeX, figures and one self-contained HTML page."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from mekd_plugin.bench.comparison_table import COMPARISON_TITLES
from mekd_plugin.bench.figures import draw_all, draw_pictures
from mekd_plugin.bench.pricing import price_for
from mekd_plugin.bench.published_table import PUBLISHED_TITLES, Published, published_beside
from mekd_plugin.bench.statistics import PANEL
from mekd_plugin.bench.store import Store
from mekd_plugin.bench.table import Panel, fair_play, interval_note, markdown, panels
from mekd_plugin.bench.table_files import as_csv, as_latex
from mekd_plugin.files import writable_directory, write_atomically
from mekd_plugin.records import Results, RunRecord

__all__ = ["SECTION", "render", "templates", "write_report"]

SECTION = "diagnosis-section.html"
"""File in a run's directory with a section for the report, as `mekd diagnose` leaves it."""

_CAPTIONS = {
    "accuracy": (
        "Accuracy after the last step",
        "Mean and 95 % interval, of two seeds their range; the strokes below are the seeds.",
    ),
    "learning_curves": (
        "Learning curves",
        "Accuracy on the test set while the student trains, for the reader only: nothing is chosen by it. The band "
        "reaches from the lowest to the highest seed.",
    ),
    "accuracy_against_queries": (
        "Accuracy against queries",
        "Queries are what the teacher was really sent in all stages. Points of one budget are drawn side by side.",
    ),
    "query_frontier": (
        "The query frontier",
        "Accuracy against what the teacher was really sent in all stages, over all budgets, with the price above. "
        "Behind the methods: the best mean that is to be had for so many queries or fewer. Full lines and markers: no "
        "real image left the edge; dotted and hollow: real images, or mixtures of them, did. Strokes below, if any: "
        "what public code asks on this data set in its documented run, counted on its defaults.",
    ),
    "images_sent": (
        "What left the edge",
        "For each class (its number above), the image last sent to the teacher that it answered with this class; first "
        "seed. A class that is missing was never answered, among the classes shown.",
    ),
}


_STOPPED = "The benchmark was stopped: runs that are not in these tables are still to be done."

_LONGEST_NAME = 80
"""Characters of a panel's name in the names of its figures."""


class _Picture(NamedTuple):
    title: str
    caption: str
    light: str
    dark: str


class _Section(NamedTuple):
    panel: Panel
    pictures: list[_Picture]
    published: Published | None = None


def write_report(store: Store, results: Results, *, stopped: bool = False) -> list[Path]:
    """Write ``table.md``, ``table.csv``, ``table.tex``, ``figures/*.png`` and ``*.svg``, ``report.html``, and last
    ``results.json``, which says that all are there; returns their paths.

    Args:
        store: where.
        results: of all runs, or of those that are done where the benchmark was ``stopped``, which the pages then say.
        stopped: whether it was.
    """
    paths: list[Path] = []
    parts = panels(results.summary, results.comparisons)
    published = bool(results.config.get("published"))
    told = f"**{_STOPPED}**\n\n" if stopped else ""
    tables = {"md": told + markdown(parts, published=published), "csv": as_csv(results.summary), "tex": as_latex(parts)}
    for suffix, text in tables.items():
        paths.append(store.out / f"table.{suffix}")
        write_atomically(paths[-1], text.encode())
    sections = []
    shown = set[tuple[Any, ...]]()
    names = _names([part.rows[0] for part in parts])
    for index, part in enumerate(parts):
        records = [record for record in results.runs if _belongs(record, part)]
        per_1000 = price_for(part.rows[0]["teacher"], results.config.get("price_per_1000"))
        alike = [record for record in results.runs if _belongs(record, part, any_budget=True)]
        light = draw_pictures(records, alike, store.directory, per_1000=per_1000, theme="light")
        dark = draw_all(records, alike, store.directory, per_1000=per_1000, theme="dark")
        several = len({record.budget for record in alike if record.status == "finished"}) > 1
        group = tuple(part.rows[0].get(name) for name in PANEL if name != "budget")
        suffix = f"-{names[index]}" if len(parts) > 1 else ""
        pictures = []
        for name, picture in light.items():
            frontier = several and name == "accuracy_against_queries"
            if frontier and group in shown:
                continue  # it is about all budgets: once is enough
            title = "query_frontier" if frontier else name
            for form, content in (("png", picture.png), ("svg", picture.svg)):
                paths.append(writable_directory(store.out / "figures") / f"{title}{suffix}.{form}")
                write_atomically(paths[-1], content)
            pictures.append(_Picture(*_CAPTIONS[title], _encoded(picture.png), _encoded(dark[name])))
        shown.add(group)
        sections.append(_Section(part, pictures, published_beside(part.rows) if published else None))
    paths.append(store.out / "report.html")
    files = [store.directory(record.key) / SECTION for record in results.runs]
    diagnoses = [path.read_text() for path in files if path.is_file()]
    write_atomically(paths[-1], render(results, sections, diagnoses, stopped=stopped).encode())
    return [*paths, store.write_results(results)]


def templates() -> Environment:
    """The pages' templates."""
    return Environment(
        loader=PackageLoader("mekd_plugin.bench", "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(results: Results, sections: list[_Section], diagnoses: Sequence[str] = (), *, stopped: bool = False) -> str:
    """The page, with everything it needs inside."""
    return (
        templates()
        .get_template("report.html")
        .render(
            sections=sections,
            diagnoses=diagnoses,
            comparison_titles=COMPARISON_TITLES,
            published_titles=PUBLISHED_TITLES,
            interval_note=interval_note([section.panel for section in sections]),
            fair_play=fair_play([section.panel for section in sections]),
            settings=_lines(results.config),
            environment=_lines(results.environment),
            runs=results.runs,
            stopped=_STOPPED if stopped else "",
            finished=sum(run.status == "finished" for run in results.runs),
        )
    )


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for the files of each panel, from what tells it from the others: ``budget-500``."""
    told = [name for name in PANEL if len({row.get(name, "full") for row in rows}) > 1]
    names: list[str] = []
    for row in rows:
        values = {name: row.get(name, "full") for name in told}
        words = [
            f"budget-{value or 'none'}" if name == "budget" else re.sub(r"[^a-zA-Z0-9_.]+", "-", str(value)).strip("-.")
            for name, value in values.items()
        ]
        name = "-".join(words)[-_LONGEST_NAME:]
        names.append(f"{name}-{len(names) + 1}" if name in names else name)
    return names


def _belongs(record: RunRecord, part: Panel, *, any_budget: bool = False) -> bool:
    names = [name for name in PANEL if name != "budget" or not any_budget]
    return all(getattr(record, name) == part.rows[0].get(name, "full") for name in names)


def _encoded(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _lines(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values as text; a nested mapping as its own lines."""
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += [(f"{name}.{key}", text) for key, text in _lines(value)]
        elif value is None:
            lines.append((name, "-"))
        elif isinstance(value, list | tuple):
            lines.append((name, ", ".join(map(str, value)) or "-"))
        else:
            lines.append((name, value if isinstance(value, str) else json.dumps(value)))
    return lines
