"""The table of what seconds buy, from records that a grid left."""

import json
import shutil
import sys
from pathlib import Path

import accuracy_against_seconds
import pytest

RECORDED = Path(__file__).parents[2] / "results/races/digits_soft"


def test_its_table_holds_every_row_and_its_figure_is_written(tmp_path, monkeypatch, capsys):
    shutil.copytree(RECORDED, tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["accuracy_against_seconds.py", str(tmp_path / "results")])
    accuracy_against_seconds.main()
    _, _, *rows = capsys.readouterr().out.strip().splitlines()
    runs = json.loads((RECORDED / "results.json").read_text())["runs"]
    assert len(rows) == len({run["label"] for run in runs})
    kd = [run for run in runs if run["label"] == "kd"]
    seconds = sum(run["seconds"]["processor"] for run in kd) / len(kd)
    accuracy = sum(run["student_accuracy"] for run in kd) / len(kd)
    assert f"| kd | {seconds:.0f} | {100 * accuracy:.2f} | {len(kd)} |" in rows
    assert (tmp_path / "results/accuracy_against_seconds.png").stat().st_size > 5000


@pytest.fixture(autouse=True)
def no_display(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
