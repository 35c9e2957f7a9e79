"""MEKD's bank under ``kd``'s loss: nothing but the loss differs from either."""

import pytest
import torch
from mekd_plugin.baselines.kd import KD
from mekd_plugin.baselines.mekd_bank import MEKDBank

import mekd_plugin as mekd
from mekd_plugin.errors import InputError
from mekd_plugin.mekd.method import MEKD
from mekd_plugin.registry import create, distillers
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student

WORLD = {"num_classes": CLASSES, "image_shape": (1, 8, 8)}
SETTINGS = {
    "preset": "tiny",
    "emulation": "gan",
    "surrogate": None,
    "emulation_settings": {"steps": 30},
    "budget": 300,
    "seed": 3,
}


def distilled(method, directory, *, responses="logits", **settings):
    """A student on the toy, and what its run keeps in ``directory``."""
    student = toy_student()
    box = mekd.BlackBox(ToyTeacher(), responses, CLASSES, budget=300)
    wanted = {name: value for name, value in SETTINGS.items() if name != "budget"}
    recipe = mekd.Recipe(steps=20, batch_size=32, translate=0)
    result = mekd.distill(student, box, toy_images(60, seed=1), method, directory=directory, recipe=recipe,
                          progress=False, **wanted, **settings)  # fmt: skip
    return student.state_dict(), result


def bank_in(directory) -> Rows:
    return mekd.Bank.load(directory / "banks" / "bank").rows()


@pytest.mark.parametrize("responses", ["logits", "hard"])
def test_generator_and_bank_are_mekds_to_the_byte(responses, tmp_path):
    weights, ours = distilled(MEKDBank, tmp_path / "bank", responses=responses)
    others, theirs = distilled(MEKD, tmp_path / "mekd", responses=responses)
    generators = [tmp_path / name / "stages" for name in ("bank", "mekd")]
    (first,), (second,) = (sorted(folder.glob("*deprivatization*")) for folder in generators)
    assert first.read_bytes()[-1000:] == second.read_bytes()[-1000:]  # weights; the header names the run
    mine, other = bank_in(tmp_path / "bank"), bank_in(tmp_path / "mekd")
    assert torch.equal(mine.images, other.images) and torch.equal(mine.extra["style"], other.extra["style"])
    assert torch.equal(mine.answers().values, other.answers().values) and len(mine) == 300
    assert ours.ledger.as_record() == theirs.ledger.as_record()
    assert any(not torch.equal(weights[name], others[name]) for name in weights), "the image term did nothing"
    assert "target" not in mine.extra


def test_on_scores_it_is_mekd_without_the_image_term_to_the_bit(tmp_path):
    first, _ = distilled(MEKDBank, tmp_path / "bank")
    second, _ = distilled(MEKD, tmp_path / "mekd", image_weight=0.0)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", ["logits", "probabilities", "hard"])
def test_its_loss_is_kds(kind):
    torch.manual_seed(0)
    scores, logits = 3 * torch.randn(7, CLASSES), torch.randn(7, CLASSES)
    values = {"logits": scores, "probabilities": scores.softmax(1), "hard": scores.argmax(1)}[kind]
    rows = Rows(torch.zeros(7, 1, 8, 8), Response(values, kind, CLASSES))
    for settings in ({}, {"temperature": 2.0, "smoothing": 0.2}):
        ours, kds = (method(**WORLD, **settings).losses(lambda images: logits, rows) for method in (MEKDBank, KD))
        assert ours.keys() == kds.keys() and torch.equal(ours["loss"], kds["loss"])


@pytest.mark.parametrize("name", MEKDBank.inapplicable)
def test_what_only_the_image_term_reads_is_refused_and_in_no_list(name):
    assert name in distillers().hyperparameters("mekd") and name not in distillers().hyperparameters("mekd_bank")
    with pytest.raises(InputError, match=f"{name}: this method has a bank and no image term"):
        MEKDBank(**WORLD, **{name: 1})


def test_its_presets_are_mekds_and_all_have_a_bank():
    assert MEKDBank.presets.keys() == MEKD.presets.keys()
    paper = create("mekd_bank", preset="paper", num_classes=10, image_shape=(1, 32, 32))
    assert (paper.mode, paper.temperature, paper.smoothing, paper.image_weight) == ("bank", 5.0, 0.0, 0.0)
    assert repr(paper.emulation) == repr(
        MEKD(num_classes=10, image_shape=(1, 32, 32), emulation="gan", emulation_preset="paper").emulation
    )


def test_it_takes_mekds_settings_of_the_bank():
    names = distillers().hyperparameters("mekd_bank")
    assert {"queries", "emulation_settings", "balance", "temperature", "smoothing"} <= set(names)
    made = create("mekd_bank", **WORLD, balance=True, **{"emulation.steps": 7})
    assert made.balance and made.emulation.settings.steps == 7
