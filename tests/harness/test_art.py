"""Our methods as ART's extraction attacks, trained by ART's own loop, and the meter under ART's own attacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from art.attacks import extraction
from art.attacks.attack import ExtractionAttack
from art.attacks.evasion import FastGradientMethod
from art.attacks.extraction import CopycatCNN, KnockoffNets
from art.defences.preprocessor import GaussianAugmentation, LabelSmoothing
from art.estimators.classification import BlackBoxClassifier, PyTorchClassifier
from torch import nn

import mekd_plugin as mekd
from mekd_plugin.errors import InputError, NeedsNotMet, QueryBudgetExceeded, TeacherAnswerError
from mekd_plugin.harness.art import SUITE, black_box_classifier
from mekd_plugin.harness.art.guest import DistillationExtraction, attack_of
from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem
from mekd_plugin.harness.evidence.trials.art import trial
from mekd_plugin.harness.meter import Counted
from mekd_plugin.registry import available, distillers
from mekd_plugin.testing import CLASSES, SHAPE, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.hosting import Hosted
from mekd_plugin.training.recipe import Recipe

METHODS = {
    "mekd": {"preset": "tiny", "emulation": "gan", "surrogate": None, "emulation_settings": {"steps": 20}},
    "mekd_bank": {"preset": "tiny", "emulation": "gan", "surrogate": None, "emulation_settings": {"steps": 20}},
    "logit_mimicry": {},
    "distribution_alignment": {},
    "kd": {},
}
BUDGET, BATCH, STEPS = 300, 30, 20  # ten batches an epoch
X = toy_images(60, seed=1).numpy()


class Standardised(nn.Module):
    """What ART's ``preprocessing=(0.1, 2.0)`` does to the images of a network."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network((images - 0.1) / 2.0)


def thief(student: nn.Module | None = None, **settings) -> PyTorchClassifier:
    student = toy_student() if student is None else student
    optimizer = torch.optim.SGD(student.parameters(), lr=0.02, momentum=0.9)
    wanted = {"optimizer": optimizer, "device_type": "cpu", **settings}
    return PyTorchClassifier(student, nn.CrossEntropyLoss(), SHAPE, CLASSES, **wanted)


def victim_of(teacher: nn.Module, **settings) -> BlackBoxClassifier:
    return black_box_classifier(teacher, SHAPE, CLASSES, **settings)


def attack_on(victim, method: str = "kd", **settings) -> DistillationExtraction:
    wanted = {"responses": "logits", "nb_stolen": BUDGET, "batch_size_fit": BATCH, "nb_epochs": 2, "verbose": False}
    return attack_of(method)(victim, **{**wanted, **METHODS[method], **settings})


@pytest.mark.parametrize("preprocessing", [(0.0, 1.0), (0.1, 2.0)], ids=["plain", "standardised"])
@pytest.mark.parametrize("method", METHODS)
def test_losses_are_those_of_our_own_loop(method, preprocessing, monkeypatch, tmp_path):
    """On both of ART's ways through ``fit_generator``, the second of which shuffles within a batch."""
    plain, seen = preprocessing == (0.0, 1.0), []
    spied = Hosted.losses

    def losses(hosted, student, rows):
        parts = spied(hosted, student, rows)
        seen.append(parts["loss"].item())
        return parts

    monkeypatch.setattr(Hosted, "losses", losses)
    student = toy_student()
    ours = mekd.distill(
        student if plain else Standardised(student),
        mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=BUDGET),
        torch.from_numpy(X),
        method=method,
        recipe=Recipe(STEPS, BATCH, "sgd", 0.02, 0.0, "constant", translate=0, channels_last=False),
        log_steps=1,
        validation=0.0,
        directory=tmp_path / "ours",
        progress=False,
        **METHODS[method],
    )
    expected = [entry["loss"] for entry in ours.history if entry["stage"] in ("alignment", "student")]
    generator = tmp_path / "ours" / "generator.safetensors"
    given = {"generator": str(generator)} if generator.exists() else {}
    thieved = thief(preprocessing=preprocessing)
    attack = attack_on(victim_of(ToyTeacher()), method, validation=0.0, **given)
    assert attack.extract(X, thieved_classifier=thieved) is thieved
    assert len(seen) == STEPS and seen == pytest.approx(expected, abs=1e-4)
    assert attack.ledger.by_stage == ours.ledger.by_stage
    for name, value in student.state_dict().items():
        torch.testing.assert_close(thieved.model.state_dict()[name], value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_ledger_is_what_the_victim_saw(method):
    teacher = ToyTeacher()
    attack = attack_on(victim_of(teacher), method)
    attack.extract(X, thieved_classifier=thief())
    assert attack.ledger.total == teacher.count == BUDGET
    assert attack.ledger.distinct == len(torch.cat(teacher.asked).flatten(1).unique(dim=0))


def test_a_method_that_asks_at_every_step_spreads_its_budget_over_the_epochs():
    teacher = ToyTeacher()
    settings = {"mode": "fresh", "latent_temperature": 3.0, "nb_epochs": 5}
    attack = attack_on(victim_of(teacher), "mekd", **settings)
    attack.extract(X, thieved_classifier=thief())
    assert attack.ledger.by_stage == {"alignment": BUDGET} and teacher.count == BUDGET  # 5 epochs of 2 batches of 30


@pytest.mark.parametrize("responses", ["logits", "probabilities", "hard"])
def test_answers_are_what_was_declared(responses):
    attack = attack_on(victim_of(ToyTeacher(), probabilities=responses != "logits"), responses=responses, nb_epochs=15)
    thieved = attack.extract(X, thieved_classifier=thief())
    held_out = toy_images(200, seed=9).numpy()
    truth = victim_of(ToyTeacher()).predict(held_out).argmax(axis=1)
    assert (thieved.predict(held_out).argmax(axis=1) == truth).mean() > 0.8


def test_answers_that_are_not_what_was_declared_are_an_error():
    attack = attack_on(victim_of(ToyTeacher()), responses="probabilities")
    with pytest.raises(TeacherAnswerError, match='are they responses="logits"'):
        attack.extract(X, thieved_classifier=thief())


def test_a_method_that_needs_scores_refuses_labels():
    teacher = ToyTeacher()
    with pytest.raises(NeedsNotMet, match="needs soft responses"):
        attack_on(victim_of(teacher), "distribution_alignment", responses="hard").extract(X, thieved_classifier=thief())
    assert teacher.count == 0


def test_clip_values_are_the_value_range():
    asked = []

    def answer(images):
        asked.append(images)
        return ToyTeacher()(torch.from_numpy(2 * images - 1)).detach().numpy()

    low, high = np.zeros(SHAPE, dtype=np.float32), np.ones(SHAPE, dtype=np.float32)
    victim = BlackBoxClassifier(answer, SHAPE, CLASSES, clip_values=(low, high))
    attack_on(victim, "mekd").extract((X + 1) / 2, thieved_classifier=thief())
    lowest, highest = min(images.min() for images in asked), max(images.max() for images in asked)
    assert 0 <= lowest < 0.5 < highest <= 1  # in [-1, 1] the generated images would be below 0, too
    with pytest.raises(InputError, match=r"outside the teacher's value_range \(0, 1\)"):
        attack_on(victim, "kd").extract(X, thieved_classifier=thief())


def test_without_clip_values_the_range_is_that_of_the_images():
    teacher = ToyTeacher()
    victim = BlackBoxClassifier(lambda images: teacher(torch.from_numpy(images)).detach().numpy(), SHAPE, CLASSES)
    attack_on(victim, "mekd").extract(0.5 * X, thieved_classifier=thief())
    assert torch.cat(teacher.asked).abs().max() <= 0.5001


def test_what_was_asked_is_kept(tmp_path):
    teacher, thieved = ToyTeacher(), thief()
    attack = attack_on(victim_of(teacher), "mekd", directory=str(tmp_path / "run"))
    attack.extract(X, thieved_classifier=thieved)
    before = thieved.predict(X)
    attack.extract(X, thieved_classifier=thieved)
    assert teacher.count == attack.ledger.total == BUDGET  # the second one trained on, and asked nothing
    assert not np.array_equal(before, thieved.predict(X))


def test_the_thieved_classifier_stays_arts_own(tmp_path):
    thieved = attack_on(victim_of(ToyTeacher())).extract(X, thieved_classifier=thief())
    scores = thieved.predict(X)
    assert isinstance(thieved.loss, nn.CrossEntropyLoss)
    assert np.abs(FastGradientMethod(thieved, eps=0.1).generate(X) - X).max() > 0.05
    thieved.save("thieved", path=str(tmp_path))
    again = thief()
    again.model.load_state_dict(torch.load(tmp_path / "thieved.model", weights_only=True))
    assert np.array_equal(again.predict(X), scores)
    again.fit(X, scores.argmax(axis=1), nb_epochs=1)


def test_data_parallel_is_the_classifiers_own_business():
    student = nn.DataParallel(toy_student())
    plain = attack_on(victim_of(ToyTeacher())).extract(X, thieved_classifier=thief())
    wrapped = attack_on(victim_of(ToyTeacher())).extract(X, thieved_classifier=thief(student))
    np.testing.assert_allclose(wrapped.predict(X), plain.predict(X), atol=1e-4)


def test_arts_conventions(caplog):
    attack = attack_on(victim_of(ToyTeacher()))
    assert isinstance(attack, ExtractionAttack) and "nb_stolen=300" in repr(attack)
    attack.set_params(nb_stolen=60, nb_epochs=1)
    with pytest.raises(ValueError, match="nb_epochs=0: expected a whole number from 1"):
        attack.set_params(nb_epochs=0)
    attack.set_params(nb_epochs=1)
    attack.extract(X, y=np.zeros(len(X)), thieved_classifier=thief())
    assert attack.ledger.total == 60 and "does not use the provided label y" in caplog.text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"responses": "scores"}, "responses='scores'"),
        ({"nb_stolen": 1}, "nb_stolen=1"),
        ({"batch_size_fit": True}, "batch_size_fit=True"),
        ({"batch_size_query": 0}, "batch_size_query=0"),
        ({"nb_epochs": 1.5}, "nb_epochs=1.5"),
        ({"batch_size_fit": 301}, "at most nb_stolen=300"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(settings, words):
    with pytest.raises(InputError, match=words):
        attack_on(victim_of(ToyTeacher()), **settings)


def amp_thief():
    thieved = thief()
    thieved._use_amp = True  # apex, which the constructor would ask for, is needed to train, not to be refused
    return thieved


@pytest.mark.parametrize(
    ("make", "x", "words"),
    [
        (lambda: None, X, "thieved_classifier=NoneType: expected a PyTorchClassifier"),
        (lambda: victim_of(ToyTeacher()), X, "thieved_classifier=BlackBoxClassifier"),
        (lambda: thief(optimizer=None), X, "has no optimizer"),
        (amp_thief, X, "use_amp=True"),
        (lambda: thief(preprocessing_defences=[LabelSmoothing()]), X, r"learns from \(LabelSmoothing\)"),
        (thief, X[:, 0], r"x of shape \(60, 8, 8\)"),
        (thief, X.transpose(0, 2, 3, 1), "channels first"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_asked(make, x, words):
    teacher = ToyTeacher()
    with pytest.raises(InputError, match=words):
        attack_on(victim_of(teacher)).extract(x, thieved_classifier=make())
    assert teacher.count == 0


def test_a_defence_that_leaves_the_training_alone_may_stay():
    defence = GaussianAugmentation(sigma=0.1, augmentation=False, apply_fit=False, apply_predict=True)
    thieved = attack_on(victim_of(ToyTeacher())).extract(X, thieved_classifier=thief(preprocessing_defences=[defence]))
    assert np.isfinite(thieved.predict(X)).all()


def test_an_epoch_without_a_whole_batch_is_named_and_what_was_asked_is_kept(tmp_path):
    teacher = ToyTeacher()
    attack = attack_on(victim_of(teacher), queries=20, directory=str(tmp_path / "run"))
    with pytest.raises(InputError, match="batch_size_fit=30: an epoch .* no whole batch"):
        attack.extract(X, thieved_classifier=thief())
    attack.set_params(batch_size_fit=10)
    attack.extract(X, thieved_classifier=thief())
    assert teacher.count == 20


def test_the_budget_holds():
    teacher = ToyTeacher()
    with pytest.raises(QueryBudgetExceeded, match="query budget of 300"):
        attack_on(victim_of(teacher), queries=301).extract(X, thieved_classifier=thief())
    assert teacher.count <= BUDGET


def test_registered_beside_arts_own_attacks(monkeypatch):
    names = mekd.register("art")
    told = SUITE.check()
    assert names == mekd.register("art") == sorted(f"{distillers().get(name).__name__}Extraction" for name in told.fits)
    assert extraction.MEKDExtraction is attack_of("mekd") and extraction.MEKDExtraction.method == "mekd"
    assert told.tested and set(METHODS) <= set(told.fits) and set(told.fits) | set(told.refused) == set(available())
    monkeypatch.setattr(extraction, "KDExtraction", object())
    with pytest.raises(InputError, match="KDExtraction is there already"):
        mekd.register("art")


ARTS_OWN = {
    "KnockoffNets random": (lambda victim: KnockoffNets(victim, nb_stolen=40, nb_epochs=1, verbose=False), 40),
    "KnockoffNets adaptive": (
        # ART's default reward="all" divides by a variance that may be zero, and then stops at a NaN.
        lambda victim: KnockoffNets(
            victim, nb_stolen=20, nb_epochs=1, sampling_strategy="adaptive", reward="cert", verbose=False
        ),
        20,
    ),
    "CopycatCNN": (lambda victim: CopycatCNN(victim, nb_stolen=40, batch_size_query=16, nb_epochs=1), 40),
}


@pytest.mark.parametrize("name", ARTS_OWN)
def test_the_meter_counts_what_arts_own_attacks_ask(name):
    make, sent = ARTS_OWN[name]
    teacher, counted = ToyTeacher(), Counted()
    victim = victim_of(teacher)
    labels = np.arange(len(X)) % CLASSES if "adaptive" in name else None
    attack = make(victim)
    with SUITE.metered(counted):
        attack.extract(X, labels, thieved_classifier=thief())
    assert counted.ledger.by_stage == {name.split()[0]: sent} and counted.ledger.total == teacher.count
    assert counted.ledger.distinct == len(torch.cat(teacher.asked).flatten(1).unique(dim=0))
    assert not counted.differentiated and not counted.inner
    assert attack.estimator is victim  # outside, nothing is left of the meter


def test_the_meter_counts_the_attack_and_not_the_scoring():
    teacher, counted = ToyTeacher(), Counted()
    attack = attack_on(victim_of(teacher), "logit_mimicry")
    with SUITE.metered(counted):
        attack._estimator.predict(X)  # the script's own look at its victim
        attack.extract(X, thieved_classifier=thief())
    assert counted.ledger.total == attack.ledger.total == teacher.count - len(X) == BUDGET
    assert counted.ledger.distinct == attack.ledger.distinct


def test_the_meter_says_what_no_black_box_could_give():
    class WhiteBox(ExtractionAttack):
        _estimator_requirements = ()

        def extract(self, x, y=None, **kwargs):
            return self.estimator.loss_gradient(x, y), self.estimator.model

    counted = Counted()
    with SUITE.metered(counted):
        WhiteBox(thief()).extract(X, np.eye(CLASSES)[np.zeros(len(X), dtype=int)])
    assert counted.differentiated and counted.inner


@pytest.mark.slow
def test_the_digits_are_learnt_and_shuffled_answers_teach_nothing(tmp_path):
    world = ReferenceProblem(cache=tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    taught = trial("mekd", world, tmp_path / "mekd")
    assert taught.accuracy >= 0.9 and taught.steps == world.steps
    assert taught.queries["by_stage"] == {"bank": world.budget}
    control = trial("logit_mimicry", ReferenceProblem(shuffled=True, budget=1000, steps=150), tmp_path / "shuffled")
    assert control.accuracy < 0.2
