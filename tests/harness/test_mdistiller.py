"""mdistiller with our methods in it.

$MDISTILLER_HOME names the real suite, or its fork; without it the same tests run on `suites/mdistiller`, in which all
that the adapter relies on is stated anew.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import mekd_plugin as mekd
from mekd_plugin.data import edge_images, load
from mekd_plugin.errors import DataMissing, InputError, MissingDependency, NeedsNotMet, UnknownName
from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem
from mekd_plugin.harness.evidence.trials.mdistiller import _written, trial
from mekd_plugin.harness.launch import launch
from mekd_plugin.harness.mdistiller import SUITE
from mekd_plugin.harness.mdistiller.data import Datasets, as_theirs, setting_of, trained_teacher
from mekd_plugin.harness.meter import Counted
from mekd_plugin.networks import build
from mekd_plugin.training.recipe import Recipe

HOME = os.environ.get("MDISTILLER_HOME", str(Path(__file__).parent / "suites" / "mdistiller"))
SETTINGS = {
    "mekd": {
        "preset": "tiny",
        "emulation": "gan",
        "surrogate": "none",  # null is the default's in this suite
        "emulation_settings": {"steps": 10, "style_dim": 4},
    },
    "logit_mimicry": {},
    "distribution_alignment": {},
    "kd": {},
}
SHAPE = (1, 16, 16)
CONFIGS = Path(__file__).parents[2] / "configs" / "mdistiller" / "mnist"

# The suite stated anew has no commit of its own.
pytestmark = pytest.mark.filterwarnings("ignore:mdistiller .* was never tried")


@pytest.fixture(autouse=True)
def home(monkeypatch):
    monkeypatch.setenv("MDISTILLER_HOME", HOME)
    SUITE._reach()
    with SUITE.launching():  # no GPU is asked for, and the configuration is put back
        SUITE.register()
        yield Path(HOME)


class Probe(nn.Module):
    """A teacher that remembers what it was shown, and whether it was in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.inner = as_theirs(build("lenet5", 10, SHAPE, seed=0))
        self.seen, self.trained = [], False

    def forward(self, images):
        self.seen.append(images.clone())
        self.trained |= self.training
        return self.inner(images)

    @property
    def count(self):
        return sum(map(len, self.seen))


@pytest.fixture
def probe(tmp_path):
    """In the suite's dictionary as ``probe``, beside a student of known weights."""
    from mdistiller.models import cifar_model_dict

    teacher = Probe()
    torch.save({"model": teacher.state_dict()}, tmp_path / "probe.pt")
    cifar_model_dict["probe"] = (lambda num_classes: teacher, str(tmp_path / "probe.pt"))
    cifar_model_dict["pupil"] = (lambda num_classes: as_theirs(build("lenet5_half", 10, SHAPE, seed=1)), None)
    return teacher


def configured(directory, method, *, trainer="mekd", epochs=1, node=None, **distiller):
    """A file for the suite's script."""
    name = SUITE.nodes().get(method, method)
    settings = {key.upper(): _written(value) for key, value in SETTINGS.get(method, {}).items()}
    content = {
        "EXPERIMENT": {"PROJECT": "", "NAME": "trial"},
        "DATASET": {"TYPE": "digits", "NUM_WORKERS": 0},
        "DISTILLER": {"TYPE": name, "TEACHER": "probe", "STUDENT": "pupil", **distiller},
        "SOLVER": {"TRAINER": trainer, "BATCH_SIZE": 32, "EPOCHS": epochs, "LR": 0.02, "WEIGHT_DECAY": 0.0},
        "LOG": {"PREFIX": str(directory), "WANDB": False},
    }
    if method in SUITE.nodes():
        content[name] = {"BUDGET": 300, "REAL_IMAGES": 60, **settings, **(node or {})}
    path = directory / f"{method}-{epochs}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def trainer_of(path):
    """What the suite's script makes of a file, up to the training."""
    from mdistiller import dataset
    from mdistiller.distillers import distiller_dict
    from mdistiller.engine import trainer_dict
    from mdistiller.engine.cfg import CFG
    from mdistiller.models import cifar_model_dict

    cfg = CFG.clone()
    cfg.merge_from_file(str(path))
    train_loader, val_loader, _, classes = dataset.get_dataset(cfg)
    teacher, student = (cifar_model_dict[name][0](num_classes=classes) for name in ("probe", cfg.DISTILLER.STUDENT))
    distiller = torch.nn.DataParallel(distiller_dict[cfg.DISTILLER.TYPE](student, teacher, cfg).cuda())
    return trainer_dict[cfg.SOLVER.TRAINER]("trial", distiller, train_loader, val_loader, cfg)


def run(path, *arguments):
    launch(SUITE, ["tools/train.py", "--cfg", str(path), *arguments], meter=False)


def logged(directory, key):
    return [float(value) for value in re.findall(rf"^{key}: ([\d.]+)", (directory / "worklog.txt").read_text(), re.M)]


def latest(directory):
    return torch.load(directory / "trial" / "latest", weights_only=True)["model"]


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_the_suite_keeps_the_contract():
    from mdistiller import dataset
    from mdistiller.distillers import _base, distiller_dict
    from mdistiller.engine import trainer, trainer_dict
    from mdistiller.engine.cfg import CFG

    assert parameters(_base.Distiller.__init__) == ["self", "student", "teacher"]
    assert parameters(_base.Distiller.forward_test) == ["self", "image"]
    for method in ("get_learnable_parameters", "get_extra_parameters"):
        assert parameters(getattr(_base.Distiller, method)) == ["self"]
    started = ["self", "experiment_name", "distiller", "train_loader", "val_loader", "cfg"]
    assert parameters(trainer.BaseTrainer.__init__) == started
    assert parameters(trainer.BaseTrainer.train_iter) == ["self", "data", "epoch", "train_meters"]
    assert parameters(trainer.BaseTrainer.train) == ["self", "resume"]
    assert trainer_dict["base"] is trainer.BaseTrainer and "KD" in distiller_dict
    assert issubclass(distiller_dict["KD"], _base.Distiller)
    cfg = CFG.clone()
    cfg.DATASET.TYPE = "no such data set"
    with pytest.raises(NotImplementedError):
        dataset.get_dataset.suites_own(cfg)
    source = (Path(HOME) / "tools" / "train.py").read_text()
    assert "from mdistiller.dataset import get_dataset" in source and "cfg.merge_from_file" in source


def test_our_methods_are_named_beside_the_suites_own():
    from mdistiller.distillers import KD, distiller_dict
    from mdistiller.engine.cfg import CFG

    names = SUITE.register()
    assert {"MEKD", "LOGIT_MIMICRY", "DISTRIBUTION_ALIGNMENT", "MEKD_KD"} <= set(names) <= set(distiller_dict)
    assert distiller_dict["KD"].__name__ == KD.__name__ and not hasattr(distiller_dict["KD"], "node")
    assert SUITE.register() == names == list(SUITE.nodes().values())
    assert CFG.MEKD.QUERIES is None and CFG.MEKD.REAL_FRACTION == 0.1 and "STUDENT" not in CFG.MEKD
    CFG.merge_from_list(["MEKD.QUERIES", 7, "MEKD.BUDGET", 9])
    SUITE.register()
    assert (CFG.MEKD.QUERIES, CFG.MEKD.BUDGET) == (7, 9)


def test_a_suite_with_both_names_is_refused(monkeypatch):
    from mdistiller.distillers import KD, distiller_dict

    monkeypatch.setitem(distiller_dict, "MEKD_KD", KD)
    with pytest.raises(InputError, match="has KD and MEKD_KD already"):
        SUITE.register()


def test_a_suite_with_a_trainer_of_our_name_is_refused(monkeypatch):
    from mdistiller.engine import BaseTrainer, trainer_dict

    monkeypatch.setitem(trainer_dict, "mekd", BaseTrainer)
    with pytest.raises(InputError, match="has a trainer 'mekd' already"):
        SUITE.register()


def test_what_the_suite_imports_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "mdistiller.engine", None)
    with pytest.raises(MissingDependency, match=r"cannot be imported .*mekd-plugin\[mdistiller\]"):
        SUITE.register()


def test_the_configuration_is_put_back():
    from mdistiller.engine.cfg import CFG

    before = CFG.clone()
    with SUITE.launching():
        CFG.merge_from_list(["DATASET.TYPE", "digits"])
        CFG.freeze()
    assert before == CFG and not CFG.is_frozen()


@pytest.mark.parametrize("method", SETTINGS)
def test_losses_are_those_of_our_own_loop(method, tmp_path, probe):
    steps, batch = 20, 32
    trainer = trainer_of(configured(tmp_path, method, node={"STEPS": steps}))
    losses = []
    trainer.distiller.module.register_forward_hook(
        lambda module, inputs, output: losses.append(sum(output[1].values()).item()) if module.training else None
    )
    trainer.train_epoch(1)
    ours = mekd.distill(
        build("lenet5_half", 10, SHAPE, seed=1),
        mekd.BlackBox(probe.inner.network, "logits", 10, budget=300),
        edge_images(load("digits"), real_images=60, seed=0).images,
        method=method,
        recipe=Recipe(steps, batch, "sgd", 0.02, 0.0, "constant", translate=0),
        log_steps=1,
        progress=False,
        **SETTINGS[method],
    )
    expected = [entry["loss"] for entry in ours.history if "agreement" in entry]
    assert len(expected) == steps and losses == pytest.approx(expected, abs=1e-4)
    assert probe.count == trainer.distiller.module.hosted.ledger.total == ours.ledger.total


def test_the_script_runs_and_its_ledger_is_complete(tmp_path, probe, capsys):
    run(configured(tmp_path, "mekd", epochs=2))
    ledger = yaml.safe_load((tmp_path / "trial" / "ledger.json").read_text())
    assert ledger["total"] == probe.count == 300 and not probe.trained
    assert ledger["distinct"] == len(torch.cat(probe.seen).flatten(1).unique(dim=0))
    assert not any(".teacher." in name for name in latest(tmp_path))
    assert "the train accuracy is the student's agreement with the teacher" in capsys.readouterr().out
    assert len(logged(tmp_path / "trial", "test_acc")) == 2


def test_the_train_accuracy_is_the_agreement_with_the_teacher(tmp_path, probe):
    trainer = trainer_of(configured(tmp_path, "mekd"))
    distiller = trainer.distiller.module.train()
    images, targets, distiller.numbers = next(iter(trainer.train_loader))
    logits, losses = distiller.forward_train(image=images, target=targets, epoch=1)
    with torch.no_grad():
        assert torch.equal(logits, distiller.student(images)[0])  # what the suite compares with the targets
        assert torch.equal(targets, probe.inner(images)[0].argmax(dim=1))
    assert list(losses) == ["loss_mekd"] and losses["loss_mekd"].requires_grad


@pytest.mark.parametrize("method", ["mekd", "distribution_alignment"])
def test_the_suite_stops_and_resumes(method, tmp_path, probe, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for directory in (whole, parts):
        directory.mkdir()
    run(configured(whole, method, epochs=4))
    asked = probe.count
    run(configured(parts, method, epochs=2))
    assert "taken over" not in capsys.readouterr().out
    run(configured(parts, method, epochs=4), "--resume")
    assert probe.count == 2 * asked == 600 and "taken over" in capsys.readouterr().out
    expected, found = latest(whole), latest(parts)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(found[name], value, msg=name)
    assert found["module.players._extra_state"]["steps"] == expected["module.players._extra_state"]["steps"] > 0


def test_the_suites_own_trainer_asks_about_every_batch(tmp_path, probe, capsys):
    path = configured(tmp_path, "distribution_alignment", trainer="base", epochs=1, node={"BUDGET": None})
    run(path)
    images = len(load("digits").train_images)
    assert probe.count == 2 + images
    assert f"{images:,} queries an epoch" in capsys.readouterr().out
    run(configured(tmp_path, "distribution_alignment", trainer="base", epochs=2, node={"BUDGET": None}), "--resume")
    assert probe.count == 2 * (2 + images)
    assert any("players.networks.critic" in name for name in latest(tmp_path))


def test_a_method_with_images_of_its_own_needs_its_trainer(tmp_path, probe):
    with pytest.raises(NeedsNotMet, match='set SOLVER.TRAINER to "mekd"'):
        run(configured(tmp_path, "mekd", trainer="base"))
    with pytest.raises(InputError, match="SOLVER.TRAINER 'crd' does not serve MEKD"):
        trainer_of(configured(tmp_path, "mekd", trainer="crd"))
    assert probe.count == 0


def test_our_trainer_serves_our_methods_only(tmp_path, probe):
    with pytest.raises(InputError, match=r"DISTILLER.TYPE is 'KD': set SOLVER.TRAINER to \"base\""):
        trainer_of(configured(tmp_path, "KD"))


def test_a_distiller_that_nobody_opened_is_named(tmp_path, probe):
    from mdistiller.distillers import distiller_dict
    from mdistiller.engine.cfg import CFG

    cfg = CFG.clone()
    cfg.SOLVER.TRAINER = "mekd"
    distiller = distiller_dict["MEKD"](as_theirs(build("lenet5_half", 10, SHAPE)), probe, cfg)
    with pytest.raises(InputError, match="MEKD was not opened"):
        distiller(image=torch.zeros(2, *SHAPE), target=torch.zeros(2), epoch=1)


def test_replicas_on_several_gpus_are_refused(tmp_path, probe):
    trainer = trainer_of(configured(tmp_path, "kd"))
    parallel = trainer.distiller
    parallel.device_ids = [0, 1]  # what torch finds on a machine with two
    with pytest.raises(NeedsNotMet, match="2 GPUs.*CUDA_VISIBLE_DEVICES=0"):
        type(trainer)("again", parallel, trainer.train_loader, trainer.val_loader, trainer.cfg)
    with pytest.raises(NeedsNotMet, match="CUDA_VISIBLE_DEVICES=0"):
        parallel.module._replicate_for_data_parallel()


@pytest.mark.parametrize(
    ("node", "words"),
    [({"REAL_IMAGES": 9999}, "9999 real images: expected 2 to 1257"), ({"PRESET": "slow"}, "unknown preset")],
)
def test_bad_settings_are_named_before_anything_is_asked(node, words, tmp_path, probe):
    with pytest.raises((InputError, UnknownName), match=words):
        trainer_of(configured(tmp_path, "mekd", node=node))
    assert probe.count == 0


def test_too_few_classes_for_its_top_five_are_named(tmp_path, probe):
    from mdistiller.models import cifar_model_dict

    cifar_model_dict["narrow"] = (lambda num_classes: as_theirs(build("lenet5_half", 3, SHAPE)), None)
    with pytest.raises(InputError, match="3 classes: the suite measures top-5"):
        trainer_of(configured(tmp_path, "kd", STUDENT="narrow"))


def test_the_suites_own_methods_are_metered(tmp_path, probe):
    from mdistiller.distillers import _base

    made = _base.Distiller.__init__
    path = configured(tmp_path, "KD", trainer="base", epochs=2)
    counted = launch(SUITE, ["tools/train.py", "--cfg", str(path)], meter=True)
    assert counted.ledger.by_stage == {"training": 2 * 1257} and probe.count == 2 * 1257
    assert counted.ledger.distinct == 1257 and not counted.differentiated and not counted.inner
    assert _base.Distiller.__init__ is made


def test_a_method_that_looks_at_features_is_noticed(probe):
    from mdistiller.distillers import _base

    class Featured(nn.Module):
        def forward(self, images):
            return images.flatten(1), {"feats": [images]}

    counted = Counted()
    with SUITE.metered(counted):
        distiller = _base.Distiller(probe, Featured())
        logits, features = distiller.teacher(torch.zeros(3, 1, 2, 2))
        assert counted.ledger.total == 3 and not counted.inner
        assert features["feats"][0].shape == (3, 1, 2, 2) and counted.inner


def test_data_sets_are_the_suites_first_then_ours(tmp_path):
    from mdistiller import dataset
    from mdistiller.engine.cfg import CFG
    from mdistiller.models import cifar_model_dict

    cfg = CFG.clone()
    cfg.DATASET.TYPE, cfg.DATASET.NUM_WORKERS, cfg.DISTILLER.TEACHER_CHECKPOINT = "digits", 0, "weights.pt"
    train_loader, val_loader, images, classes = dataset.get_dataset(cfg)
    image, label, index = train_loader.dataset[5]
    assert (images, classes, image.shape, int(index)) == (1257, 10, SHAPE, 5) and 0 <= int(label) < 10
    assert len(next(iter(val_loader))) == 2
    factory, checkpoint = cifar_model_dict["mekd_lenet5"]
    logits, features = factory(num_classes=10)(image[None])
    assert checkpoint == "weights.pt" and logits.shape == (1, 10) and features == {}
    known = Datasets(lambda cfg: (train_loader, val_loader, 3, 4))
    assert known(cfg)[2:] == (3, 4)
    cfg.DATASET.TYPE = "digit"
    with pytest.raises(UnknownName, match="did you mean 'digits'"):
        dataset.get_dataset(cfg)


def test_a_mapping_is_a_string_of_yaml_in_a_file_and_on_the_command_line():
    from mdistiller.engine.cfg import CFG

    cfg = CFG.clone()
    cfg.merge_from_list(["MEKD.PRESET", "{steps: 800, width: 24}"])
    assert setting_of(cfg.MEKD.PRESET) == {"steps": 800, "width": 24}


def told_to_train(tmp_path, monkeypatch, *overrides, epochs=1):
    """The repository's own teacher.yaml, from a folder of the user's."""
    monkeypatch.chdir(tmp_path)
    run(CONFIGS / "teacher.yaml", "DATASET.TYPE", "digits", "SOLVER.EPOCHS", str(epochs), *overrides)


def distil(*overrides):
    run(CONFIGS / "kd.yaml", *("DATASET.TYPE", "digits", "SOLVER.EPOCHS", "1", "MEKD_KD.STEPS", "2"), *overrides)


def test_a_teacher_that_was_not_trained_is_named_with_the_command_that_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataMissing, match="is not there: train the teacher first.*\n.*--cfg configs/mdistiller/mnist/tea"
    ):
        distil()
    with pytest.raises(InputError, match="TEACHER_CHECKPOINT is empty: .*MEKD_TEACHER"):
        distil("DISTILLER.TEACHER_CHECKPOINT", "")


def test_a_teacher_trained_with_overrides_is_found(tmp_path, monkeypatch, capsys):
    """The suite writes them into the folder's name; a slash in a value makes a folder more."""
    told_to_train(tmp_path, monkeypatch, "DATASET.ROOT", "no/such/folder")
    (made,) = (tmp_path / "output" / "mnist").rglob("student_latest")
    assert made.parts[-4].endswith("DATASET.ROOT:no")
    distil("MEKD_KD.REAL_IMAGES", "60", "MEKD_KD.BUDGET", "100")
    said = capsys.readouterr().out
    assert f"the teacher is that of {made.relative_to(tmp_path)}" in said
    assert "[mekd] mdistiller, kd: the edge holds 60 of 1,257 images" in said
    told_to_train(tmp_path, monkeypatch, "SOLVER.LR", "0.01")
    with pytest.raises(InputError, match="trained with other settings are .*: choose one with DISTILLER.TEACHER_CHECK"):
        distil()
    distil("MEKD_KD.REAL_IMAGES", "60", "MEKD_KD.BUDGET", "100", "DISTILLER.TEACHER_CHECKPOINT", str(made))


def test_a_folder_of_another_teacher_is_not_taken(tmp_path):
    (tmp_path / "teacher_lenet5_half").mkdir()
    (tmp_path / "teacher_lenet5_half" / "student_latest").touch()
    with pytest.raises(DataMissing, match="is not there"):
        trained_teacher(str(tmp_path / "teacher_lenet5" / "student_latest"))


def test_a_run_resumes_after_its_learning_rate_decayed(tmp_path, probe):
    decays = ("SOLVER.LR_DECAY_STAGES", "[1]", "EXPERIMENT.NAME", "again")
    run(configured(tmp_path, "kd", epochs=2), *decays)
    (state,) = tmp_path.rglob("latest")
    lr = torch.load(state, weights_only=False)["optimizer"]["param_groups"][0]["lr"]
    assert type(lr) is np.float64 and lr == pytest.approx(0.002)
    assert len(logged(state.parent, "test_acc")) == 2
    run(configured(tmp_path, "kd", epochs=3), "--resume", *decays)
    assert len(logged(state.parent, "test_acc")) == 3


@pytest.mark.slow
def test_the_digits_are_learnt_through_the_suites_script(tmp_path):
    assert trial("mekd", ReferenceProblem(cache=tmp_path / "cache"), tmp_path).accuracy >= 0.9
    assert trial("logit_mimicry", ReferenceProblem(shuffled=True, budget=1000, steps=150), tmp_path).accuracy < 0.2
