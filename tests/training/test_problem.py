"""One list of what a problem is made of, for every door; a method by name, as a class, as an instance."""

import inspect
import json
import warnings

import pytest
import torch

import mekd_plugin as mekd
from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.distiller import Asking, Distiller, Needs, Training
from mekd_plugin.errors import CheckpointError, InputError, MekdError
from mekd_plugin.functional import kd_divergence
from mekd_plugin.mekd.method import MEKD
from mekd_plugin.rows import ImageRows, Rows
from mekd_plugin.testing import CLASSES, SHAPE, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.plan import plan
from mekd_plugin.training.problem import Problem
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.run import distill, host
from mekd_plugin.transfer import TransferSetDistiller


class InACell(TransferSetDistiller):
    """A method as somebody writes it in a notebook: no package, no entry point."""

    needs = Needs(responses="soft", leaves_edge="real images")

    def __init__(self, *, temperature=2.0, queries=None, **world):
        super().__init__(queries=queries, **world)
        self.temperature = temperature

    def losses(self, student, rows):
        return {"loss": kd_divergence(student(rows.images), rows.answers().scores(), self.temperature)}


SHORT = {"recipe": Recipe(steps=12, batch_size=16), "device": "cpu"}


def boundary(budget=100):
    return mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=budget)


def solved(method, **options):
    return mekd.distill(
        toy_student(), boundary(), toy_images(40, seed=1), method, progress=False, **{**SHORT, **options}
    )


def weights(result):
    return torch.cat([value.flatten().double() for value in result.student.state_dict().values()])


def test_a_name_a_class_and_an_instance_are_the_same_method():
    named = solved("kd", temperature=3.0)
    cls = type(mekd.create("kd", num_classes=CLASSES, image_shape=SHAPE))
    instance = cls(num_classes=CLASSES, image_shape=SHAPE, temperature=3.0)
    for method, settings in ((cls, {"temperature": 3.0}), (instance, {}), (instance, {})):
        assert torch.equal(weights(named), weights(solved(method, **settings)))


def test_an_instance_serves_many_runs():
    """Each takes a copy: what one trained is not found by the next."""
    method = MEKD(
        num_classes=CLASSES,
        image_shape=SHAPE,
        emulation_preset="tiny",
        emulation="gan",
        surrogate=None,
        emulation_settings={"steps": 5},
    )
    with pytest.warns(UserWarning):
        first, second = solved(method), solved(method)
    assert torch.equal(weights(first), weights(second))
    assert method.generator is None and method.health is None
    assert {entry["stage"] for entry in second.history} >= {"deprivatization", "bank", "alignment"}


def test_a_method_in_a_cell_runs_behind_every_door(tmp_path):
    result = solved(InACell, directory=tmp_path / "run")
    assert result.ledger.by_stage == {"transfer_set": 100}
    assert "InACell:quick" in result.signature
    foreseen = mekd.plan(toy_student(), boundary(), toy_images(40, seed=1), InACell, **SHORT)
    assert foreseen.queries == {"transfer_set": 100}
    hosted = mekd.host(toy_student(), boundary(), toy_images(40, seed=1), InACell, progress=False, device="cpu")
    images, _, numbers = next(iter(hosted.loader(16)))
    assert hosted.losses(toy_student(), hosted.rows(images, numbers))["loss"].isfinite()


def test_a_runs_signature_knows_an_instances_settings(tmp_path):
    solved(InACell(num_classes=CLASSES, image_shape=SHAPE, temperature=3.0), directory=tmp_path)
    with pytest.raises(CheckpointError, match="holds another run"):
        solved(InACell(num_classes=CLASSES, image_shape=SHAPE, temperature=4.0), directory=tmp_path, resume=True)
    again = solved(InACell(num_classes=CLASSES, image_shape=SHAPE, temperature=3.0), directory=tmp_path, resume=True)
    assert "temperature=3.0" in again.signature


def test_an_instance_of_mekd_is_resumed_by_an_equal_one(tmp_path):
    def method(steps):
        settings = {"steps": steps}
        return MEKD(
            num_classes=CLASSES,
            image_shape=SHAPE,
            emulation_preset="tiny",
            emulation="gan",
            surrogate=None,
            emulation_settings=settings,
        )

    with warnings.catch_warnings(action="ignore"):
        first = solved(method(5), directory=tmp_path)
        again = solved(method(5), directory=tmp_path, resume=True)
        assert " at 0x" not in first.signature and again.signature == first.signature
        with pytest.raises(CheckpointError, match="holds another run"):
            solved(method(6), directory=tmp_path, resume=True)


def test_a_failing_call_leaves_another_runs_files_alone(tmp_path):
    box = boundary(budget=200)
    settings = {"progress": False, "device": "cpu"}
    hosted = mekd.host(toy_student(), box, toy_images(40, seed=1), "kd", queries=40, directory=tmp_path, **settings)
    with pytest.raises(MekdError):
        mekd.plan(toy_student(), box, toy_images(40, seed=1), "kd", queries=5000, **SHORT)
    hosted.ask(toy_images(10, seed=2))
    hosted.close()
    lines = (tmp_path / "ledger-0.jsonl").read_text().splitlines()
    assert sum(json.loads(line).get("ask", 0) for line in lines) == 50 == box.ledger.total


def test_two_banks_of_one_name_are_refused(tmp_path):
    class TwoBanks(InACell):
        def stages(self, teacher, images, student):
            for name in ("first", "second"):
                yield Asking(name, Bank(), lambda start, stop: Rows(images[start:stop]), 20)

    with pytest.raises(InputError, match="two banks are named 'bank'"):
        solved(TwoBanks, directory=tmp_path)


def test_a_plan_of_a_method_that_asks_now_and_then_counts_no_less_than_nothing():
    class NowAndThen(InACell):
        def stages(self, teacher, images, student):
            taken = []

            def step(rows, update, query):
                if len(taken) % 5 == 0:
                    query(rows.images)
                taken.append(None)
                loss = student(rows.images).square().mean()
                update({"student": loss})
                return {"loss": loss.detach()}

            yield Training("student", ImageRows(images, seed=0), step, trains_student=True)

    assert mekd.plan(toy_student(), boundary(10_000), toy_images(40, seed=1), NowAndThen, **SHORT).total > 0


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (InACell, {"temprature": 3}, "unknown hyperparameter of InACell 'temprature'.*did you mean 'temperature'"),
        (InACell(num_classes=5, image_shape=SHAPE), {}, "num_classes=5, and this run has num_classes=3"),
        (InACell(num_classes=CLASSES, image_shape=SHAPE, seed=4), {}, "seed=4, and this run has seed=0"),
        (
            InACell(num_classes=CLASSES, image_shape=SHAPE),
            {"temperature": 3.0},
            "temperature: the method is an instance",
        ),
    ],
)
def test_a_method_of_ones_own_that_does_not_fit_is_refused_before_anything_is_asked(method, options, message):
    toy = ToyTeacher()
    box = mekd.BlackBox(toy, "logits", CLASSES, budget=100)
    with pytest.raises(InputError, match=message):
        mekd.distill(toy_student(), box, toy_images(40, seed=1), method, progress=False, **{**SHORT, **options})
    assert toy.count == 0


def test_images_from_0_to_1_are_warned_about_where_the_teacher_takes_more():
    with pytest.warns(UserWarning, match=r"if they are scaled to \[0, 1\], say BlackBox"):
        mekd.distill(toy_student(), boundary(), toy_images(40, 1).clamp(0, 1), "kd", progress=False, **SHORT)


def test_what_was_declared_of_the_answers_stands_in_the_signature():
    def rounded(images):
        return ToyTeacher()(images).detach().softmax(dim=1).round(decimals=2)

    box = mekd.BlackBox(rounded, "probabilities", CLASSES, budget=60, rounding=2, identity="toy")
    result = mekd.distill(toy_student(), box, toy_images(40, seed=1), "kd", progress=False, **SHORT)
    assert " rounding=2 " in result.signature and "teacher=toy" in result.signature


@pytest.mark.parametrize("function", [distill, host, plan])
def test_every_door_shows_what_a_problem_is_made_of(function):
    shown = inspect.signature(function).parameters
    assert set(Problem.__dataclass_fields__) <= set(shown)
    assert shown["seed"].default == 0 and shown["hyperparameters"].kind is inspect.Parameter.VAR_KEYWORD
    assert list(shown)[:4] == ["student", "teacher", "images", "method"]


def test_the_classes_of_the_package_are_the_contract():
    assert issubclass(InACell, Distiller)
