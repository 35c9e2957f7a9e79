"""The page of the field: from records to a page with its figures, and the configuration that it is made of."""

from __future__ import annotations

import json
import re

import field_page
import pytest
from results_page import CONFIGS

from mekd_plugin.bench.grid import expand
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.bench.statistics import compare, summarize
from mekd_plugin.flags import read_yaml
from mekd_plugin.records import Queries, Results, RunRecord
from mekd_plugin.registry import distillers

RIVALS = {"mekd_bank": -0.1, "kd": -0.001, "ideal": None}


def record(label, seed, budget, kind, value):
    told = {"status": "finished", "student_accuracy": value, "agreement": value, "calibration_error": 0.02}
    if value is None:
        told = {"status": "not applicable", "error": f"ideal needs 6,000 queries, and the budget is {budget:,}"}
    return RunRecord(
        label, seed, "digits", "resnet20", "resnet8", kind, signature="", key=f"{label}{seed}{budget}{kind}",
        budget=budget, queries=Queries({"ask": budget}, budget), teacher_accuracy=0.99, test_images=540,
        leaves_edge="real images" if label == "kd" else "synthetic images", **told,
    )  # fmt: skip


@pytest.fixture
def directory(tmp_path):
    """Results that nobody ran: two kinds of answers, two budgets, three seeds."""
    settings = {"methods": "mekd,mekd_bank,kd", "responses": "soft,hard", "query_budget": "300,5000", "real_images": 50,
                "comparisons": ["mekd:mekd_bank", "mekd:kd"]}  # fmt: skip
    config = BenchConfig.from_mapping(settings)
    runs = []
    for kind in ("soft", "hard"):
        for budget in (300, 5000):
            for seed in (0, 1, 2):
                base = 0.9 + 0.01 * (budget > 300) + seed / 200
                noise = (0.001, -0.001, 0.0)[seed]
                runs.append(record("mekd", seed, budget, kind, base))
                runs += [
                    record(label, seed, budget, kind, None if less is None else base + less + noise)
                    for label, less in RIVALS.items()
                ]
    rows = [{**row, "declared_at": None} for row in compare(runs, config.comparisons)]
    results = Results({}, {**config.to_json(), "recipe": {}}, runs, summarize(runs), rows)
    (tmp_path / "field").mkdir()
    (tmp_path / "field" / "results.json").write_text(json.dumps(results.to_json()))
    return tmp_path / "field"


def test_one_command_makes_the_page(directory, tmp_path):
    out = tmp_path / "docs" / "FIELD.md"
    field_page.main([str(directory), "--title", "The field", "--out", str(out)])
    text = out.read_text()
    assert text.startswith("# The field\n\nMade by `python benchmarks/field_page.py ")
    assert "- `mekd` against `mekd_bank`, student accuracy: higher in 4 of 4 panels." in text
    assert "- `mekd` against `kd`, student accuracy: no difference that can be told from chance in 4 of 4" in text
    assert len(re.findall("^## ", text, re.M)) == 2 and len(re.findall("^### ", text, re.M)) == 4
    assert text.count("| Method | Accuracy % |") == 4 and "| Agreement % | ECE % |" in text
    assert text.count("| ideal | not applicable |") == 4 and "3 not applicable: ideal needs 6,000 queries" in text
    assert re.findall(r"\*\*(.*?)\*\*", text) == ["+10.00"] * 4, "only what was declared and is significant"
    for figure in re.findall(r"\((figures/\S*)\)", text):
        assert (out.parent / figure).stat().st_size > 1000
    assert {path.suffix for path in (out.parent / "figures").iterdir()} == {".png", ".svg"}
    assert "With 3 seeds and 2 comparisons a table only the paired t-test can be significant" in text
    assert "mekd bench --methods mekd,mekd_bank,kd --responses soft,hard" in text and "Fair play:" in text


def test_a_table_of_all_means_stands_first(directory, tmp_path):
    content = json.loads((directory / "results.json").read_text())
    content["config"]["hyperparameters"] = {"kd": {"temperature": 2.0}, "recipe": {}}
    (directory / "results.json").write_text(json.dumps(content))
    out = tmp_path / "page.md"
    field_page.main([str(directory), "--title", "t", "--note", "First note.", "--note", "Second.", "--out", str(out)])
    lines = out.read_text().splitlines()
    start = lines.index("| accuracy % | soft, 300 | soft, 5,000 | hard, 300 | hard, 5,000 | leaves the edge |")
    assert lines.index("First note.") < lines.index("Second.") < start
    assert "| `mekd` | 90.5 | 91.5 | 90.5 | 91.5 | synthetic images |" in lines[start:]
    assert any(line.startswith("| `ideal` | - | - | - | - |") for line in lines[start:])
    told = next(line for line in lines[start:] if line.startswith("Means of 3 seeds"))
    assert told.endswith("Settings other than the defaults: `kd`: temperature 2.0.")


def test_results_without_comparisons_are_said_to_be_descriptive(directory, tmp_path):
    content = json.loads((directory / "results.json").read_text())
    (directory / "results.json").write_text(json.dumps({**content, "comparisons": []}))
    field_page.main([str(directory), "--title", "t", "--out", str(tmp_path / "page.md")])
    text = (tmp_path / "page.md").read_text()
    assert "No comparison was declared before this ran: all numbers are descriptive." in text and "**" not in text


def test_a_directory_without_results_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        field_page.main([str(tmp_path), "--title", "t", "--out", str(tmp_path / "page.md")])
    assert "expected the results of `mekd bench" in capsys.readouterr().err


def test_the_configuration_holds_every_method():
    """All that are installed; one that is not yet is known by its name alone."""
    content, white = (read_yaml(CONFIGS / "field" / name) for name in ("digits.yaml", "digits_white_box.yaml"))
    registry = distillers()
    installed = {entry.name for entry in registry.entries() if entry.owner.startswith("mekd-plugin")}
    assert installed <= {*content["methods"], *white["methods"]}
    methods = [name for name in content["methods"] if name in installed]
    compared = [pair for pair in content["comparisons"] if set(pair.split(":")) <= installed]
    config = BenchConfig.from_mapping({**content, "methods": methods, "comparisons": compared})
    specs = expand(config, device="cpu")
    rows = len(methods) + len(content["variants"])
    assert len(specs) == rows * 2 * 3 * 3 and {spec.query_budget for spec in specs} == {300, 1000, 5000}
    assert white["white_box"] and all(white[name] == content[name] for name in ("query_budget", "seeds", "student"))


def test_a_mean_of_fewer_seeds_says_so(directory, tmp_path):
    path = directory / "results.json"
    content = json.loads(path.read_text())
    rows = [row for row in content["summary"] if row["label"] == "kd" and row["budget"] == 300]
    for row in rows:
        row["finished"] = 2
    path.write_text(json.dumps(content))
    out = tmp_path / "FIELD.md"
    field_page.main([str(directory), "--title", "The field", "--out", str(out)])
    text = out.read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("| `kd` |"))
    assert len(rows) == line.count(" (2) |") == 2
    assert "Means of 3 seeds, or of as many as stand in brackets" in text
