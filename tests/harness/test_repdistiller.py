"""RepDistiller's scripts, launched with our methods accepted.

$REPDISTILLER_HOME names the real suite; without it the same tests run on `suites/repdistiller`, in which all that the
launcher relies on is stated anew.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import os
import pickle
import re
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import mekd_plugin as mekd
from mekd_plugin.data import load
from mekd_plugin.errors import InputError, MissingDependency
from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem
from mekd_plugin.harness.evidence.trials.repdistiller import trial
from mekd_plugin.harness.launch import launch
from mekd_plugin.harness.meter import Counted
from mekd_plugin.harness.repdistiller import SUITE
from mekd_plugin.harness.repdistiller.data import Passing, as_cifar, as_theirs
from mekd_plugin.harness.repdistiller.launched import OWN_METHODS, distill_names
from mekd_plugin.harness.row_loader import draw_edge_images
from mekd_plugin.harness.stand_ins import modules_forgotten
from mekd_plugin.networks import build
from mekd_plugin.training.recipe import Recipe

HOME = os.environ.get("REPDISTILLER_HOME", str(Path(__file__).parent / "suites" / "repdistiller"))
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
ONE_EPOCH = ["--dataset", "digits", "--epochs", "1", "--batch_size", "128", "--num_workers", "0"]
SHAPE, BATCH, TEST = (1, 16, 16), 32, 540

# The suite stated anew has no commit of its own.
pytestmark = pytest.mark.filterwarnings("ignore:repdistiller .* was never tried")


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """The suite's scripts write below where they are started."""
    monkeypatch.setenv("REPDISTILLER_HOME", HOME)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Probe(nn.Module):
    """A teacher that remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.network = build("lenet5", 10, SHAPE, seed=0)
        self.seen, self.trained = [], False

    def forward(self, images):
        self.seen.append(images.clone())
        self.trained |= self.training
        return self.network(images)

    @property
    def count(self):
        return sum(map(len, self.seen))


def pupil():
    return build("lenet5_half", 10, SHAPE, seed=1).to(memory_format=torch.channels_last)


@pytest.fixture
def probe(home, monkeypatch):
    """Known to the launcher as ``probe``, with a checkpoint, beside a student of known weights."""
    teacher = Probe()
    (home / "probe_vanilla").mkdir()
    torch.save({"model": as_theirs(teacher).state_dict()}, home / "probe_vanilla" / "last.pth")
    monkeypatch.setattr(SUITE, "networks", {"probe": lambda: teacher, "pupil": pupil})
    return teacher


def words(method="logit_mimicry", *more, **settings):
    wanted = {"budget": 300, "real_images": 60, "progress": False, **SETTINGS.get(method, {}), **settings}
    name = {ours: taken for taken, ours in distill_names().items()}.get(method, method)
    settings = [f"{key}={json.dumps(value)}" for key, value in wanted.items()]
    return [
        *("train_student.py", "--dataset", "digits", "--distill", name, "--path_t", "./probe_vanilla/last.pth"),
        *(
            "--model_s",
            "pupil",
            "-a",
            "0",
            "-b",
            "1",
            "--epochs",
            "1",
            "--batch_size",
            str(BATCH),
            "--num_workers",
            "0",
        ),
        *("--learning_rate", "0.02", "--weight_decay", "0", "--print_freq", "1", *more),
        *("--mekd", *settings),
    ]


def run(*command, meter=False):
    return launch(SUITE, list(command), meter=meter)


def student_folder(home):
    (folder,) = (home / "save" / "student_model").iterdir()
    return folder


@pytest.fixture
def suite_modules(monkeypatch):
    """The suite's modules as they are."""
    monkeypatch.syspath_prepend(HOME)
    with modules_forgotten(Path(HOME).resolve()):
        yield [import_module(name) for name in ("helper.loops", "dataset.cifar100", "models")]


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_the_suite_keeps_the_contract(suite_modules):
    loops, data, models = suite_modules
    trained = ["epoch", "train_loader", "module_list", "criterion_list", "optimizer", "opt"]
    assert parameters(loops.train_distill) == trained
    assert parameters(loops.validate) == ["val_loader", "model", "criterion", "opt"]
    assert parameters(data.get_cifar100_dataloaders) == ["batch_size", "num_workers", "is_instance"]
    assert callable(data.get_cifar100_dataloaders_sample)
    network = models.model_dict["resnet8"](num_classes=100)
    images = torch.randn(2, 3, 32, 32)
    features, logits = network(images, is_feat=True, preact=False)
    assert isinstance(features, list) and len(features) > 2 and logits.shape == network(images).shape == (2, 100)


def test_its_loop_weighs_the_losses_as_we_rely_on(suite_modules, capsys):
    """In the branch "kd": gamma times the first criterion and alpha times the second, and the teacher is asked once."""
    loops, _, models = suite_modules
    student, teacher = (as_theirs(nn.Sequential(nn.Flatten(), nn.Linear(48, 5))) for _ in range(2))
    seen = []
    criteria = [
        lambda logits, labels: seen.append((logits, labels)) or logits.square().mean(),
        lambda logits, answers: 3.0,
        None,
    ]
    opt = argparse.Namespace(distill="kd", gamma=2.0, alpha=0.5, beta=0, print_freq=1)
    loader = [(torch.randn(8, 3, 4, 4), torch.arange(8) % 5, torch.arange(8))]
    before = [weight.clone() for weight in student.parameters()]
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    top1, loss = loops.train_distill(1, loader, nn.ModuleList([student, teacher]), criteria, optimizer, opt)
    ((logits, labels),) = seen
    assert loss == pytest.approx(2 * logits.square().mean().item() + 0.5 * 3.0, abs=1e-5)
    assert float(top1) == pytest.approx(100 * (logits.argmax(1) == labels).float().mean().item(), abs=1e-3)
    assert student.training and not teacher.training
    assert any((weight != old).any() for weight, old in zip(student.parameters(), before, strict=True))


def test_its_scripts_name_what_we_replace():
    student = (Path(HOME) / "train_student.py").read_text()
    assert "train_distill as train" in student and "get_cifar100_dataloaders" in student
    assert student.index("load_state_dict(torch.load(") > 0 and "import tensorboard_logger as tb_logger" in student
    assert student.index("parse_args()") < student.index("get_teacher_name(opt.path_t)")
    names = {node.value for node in ast.walk(ast.parse(student)) if isinstance(node, ast.Constant)}
    assert set(OWN_METHODS) <= names
    choices = re.search(r"'--distill'.*?choices=(\[.*?\])", student, re.S)
    assert choices is None or tuple(ast.literal_eval(choices[1])) == OWN_METHODS
    for script in (student, (Path(HOME) / "train_teacher.py").read_text()):
        assert re.search(r"--dataset.*choices=\[.cifar100.\]", script) and "n_cls = 100" in script


def test_nothing_is_registered_and_it_says_so(capsys):
    names = mekd.register("repdistiller")
    assert {"mekd", "logit_mimicry", "distribution_alignment", "mekd_kd"} <= set(names) and "kd" not in names
    said = capsys.readouterr().out
    assert "has no registry, so nothing was registered" in said and "mekd harness repdistiller -- train_stud" in said
    assert set(mekd.available()) == set(distill_names().values())


@pytest.mark.parametrize("method", SETTINGS)
def test_losses_are_those_of_our_own_loop(method, probe, capsys):
    steps = 20
    run(*words(method, steps=steps))
    losses = [float(value) for value in re.findall(r"Epoch: .*?Loss ([\d.]+) \(", capsys.readouterr().out)]
    ours = mekd.distill(
        pupil(),
        mekd.BlackBox(probe.network, "logits", 10, budget=300),
        draw_edge_images(
            [(image,) for image in load("digits").train_images], real_images=60, real_fraction=0.1, seed=0
        ),
        method=method,
        recipe=Recipe(steps, BATCH, "sgd", 0.02, 0.0, "constant", translate=0),
        log_steps=1,
        progress=False,
        **SETTINGS[method],
    )
    expected = [entry["loss"] for entry in ours.history if "agreement" in entry]
    assert len(expected) == steps and losses == pytest.approx(expected, abs=1.5e-4)  # it prints four places
    assert ours.ledger.total == 300


def test_the_ledger_is_complete(probe, home, capsys):
    run(*words("mekd"))
    ledger = json.loads((student_folder(home) / "ledger.json").read_text())
    assert ledger["by_stage"] == {"bank": 300} and not probe.trained
    # Besides, the suite's script asks its own teacher about a batch of two, for shapes only, and measures its accuracy.
    assert probe.count == ledger["total"] + 2 + TEST
    assert "was shown 842 images sent, 841 distinct (set-up 2, evaluation 540, training 300)" in capsys.readouterr().out


def test_the_training_accuracy_is_the_agreement_with_the_teacher(probe, home, capsys, monkeypatch):
    from mekd_plugin.harness.row_loader import RowLoader

    seen, loss = [], RowLoader.loss

    def spy(lessons, logits):
        with torch.no_grad():
            answers = probe.network(lessons.rows.images).argmax(dim=1)
        seen.append((logits.argmax(dim=1) == answers).float().mean().item())
        return loss(lessons, logits)

    monkeypatch.setattr(RowLoader, "loss", spy)
    run(*words(steps=5))
    teachers, trained, _ = re.findall(r"Acc@1 ([\d.]+) Acc@5", capsys.readouterr().out)
    assert len(seen) == 5 and float(trained) == pytest.approx(100 * sum(seen) / 5, abs=1e-2)
    right = (probe.network(load("digits").test_images).argmax(dim=1) == load("digits").test_labels).float().mean()
    assert float(teachers) == pytest.approx(100 * right.item(), abs=1e-2)


@pytest.mark.parametrize("method", ["mekd", "kd"])
def test_the_suites_files_name_the_method_and_load_as_they_are(method, probe, home):
    run(*words(method, steps=2))
    folder, name = student_folder(home), "mekd_kd" if method == "kd" else method
    assert folder.name == f"S:pupil_T:probe_digits_{name}_r:1_a:0.0_b:1.0_1"
    with torch.serialization.safe_globals([argparse.Namespace]):
        saved = torch.load(folder / "pupil_last.pth", weights_only=True)
    assert type(saved["opt"].distill) is str and saved["opt"].distill == name
    assert type(saved["opt"].dataset) is str and saved["opt"].dataset == "digits"
    as_theirs(pupil(), SHAPE).load_state_dict(saved["model"])
    assert list((home / "save" / "student_tensorboards" / folder.name).glob("events.out.tfevents.*"))


def test_the_methods_weight_is_the_suites(probe, capsys):
    def losses(*more):
        run(*words("kd", *more, steps=1))
        return float(re.search(r"Epoch: .*?Loss ([\d.]+) \(", capsys.readouterr().out)[1])

    assert losses("-b", "3") == pytest.approx(3 * losses(), abs=5e-4)
    assert losses("-r", "7") == losses()  # there are no labels


def test_generator_and_answers_are_taken_over(probe, home):
    run(*words("mekd", steps=2, directory=str(home / "kept")))
    asked = probe.count
    run(*words("mekd", steps=2, directory=str(home / "kept")))
    assert probe.count == asked + 2 + TEST


def test_everything_is_put_back(probe):
    parse, load_file, modules = argparse.ArgumentParser.parse_args, torch.load, set(sys.modules)
    run(*words(steps=1))
    assert argparse.ArgumentParser.parse_args is parse and torch.load is load_file
    left = {"models", "helper", "helper.loops", "dataset", "dataset.cifar100", "tensorboard_logger"} & set(sys.modules)
    assert not left - modules


def test_a_script_with_a_parser_of_its_own_is_left_alone(home, capsys):
    (home / "script.py").write_text(
        "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--size', type=int)\n"
        "print('size', parser.parse_args().size)\n"
    )
    run("script.py", "--size", "3")
    assert "size 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (words("mekd", "-a", "0.9"), "-a 0.9: mekd has no second divergence, say -a 0"),
        (words("mekd", "-b", "0"), "-b 0: it weighs the loss of mekd"),
        (words("hint"), "--mekd budget=300: is for --distill .*mekd_kd"),
        (words("crd")[:-4], "crd draws its contrasts from CIFAR-100, not from digits"),
        ([*words("mekd"), "--mekd", "budget"], "--mekd budget: expected KEY=VALUE"),
        (words("mekd", real_images=9999), "9999 real images: expected 2 to 1257"),
        (["train_student.py", "--distill", "mekd", "--dataset", "digits"], "mekd needs a teacher: --path_t"),
    ],
)
def test_bad_settings_are_named_before_the_method_asks(command, said, probe):
    with pytest.raises(InputError, match=said):
        run(*command)
    assert probe.count in (0, 2 + TEST)


def test_a_name_that_nobody_knows_is_the_parsers_to_refuse(probe, capsys):
    with pytest.raises(SystemExit):
        run(*words("mekdd"))
    assert "invalid choice: 'mekdd'" in capsys.readouterr().err


def test_what_is_not_repdistiller_is_named(home, monkeypatch):
    monkeypatch.setenv("REPDISTILLER_HOME", str(home))
    (home / "script.py").write_text("")
    with pytest.raises(MissingDependency, match="cannot be imported .*REPDISTILLER_HOME"):
        run("script.py")


def test_its_own_data_set_stays_its_own(monkeypatch):
    monkeypatch.syspath_prepend(HOME)
    with SUITE.launching():
        launched = SUITE._launched
        launched._opt.dataset = "cifar100"
        launched._loaders = launched._samples = lambda *args, **kwargs: (args, kwargs)
        assert launched.loaders(16, num_workers=2, is_instance=True) == ((16, 2, True), {})
        assert launched.samples(16, k=3) == ((16,), {"k": 3})
        network = import_module("models").model_dict["resnet8"](num_classes=100)
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 100)
        ours = import_module("models").model_dict["mekd-lenet5"](num_classes=100)
        assert ours(torch.zeros(2, 3, 32, 32), is_feat=True)[1].shape == (2, 100)


def test_it_is_launched_from_its_sources_only(monkeypatch):
    monkeypatch.delenv("REPDISTILLER_HOME")
    with pytest.raises(MissingDependency, match="where is RepDistiller.*git clone"), SUITE.launching():
        pass


def test_it_is_metered_in_a_launch_only():
    with pytest.raises(InputError, match="in a launch only"), SUITE.metered(Counted()):
        pass


@pytest.fixture
def trained(home):
    """A teacher of the suite's own, by its own script: the file holds a Namespace."""
    options = [
        "--dataset",
        "digits",
        "--model",
        "resnet8",
        "--epochs",
        "1",
        "--batch_size",
        "128",
        "--num_workers",
        "0",
    ]
    run("train_teacher.py", *options)
    (path,) = (home / "save" / "models").glob("resnet8_digits_*/resnet8_last.pth")
    return str(path)


def test_the_suites_own_methods_and_networks_run_on_our_data_and_are_metered(trained):
    options = [*ONE_EPOCH, "--path_t", trained, "--model_s", "resnet8"]
    plain = run("train_student.py", *options, "--distill", "kd", "-r", "0.1", "-a", "0.9", "-b", "0", meter=True)
    assert plain.ledger.by_stage == {"set-up": 2, "evaluation": TEST, "training": 1257}
    assert not plain.inner and not plain.differentiated
    hint = run("train_student.py", *options, "--distill", "hint", "-a", "0", "-b", "100", meter=True)
    assert hint.ledger.by_stage == plain.ledger.by_stage and hint.inner
    assert "the teacher gave more than its answer, such as features" in str(hint)


def test_our_networks_are_known_by_name(home):
    run("train_teacher.py", *ONE_EPOCH, "--model", "mekd-lenet5")
    (path,) = (home / "save" / "models").glob("mekd-lenet5_digits_*/mekd-lenet5_last.pth")
    settings = ["--mekd", "budget=100", "real_images=50", "progress=false", "steps=1"]
    command = ["--path_t", str(path), "--model_s", "mekd-lenet5-half", "--distill", "logit_mimicry", "-a", "0"]
    run("train_student.py", *ONE_EPOCH, *command, *settings)
    assert json.loads((student_folder(home) / "ledger.json").read_text())["total"] == 100


def test_a_teacher_whose_learning_rate_decayed_is_loaded(home):
    """The usual case: its optimiser's state holds a NumPy number, which ``weights_only=True`` refuses by itself."""
    run("train_teacher.py", *ONE_EPOCH, "--model", "mekd-lenet5", "--epochs", "2", "--lr_decay_epochs", "1")
    (path,) = (home / "save" / "models").glob("mekd-lenet5_digits_*/mekd-lenet5_last.pth")
    saved = torch.load(path, weights_only=False)
    assert type(saved["optimizer"]["param_groups"][0]["lr"]) is np.float64
    with torch.serialization.safe_globals([argparse.Namespace]), pytest.raises(pickle.UnpicklingError, match="numpy"):
        torch.load(path, weights_only=True)
    command = ["--path_t", str(path), "--model_s", "mekd-lenet5-half", "--distill", "logit_mimicry", "-a", "0"]
    run("train_student.py", *ONE_EPOCH, *command, "--mekd", "budget=100", "real_images=50", "steps=1")
    assert json.loads((student_folder(home) / "ledger.json").read_text())["total"] == 100


def test_the_edge_and_the_stages_are_told(probe, capsys):
    run(*words("mekd", steps=1))
    said = re.sub(r"after \d+ s$", "after SECONDS", capsys.readouterr().out, flags=re.M)
    assert "[mekd] repdistiller, mekd: the edge holds 60 of 1,257 images\n" in said
    told = [line for line in said.splitlines() if "repdistiller, mekd: stage" in line or "warning" in line]
    assert [line.split(": ", 1)[1] for line in told[:4]] == [
        "stage deprivatization begins",
        "stage deprivatization ended after SECONDS",
        "stage bank begins: 300 answers",
        "stage bank ended: 300 of 300 images sent, 300 distinct (bank 300)",
    ]
    assert "warning: " in told[4]  # ten steps make no generator


def test_a_name_may_pass_for_another():
    name = Passing("mekd", "kd")
    assert name == "mekd" and name == "kd" and name in ["crd", "kd"] and name not in ["crd", "hint"]
    assert f"{name}" == "mekd" and type(str(name)) is str and str(name) != "kd" and hash(name) == hash("mekd")


def test_images_are_made_like_cifars():
    images = torch.arange(32.0).reshape(2, 1, 4, 4)
    (made,) = as_cifar(nn.Identity(), (images,))
    assert made.shape == (2, 3, 32, 32) and torch.equal(made[:, 0], made[:, 2])
    assert made.mean().item() == pytest.approx(images.mean().item())
    whole = torch.randn(2, 3, 32, 32)
    assert torch.equal(as_cifar(nn.Identity(), (whole,))[0], whole)


@pytest.mark.slow
def test_the_digits_are_learnt_through_the_suites_script(home):
    assert trial("mekd", ReferenceProblem(cache=home / "cache"), home).accuracy >= 0.9
    assert trial("logit_mimicry", ReferenceProblem(shuffled=True, budget=1000, steps=150), home).accuracy < 0.2
