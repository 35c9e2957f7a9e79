"""A run away from home: what travels, and that home knows of a question before the teacher does."""

from __future__ import annotations

from pathlib import Path

import pytest

from mekd_plugin.bench.benchmark import Benchmark
from mekd_plugin.bench.executors import travel
from mekd_plugin.bench.executors.executor import Job
from mekd_plugin.bench.executors.travel import Change, Home, Luggage, StaleAttempt
from mekd_plugin.bench.run_inputs import Place
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.bench.store import Store
from mekd_plugin.bench.worker import do
from mekd_plugin.blackbox.ledger_file import read_ledger
from mekd_plugin.blackbox.spending import Spending
from mekd_plugin.errors import MekdError

SMALL = {
    "teacher": "tests_of_travel:ask", "student": "lenet5_half", "methods": "kd", "steps": 20, "device": "cpu",
    "real_images": 600, "query_budget": 1200, "seeds": "0", "hyperparameters": {"kd": {"queries": 600}},
}  # fmt: skip


class Away:
    """A machine without the benchmark's disk."""

    def __init__(self, home: Home, folder: Path, names: list[str], key: str = "run") -> None:
        self.attempt, files = home.begin(key, names)
        self.sent: list[Change] = []
        self.folder = folder

        def send(changes, gone):
            self.sent = changes
            home.receive(key, self.attempt, changes, gone)

        self.luggage = Luggage(folder, files, send)

    def write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "out", tmp_path / "cache")


def test_what_changed_comes_home_and_of_a_file_that_grew_only_its_end(home, tmp_path) -> None:
    away = Away(home, tmp_path / "away", [])
    long = bytes(range(256)) * 1000
    away.write("out/runs/run/ledger-0.jsonl", long)
    away.write("cache/teachers/a.safetensors", b"weights")
    away.luggage.send()
    assert (tmp_path / "out/runs/run/ledger-0.jsonl").read_bytes() == long
    assert (tmp_path / "cache/teachers/a.safetensors").read_bytes() == b"weights"
    away.write("out/runs/run/ledger-0.jsonl", long + b"more")
    away.luggage.send()
    (change,) = away.sent
    assert change.start == len(long) // 2**16 * 2**16 and len(change.content) == len(long) + 4 - change.start
    assert (tmp_path / "out/runs/run/ledger-0.jsonl").read_bytes() == long + b"more"
    away.write("out/runs/run/ledger-0.jsonl", b"x" + long[1 : 2**16])
    away.luggage.send()
    assert (tmp_path / "out/runs/run/ledger-0.jsonl").read_bytes() == b"x" + long[1 : 2**16]
    (away.folder / "out/runs/run/ledger-0.jsonl").unlink()
    away.luggage.send()
    assert not (tmp_path / "out/runs/run/ledger-0.jsonl").exists()
    away.sent = []
    away.luggage.send()
    assert away.sent == [] and not list((tmp_path / "out/.arriving").iterdir())


def test_another_machine_begins_with_what_home_has(home, tmp_path) -> None:
    first = Away(home, tmp_path / "first", [])
    first.write("out/runs/run/stages/0-gan.safetensors", b"stage")
    first.write("out/runs/other/record.json", b"{}")
    first.luggage.send()
    given = tmp_path / "teacher.onnx"
    given.write_bytes(b"teacher")
    _, files = home.begin("run", ["out/runs/run/**/*"], str(given))
    assert files == {"out/runs/run/stages/0-gan.safetensors": b"stage", "given/teacher.onnx": b"teacher"}
    second = Away(home, tmp_path / "second", ["out/runs/run/**/*"])
    second.luggage.send()
    assert second.sent == []  # nothing changed


def test_locks_and_what_is_half_written_stay_where_they_are(home, tmp_path) -> None:
    away = Away(home, tmp_path / "away", [])
    for name in (
        "run.lock",
        "run.holder.json",
        ".record.json-x7",
        "banks/bank/images-1.npy",
        "banks/bank/images-0.npy",
    ):
        away.write(f"out/runs/run/{name}", b"x")
    away.write("out/runs/run/banks/bank/bank.json", b'{"columns": {"images": {"file": "images-0.npy"}}}')
    away.luggage.send()
    found = sorted(path.name for path in (tmp_path / "out/runs").rglob("*") if path.is_file())
    assert found == ["bank.json", "images-0.npy"]


def test_a_worker_that_was_taken_for_dead_is_not_listened_to(home, tmp_path) -> None:
    lost, other = Away(home, tmp_path / "lost", []), Away(home, tmp_path / "other", [])
    lost.write("out/runs/run/record.json", b"old")
    with pytest.raises(StaleAttempt, match="attempt 1 at run goes on after another began"):
        lost.luggage.send()
    other.write("out/runs/run/record.json", b"new")
    other.luggage.send()
    assert (tmp_path / "out/runs/run/record.json").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["/etc/passwd", "out/../../x", "elsewhere/x", "out"])
def test_nothing_is_written_outside(home, name) -> None:
    home.begin("run", [])
    with pytest.raises(MekdError, match="is no file of a run"):
        home.receive("run", 1, [Change(name, 0, b"x")], [])


def test_changes_come_home_together_or_not_at_all(home, tmp_path, monkeypatch) -> None:
    home.begin("run", [])
    changes = [Change("out/runs/run/a", 0, b"a"), Change("out/runs/run/b", 0, b"b")]
    moved = []

    def killed(*paths):
        if moved:
            raise KeyboardInterrupt
        moved.append(paths)
        Path(paths[0]).rename(paths[1])

    with monkeypatch.context() as patch:
        patch.setattr(travel.os, "replace", killed)  # of the settling alone
        patch.setattr(travel, "write_atomically", lambda path, content: path.write_bytes(content))
        with pytest.raises(KeyboardInterrupt):
            home.receive("run", 1, changes, [])
    assert sorted(path.name for path in (tmp_path / "out/runs/run").iterdir()) == ["a"]
    Home(tmp_path / "out", tmp_path / "cache")  # the next life of the benchmark
    assert [(tmp_path / "out/runs/run" / name).read_bytes() for name in "ab"] == [b"a", b"b"]
    with monkeypatch.context() as patch:  # killed before all was there: nothing counts
        patch.setattr(travel.Home, "_settle", lambda self, folder: (folder / "complete.json").unlink())
        home.receive("run", 1, [Change("out/runs/run/a", 0, b"later")], [])
    Home(tmp_path / "out", tmp_path / "cache")
    assert (tmp_path / "out/runs/run/a").read_bytes() == b"a"
    assert not list((tmp_path / "out/.arriving").iterdir())


class Lost(BaseException):
    """The machine is gone: nothing of the process goes on."""


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A teacher that says how many images it received, and looks home before it answers."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "tests_of_travel.py").write_text(
        "import torch\nbefore = []\nreceived = []\n"
        "def ask(images):\n"
        "    for look in before:\n        look(len(images))\n"
        "    received.append(len(images))\n"
        "    return torch.stack([images.flatten(1).roll(k, 1)[:, ::5].sum(1) for k in range(10)], 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setenv("MEKD_CACHE", str(tmp_path / "machine-cache"))
    import tests_of_travel

    tests_of_travel.received.clear()
    tests_of_travel.before.clear()
    yield tests_of_travel
    tests_of_travel.before.clear()


def spent(folder: Path, run: str) -> Spending:
    spending = Spending()
    path = folder / "runs" / run / "ledger-0.jsonl"
    if path.exists():
        read_ledger(path, spending)
    return spending


def test_no_question_leaves_before_home_counts_it_and_a_lost_machine_costs_one_batch(tmp_path, asked) -> None:
    spec = Benchmark(BenchConfig.from_mapping(SMALL), tmp_path / "unused").specs[0]
    undisturbed = tmp_path / "undisturbed"
    assert do(Job("run", spec), Place(str(undisturbed))) is None
    expected = Store(undisturbed, resume=True).read(spec.key)
    tested = expected.queries.evaluation
    assert expected.queries.total == sum(asked.received) - tested == 600

    home = Home(tmp_path / "out", tmp_path / "cache")
    names = [f"out/runs/{spec.key}/**/*", "out/teachers/**/*", "out/shared/**/*"]
    asked.received.clear()
    counted: list[int] = []

    def look(images: int) -> None:
        if sum(asked.received) >= tested:  # of the run itself
            counted.append(spent(tmp_path / "out", spec.key).total)
            assert counted[-1] >= sum(asked.received) - tested + images
        if len(counted) == 2 and life == 1:
            raise Lost

    asked.before.append(look)
    for life in (1, 2):
        away = Away(home, tmp_path / f"machine{life}", names, spec.key)
        try:
            assert do(Job("run", spec), Place(str(away.folder / "out")), note=away.luggage.send) is None
            away.luggage.send()
        except Lost:
            assert life == 1
    assert counted == [256, 512, 768, 856]  # the batch of the lost question counts twice
    record = Store(tmp_path / "out", resume=True).read(spec.key)
    assert record.queries.total == 856 and record.queries.uncertain == 256
    assert sum(asked.received) - tested == 600 and record.queries.evaluation == tested
    assert (record.student_accuracy, record.curve) == (expected.student_accuracy, expected.curve)
    weights = [path / "runs" / spec.key / "student.safetensors" for path in (undisturbed, tmp_path / "out")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
