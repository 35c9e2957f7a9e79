"""Small benchmarks that really run, in processes of their own."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from mekd_plugin.bench.benchmark import Benchmark
from mekd_plugin.bench.commands import bench
from mekd_plugin.bench.executors.executor import Job, teacher_jobs
from mekd_plugin.bench.executors.local import latest_metrics
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.errors import CheckpointError, InputError, NeedsNotMet, UnknownName
from mekd_plugin.records import RunRecord
from mekd_plugin.registry import distillers

SMALL = {
    "teacher": "lenet5",
    "student": "lenet5_half",
    "methods": "kd",
    "teacher_steps": 60,
    "steps": 40,
    "real_images": 60,
    "query_budget": 300,
    "seeds": "0",
    "device": "cpu",
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """One cache of teachers for this file, away from the user's."""
    before = os.environ.get("MEKD_CACHE")
    os.environ["MEKD_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["MEKD_CACHE"]
    else:
        os.environ["MEKD_CACHE"] = before


def nobody(event: str, job: Job | None, error: str | None) -> None:
    """Observes nothing."""


def test_from_settings_to_report_and_nothing_twice(tmp_path) -> None:
    config = BenchConfig.from_mapping({**SMALL, "methods": "kd,ml", "price_per_1000": 1.5})
    events = []
    results = Benchmark(config, tmp_path / "out").execute(
        resume=False, observe=lambda event, job, error: job and events.append((event, job.task, error))
    )
    assert [run.status for run in results.runs] == ["finished", "finished"]
    for run in results.runs:
        assert 0 < run.queries.total <= 300 and run.queries.total == sum(run.queries.by_stage.values())
        assert run.price == pytest.approx(run.queries.total * 1.5 / 1000)
        assert run.steps == 40 and run.real_images == 60 and run.test_images == 540
        assert run.student_accuracy == run.curve[-1]["accuracy"] and run.curve[-1]["step"] == 40
        assert run.best_test_accuracy == max(point["accuracy"] for point in run.curve)
        assert " steps=40 " in run.signature and " batch_size=" in run.signature and run.label == run.method
        folder = tmp_path / "out" / "runs" / run.key
        assert len(list((folder / "snapshots").glob("step-*.safetensors"))) >= 6
        assert (folder / "sent.npz").exists() and (folder / "student.safetensors").exists()
    assert events[0] == ("start", "teacher", None) and ("end", "run", None) in events
    for name in ("results.json", "table.md", "report.html", "figures/accuracy.png", "figures/images_sent.png"):
        assert (tmp_path / "out" / name).exists()
    changed = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    wider = Benchmark(BenchConfig.from_mapping({**SMALL, "methods": "kd,ml", "seeds": "0,1"}), tmp_path / "out")
    planned = [(entry.spec.label, entry.spec.seed, entry.seeds) for entry in wider.plan(resume=True)]
    assert planned == [("kd", 1, 1), ("logit_mimicry", 1, 1)], "what is finished is not priced again"
    again = Benchmark(config, tmp_path / "out").execute(resume=True, observe=nobody)
    assert again == results
    assert changed == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="holds results already"):
        Benchmark(config, tmp_path / "out").execute(resume=False, observe=nobody)


def test_a_failing_run_does_not_take_the_others_down(tmp_path) -> None:
    """One of two: its teacher's answers stop being such after a while."""
    config = BenchConfig.from_mapping({**SMALL, "methods": "kd,ml", "hyperparameters": {"ml": {"queries": 100_000}}})
    results = Benchmark(config, tmp_path).execute(resume=False, observe=nobody)
    good, bad = results.runs
    assert (good.status, good.error) == ("finished", None)
    assert bad.status == "failed" and bad.error and "QueryBudgetExceeded" in bad.error
    assert bad.student_accuracy is None
    assert "0 of 1" in (tmp_path / "table.md").read_text()


def test_what_a_rule_takes_out_is_a_row_with_the_reason(tmp_path) -> None:
    config = BenchConfig.from_mapping({**SMALL, "methods": "kd,ml", "responses": "hard", "query_budget": "300,1"})
    results = Benchmark(config, tmp_path).execute(resume=False, observe=nobody)
    told = {(run.label, run.budget): (run.status, run.error or "") for run in results.runs}
    assert told["kd", 300][0] == "finished"
    assert told["logit_mimicry", 300][0] == "not applicable" and "needs soft responses" in told["logit_mimicry", 300][1]
    assert told["kd", 1][0] == "not applicable" and "a budget of 1 buys nothing" in told["kd", 1][1]
    table = (tmp_path / "table.md").read_text()
    assert "not applicable" in table and "needs soft responses" in table
    assert not (tmp_path / "runs" / results.runs[1].key / "run.json").exists()
    console = Console(file=io.StringIO(), width=200)
    bench(config, tmp_path, resume=True, dry_run=False, console=console)
    assert "4 runs, 0 of them to be done, 3 not applicable" in console.file.getvalue()


def test_a_grid_over_what_is_done_to_answers(tmp_path) -> None:
    kd = distillers().get("kd")
    settings = {**SMALL, "methods": [], "answers": "full,top1", "steps": 10}

    def run(*comparisons):
        config = BenchConfig.from_mapping({**settings, "comparisons": list(comparisons)}, own=True)
        benchmark = Benchmark(config, tmp_path, {"here": kd, "there": kd})  # in this process, which is quick
        return benchmark.execute(resume=True, observe=nobody)

    told = {(run.label, run.answers): run.status for run in run("here:there").runs}
    assert told == {(label, answers): "finished" for label in ("here", "there") for answers in ("full", "top1")}
    table = (tmp_path / "table.md").read_text()
    assert table.count("\n## ") + table.startswith("## ") == 2 and "soft (top1) responses" in table
    content = json.loads((tmp_path / "results.json").read_text())
    assert [row["declared"] for row in content["comparisons"]] == ["beforehand"] * 2
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 1 + 4
    late = run("here:there", "here:there:agreement")
    assert {row["metric"]: row["declared"] for row in late.comparisons} == {
        "student_accuracy": "beforehand",
        "agreement": "afterwards",
    }
    assert "here against there (declared afterwards)" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"answers": "top1", "responses": "hard"},
            NeedsNotMet,
            "no run of this grid.*: answers=top1 of hard",
        ),
        ({"answers": "topk:10"}, NeedsNotMet, "answers=topk:10 of 10 classes leaves none out"),
        ({"answers": "rounded:2", "white_box": True}, NeedsNotMet, "answers=rounded:2 of a white box"),
        ({"teacher": "no_such_module:ask"}, UnknownName, "teacher 'no_such_module:ask'"),
        ({"teacher": "gone.safetensors"}, CheckpointError, "no teacher at gone.safetensors"),
        ({"teacher": "lenet6"}, UnknownName, "unknown network 'lenet6'"),
        ({"student": "lenet6"}, UnknownName, "unknown network 'lenet6'"),
        ({"hyperparameters": {"kd": {"tempereture": 3}}}, InputError, "tempereture.*did you mean 'temperature'"),
        ({"variants": {"a": {"method": "kd", "set": {"temperature": 0}}}}, InputError, "temperature=0"),
        ({"real_images": 5000}, InputError, "5000"),
        (
            {"methods": "mekd", "hyperparameters": {"mekd": {"emulation_settings": {"components": 0}}}},
            InputError,
            "emulation.components=0",
        ),
        ({"methods": "ml", "responses": "hard"}, NeedsNotMet, "no run of this grid can be done: LogitMimicry needs"),
    ],
)
def test_the_whole_grid_is_looked_at_first(tmp_path, settings, error, message) -> None:
    benchmark = Benchmark(BenchConfig.from_mapping({**SMALL, **settings}), tmp_path / "out")
    with pytest.raises(error, match=message):
        benchmark.execute(resume=False, observe=lambda event, job, reason: pytest.fail("something was started"))
    assert not list((tmp_path / "out").glob("teachers/*")) and not list((tmp_path / "out").glob("runs/*/*"))


def test_variants_are_rows_of_their_own(tmp_path) -> None:
    variants = {"kd_cold": {"method": "kd", "set": {"temperature": 1.0}}}
    results = Benchmark(BenchConfig.from_mapping({**SMALL, "variants": variants}), tmp_path).execute(
        resume=False, observe=nobody
    )
    plain, cold = results.runs
    assert (plain.label, cold.label, cold.method) == ("kd", "kd_cold", "kd")
    assert "temperature=1.0" in cold.signature and plain.student_accuracy != cold.student_accuracy
    assert "| kd_cold |" in (tmp_path / "table.md").read_text() and "kd_cold" in (tmp_path / "report.html").read_text()


def test_a_plan_asks_and_writes_nothing(tmp_path) -> None:
    benchmark = Benchmark(BenchConfig.from_mapping({**SMALL, "seeds": "0,1"}), tmp_path / "out")
    (planned,) = benchmark.plan()
    assert planned.seeds == 2 and 0 < planned.plan.total <= 300
    assert planned.queries == 2 * planned.plan.total
    assert benchmark.evaluation_queries() == {}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("apart", ["disjoint", "teacher_per_seed"])
def test_one_teacher_for_all_seeds_unless_told_otherwise(apart: str) -> None:
    shared = Benchmark(BenchConfig.from_mapping({**SMALL, "seeds": "0,1"}), Path("unused")).specs
    separate = Benchmark(BenchConfig.from_mapping({**SMALL, "seeds": "0,1", apart: True}), Path("unused")).specs
    assert len(teacher_jobs(shared)) == 1
    assert len(teacher_jobs(separate)) == 2


def test_each_seed_may_have_a_teacher_of_its_own(tmp_path) -> None:
    config = BenchConfig.from_mapping({**SMALL, "methods": "kd", "seeds": "0,1", "teacher_per_seed": True})
    first, second = Benchmark(config, tmp_path / "own").execute(resume=False, observe=nobody).runs
    assert {run.status for run in (first, second)} == {"finished"}
    assert _teacher_in(first) != _teacher_in(second)
    assert all(run.processor.endswith(torch.backends.cpu.get_cpu_capability()) for run in (first, second))
    shared = replace(config, seeds=(0,), teacher_per_seed=False)
    (alone,) = Benchmark(shared, tmp_path / "alone").execute(resume=False, observe=nobody).runs
    assert alone.key == first.key and _teacher_in(alone) == _teacher_in(first)


def _teacher_in(run: RunRecord) -> str:
    return run.signature.split("teacher=")[1].split()[0]


def test_the_last_whole_line_of_the_metrics(tmp_path) -> None:
    assert latest_metrics(tmp_path) == {}
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert latest_metrics(tmp_path) == {"step": 2}


LONGER = {**SMALL, "steps": "600"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The directory of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("calm")
    Benchmark(BenchConfig.from_mapping(LONGER), out).execute(resume=False, observe=nobody)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_benchmark_goes_on_to_the_same_numbers(tmp_path, undisturbed, how) -> None:
    flags = [word for name, value in LONGER.items() for word in ("--" + name.replace("_", "-"), str(value))]
    command = [sys.executable, "-m", "mekd_plugin.cli", "bench", *flags, "--out", str(tmp_path / "out")]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
    _wait_until(lambda: list((tmp_path / "out").glob("runs/*/snapshots/*")), process)
    process.send_signal(how)
    assert process.wait(60) == (-how if how is signal.SIGKILL else 130)
    if how is not signal.SIGKILL:
        assert "Go on with:\n  mekd bench --teacher lenet5" in (tmp_path / "said").read_text()
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    (resumed,) = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    (expected,) = json.loads((undisturbed / "results.json").read_text())["runs"]
    for name in ("student_accuracy", "agreement", "curve", "steps", "key", "queries"):
        assert resumed[name] == expected[name], name
    weights = [out / "runs" / expected["key"] / "student.safetensors" for out in (tmp_path / "out", undisturbed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_stopped_benchmark_reports_what_is_done(tmp_path) -> None:
    begun = []

    def stop_at_the_second(event: str, job: Job | None, error: str | None) -> None:
        if event == "start" and job is not None and job.task == "run":
            begun.append(job.spec.label)
            if len(begun) == 2:
                raise KeyboardInterrupt

    config = BenchConfig.from_mapping({**SMALL, "methods": "kd,ml", "jobs": 1, "comparisons": ["kd:ml"]})
    with pytest.raises(KeyboardInterrupt):
        Benchmark(config, tmp_path).execute(resume=False, observe=stop_at_the_second)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(run["label"], run["status"]) for run in results["runs"]] == [("kd", "finished")]
    partial = (tmp_path / "results.json").read_bytes()
    for page in ("table.md", "report.html"):
        assert "The benchmark was stopped" in (tmp_path / page).read_text()
    assert "| kd |" in (tmp_path / "table.md").read_text() and results["comparisons"] == []
    resumed = Benchmark(config, tmp_path).execute(resume=True, observe=nobody)
    assert [(run.label, run.status) for run in resumed.runs] == [("kd", "finished"), ("logit_mimicry", "finished")]
    assert resumed.runs[0].to_json() == results["runs"][0], "what was finished is not done again"
    assert "The benchmark was stopped" not in (tmp_path / "table.md").read_text()
    (tmp_path / "results.json").write_bytes(partial)  # as where the resumed one was killed before its report
    again = Benchmark(config, tmp_path).execute(resume=True, observe=nobody)
    assert again.runs == resumed.runs


def _wait_until(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        if condition() or process.poll() is not None:
            return
        time.sleep(0.1)
    raise TimeoutError("the benchmark did not begin")
