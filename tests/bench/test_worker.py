"""What a run keeps and pays for when its teacher fails, and what a look at it later leaves alone."""

from __future__ import annotations

import json
import shutil

import pytest

from mekd_plugin.bench.audit import wants_audit
from mekd_plugin.bench.diagnosis.subject import open_run
from mekd_plugin.bench.executors.executor import Job
from mekd_plugin.bench.grid import expand
from mekd_plugin.bench.run_inputs import Place
from mekd_plugin.bench.run_record import blank_record
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.bench.worker import do
from mekd_plugin.records import RunRecord

TEACHER = """
import torch

weights = torch.randn(256, 10, generator=torch.Generator().manual_seed(0))
asked, broken = [], []

def ask(images):
    if broken and broken[0](images, asked):
        raise ConnectionError("the service is away")
    asked.append(len(images))
    return images.flatten(1) @ weights
"""

SMALL = {"teacher": "counted_service:ask", "student": "lenet5_half", "methods": "mekd", "steps": 3, "seeds": "0",
         "real_images": 40, "query_budget": 60, "device": "cpu",
         "hyperparameters": {"mekd": {"surrogate_steps": 3, "emulation.surrogate_steps": 3}}}  # fmt: skip


@pytest.fixture
def service(tmp_path, monkeypatch):
    """A teacher that is a function of this process: its ``asked``, and the conditions under which it is ``broken``."""
    (tmp_path / "counted_service.py").write_text(TEACHER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "counted_service", raising=False)
    import counted_service

    return counted_service


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def job(**changes):
    (spec,) = expand(BenchConfig.from_mapping({**SMALL, **changes}), device="cpu")
    return Job("run", spec)


def test_a_diagnosis_of_a_named_teacher_asks_nothing_beside_its_ledger(service, out):
    run = job()
    assert do(run, Place(str(out))) is None
    asked, shared = sum(service.asked), sorted(path.name for path in (out / "teachers").iterdir())
    shutil.rmtree(out / "teachers")
    subject = open_run(out / "runs" / run.spec.key, points=30)
    assert sum(service.asked) == asked and shared and not (out / "teachers").exists()
    assert len(subject.real_answers) == 30 and sum(service.asked) == asked + 30 == asked + subject.ledger.total


def test_an_audit_of_a_run_whose_files_are_gone_asks_nothing(service, out):
    run = job()
    assert do(run, Place(str(out))) is None
    asked, record = sum(service.asked), (out / "runs" / run.spec.key / "record.json").read_bytes()
    for path in (out / "runs" / run.spec.key).iterdir():
        if path.name != "record.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "the run's files are gone" in do(run, Place(str(out), audit=20))
    assert sum(service.asked) == asked and (out / "runs" / run.spec.key / "record.json").read_bytes() == record


def record_of(out, run):
    return json.loads((out / "runs" / run.spec.key / "record.json").read_text())


def test_a_failed_run_says_what_it_spent(service, out):
    run = job()
    service.broken.append(lambda images, asked: len(asked) == 3)  # an evaluation of 540 in three batches, then the run
    assert "service is away" in do(run, Place(str(out)))
    record = record_of(out, run)
    assert record["status"] == "failed" and record["queries"]["by_stage"] == {"probe": 1}
    assert record["queries"]["total"] == record["queries"]["uncertain"] == 1, "the answer never came, and may have cost"
    service.broken.clear()
    assert do(run, Place(str(out))) is None
    assert record_of(out, run)["queries"]["total"] == 60


def test_a_first_audit_that_fails_leaves_a_finished_run(service, out):
    run = job()
    service.broken.append(lambda images, asked: len(images) == 25)
    assert "service is away" in do(run, Place(str(out), audit=25))
    record, asked = record_of(out, run), sum(service.asked)
    assert record["status"] == "finished" and record["student_accuracy"] is not None and record["error"] is None
    assert "audited" not in record["generator"] and record["queries"]["total"] == 60
    service.broken.clear()
    assert do(run, Place(str(out), audit=25)) is None
    again = record_of(out, run)
    assert again["generator"]["audited"] == 25 and again["seconds"] == record["seconds"]
    assert sum(service.asked) == asked + 25


def test_only_an_audit_asks_about_the_test_set_for_whole_answers(service, out):
    """Hard answers were there first; a run without a generator has no use for more."""
    for settings in ({"responses": "hard"}, {"methods": "kd", "hyperparameters": {}}):
        assert do(job(**settings), Place(str(out), audit=20)) is None
    run = job()
    before = sum(service.asked)
    assert do(job(methods="ml", hyperparameters={}), Place(str(out), audit=20)) is None
    assert sum(service.asked) == before + 60, "no test image for these"
    assert do(run, Place(str(out), audit=20)) is None
    assert sum(service.asked) == before + 120 + 540 + 20
    assert record_of(out, run)["queries"]["evaluation"] == 540 + 540 + 20


def test_degraded_answers_are_another_run_of_the_same_images(service, out):
    records = {}
    for text in ("full", "rounded:0", "noisy:3"):
        run = job(methods="kd", hyperparameters={}, answers=text)
        assert do(run, Place(str(out))) is None
        records[text] = record_of(out, run)
    assert {record["answers"] for record in records.values()} == set(records)
    assert len({record["key"] for record in records.values()}) == 3
    students = {(out / "runs" / record["key"] / "student.safetensors").read_bytes() for record in records.values()}
    assert len(students) == 3
    assert sum(service.asked) == 540 + 3 * 60, "the evaluation is about the teacher itself: asked once"
    for text, record in records.items():
        told = "" if text == "full" else f" answers={text}"
        assert f"counted_service:ask{told}" in record["signature"] and (" answers=" in record["signature"]) == bool(
            told
        )
    assert "noisy:3 answers_seed=0" in records["noisy:3"]["signature"]


def test_an_audit_that_was_cut_short_goes_on_with_another_number_of_questions(service, out):
    run = job()
    assert do(run, Place(str(out))) is None
    service.broken.append(lambda images, asked: len(images) < 256 and len(asked) > 3)
    assert "service is away" in do(run, Place(str(out), audit=400))
    service.broken.clear()
    assert do(run, Place(str(out), audit=100)) is None
    record = json.loads((out / "runs" / run.spec.key / "record.json").read_text())
    assert record["status"] == "finished" and record["generator"]["audited"] == 100


@pytest.mark.parametrize(
    ("settings", "pool", "leaves_edge"),
    [({}, "edge", "real images"), ({"domain": "other"}, "other domain", "nothing of the edge")],
)
def test_a_record_says_what_the_run_needs_as_it_is_set(settings, pool, leaves_edge):
    variants = {"mine": {"method": "knockoff", "set": settings}}
    (spec,) = expand(BenchConfig.from_mapping({"methods": [], "variants": variants, "seeds": [0]}), device="cpu")
    record = blank_record(spec)
    assert (record.pool, record.leaves_edge) == (pool, leaves_edge)


def test_recorded_answers_teach_a_benchmarks_methods_and_no_test_image_need_be_among_them(service, out):
    settings = {"methods": "kd", "hyperparameters": {}}
    bought = job(**settings)
    assert do(bought, Place(str(out))) is None
    asked, teacher = sum(service.asked), f"recorded:{out / 'runs' / bought.spec.key}"
    again, unlike = job(**settings, teacher=teacher), job(**settings, teacher=teacher, seeds="1")
    assert do(again, Place(str(out))) is None
    first, second = (json.loads((out / "runs" / one.spec.key / "record.json").read_text()) for one in (bought, again))
    assert sum(service.asked) == asked and second["queries"]["total"] == 60
    assert second["student_accuracy"] == first["student_accuracy"] and second["agreement"] is None
    assert any("test images are not on record" in warning for warning in second["warnings"])
    assert "60 images are not among the 60 on record" in do(unlike, Place(str(out)))


def test_an_audit_of_recorded_answers_is_said_to_be_impossible_once(service, out):
    bought = job()
    assert do(bought, Place(str(out))) is None
    again = job(teacher=f"recorded:{out / 'runs' / bought.spec.key}", query_budget="59")  # the 60th was the probe
    assert do(again, Place(str(out), audit=50)) is None
    record = RunRecord.from_json(json.loads((out / "runs" / again.spec.key / "record.json").read_text()))
    assert record.generator["audited"] == 0 and record.generator["class_match"] is None
    assert not wants_audit(record, 50) and any("test images are not on record" in line for line in record.warnings)
