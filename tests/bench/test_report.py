"""The report's files, and a page that needs nothing from outside."""

from __future__ import annotations

import json
import re

from mekd_plugin.bench.report import write_report
from mekd_plugin.bench.statistics import summarize
from mekd_plugin.bench.store import Store
from mekd_plugin.records import Results


def _write(tmp_path, runs):
    config = {"price_per_1000": 1.5, "seeds": [0, 1], "hyperparameters": {"mekd": {"style_dim": 3}}, "steps": None}
    results = Results({"python": "3.11", "packages": {"torch": "2"}}, config, runs, summarize(runs))
    return write_report(Store(tmp_path), results)


def test_every_file_is_there(tmp_path, record) -> None:
    paths = _write(tmp_path, [record(), record("mekd")])
    names = {str(path.relative_to(tmp_path)) for path in paths}
    assert {"results.json", "table.md", "report.html", "figures/accuracy.png", "figures/learning_curves.png"} <= names
    assert {"table.csv", "table.tex", "figures/accuracy.svg", "figures/accuracy_against_queries.svg"} <= names
    assert (tmp_path / "figures/accuracy.svg").read_text().startswith("<?xml")
    assert json.loads((tmp_path / "results.json").read_text())["schema"] == 2


def test_the_page_is_self_contained(tmp_path, record) -> None:
    _write(tmp_path, [record(), record("mekd")])
    page = (tmp_path / "report.html").read_text()
    sources = re.findall(r'(?:src|srcset|href)="([^"]*)"', page)
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in page and "<script" not in page
    for part in (
        "Fair play",
        "Settings",
        "Environment",
        "hyperparameters.mekd.style_dim",
        "packages.torch",
        "kd|seed:0",
    ):
        assert part in page


def test_what_a_run_says_is_escaped(tmp_path, record) -> None:
    _write(tmp_path, [record(), record("mekd", status="failed", error="<b>bad & worse</b>", student_accuracy=None)])
    page = (tmp_path / "report.html").read_text()
    assert "&lt;b&gt;bad &amp; worse" in page and "<b>bad" not in page


def test_what_is_typed_is_set_as_code(tmp_path, record) -> None:
    _write(tmp_path, [record("mekd", generator={"class_match": 0.9, "audited": 100})])
    page = (tmp_path / "report.html").read_text()
    assert "<code>--audit</code>" in page and "`" not in page


def test_a_figure_for_each_panel(tmp_path, record) -> None:
    names = {path.name for path in _write(tmp_path, [record(), record(budget=100)])}
    assert {"accuracy-budget-5000.png", "accuracy-budget-100.png"} <= names
    assert {name for name in names if "queries" in name or "frontier" in name} == {
        "query_frontier-budget-5000.png",
        "query_frontier-budget-5000.svg",
    }, "it is about all budgets: once"
    assert "The query frontier" in (tmp_path / "report.html").read_text()


def test_the_runs_stand_above_the_settings(tmp_path, record) -> None:
    _write(tmp_path, [record(), record(budget=None)])
    page = (tmp_path / "report.html").read_text()
    assert page.index("<h2>Runs</h2>") < page.index("<h2>Settings</h2>") < page.index("<h2>Environment</h2>")
    assert (tmp_path / "figures" / "accuracy-budget-none.png").is_file()


def test_a_report_without_a_finished_run(tmp_path, record) -> None:
    _write(tmp_path, [record(status="failed", error="no luck", student_accuracy=None)])
    assert "0 of 1 runs finished" in (tmp_path / "report.html").read_text()
