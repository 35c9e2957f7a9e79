"""The report: results.json, table.md, figures and one self-contained HTML page."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from mekd_plugin.bench.comparison_table import COMPARISON_TITLES
from mekd_plugin.bench.figures import draw_all
from mekd_plugin.bench.store import Store
from mekd_plugin.bench.table import Panel, fair_play, interval_note, markdown, panels
from mekd_plugin.files import writable_directory, write_atomically
from mekd_plugin.records import Results, RunRecord

__all__ = ["SECTION", "render", "templates", "write_report"]

SECTION = "diagnosis-section.html"
"""File in a run's directory with a section for the report, as `mekd diagnose` leaves it."""

_CAPTIONS = {
    "accuracy": (
        "Accuracy after the last step",
        "Mean and 95 % interval; the strokes below are the seeds.",
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
    "images_sent": (
        "What left the edge",
        "For each class (its number above), the image last sent to the teacher that it answered with this class; first "
        "seed. A class that is missing was never answered, among the classes shown.",
    ),
}


class _Picture(NamedTuple):
    title: str
    caption: str
    light: str
    dark: str


class _Section(NamedTuple):
    panel: Panel
    pictures: list[_Picture]


def write_report(store: Store, results: Results) -> list[Path]:
    """Write ``results.json``, ``table.md``, ``figures/*.png`` and ``report.html``; returns their paths."""
    paths = [store.write_results(results)]
    parts = panels(results.summary, results.comparisons)
    paths.append(store.out / "table.md")
    write_atomically(paths[-1], markdown(parts).encode())
    sections = []
    for index, part in enumerate(parts):
        records = [record for record in results.runs if _belongs(record, part)]
        per_1000 = results.config.get("price_per_1000")
        alike = [record for record in results.runs if _belongs(record, part, any_budget=True)]
        light = draw_all(records, alike, store.directory, per_1000=per_1000, theme="light")
        dark = draw_all(records, alike, store.directory, per_1000=per_1000, theme="dark")
        suffix = f"-{index + 1}" if len(parts) > 1 else ""
        for name, content in light.items():
            paths.append(writable_directory(store.out / "figures") / f"{name}{suffix}.png")
            write_atomically(paths[-1], content)
        sections.append(
            _Section(
                part,
                [
                    _Picture(*_CAPTIONS[name], _encoded(content), _encoded(dark[name]))
                    for name, content in light.items()
                ],
            )
        )
    paths.append(store.out / "report.html")
    files = [store.directory(record.key) / SECTION for record in results.runs]
    diagnoses = [path.read_text() for path in files if path.is_file()]
    write_atomically(paths[-1], render(results, sections, diagnoses).encode())
    return paths


def templates() -> Environment:
    """The pages' templates."""
    return Environment(
        loader=PackageLoader("mekd_plugin.bench", "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(results: Results, sections: list[_Section], diagnoses: Sequence[str] = ()) -> str:
    """The page, with everything it needs inside."""
    return (
        templates()
        .get_template("report.html")
        .render(
            sections=sections,
            diagnoses=diagnoses,
            comparison_titles=COMPARISON_TITLES,
            interval_note=interval_note([section.panel for section in sections]),
            fair_play=fair_play([section.panel for section in sections]),
            settings=_lines(results.config),
            environment=_lines(results.environment),
            runs=results.runs,
            finished=sum(run.status == "finished" for run in results.runs),
        )
    )


def _belongs(record: RunRecord, part: Panel, *, any_budget: bool = False) -> bool:
    names = ("dataset", "teacher", "student", "responses") + (() if any_budget else ("budget",))
    return all(getattr(record, name) == part.rows[0][name] for name in names)


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
