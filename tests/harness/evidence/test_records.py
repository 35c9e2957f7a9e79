"""The page of the suites is made from their records and from what methods need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mekd_plugin.errors import InputError
from mekd_plugin.harness import find_suite
from mekd_plugin.harness.evidence.records import METHODS, record, render
from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem, Trial
from mekd_plugin.harness.evidence.trials import suites_with_trials, timm, trial_of
from mekd_plugin.registry import available

ROOT = Path(__file__).parents[3]


def quick(method, problem, directory):
    """A trial that is over at once; what it would have said is given."""
    assert directory.is_dir()
    queries = {"by_stage": {"bank": 3000}, "total": 3000, "distinct": 3000, "uncertain": 0}
    return Trial(0.12 if problem.shuffled else 0.95, 460, queries, f"run {method}", ["done"])


def test_a_record_holds_both_loops_and_the_control(tmp_path, monkeypatch):
    monkeypatch.setattr(timm, "trial", quick)
    monkeypatch.setattr(ReferenceProblem, "ours", lambda problem, method: Trial(0.96, 460, {}, method))
    content = json.loads(record(find_suite("timm"), tmp_path, seeds=(0, 1)).read_text())
    assert (
        content["version"] == find_suite("timm").version()
        and content["shuffled"] == 0.12
        and set(content["methods"]) == set(METHODS)
    )
    assert content["methods"]["mekd"]["accuracy"] == [0.95, 0.95] and content["methods"]["mekd"]["ours"] == [0.96, 0.96]
    page = render(tmp_path)
    assert "| `mekd` | 95.00 % (± 0.00, 2 seeds) | 96.00 % (± 0.00, 2 seeds) | 460 | bank 3,000 |" in page
    assert content["methods"]["mekd"]["command"] == "run mekd"
    assert f"### art\n\nNot run.\n\n{trial_of('art').COMMANDS.strip()}" in page


def test_every_suite_of_ours_has_an_experiment_and_no_other():
    assert suites_with_trials() == ["art", "kd_lib", "mdistiller", "repdistiller", "timm", "torchdistill"]
    with pytest.raises(InputError, match="no experiment for the suite 'theirs', so nothing can be recorded"):
        trial_of("theirs")


def test_the_table_says_how_every_method_runs_in_every_suite(tmp_path):
    page = render(tmp_path)
    for name in suites_with_trials():
        row = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
        assert row.count("|") == len(available()) + 2
    assert page.count("Not run.") == len(suites_with_trials())


def test_the_page_in_the_docs_is_that_of_the_records():
    assert (ROOT / "docs" / "HARNESSES.md").read_text() == render(ROOT / "results" / "harness")
