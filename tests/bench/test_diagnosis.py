"""The questions of optimal transport, put to finished runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import mekd_plugin as mekd
from mekd_plugin.bench.diagnosis.command import ask, write
from mekd_plugin.bench.diagnosis.monitor import Monitor
from mekd_plugin.bench.diagnosis.subject import Subject, open_run, siblings
from mekd_plugin.bench.run_spec import RunSpec
from mekd_plugin.cli import app
from mekd_plugin.errors import CheckpointError, InputError, QueryBudgetExceeded
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A small benchmark of two methods, diagnosed through the command line."""
    out = tmp_path_factory.mktemp("bench") / "out"
    settings = ["--methods", "mekd,kd", "--seeds", "0", "--steps", "60"]
    settings += ["--teacher", "lenet5", "--student", "lenet5_half"]
    small = ["--query-budget", "300", "--teacher-steps", "200", "--jobs", "1"]
    small += ["--set", "mekd.surrogate_steps=20", "--set", "mekd.emulation.surrogate_steps=60"]
    runner = CliRunner()
    made = runner.invoke(app, ["bench", "--out", str(out), *settings, *small])
    assert made.exit_code == 0, made.output
    told = runner.invoke(app, ["diagnose", str(out), "--points", "100"])
    assert told.exit_code == 0, told.output
    return out, told.output


def test_a_benchmark_gets_its_answers_figures_and_section(bench):
    out, printed = bench
    for folder in (out / "runs").iterdir():
        content = json.loads((folder / "diagnostics.json").read_text())
        asked = {"responses", "direction", "membership"}
        if "mekd" in folder.name:
            asked |= {"inversion", "image_space", "cells", "domains"}
        assert set(content["findings"]) == asked
        for name, finding in content["findings"].items():
            assert finding["sentence"] in printed.replace("\n", " ") or finding["sentence"][:40] in printed
            assert (folder / "figures" / f"diagnosis-{name}.png").read_bytes()[:4] == PNG
        assert "data:image/png" in (folder / "diagnosis.html").read_text()
    report = (out / "report.html").read_text()
    assert report.count("Diagnosis: ") == 2 and "Has G become the inverse" in report


def test_what_the_diagnosis_asks_is_counted_apart(bench):
    out, _ = bench
    for folder in (out / "runs").iterdir():
        record = json.loads((folder / "record.json").read_text())
        content = json.loads((folder / "diagnostics.json").read_text())
        assert record["queries"]["total"] == 300
        assert content["queries"]["by_stage"]["held-out images"] == 100
        assert json.loads((out / "results.json").read_text())["runs"][0]["queries"]["total"] == 300


def test_a_run_is_opened_as_it_ended(bench):
    out, _ = bench
    folder = next(path for path in (out / "runs").iterdir() if "mekd" in path.name)
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    torch.set_num_threads(2)  # not the run's number
    subject = open_run(folder, points=50)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files
    assert subject.inverse is not None and len(subject.snapshots) > 3 and list(subject.others) == ["kd"]
    assert [name for name, _ in siblings(folder)] == ["kd"]
    scores = subject.scores(subject.rows.answers())
    redrawn = subject.inverse.generator(subject.latent_of(scores, subject.rows.extra["style"]))
    assert torch.allclose(redrawn, subject.rows.extra["target"], atol=1e-5)


def test_a_subject_of_ones_own_needs_no_run(tmp_path):
    teacher = mekd.BlackBox(ToyTeacher(), "logits", CLASSES)
    student, edge = toy_student(), toy_images(60, seed=1)
    hosted = mekd.host(student, teacher, edge, method="kd", progress=False)
    subject = Subject(
        "mine", hosted.method, student, mekd.BlackBox(ToyTeacher(), "logits", CLASSES), edge, toy_images(60, seed=2)
    )
    findings = ask(subject)
    assert [one.name for one in findings] == ["responses", "direction"]
    assert subject.ledger.by_stage == {"held-out images": 60}
    paths = write(subject, findings, tmp_path)
    assert all(path.exists() for path in paths) and "mine" in paths[-1].read_text()


def test_a_budget_bounds_the_diagnosis(bench):
    out, _ = bench
    folder = next(path for path in (out / "runs").iterdir() if "kd-" in path.name)
    with pytest.raises(QueryBudgetExceeded, match="held-out images"):
        ask(open_run(folder, points=50, budget=10))


def test_what_was_found_before_the_budget_ended_is_written(bench, tmp_path):
    out, _ = bench
    folder = next(path for path in (out / "runs").iterdir() if "mekd" in path.name)
    copy = tmp_path / "runs" / folder.name
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("diagn*", "figures"))
    done = CliRunner().invoke(app, ["diagnose", str(copy), "--points", "50", "--budget", "120"])
    assert isinstance(done.exception, QueryBudgetExceeded)
    kept = json.loads((copy / "diagnostics.json").read_text())
    assert "responses" in kept["findings"] and "domains" not in kept["findings"] and "budget" in kept["unfinished"]
    assert (copy / "diagnosis.html").exists()
    whole = {"findings": "of an earlier diagnosis"}
    (copy / "diagnostics.json").write_text(json.dumps(whole))
    CliRunner().invoke(app, ["diagnose", str(copy), "--points", "50", "--budget", "120"])
    assert json.loads((copy / "diagnostics.json").read_text()) == whole, "a whole one is not replaced by a part"


def test_more_images_than_transport_takes_are_refused_before_anything_is_asked(bench):
    out, _ = bench
    folder = next(path for path in (out / "runs").iterdir() if "mekd" in path.name)
    with pytest.raises(InputError, match="points=5001: expected 1 to 5,000"):
        open_run(folder, points=5001)
    done = CliRunner().invoke(app, ["diagnose", str(folder), "--points", "5001"])
    assert done.exit_code == 2 and "5000" in done.output


def test_beside_a_run_stand_those_that_differ_in_the_method_alone(bench, tmp_path):
    """A variant under its own label, also of the run's own method; no other split, teacher, preset or recipe."""
    out, _ = bench
    folder = next(path for path in (out / "runs").iterdir() if "mekd" in path.name)
    spec = RunSpec.of_run(folder).spec
    others = {
        "mekd_other": {"label": "mekd_other", "hyperparameters": {"image_weight": 2.0}},
        "kd": {"label": "kd", "method": "kd", "hyperparameters": {}},
        "kd_cold": {"label": "kd_cold", "method": "kd", "hyperparameters": {"temperature": 1.0}},
        "split": {"label": "kd", "method": "kd", "real_images": 41},
        "disjoint": {"label": "kd", "method": "kd", "disjoint": not spec.disjoint},
        "teacher": {"label": "kd", "method": "kd", "teacher_seed": 7},
        "steps": {"label": "kd", "method": "kd", "steps": 1},
        "seed": {"label": "kd", "method": "kd", "seed": 5},
    }
    for name, changed in {"own": {}, **others}.items():
        place = tmp_path / name
        place.mkdir()
        replace(spec, **changed).keep(place, None)
        (place / "student.safetensors").touch()
    assert sorted(name for name, _ in siblings(tmp_path / "own")) == ["kd", "kd_cold", "mekd_other"]


def test_a_place_without_a_run_is_named(tmp_path, bench):
    with pytest.raises(CheckpointError, match="does not say which run"):
        open_run(tmp_path)
    out, _ = bench
    folder = next((out / "runs").iterdir())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "spec.json").write_bytes((folder / "spec.json").read_bytes())
    with pytest.raises(CheckpointError, match="not finished"):
        open_run(tmp_path / "run")


def test_a_monitor_measures_within_its_share_of_the_time():
    teacher, images = mekd.BlackBox(ToyTeacher(), "logits", CLASSES), toy_images(60, seed=5)
    monitor = Monitor(images, teacher.query(images, stage="monitor"), share=1.0)
    result = mekd.distill(
        toy_student(),
        teacher,
        toy_images(60, seed=1),
        method="kd",
        queries=60,
        evaluate=monitor,
        evaluate_steps=monitor.steps(40, every=10),
        recipe=Recipe(steps=40),
        progress=False,
    )
    measured = [entry for entry in result.history if entry["stage"] == "evaluation" and "w1" in entry]
    assert 1 <= len(measured) <= 4 and all(entry["w1"] <= entry["paired"] + 1e-6 for entry in measured)
    assert 0 < monitor.share <= 1 and "% of the time" in str(monitor)
    assert result.ledger.by_stage == {"earlier runs": 60, "transfer_set": 60}  # a budget is the teacher's


def test_a_monitor_that_costs_too_much_leaves_measurements_out():
    teacher, images = mekd.BlackBox(ToyTeacher(), "logits", CLASSES), toy_images(60, seed=5)
    monitor = Monitor(images, teacher.query(images), share=1e-6)
    student = toy_student()
    assert monitor(student) and monitor(student) == {} and "1 left out" in str(monitor)
    with pytest.raises(InputError, match="share=2"):
        Monitor(images, teacher.query(images), share=2)
    with pytest.raises(InputError, match="one answer per image"):
        Monitor(images[:10], teacher.query(images))


def test_a_run_is_diagnosed_from_anywhere_by_a_relative_path(tmp_path, monkeypatch):
    """Paths in its settings are those that were typed, in the directory where they were typed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    runner = CliRunner()
    small = ["--student", "lenet5_half", "--method", "kd", "--steps", "5", "--real-images", "60"]
    for words in (
        ["teacher", "lenet5", "--steps", "5", "--out", "teacher.safetensors", "--device", "cpu"],
        ["distill", "--teacher", "teacher.safetensors", *small, "--query-budget", "80", "--out", "run"],
        ["diagnose", "run", "--points", "20"],
    ):
        done = runner.invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "diagnosis.html").is_file()
    monkeypatch.chdir(tmp_path / "elsewhere")
    subject = open_run(Path("../run"), points=20)
    assert len(subject.rows) == 80 and subject.real_answers.values.shape == (20, 10)


def test_a_run_of_python_is_told_from_a_place_without_one(tmp_path):
    mekd.distill(
        toy_student(),
        mekd.BlackBox(ToyTeacher(), "logits", CLASSES),
        toy_images(20, seed=1),
        "kd",
        recipe=Recipe(steps=1),
        directory=tmp_path,
        progress=False,
    )
    with pytest.raises(CheckpointError, match=r"mekd_plugin.distill\(directory=\) wrote it, or"):
        open_run(tmp_path)
