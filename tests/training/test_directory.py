"""Whose a run's directory is."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

import mekd_plugin as mekd
from mekd_plugin.errors import CheckpointError, InputError, NeedsNotMet, QueryBudgetExceeded
from mekd_plugin.rows import ImageRows
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.directory import threads_of_run
from mekd_plugin.training.recipe import Recipe

SHORT = {"recipe": Recipe(steps=20, batch_size=16), "progress": False, "device": "cpu", "method": "kd"}

OTHER = textwrap.dedent("""
    import sys, time
    import mekd_plugin as mekd
    from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
    from mekd_plugin.training.recipe import Recipe

    def slow(images):
        print("asked", len(images), flush=True)
        time.sleep(float(sys.argv[2]))
        return ToyTeacher()(images).detach()

    box = mekd.BlackBox(slow, "logits", CLASSES, budget=200, batch_size=20)
    try:
        mekd.distill(toy_student(), box, toy_images(40, seed=1), "kd", recipe=Recipe(steps=20, batch_size=16),
                     directory=sys.argv[1], resume=True, progress=False, device="cpu")
    except mekd.errors.CheckpointError as error:
        print("refused:", error, flush=True)
        sys.exit(3)
""").replace("mekd.errors.", "__import__('mekd_plugin.errors').errors.")


def start(directory, seconds):
    command = [sys.executable, "-c", OTHER, str(directory), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_of_two_processes_in_one_directory_the_second_is_refused(tmp_path):
    first = start(tmp_path / "run", 1.5)
    assert first.stdout.readline().startswith("asked")
    second = start(tmp_path / "run", 0)
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 3 and f"another process ({first.pid} on " in said and "asked" not in said
    rest, _ = first.communicate(timeout=120)
    assert first.returncode == 0 and 1 + rest.count("asked") == 10
    ledger = [json.loads(line) for line in (tmp_path / "run/ledger-0.jsonl").read_text().splitlines()]
    assert sum(entry.get("ask", 0) for entry in ledger) == 200


def test_a_killed_process_holds_nothing(tmp_path):
    first = start(tmp_path / "run", 30)
    assert first.stdout.readline().startswith("asked")
    first.kill()
    first.communicate(timeout=60)
    second = start(tmp_path / "run", 0)
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 0, said


def box():
    return mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=200)


def test_within_a_process_a_running_run_is_not_taken_over(tmp_path):
    def meddle(student):
        with pytest.raises(CheckpointError, match=f"another process .{os.getpid()} on"):
            mekd.distill(toy_student(), box(), toy_images(40, seed=1), directory=tmp_path, resume=True, **SHORT)
        return {}

    mekd.distill(
        toy_student(), box(), toy_images(40, seed=1), directory=tmp_path, evaluate=meddle, evaluate_steps=[5], **SHORT
    )


def test_an_idle_guest_gives_its_directory_to_the_next(tmp_path):
    """A notebook cell that is run again opens the same directory while the first object is still there."""
    settings = {"directory": tmp_path, "resume": True, "progress": False, "device": "cpu", "method": "kd"}
    first = mekd.host(toy_student(), box(), toy_images(40, seed=1), **settings)
    second = mekd.host(toy_student(), box(), toy_images(40, seed=1), **settings)
    assert second.ledger.total == 200 == first.ledger.total
    second.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe"])
def test_a_damaged_run_json_is_named(tmp_path, content):
    mekd.distill(toy_student(), box(), toy_images(40, seed=1), directory=tmp_path, **SHORT)
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"run\.json does not say which run it is"):
        mekd.distill(toy_student(), box(), toy_images(40, seed=1), directory=tmp_path, resume=True, **SHORT)


def test_remains_without_their_run_json_are_nobodys_to_start_in(tmp_path):
    mekd.distill(toy_student(), box(), toy_images(40, seed=1), directory=tmp_path, **SHORT)
    (tmp_path / "run.json").unlink()
    for seed in (0, 1):
        with pytest.raises(CheckpointError, match=r"holds ledger-\*\.jsonl, .* of a run whose run\.json is lost"):
            settings = {**SHORT, "seed": seed, "directory": tmp_path, "resume": True}
            mekd.distill(toy_student(), box(), toy_images(40, seed=1), **settings)


def test_what_differs_from_the_run_that_is_there_is_said(tmp_path):
    mekd.distill(toy_student(), box(), toy_images(40, seed=1), directory=tmp_path, **SHORT)
    with pytest.raises(CheckpointError, match="holds another run: seed=0 there, seed=1 asked for; resume"):
        mekd.distill(toy_student(), box(), toy_images(40, seed=1), directory=tmp_path, resume=True, seed=1, **SHORT)


WINDOWS = textwrap.dedent("""
    import signal, sys
    import psutil
    sys.modules["resource"] = None  # there is none on Windows
    for name in ("SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPIPE"):
        delattr(signal, name)
    memory = psutil.Process.memory_info
    class WithPeak:
        def __init__(self, found): self.rss, self.peak_wset = found.rss, found.rss
    psutil.Process.memory_info = lambda self: WithPeak(memory(self))
    import mekd_plugin as mekd
    import mekd_plugin.bench.benchmark, mekd_plugin.cli
    from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
    from mekd_plugin.training.recipe import Recipe
    box = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=100)
    result = mekd.distill(toy_student(), box, toy_images(40, seed=1), "kd", recipe=Recipe(steps=5), progress=False,
                          directory=sys.argv[1])
    assert result.peak_memory_mb > 1 and result.ledger.total == 100
""")


def test_a_system_without_resource_and_posix_signals_distils_too(tmp_path):
    command = [sys.executable, "-c", WINDOWS, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr


def test_threads_are_those_of_the_first_life(tmp_path):
    settings = {**SHORT, "directory": tmp_path}
    mekd.distill(toy_student(), box(), toy_images(40, seed=1), **settings)
    assert json.loads((tmp_path / "run.json").read_text())["threads"] == torch.get_num_threads()


def run_in(directory, teacher, method="kd", *, budget=50, **settings):
    box = mekd.BlackBox(teacher, "logits", CLASSES, budget=budget)
    recipe = Recipe(steps=10, batch_size=16)
    wanted = {"recipe": recipe, "directory": directory, "resume": True, "progress": False, "device": "cpu", **settings}
    return mekd.distill(toy_student(), box, toy_images(60, seed=1), method, **wanted)


TINY = {"preset": "tiny", "emulation": "gan", "surrogate": None, "emulation_settings": {"steps": 10, "batch_size": 16}}


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [("kd", {}, "needs 60 more answers"), ("mekd", TINY, "needs 60 more answers")],
)
def test_a_run_refused_for_its_budget_does_not_block_the_next(tmp_path, method, settings, message):
    teacher = ToyTeacher()
    settings = {**settings, "queries": 60, "checkpoint_steps": 4}
    for budget in (30, 59):
        with pytest.raises(QueryBudgetExceeded, match=message):
            run_in(tmp_path / "run", teacher, method, budget=budget, **settings)
    assert teacher.count == 0
    result = run_in(tmp_path / "run", teacher, method, budget=60, **settings)
    assert teacher.count == result.ledger.total == 60 and result.ledger.by_stage.keys() <= {"transfer_set", "bank"}


def test_a_guest_refused_for_its_budget_does_not_block_the_next(tmp_path):
    for budget in (1, 50):
        box = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=budget)
        settings = {"method": "kd", "directory": tmp_path / "run", "resume": True, "progress": False}
        if budget == 1:
            with pytest.raises(InputError, match="1 queries for stage 'transfer_set': expected at least 2"):
                mekd.host(toy_student(), box, toy_images(60, seed=1), **settings)
        else:
            assert mekd.host(toy_student(), box, toy_images(60, seed=1), **settings).ledger.total == 50


def test_a_refusal_takes_nothing_away_that_was_paid_for_or_trained(tmp_path):
    class Later(mekd.Distiller):
        """Refuses after its first questions, or after its first stage."""

        needs = mekd.Needs(responses="either", leaves_edge="real images")

        def __init__(self, *, first="ask", **world):
            super().__init__(**world)
            self.first = first

        def stages(self, teacher, images, student):
            bank = mekd.Bank("some")
            if self.first == "ask":
                yield mekd.Asking("some", bank, lambda start, stop: mekd.Rows(images[start:stop]), 20)
            elif self.first == "train":
                network = toy_student()
                step = lambda rows, update, query: update({"network": network(rows.images).mean()}) or {}  # noqa: E731
                player = mekd.Player(network, lambda weights: torch.optim.SGD(weights, lr=0.1))
                yield mekd.Training("before", ImageRows(images, seed=0), step, {"network": player}, steps=3)
            raise NeedsNotMet("no further")

    for first in ("ask", "train", "nothing"):
        teacher = ToyTeacher()
        directory = tmp_path / first
        for _ in range(2):
            with pytest.raises(NeedsNotMet, match="no further"):
                run_in(directory, teacher, Later, first=first)
        assert teacher.count == (20 if first == "ask" else 0)
        assert (directory / "run.json").exists() == (first != "nothing")
        assert any(directory.glob("stages/*")) == (first == "train")
        assert any(directory.glob("banks/some/bank.json")) == (first == "ask")


class TrainsFirst(mekd.Distiller):
    """Trains a generator, then asks about 60 images."""

    needs = mekd.Needs(responses="either", leaves_edge="real images")
    trained = 0

    def stages(self, teacher, images, student):
        network = toy_student()

        def step(rows, update, query):
            TrainsFirst.trained += 1
            update({"generator": network(rows.images).mean()})
            return {}

        player = mekd.Player(network, lambda weights: torch.optim.SGD(weights, lr=0.1))
        yield mekd.Training("before", ImageRows(images, seed=0), step, {"generator": player}, steps=3)
        bank = mekd.Bank("some")
        yield mekd.Asking("some", bank, lambda start, stop: mekd.Rows(images[start:stop]), 60)
        yield self.align("student", bank.order(0), student)

    def losses(self, student, rows):
        return {"loss": student(rows.images).square().mean()}


def test_a_budget_of_the_runs_own_takes_away_what_was_trained(tmp_path):
    with pytest.raises(QueryBudgetExceeded, match="needs 60 more answers"):
        run_in(tmp_path / "run", ToyTeacher(), TrainsFirst, budget=59)
    assert not [*(tmp_path / "run").rglob("*.safetensors"), *(tmp_path / "run").glob("run.json")]


def test_a_budget_that_others_spent_leaves_what_was_trained_to_a_fresh_black_box(tmp_path):
    box = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=60)
    box.query(toy_images(20, seed=2), stage="elsewhere")
    recipe = Recipe(steps=10, batch_size=16)
    settings = {"recipe": recipe, "directory": tmp_path / "run", "resume": True, "progress": False, "device": "cpu"}
    TrainsFirst.trained = 0
    with pytest.raises(QueryBudgetExceeded, match="needs 60 more answers"):
        mekd.distill(toy_student(), box, toy_images(60, seed=1), TrainsFirst, **settings)
    assert (tmp_path / "run" / "generator.safetensors").exists() and TrainsFirst.trained == 3
    fresh = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=60)
    result = mekd.distill(toy_student(), fresh, toy_images(60, seed=1), TrainsFirst, **settings)
    assert result.ledger.by_stage == {"some": 60} and TrainsFirst.trained == 3


def test_another_runs_directory_is_left_alone_by_a_refusal(tmp_path):
    run_in(tmp_path / "run", ToyTeacher())
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for settings in ({"budget": 1}, {"queries": 60, "budget": 50}, {"seed": 1}):
        with pytest.raises(CheckpointError, match="holds another run"):
            run_in(tmp_path / "run", ToyTeacher(), **settings)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("there", "wanted", "said"),
    [
        (
            "kd:quick range=(-1, 1) seed=0",
            "kd:quick range=(0, 1) seed=0",
            "range=(-1, 1) there, range=(0, 1) asked for",
        ),
        ("a steps=5 steps=7", "a steps=7 steps=5", "the same settings in another order"),
        ("a steps=5 steps=5", "a steps=5", "steps=5 there, nothing of it asked for"),
        ("a x=" + "y" * 500, "a", f"x={'y' * 118}... there, nothing of it asked for"),
    ],
)
def test_only_what_differs_is_said(tmp_path, there, wanted, said):
    (tmp_path / "run.json").write_text(json.dumps({"signature": there, "threads": 1}))
    with pytest.raises(CheckpointError) as refused:
        threads_of_run(tmp_path / "run.json", wanted)
    assert f"holds another run: {said}; resume" in str(refused.value)


def _first(out):
    return out


def _turned(out):
    return -3 * out


@pytest.mark.parametrize("before, after", [({"quantize": "uint8"}, {}), ({"answer": _first}, {"answer": _turned})])
def test_what_is_done_to_images_and_answers_is_part_of_the_run(tmp_path, before, after):
    teacher, images = ToyTeacher(), toy_images(60, seed=1)
    settings = {**SHORT, "directory": tmp_path / "run", "queries": 60, "resume": True}
    mekd.distill(toy_student(), mekd.BlackBox(teacher, "logits", CLASSES, **before), images, **settings)
    other = mekd.BlackBox(teacher, "logits", CLASSES, **after)
    with pytest.raises(CheckpointError, match=f"holds another run: .*{next(iter(before))}="):
        mekd.distill(toy_student(), other, images, **settings)
    assert other.ledger.total == 0
