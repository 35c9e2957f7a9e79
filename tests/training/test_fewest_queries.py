"""A budget with which a method cannot work is refused before anything is asked, and is a row of its own in a table."""

import pytest
from mekd_plugin.baselines.kd import KD
from typer.testing import CliRunner

from mekd_plugin import distill
from mekd_plugin.bench.api import benchmark
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.cli import app
from mekd_plugin.errors import NeedsNotMet
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.plan import plan
from mekd_plugin.training.recipe import Recipe


class Thirsty(KD):
    """Needs ten queries an image."""

    def fewest_queries(self, images):
        return 10 * images


@pytest.mark.parametrize("door", [distill, plan])
def test_too_small_a_budget_is_refused_with_the_number_needed(door):
    teacher = ToyTeacher()
    box = BlackBox(teacher, "logits", CLASSES, budget=199)
    with pytest.raises(NeedsNotMet, match="Thirsty needs at least 200 queries, and the query budget is 199"):
        door(toy_student(), box, toy_images(20, seed=1), Thirsty, recipe=Recipe(steps=2))
    assert teacher.count == 0


@pytest.mark.parametrize("budget", [200, None])
def test_enough_is_not(budget):
    box = BlackBox(ToyTeacher(), "logits", CLASSES, budget=budget)
    settings = {"recipe": Recipe(steps=2), "progress": False, "validation": 0.0}
    assert distill(toy_student(), box, toy_images(20, seed=1), Thirsty, **settings).ledger.total > 0


def test_a_benchmark_shows_the_row_as_not_applicable(tmp_path):
    settings = {"dataset": "digits", "teacher": "lenet5", "teacher_steps": 2, "student": "lenet5_half"}
    results = benchmark(
        {"thirsty": Thirsty, "kd": KD},
        **settings,
        real_images=20,
        query_budget=100,
        steps=2,
        seeds=[0],
        out=tmp_path,
    )
    told = {run.label: run for run in results.runs}
    assert told["kd"].status == "finished"
    assert told["thirsty"].status == "not applicable" and "at least 200 queries" in told["thirsty"].error


FRESH = {"mode": "fresh", "latent_temperature": 3.0, "preset": "tiny", "emulation.steps": 2}


@pytest.mark.parametrize("door", [distill, plan])
def test_a_budget_that_ends_while_the_student_trains_is_refused_before_anything_is(door):
    teacher = ToyTeacher()
    box = BlackBox(teacher, "logits", CLASSES, budget=500)
    with pytest.raises(NeedsNotMet, match="8 steps of 64 rows are 512 queries, and the query budget is 500"):
        door(toy_student(), box, toy_images(20, seed=1), "mekd", recipe=Recipe(steps=8), **FRESH)
    assert teacher.count == 0 and box.ledger.total == 0


def test_one_that_lasts_is_not():
    box = BlackBox(ToyTeacher(), "logits", CLASSES, budget=16)
    recipe = Recipe(steps=2, batch_size=8)
    assert distill(
        toy_student(), box, toy_images(20, seed=1), "mekd", recipe=recipe, progress=False, **FRESH
    ).ledger.by_stage == {"alignment": 16}


def test_a_benchmark_objects_to_a_preset_that_its_budget_does_not_buy(tmp_path):
    words = ["--preset", "paper", "--methods", "mekd", "--seeds", "0", "--dry-run", "--out", str(tmp_path / "out")]
    with pytest.raises(NeedsNotMet, match="120,000 steps of 128 rows are 15,360,000 queries, .* budget is 5,000"):
        CliRunner().invoke(app, ["bench", *words], catch_exceptions=False)
    assert not (tmp_path / "out").exists()
