"""Any executor gives the same numbers: processes, this process, and one that a third party writes in twenty lines."""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import pytest

from mekd_plugin.bench.benchmark import Benchmark
from mekd_plugin.bench.executors.executor import Job, execute, teacher_jobs
from mekd_plugin.bench.executors.in_process import InProcessExecutor
from mekd_plugin.bench.executors.local import LocalExecutor
from mekd_plugin.bench.run_inputs import Place
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.bench.store import Store
from mekd_plugin.bench.worker import do

SMALL = {
    "teacher": "lenet5", "student": "lenet5_half", "methods": "kd,ml", "teacher_steps": 40, "steps": 20,
    "real_images": 60, "query_budget": 200, "seeds": "0", "device": "cpu",
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MEKD_CACHE", str(tmp_path_factory.mktemp("cache")))


class PoolExecutor:
    """Processes of the standard library's pool: what a scheduler of one's own has to offer, and no more."""

    def __init__(self, place: Place) -> None:
        self._place, self._pool = place, ProcessPoolExecutor(2, mp_context=get_context("spawn"))
        self._running: dict[Job, Future[str | None]] = {}

    slots = 2

    def start(self, job: Job) -> None:
        self._running[job] = self._pool.submit(do, job, self._place)

    def poll(self) -> list[tuple[Job, str | None]]:
        ended = [job for job, future in self._running.items() if future.done()]
        return [(job, self._running.pop(job).result()) for job in ended]

    def stop(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def numbers(results):
    return [(run.label, run.student_accuracy, run.agreement, run.curve, run.queries) for run in results.runs]


def test_every_executor_gives_the_same_numbers(tmp_path, monkeypatch) -> None:
    config, found = BenchConfig.from_mapping(SMALL), []
    makers = {
        "local": lambda self, store: LocalExecutor(store, self.place, 2, self.devices),
        "in_process": lambda self, store: InProcessExecutor(self.place, {}),
        "pool": lambda self, store: PoolExecutor(self.place),
    }
    for name, make in makers.items():
        monkeypatch.setattr(Benchmark, "_executor", make)
        benchmark = Benchmark(config, tmp_path / name)
        found.append(numbers(benchmark.execute(resume=False, observe=lambda event, job, error: None)))
    assert found[0] == found[1] == found[2] and len(found[0]) == 2


def test_devices_take_turns(tmp_path) -> None:
    executor = LocalExecutor(Store(tmp_path), Place(str(tmp_path)), 3, ("cuda:0", "cuda:1"))
    given = []
    for _ in range(3):
        given.append(executor._free_device())
        executor._running[object()] = type("Running", (), {"device": given[-1]})()
    assert given == ["cuda:0", "cuda:1", "cuda:0"]


def test_a_failure_is_told_and_the_others_go_on() -> None:
    class Scripted:
        slots = 2

        def __init__(self):
            self.begun = []

        def start(self, job):
            self.begun.append(job)

        def poll(self):
            ended, self.begun = self.begun, []
            return [(job, "broken" if job is second else None) for job in ended]

        def stop(self):
            pass

    first, second, third = (Job("run", spec) for spec in Benchmark(BenchConfig(methods=("kd",)), "unused").specs)
    seen = []
    failed = execute(Scripted(), [first, second, third], lambda event, job, error: job and seen.append((event, job)))
    assert failed == {second: "broken"} and len(seen) == 6


def test_workers_end_with_the_benchmark_that_started_them(tmp_path) -> None:
    benchmark = Benchmark(BenchConfig.from_mapping({**SMALL, "teacher_steps": 100_000}), tmp_path)
    store = Store(tmp_path)
    executor = LocalExecutor(store, benchmark.place, 1, benchmark.devices)
    executor.start(Job("teacher", benchmark.specs[0]))
    (running,) = executor._running.values()
    executor.stop()
    assert running.process.poll() is not None and len(list((tmp_path / "teachers").glob("log-*.txt"))) == 1


def test_teachers_prepared_side_by_side_have_a_log_each(tmp_path) -> None:
    broken = [f"{name}@{tmp_path / name}.safetensors" for name in ("lenet5", "lenet5_half")]
    specs = Benchmark(BenchConfig.from_mapping({**SMALL, "teacher": broken, "methods": "kd"}), tmp_path / "out").specs
    place = Place(str(tmp_path / "out"))
    executor = LocalExecutor(Store(tmp_path / "out"), place, 2, ("cpu",))
    failed = execute(executor, teacher_jobs(specs), lambda event, job, error: None)
    executor.stop()
    assert {job.spec.teacher for job in failed} == set(broken)
    for job, reason in failed.items():
        assert reason.startswith("CheckpointError: ") and job.spec.teacher.partition("@")[2] in reason


def test_a_job_that_fails_says_so_and_raises_nothing(tmp_path, monkeypatch) -> None:
    spec = Benchmark(BenchConfig.from_mapping({**SMALL, "methods": "kd"}), tmp_path / "out").specs[0]
    lost = replace(spec, teacher=f"lenet5@{tmp_path / 'lost.safetensors'}", teacher_steps=None)
    place = Place(str(tmp_path / "out"))
    for task in ("teacher", "run"):
        assert "lost.safetensors" in do(Job(task, lost), place)
    assert Store(tmp_path / "out", resume=True).read(lost.key).status == "failed"
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert f"{blocked} is a file" in do(Job("run", spec), Place(str(blocked)))


@pytest.mark.parametrize("executor", ["local", "in_process"])
def test_a_disk_that_is_full_when_a_record_is_written_fails_that_row_alone(tmp_path, monkeypatch, executor) -> None:
    makers = {
        "local": lambda self, store: LocalExecutor(store, self.place, 1, self.devices),
        "in_process": lambda self, store: InProcessExecutor(self.place, {}),
    }
    monkeypatch.setattr(Benchmark, "_executor", makers[executor])
    benchmark = Benchmark(BenchConfig.from_mapping(SMALL), tmp_path)
    full, other = benchmark.specs
    # The system refuses to put a file in a directory's place, as a full disk refuses any file.
    (tmp_path / "runs" / full.key / "record.json" / "in the way").mkdir(parents=True)
    results = benchmark.execute(resume=True, observe=lambda event, job, error: None)
    rows = {run.key: run for run in results.runs}
    assert rows[other.key].status == "finished" and rows[full.key].status == "failed"
    assert "cannot write" in rows[full.key].error and "its record could not be written" in rows[full.key].error
