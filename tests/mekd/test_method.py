import math

import pytest
import torch

from mekd_plugin import distill
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Asking, Training
from mekd_plugin.errors import InputError
from mekd_plugin.mekd.generated import balancing_weights
from mekd_plugin.mekd.method import MEKD
from mekd_plugin.networks.generators import Generator
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows, Shard
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe

SHAPE = (1, 8, 8)
OF_A_GAN = {"emulation": "gan", "surrogate": None}


def method(classes=3, shape=SHAPE, **settings):
    torch.manual_seed(0)
    distiller = MEKD(num_classes=classes, image_shape=shape, **{**OF_A_GAN, "latent_temperature": 2.0, **settings})
    distiller.freeze(Generator(classes, shape, style_dim=2, width=4))
    return distiller


def rows(classes=3, count=6, shape=SHAPE, style_dim=2, hard=False):
    torch.manual_seed(1)
    scores = 4 * torch.randn(count, classes)
    response = Response(scores.argmax(1), "hard", classes) if hard else Response(scores, "logits", classes)
    return Rows(torch.rand(count, *shape) * 2 - 1, response, {"style": torch.randn(count, style_dim)})


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_losses_are_zero_where_the_student_answers_as_the_teacher(hard, norm):
    distiller, batch = method(norm=norm, hard_scale=5.0), rows(hard=hard)
    scores = batch.answers().scores(hard_scale=5.0)
    parts = distiller.losses(lambda images: scores + 2.0, batch)  # a constant per image is no difference
    assert all(float(part) == pytest.approx(0.0, abs=1e-5) for part in parts.values())
    wrong = distiller.losses(lambda images: -scores, batch)
    assert wrong["loss"] > 0 and wrong["image_distance"] > 0


def test_every_rows_own_style_stays_with_it():
    distiller, batch = method(), rows()
    student = torch.randn(6, 3)
    whole = distiller.losses(lambda images: student, batch)["image_distance"]
    single = [distiller.losses(lambda images, i=i: student[i : i + 1], batch[i : i + 1]) for i in range(6)]
    assert float(whole) == pytest.approx(sum(float(part["image_distance"]) for part in single) / 6, rel=1e-4)


def test_kept_targets_are_the_ones_that_would_be_computed():
    distiller, batch = method(), rows()
    kept = Rows(batch.images, batch.response, {**batch.extra, "target": distiller.targets(batch)})
    student = torch.randn(6, 3)
    for name, value in distiller.losses(lambda images: student, batch).items():
        assert torch.equal(value, distiller.losses(lambda images: student, kept)[name])


def test_weights_multiply_their_terms():
    batch, student = rows(), torch.randn(6, 3)
    parts = method(image_weight=0.5, divergence_weight=2.0).losses(lambda images: student, batch)
    assert float(parts["loss"]) == pytest.approx(0.5 * float(parts["image_distance"]) + 2 * float(parts["divergence"]))
    assert "image_distance" not in method(image_weight=0.0).losses(lambda images: student, batch)


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 24)])
def test_any_number_of_classes_and_any_size(classes, shape):
    distiller = method(classes, shape)
    batch = rows(classes, 3, shape)
    logits = torch.randn(3, classes, requires_grad=True)
    distiller.losses(lambda images: logits, batch)["loss"].backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_a_hard_response_is_95_percent_sure_whatever_the_number_of_classes(classes):
    scale = method(classes).hard_scale
    assert math.exp(scale) / (math.exp(scale) + classes - 1) == pytest.approx(0.95)


def test_stages_come_in_order_and_the_bank_carries_what_stage_two_needs():
    distiller = MEKD(
        num_classes=3, image_shape=SHAPE, queries=40, emulation_settings={"steps": 7, "generator_width": 4}, **OF_A_GAN
    )
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    teacher = BlackBox(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)), "logits", 3)
    stages = distiller.stages(teacher, torch.rand(20, *SHAPE) * 2 - 1, student)
    first = next(stages)
    assert isinstance(first, Training) and first.steps == 7 and set(first.players) == {"generator", "discriminator"}
    second = next(stages)
    assert isinstance(second, Asking) and second.size == 40
    second.bank.fill(teacher, second.draw, second.size, stage=second.name)
    third = next(stages)
    assert third.trains_student
    batch = third.rows.batch(0, 8, Shard())
    assert set(batch.extra) == {"style", "target"} and batch.extra["style"].shape == (8, 54)
    assert torch.allclose(distiller.targets(batch), batch.extra["target"], atol=1e-6)
    assert next(stages, None) is None
    assert set(distiller.report()["generator"]) >= {"class_shares", "distance_to_real", "real_to_real"}


def test_a_given_generator_takes_the_place_of_stage_one():
    generator = Generator(3, SHAPE, style_dim=2, width=4)
    distiller = MEKD(num_classes=3, image_shape=SHAPE, generator=generator, queries=10)
    teacher = BlackBox(torch.nn.Flatten(), "logits", 64)
    assert isinstance(next(distiller.stages(teacher, torch.zeros(4, *SHAPE), torch.nn.Identity())), Asking)


def test_balance_draws_rare_classes_more_often():
    response = Response(torch.tensor([0] * 8 + [1] * 2), "hard", 2)
    weights = balancing_weights(response)
    assert float(weights[:8].sum()) == pytest.approx(float(weights[8:].sum()))
    assert balancing_weights(Response(torch.tensor([0] * 99 + [1]), "hard", 2)).max() == 4


def test_losses_without_a_generator_say_what_is_missing():
    bare = MEKD(num_classes=3, image_shape=SHAPE)
    with pytest.raises(InputError, match="there is no generator yet"):
        bare.losses(lambda images: torch.zeros(6, 3), rows())


def test_the_paper_preset_is_the_papers():
    paper = MEKD(num_classes=10, image_shape=(1, 32, 32), **MEKD.presets["paper"])
    assert (paper.mode, paper.temperature, paper.latent_temperature) == ("fresh", 5.0, 5.0)
    assert (paper.image_weight, paper.divergence_weight) == (1.0, 1.0)
    emulation = paper.emulation
    assert (emulation.settings.response_weight, emulation.settings.steps, emulation.style_dim) == (0.5, 18_800, 0)
    generator = emulation.new_generator()
    assert generator.latent_dim == 10
    assert [layer.eps for layer in generator.modules() if isinstance(layer, torch.nn.BatchNorm2d)] == [0.8] * 3


def test_a_run_that_asks_anew_reports_the_same_where_it_was_stopped(tmp_path):
    """Its first rows, by which the generator is judged, came before the stop; they stay with the checkpoint."""

    def run(folder, stop=None, resume=False):
        def evaluate(student):
            if stop is not None:
                raise KeyboardInterrupt
            return {"seen": 1.0}

        return distill(
            toy_student(), BlackBox(ToyTeacher(), "logits", CLASSES), toy_images(60, seed=1), "mekd", preset="paper",
            emulation_settings={"steps": 4, "generator_width": 4, "discriminator_width": 4},
            recipe=Recipe(steps=45, batch_size=32), progress=False, directory=folder, resume=resume,
            checkpoint_steps=10, evaluate=evaluate, evaluate_steps=[] if stop is None else [stop],
        )  # fmt: skip

    whole = run(tmp_path / "whole").report
    assert whole["generator"]["class_shares"] and "confidence" in whole["generator"]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop=25)
    assert run(tmp_path / "stopped", resume=True).report == whole
    (tmp_path / "whole" / "report.json").unlink()  # killed between the last step and the report
    assert run(tmp_path / "whole", resume=True).report == whole


def test_needs_are_those_of_the_settings():
    assert MEKD.needs.queries == "once" == method().needs.queries
    paper = MEKD(num_classes=10, image_shape=(1, 32, 32), **MEKD.presets["paper"])
    assert paper.needs.queries == "every step" and MEKD.needs.queries == "once"


@pytest.mark.parametrize(
    ("settings", "emulation", "surrogate"),
    [
        ({}, "Mixture", "wide"),
        ({"mode": "fresh", "latent_temperature": 1.0}, "GAN", None),
        ({"generator": Generator(3, SHAPE, style_dim=2, width=4)}, "GAN", "wide"),
        ({"emulation": "conditional", "surrogate": "resnet8"}, "Conditional", "resnet8"),
        ({"surrogate": "none"}, "Mixture", None),
    ],
)
def test_the_emulation_and_the_surrogate_go_with_what_else_is_said(settings, emulation, surrogate):
    made = MEKD(num_classes=3, image_shape=SHAPE, **settings)
    assert (type(made.emulation).__name__, made.surrogate) == (emulation, surrogate)


def test_a_setting_of_another_emulation_is_told_whose_it_is():
    with pytest.raises(InputError, match="'generator_width'.*it is one of emulation 'conditional' and 'gan'"):
        MEKD(num_classes=3, image_shape=SHAPE, emulation_settings={"generator_width": 4})
