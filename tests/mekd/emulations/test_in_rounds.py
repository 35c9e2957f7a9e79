"""Emulations that learn from the bank's own answers, each through the contract and a whole run."""

import warnings

import pytest
import torch

import mekd_plugin as mekd
from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Asking
from mekd_plugin.errors import InputError, UnknownName
from mekd_plugin.mekd.emulations.emulation import make_emulation
from mekd_plugin.mekd.method import MEKD
from mekd_plugin.networks.generator_files import load_generator
from mekd_plugin.responses import Response, centre_scores
from mekd_plugin.testing import CLASSES, DistillerContract, ToyTeacher, toy_images, toy_student

NAMES = ["conditional", "regression", "mixture", "latent_inverse"]
SMALL = {"surrogate": "wide", "surrogate_steps": 60, "emulation_preset": "tiny"}
FAST = {
    "conditional": {"steps": 60, "conditioning_steps": 40, "surrogate_steps": 40},
    "regression": {"steps": 60, "conditioning_steps": 40, "surrogate_steps": 40},
    "mixture": {"surrogate_steps": 40},
    "latent_inverse": {"steps": 60, "classifier_steps": 60, "mapping_steps": 60},
}


class TestConditional(DistillerContract):
    distiller = MEKD
    settings = {"emulation": "conditional", "emulation_settings": FAST["conditional"], **SMALL}


class TestRegression(DistillerContract):
    distiller = MEKD
    settings = {"emulation": "regression", "emulation_settings": FAST["regression"], **SMALL}


class TestMixture(DistillerContract):
    distiller = MEKD
    settings = {"emulation": "mixture", "emulation_settings": FAST["mixture"], **SMALL}


class TestLatentInverse(DistillerContract):
    distiller = MEKD
    settings = {"emulation": "latent_inverse", "emulation_settings": FAST["latent_inverse"], **SMALL}


def run(name, kind="logits", budget=300, **options):
    teacher = ToyTeacher()
    asked = teacher if kind == "logits" else lambda images: teacher(images).argmax(1)
    box = mekd.BlackBox(asked, kind, CLASSES, budget=budget)
    settings = {"emulation": name, "emulation_settings": FAST[name], **SMALL, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mekd.distill(
            toy_student(),
            box,
            toy_images(60, seed=1),
            "mekd",
            recipe=mekd.Recipe(steps=20, batch_size=16),
            device="cpu",
            progress=False,
            **settings,
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["logits", "hard"])
def test_everything_is_asked_before_the_student_trains_and_the_budget_is_used(name, kind):
    result = run(name, kind)
    assert result.ledger.total == 300
    stages = list(dict.fromkeys(entry["stage"] for entry in result.history))
    assert stages.index("alignment") == len(stages) - 1 and stages[-2] == "surrogate"


def test_a_hard_answer_stands_for_the_scores_that_a_mixture_knows_of_its_class(tmp_path):
    first = run("mixture", "hard", directory=tmp_path).inverse
    kept = {"generator": str(tmp_path / "generator.safetensors"), "bank": str(tmp_path / "banks/bank")}
    named = Response(torch.arange(CLASSES), "hard", CLASSES)
    for inverse in (first, run("mixture", "hard", **kept).inverse):
        scores = inverse.scores(named)
        assert torch.equal(scores.argmax(dim=1), named.values)
        assert not torch.allclose(scores, named.scores(hard_scale=inverse.hard_scale), atol=0.1)


def test_a_class_that_nothing_is_wanted_of_stands_for_its_one_hot_vector():
    made = make_emulation("mixture", "quick", {}, num_classes=3, image_shape=(1, 8, 8), seed=0, hard_scale=3.0)
    assert made.hard_scores is None
    made.want(torch.tensor([[2.0, -1.5, -0.5], [1.0, 0.5, -1.5], [-1.0, 2.0, -1.0]]))
    assert torch.allclose(made.hard_scores, torch.tensor([[1.5, -0.5, -1.0], [-1.0, 2.0, -1.0], [-1.0, -1.0, 2.0]]))


@pytest.mark.parametrize("name", NAMES)
def test_a_kept_generator_and_bank_serve_another_student_without_a_query(name, tmp_path):
    run(name, directory=tmp_path)
    kept = {"generator": str(tmp_path / "generator.safetensors"), "bank": str(tmp_path / "banks/bank")}
    assert run(name, **kept).ledger.total == 0
    assert load_generator(kept["generator"]).normalisation is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_run_stopped_after_any_question_goes_on_as_if_nothing_had_been(name, tmp_path):
    whole = run(name, directory=tmp_path / "whole")
    box = mekd.BlackBox(ToyTeacher(fails_at=1), "logits", CLASSES, budget=1000)
    settings = {"emulation": name, "emulation_settings": FAST[name], **SMALL, "queries": 300}
    settings |= {"recipe": mekd.Recipe(steps=20, batch_size=16), "device": "cpu", "progress": False}
    settings |= {"directory": tmp_path / "run"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ConnectionError):
            mekd.distill(toy_student(), box, toy_images(60, seed=1), "mekd", **settings)
        box = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=1000)
        resumed = mekd.distill(toy_student(), box, toy_images(60, seed=1), "mekd", resume=True, **settings)
    assert resumed.ledger.total == 300 + resumed.ledger.uncertain
    for key, value in resumed.student.state_dict().items():
        assert torch.equal(value, whole.student.state_dict()[key]), key


@pytest.mark.parametrize("name", ["conditional", "mixture"])
def test_images_for_wanted_answers_are_answered_so(name):
    """The toy is easy: far more often than by chance, which is one in three."""
    teacher = ToyTeacher()
    box = mekd.BlackBox(teacher, "logits", CLASSES, budget=300)
    method = mekd.create("mekd", num_classes=CLASSES, image_shape=(1, 8, 8), emulation=name, **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = mekd.distill(
            toy_student(),
            box,
            toy_images(60, seed=1),
            method,
            recipe=mekd.Recipe(steps=2),
            device="cpu",
            progress=False,
        )
    inverse = result.inverse
    real = toy_images(200, seed=5)
    scores = centre_scores(teacher(real))
    style = torch.randn(200, inverse.style_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        images = inverse.generator(torch.cat([inverse.normalisation(scores), style], dim=1))
    assert (teacher(images).argmax(1) == scores.argmax(1)).float().mean() > 0.6


def test_three_rounds_ask_in_three_parts():
    method = MEKD(
        num_classes=CLASSES,
        image_shape=(1, 8, 8),
        emulation="mixture",
        emulation_settings={"rounds": 3, "first_share": 0.5, "surrogate_steps": 2},
        queries=100,
    )
    box = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=100)
    sizes, names = [], []
    for stage in method.stages(box, toy_images(60, seed=1), toy_student()):
        names.append(stage.name)
        if isinstance(stage, Asking):
            sizes.append((stage.size, stage.grows))
            stage.bank.fill(box, stage.draw, stage.size, stage=stage.name)
    assert sizes == [(50, True), (75, True), (100, False)]
    assert names[:4] == ["mixture", "bank", "surrogate_1", "mixture_with_answers_1"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("conditional", {"rounds": 1}, "emulation.rounds=1: expected a whole number from 2"),
        ("conditional", {"first_share": 1.0}, "emulation.first_share=1.0: expected a number above 0 below 1"),
        ("conditional", {"answer_weight": -1}, "emulation.answer_weight=-1"),
        ("conditional", {"choice": "best"}, "emulation.choice='best': expected one of random, balanced, uncertain"),
        ("conditional", {"response_weight": 0.5}, "asks in rounds, never within a step"),
        ("conditional", {"steps": 0}, "emulation.steps=0"),
        ("mixture", {"components": 0}, "emulation.components=0"),
        ("mixture", {"floor": 0}, "emulation.floor=0"),
        ("mixture", {"mixed": 2}, "emulation.mixed=2"),
        ("mixture", {"apart": -1}, "emulation.apart=-1"),
        ("mixture", {"nearness": 0}, "emulation.nearness=0"),
        ("mixture", {"nearness": 1.5}, "emulation.nearness=1.5"),
        ("regression", {"answer_weight": 0.5}, "the regression has no such term"),
        ("latent_inverse", {"width": 0}, "emulation.width=0"),
        ("latent_inverse", {"first_share": 0}, "emulation.first_share=0"),
        ("latent_inverse", {"first_share": 1}, "emulation.first_share=1"),
        ("latent_inverse", {"response_weight": 0.5}, "asks nothing within a step"),
    ],
)
def test_settings_are_checked_when_they_are_given(name, settings, message):
    world = {"num_classes": 3, "image_shape": (1, 8, 8), "seed": 0, "hard_scale": 1.0}
    with pytest.raises(InputError, match=message):
        make_emulation(name, "quick", settings, **world)


def test_an_unknown_surrogate_is_named_before_anything_is_trained():
    world = {"num_classes": 3, "image_shape": (1, 8, 8), "seed": 0, "hard_scale": 1.0}
    with pytest.raises(UnknownName, match="unknown network 'wyde'"):
        make_emulation("mixture", "quick", {"surrogate": "wyde"}, **world)
    with pytest.raises(UnknownName, match="unknown network 'wyde'"):
        MEKD(num_classes=3, image_shape=(1, 8, 8), surrogate="wyde")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mixture"])
def test_a_conditioned_generator_wants_the_bank_that_says_on_what(name, tmp_path):
    run(name, directory=tmp_path)
    generator = str(tmp_path / "generator.safetensors")
    with pytest.raises(InputError, match="without the bank of its run none are known: give bank= beside generator="):
        run(name, generator=generator)
    more = run(name, generator=generator, bank=str(tmp_path / "banks/bank"), queries=320, budget=400)
    assert more.ledger.total == 20


def test_the_unconditional_emulation_reads_what_a_conditioned_generator_says_of_scores(tmp_path):
    run("conditional", directory=tmp_path)
    kept = {"generator": str(tmp_path / "generator.safetensors"), "bank": str(tmp_path / "banks/bank")}
    said = load_generator(kept["generator"]).normalisation
    box = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=10)
    settings = {"recipe": mekd.Recipe(steps=5, batch_size=16), "device": "cpu", "progress": False}
    found = mekd.distill(
        toy_student(), box, toy_images(60, seed=1), "mekd", emulation="gan", surrogate=None, **kept, **settings
    )
    assert torch.equal(found.inverse.normalisation.scale, said.scale)


def test_fresh_questions_and_a_surrogate_do_not_go_together():
    with pytest.raises(InputError, match="learns from a bank, and mode=.fresh. has none"):
        MEKD(num_classes=3, image_shape=(1, 8, 8), mode="fresh", latent_temperature=1.0, surrogate="wide")
    with pytest.raises(InputError, match="surrogate=True: expected the name of a network"):
        MEKD(num_classes=3, image_shape=(1, 8, 8), surrogate=True)


def test_a_distance_to_keep_needs_images_that_differ():
    teacher = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=300)
    copies = toy_images(10, seed=1).repeat(4, 1, 1, 1)
    with pytest.raises(InputError, match=r"apart=0.5: more than half of the 40 images have an exact copy"):
        mekd.distill(
            toy_student(), teacher, copies, "mekd", emulation_settings={**FAST["mixture"], "apart": 0.5}, progress=False
        )
    assert teacher.ledger.total == 0


def test_a_generator_of_another_emulation_is_not_adopted(tmp_path):
    run("mixture", directory=tmp_path)
    kept = {"generator": str(tmp_path / "generator.safetensors"), "bank": str(tmp_path / "banks/bank")}
    with pytest.raises(InputError, match="emulation 'latent_inverse' expects"):
        run("latent_inverse", **kept)


def test_a_mixture_knows_by_itself_which_answers_are_usual(tmp_path):
    run("mixture", directory=tmp_path)
    found = run("mixture", generator=str(tmp_path / "generator.safetensors"))
    assert found.ledger.total == 300
    assert min(found.report["generator"]["class_shares"]) > 0.1


def distances_to(real, images):
    return torch.cdist(images.flatten(1), real.flatten(1)).amin(dim=1) / real[0].numel() ** 0.5


@pytest.mark.parametrize("name", ["mixture", "conditional"])
def test_nothing_is_sent_that_lies_too_near_to_a_real_image(name, tmp_path):
    real = toy_images(60, seed=1)
    among = torch.cdist(real.flatten(1), real.flatten(1)).fill_diagonal_(torch.inf).amin(dim=1).median() / 8
    run(name, directory=tmp_path / "free", budget=600)
    free = mekd.Bank.load(tmp_path / "free/banks/bank").images
    apart = float(distances_to(real, free).quantile(0.3) / among)
    settings = {**FAST[name], "apart": apart}
    run(name, directory=tmp_path / "kept", budget=600, emulation_settings=settings)
    sent = mekd.Bank.load(tmp_path / "kept/banks/bank").images
    assert distances_to(real, free).min() < apart * among <= distances_to(real, sent).min()
    with pytest.raises(InputError, match=r"emulation.apart=50.*nothing of them was sent: lower it"):
        run(name, emulation_settings={**FAST[name], "apart": 50})


def test_the_nearer_to_real_images_one_draws_the_more_alike_is_what_is_sent(tmp_path):
    real, found = toy_images(60, seed=1), []
    for near in (0.05, 0.5, 1.0):
        settings = {**FAST["mixture"], "nearness": near}
        run("mixture", directory=tmp_path / str(near), emulation_settings=settings)
        sent = mekd.Bank.load(tmp_path / str(near) / "banks/bank").images
        found.append(float(distances_to(real, sent).median()))
    assert found[0] < 0.7 * found[1] < 0.7 * found[2]
    kept = {"generator": str(tmp_path / "0.5/generator.safetensors")}
    with pytest.raises(InputError, match=r"emulation.nearness=0.5.*no real images are known"):
        run("mixture", **kept, emulation_settings={**FAST["mixture"], "nearness": 0.5})
    with pytest.raises(InputError, match=r"emulation.apart=0.5.*kept away from none"):
        run("mixture", **kept, emulation_settings={**FAST["mixture"], "apart": 0.5})


@pytest.mark.parametrize(
    ("classes", "images", "components"), [(10, 1200, 20), (60, 1200, 20), (100, 1200, 12), (1000, 1200, 2)]
)
def test_a_mixture_of_many_classes_has_fewer_components(classes, images, components):
    """A component's joint covariances grow with the square of the classes; ten of 1,000 would take minutes a fit."""
    made = make_emulation("mixture", "quick", {}, num_classes=classes, image_shape=(1, 8, 8), seed=0, hard_scale=1.0)
    stages = made.begin(BlackBox(torch.nn.Identity(), "logits", classes), torch.rand(images, 1, 8, 8), Bank(), images)
    next(iter(stages))
    assert made.generator.components == components
