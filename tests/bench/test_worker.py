"""What a run keeps and pays for when its teacher fails, and what a look at it later leaves alone."""

from __future__ import annotations

import json
import shutil

import pytest

from mekd_plugin.bench.diagnosis.subject import open_run
from mekd_plugin.bench.executors.executor import Job
from mekd_plugin.bench.grid import BenchConfig, expand
from mekd_plugin.bench.worker import Place, blank_record, do

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
         "hyperparameters": {"mekd": {"emulation.steps": 3}}}  # fmt: skip


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
