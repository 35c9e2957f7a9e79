"""KD_Lib with our distillers beside its own.

$KD_LIB_HOME names the real suite; without it the same tests run on `suites/kd_lib`, in which all that the adapter
relies on is stated anew.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mekd_plugin as mekd
from mekd_plugin.errors import InputError, MissingDependency, NeedsNotMet, QueryBudgetExceeded
from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem
from mekd_plugin.harness.evidence.trials.kd_lib import trial
from mekd_plugin.harness.kd_lib import SUITE, classes
from mekd_plugin.harness.kd_lib.guest import GuestDistiller
from mekd_plugin.harness.launch import launch
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe

HOME = os.environ.get("KD_LIB_HOME", str(Path(__file__).parent / "suites" / "kd_lib"))
SETTINGS = {
    "mekd": {
        "preset": "tiny",
        "emulation": "gan",
        "surrogate": None,
        "emulation_settings": {"steps": 10, "style_dim": 4},
    },
    "logit_mimicry": {},
    "distribution_alignment": {},
    "kd": {},
}
BATCH = 32

# The suite stated anew has no commit of its own.
pytestmark = pytest.mark.filterwarnings("ignore:kd_lib .* was never tried")


@pytest.fixture(autouse=True)
def base(monkeypatch):
    monkeypatch.setenv("KD_LIB_HOME", HOME)
    return SUITE.kd().BaseClass


class First(nn.Module):
    """A model of the suite's that returns more than its logits."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images), images


def labelled(count=64, seed=3):
    images = toy_images(count, seed)
    with torch.no_grad():
        return DataLoader(TensorDataset(images, ToyTeacher()(images).argmax(dim=1)), BATCH)


def distiller(method="logit_mimicry", teacher=None, student=None, *, lr=0.02, loader=None, **settings):
    student = student or toy_student()
    optimizer = torch.optim.SGD(student.parameters(), lr, momentum=0.9)
    wanted = {"images": toy_images(60, seed=1), "budget": 300, "progress": False, **SETTINGS[method], **settings}
    loader = loader or labelled()
    return classes()[method](teacher or ToyTeacher(), student, loader, loader, None, optimizer, **wanted)


@pytest.fixture
def train(tmp_path):
    def run(guest, epochs=1):
        guest.train_student(epochs, False, True, str(tmp_path / "models" / "student.pt"))
        return guest

    return run


def watched(guest):
    """What is seen in each step: the student's mode, its logits, the labels and the loss."""
    seen, calculate = [], guest.calculate_kd_loss

    def spy(student_out, teacher_out, label):
        loss = calculate(student_out, teacher_out, label)
        seen.append((guest.student_model.training, student_out, teacher_out, label, loss.item()))
        return loss

    guest.calculate_kd_loss = spy
    return seen


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_the_suite_keeps_the_contract(base):
    from KD_Lib import KD

    models = ["teacher_model", "student_model", "train_loader", "val_loader", "optimizer_teacher", "optimizer_student"]
    settings = ["loss_fn", "temp", "distil_weight", "device", "log", "logdir"]
    assert parameters(base.__init__) == ["self", *models, *settings]
    trained = ["self", "epochs", "plot_losses", "save_model", "save_model_pth"]
    assert parameters(base.train_student) == parameters(base._train_student) == trained
    assert parameters(base.train_teacher) == trained
    assert parameters(base.calculate_kd_loss) == ["self", "y_pred_student", "y_pred_teacher", "y_true"]
    assert parameters(base.evaluate) == ["self", "teacher"]
    assert parameters(base._evaluate_model) == ["self", "model", "verbose"]
    assert issubclass(KD.VanillaKD, base) and KD.BaseClass is base


def test_the_suite_calls_the_models_then_the_loss_and_leaves_train_mode(train):
    from KD_Lib.KD import VanillaKD

    student, teacher, loader = toy_student(), ToyTeacher(), labelled()
    own = VanillaKD(teacher, student, loader, loader, None, torch.optim.SGD(student.parameters(), 0.02))
    seen = watched(own)
    train(own, 2)
    assert teacher.count == 2 * 64
    for step, (training, student_out, teacher_out, label, _) in enumerate(seen):
        images, labels = loader.dataset[(step % 2) * BATCH : (step % 2 + 1) * BATCH]
        assert training == (step < 2)  # the suite's own mistake, which ours must not inherit
        assert student_out.shape == teacher_out.shape == (BATCH, CLASSES) and torch.equal(label, labels)
        assert torch.equal(teacher.asked[step], images)


def test_our_distillers_stand_beside_the_suites_own():
    from KD_Lib import KD

    names = mekd.register("kd_lib")
    assert (
        {"MEKD", "LogitMimicry", "DistributionAlignment", "KD"}
        <= set(names)
        == {c.__name__ for c in classes().values()}
    )
    assert names == mekd.register("kd_lib") and KD.MEKD is classes()["mekd"]
    assert issubclass(KD.MEKD, KD.BaseClass) and issubclass(KD.MEKD, GuestDistiller)


def test_a_name_that_is_taken_is_left(monkeypatch):
    from KD_Lib import KD

    monkeypatch.setattr(KD, "MEKD", KD.VanillaKD, raising=False)
    with pytest.raises(InputError, match="KD_Lib.KD.MEKD is there already"):
        SUITE.register()


@pytest.mark.parametrize("method", SETTINGS)
def test_losses_are_those_of_our_own_loop(method, train):
    steps, teacher, first = 20, ToyTeacher(), toy_student()
    second = toy_student().to(memory_format=torch.channels_last)  # as our loop has it, or they round differently
    guest = distiller(method, teacher, second, steps=steps)
    seen = watched(guest)
    train(guest)
    ours = mekd.distill(
        first,
        mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=300, value_range=tuple(toy_images(60, 1).aminmax())),
        toy_images(60, seed=1),
        method=method,
        recipe=Recipe(steps, BATCH, "sgd", 0.02, 0.0, "constant", translate=0),
        log_steps=1,
        progress=False,
        **SETTINGS[method],
    )
    expected = [entry["loss"] for entry in ours.history if "agreement" in entry]
    assert len(expected) == steps and [loss for *_, loss in seen] == pytest.approx(expected, abs=1e-4)
    assert teacher.count == guest.hosted.ledger.total == ours.ledger.total == 300


def test_every_epoch_is_learnt_in_train_mode(train, capsys):
    guest = distiller()
    seen = watched(guest)
    train(guest, 3)
    assert len(seen) == 3 * len(guest._rows) and all(training for training, *_ in seen)
    assert "KD_Lib's own distillers leave after their first epoch" in capsys.readouterr().out


def test_the_printed_accuracy_is_the_agreement_with_the_teacher(train, capsys):
    guest = distiller()
    seen = watched(guest)
    train(guest)
    right = sum((out.argmax(dim=1) == label).sum().item() for _, out, _, label, _ in seen)
    rows = sum(len(label) for _, _, _, label, _ in seen)
    assert all(torch.equal(answer.argmax(dim=1), label) for _, _, answer, label, _ in seen)
    printed = re.findall(r"Epoch: 1, Loss: [\d.]+, Accuracy: ([\d.]+)", capsys.readouterr().out)
    assert [float(value) for value in printed] == pytest.approx([right / rows]) and rows > 250


def test_the_ledger_is_complete_and_evaluating_the_teacher_is_counted_apart(train):
    teacher = ToyTeacher()
    guest = train(distiller("mekd", teacher), 2)
    assert guest.hosted.ledger.by_stage == {"bank": 300} and teacher.count == 300
    assert guest.hosted.ledger.distinct == len(torch.cat(teacher.asked).flatten(1).unique(dim=0))
    assert guest.evaluate(teacher=True) == 1.0
    assert guest.teacher_model.ledger.total == 64 and teacher.count == 364 and guest.hosted.ledger.total == 300


def test_the_distiller_holds_nothing_of_the_teacher(train, capsys):
    guest = train(distiller())
    guest.get_parameters()
    assert re.search(r"teacher network are: 0", capsys.readouterr().out)
    with pytest.raises(NeedsNotMet, match="may only ask its teacher"):
        guest.train_teacher(epochs=1)


def test_the_best_epoch_is_kept_as_the_suite_does(train, tmp_path):
    guest = train(distiller(), 4)
    saved = torch.load(tmp_path / "models" / "student.pt", weights_only=True)
    for name, value in guest.student_model.state_dict().items():
        assert torch.equal(value, saved[name]) and torch.equal(value, guest.best_student_model_weights[name])
    assert guest.evaluate() > 0.6


def test_a_second_call_goes_on(train):
    teacher = ToyTeacher()
    guest = distiller(teacher=teacher, steps=5)
    train(train(guest))
    assert guest.hosted.players.steps == 10 and teacher.count == 300


def test_generator_and_answers_are_taken_over(train, tmp_path):
    teacher = ToyTeacher()
    train(distiller("mekd", teacher, directory=tmp_path / "kept"))
    again = train(distiller("mekd", teacher, directory=tmp_path / "kept"))
    assert teacher.count == again.hosted.ledger.total == 300


def test_a_method_may_ask_at_every_step(train):
    teacher = ToyTeacher()
    fresh = {"mode": "fresh", "latent_temperature": 3.0, "budget": None}
    guest = train(distiller("mekd", teacher, steps=3, **fresh), 2)
    assert guest.hosted.ledger.by_stage == {"alignment": 2 * 3 * BATCH} and teacher.count == 2 * 3 * BATCH
    with pytest.raises(InputError, match="give steps="):
        train(distiller("mekd", **fresh))


def test_models_may_return_more_than_logits(train):
    teacher = ToyTeacher()
    guest = train(distiller(teacher=First(teacher), student=First(toy_student())))
    assert guest.evaluate(teacher=True) == 1.0 and teacher.count == 300 + 64


def test_a_teacher_may_be_behind_the_boundary_already(train):
    teacher = ToyTeacher()
    box = mekd.BlackBox(teacher, "hard", CLASSES, budget=310)
    guest = train(distiller("mekd", box, budget=None, responses=None, queries=300))
    assert guest.hosted.ledger.total == teacher.count == 300
    with pytest.raises(QueryBudgetExceeded):
        guest.evaluate(teacher=True)


def test_the_edges_images_are_some_of_the_loaders(train):
    loader = labelled(80, seed=7)
    teacher = ToyTeacher()
    train(distiller("kd", teacher, loader=loader, images=None, real_images=20, budget=20, validation=0.0, steps=2))
    known = {image.numpy().tobytes() for image in loader.dataset.tensors[0]}
    assert len({image.numpy().tobytes() for image in torch.cat(teacher.asked)} & known) == 20


def test_all_of_the_loaders_images_are_the_edges_unless_told_otherwise(train, capsys):
    train(distiller("kd", loader=labelled(80, seed=7), images=None, steps=1))
    assert "[mekd] kd_lib, kd: the edge holds 80 of 80 images" in capsys.readouterr().out
    train(distiller("kd", loader=labelled(80, seed=7), images=None, real_fraction=0.5, steps=1))
    assert "[mekd] kd_lib, kd: the edge holds 40 of 80 images" in capsys.readouterr().out


def test_a_data_parallel_student_learns(train):
    student = toy_student()
    before = [weight.clone() for weight in student.parameters()]
    train(distiller(student=nn.DataParallel(student)))
    assert all((weight != old).any() for weight, old in zip(student.parameters(), before, strict=True))


def test_the_suites_temperature_is_the_methods():
    guest = distiller("kd", temp=2.0)
    assert guest._settings["temperature"] == 2.0
    with pytest.raises(InputError, match=r"temp=2.0: logit_mimicry has no temperature"):
        distiller("logit_mimicry", temp=2.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss_fn": nn.MSELoss()}, "loss_fn=MSELoss.*has its own losses"),
        ({"distil_weight": 0.5}, "distil_weight=0.5: logit_mimicry has its own losses and no labels"),
        ({"device": "cuda:0"}, "device='cuda:0': KD_Lib knows"),
        ({"images": None, "real_images": 999}, "999 real images: expected 2 to 64"),
    ],
)
def test_bad_settings_are_named_before_anything_is_asked(settings, words):
    teacher = ToyTeacher()
    with pytest.raises(InputError, match=words):
        distiller(teacher=teacher, **settings)
    assert teacher.count == 0


def test_what_cannot_be_asked_is_named():
    with pytest.raises(InputError, match="the teacher is None"):
        classes()["kd"](None, toy_student(), labelled(), labelled(), None, None)
    with pytest.raises(InputError, match="MEKD has asked nothing yet: call train_student"):
        _ = distiller("mekd").hosted


@pytest.fixture
def fresh():
    """``KD_Lib`` as if it had not been imported; afterwards the one that was."""
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "KD_Lib"}
    for name in kept:
        del sys.modules[name]
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "KD_Lib"]:
        del sys.modules[name]
    sys.modules.update(kept)


def test_stand_ins_are_there_while_it_is_imported_only(fresh, monkeypatch, capsys):
    real = type(sys)("transformers")
    monkeypatch.setitem(sys.modules, "transformers", real)
    monkeypatch.delitem(sys.modules, "torchtext", raising=False)
    suites_own = SUITE.kd()
    assert sys.modules["transformers"] is real and not {"torchtext", "torchtext.legacy"} & set(sys.modules)
    assert "all of it but the text part" in capsys.readouterr().out
    gone = sys.modules[suites_own.BERT2LSTM.__module__].AdamW
    with pytest.raises(MissingDependency, match="needs transformers.AdamW of its time, which is gone"):
        gone()
    SUITE.kd()
    assert capsys.readouterr().out == ""


def test_what_the_suite_imports_may_be_missing(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "KD_Lib.KD.common", None)
    with pytest.raises(MissingDependency, match=r"cannot be imported .*pip install pandas"):
        SUITE.register()


SCRIPT = """
import torch
from KD_Lib.KD import VanillaKD
from torch.utils.data import DataLoader, TensorDataset

from mekd_plugin.testing import ToyTeacher, toy_images, toy_student

images = toy_images(64, 3)
loader = DataLoader(TensorDataset(images, torch.arange(64) % 3), 32)
teacher, student = ToyTeacher(), toy_student()
optimizers = [torch.optim.SGD(model.parameters(), 0.01) for model in (teacher, student)]
distiller = VanillaKD(teacher, student, loader, loader, *optimizers)
distiller.train_teacher(1, False, False, "models/teacher.pt")
before = teacher.count
distiller.train_student(2, False, False, "models/student.pt")
distiller.evaluate(teacher=True)
print("seen by the teacher while the student trained:", teacher.count - before)
"""


def test_the_suites_own_methods_are_metered(tmp_path, monkeypatch, capsys, base):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT)
    kept = base.__init__, base._evaluate_model
    counted = launch(SUITE, ["script.py"], meter=True)
    assert "while the student trained: 128" in capsys.readouterr().out
    assert counted.ledger.by_stage == {"train_teacher": 64, "evaluation": 64 + 64, "training": 128}
    assert counted.differentiated and not counted.inner  # its loop has no torch.no_grad() around the teacher
    assert (base.__init__, base._evaluate_model) == kept


def test_training_a_teacher_is_not_looking_behind_its_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT.replace("distiller.train_student(2", "0 and distiller.train_student(2"))
    assert not launch(SUITE, ["script.py"], meter=True).differentiated


def test_a_script_finds_our_distillers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text("from KD_Lib.KD import MEKD\nprint('found', MEKD.method)\n")
    launch(SUITE, ["script.py"], meter=False)
    assert "found mekd" in capsys.readouterr().out


@pytest.mark.slow
def test_the_digits_are_learnt_through_the_suites_loop(tmp_path):
    assert trial("mekd", ReferenceProblem(cache=tmp_path / "cache"), tmp_path).accuracy >= 0.9
    assert trial("logit_mimicry", ReferenceProblem(shuffled=True, budget=1000, steps=150), tmp_path).accuracy < 0.2
