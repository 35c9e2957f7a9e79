"""A hosted method in Lightning's Trainer."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

import mekd_plugin as mekd
from mekd_plugin.errors import InputError, MissingDependency, NeedsNotMet
from mekd_plugin.integrations.lightning import HostedModule
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec"),
    pytest.mark.filterwarnings("ignore:.*log_every_n_steps"),
]
METHODS = {
    "mekd": {"preset": "tiny", "emulation": "gan", "surrogate": None, "emulation_settings": {"steps": 20}},
    "logit_mimicry": {},
    "distribution_alignment": {},
}
STEPS, BATCH = 20, 32


class Guest(HostedModule):
    """Remembers its losses."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.losses = []

    def training_step(self, batch, index):
        loss = super().training_step(batch, index)
        self.losses.append(loss.item())
        return loss


def sgd(weights):
    return torch.optim.SGD(weights, lr=0.02, momentum=0.9)


def module(method="distribution_alignment", **settings):
    student = toy_student().to(memory_format=torch.channels_last)
    box = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=300)
    hosted = mekd.host(student, box, toy_images(60, seed=1), method=method, progress=False, **METHODS[method])
    return Guest(student, hosted, sgd, batch_size=BATCH, **settings)


def trainer(folder, **settings):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return Trainer(default_root_dir=folder, accelerator="cpu", **{"enable_checkpointing": False, **quiet, **settings})


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_those_of_our_own_loop(tmp_path, method):
    recipe = Recipe(STEPS, BATCH, "sgd", 0.02, 0.0, "constant", translate=0)
    box = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=300)
    images, settings = toy_images(60, seed=1), METHODS[method]
    ours = mekd.distill(toy_student(), box, images, method, recipe=recipe, log_steps=1, progress=False, **settings)
    expected = [entry["loss"] for entry in ours.history if entry["stage"] in ("alignment", "student")][-STEPS:]
    guest = module(method)
    trainer(tmp_path, max_steps=STEPS).fit(guest)
    assert guest.losses == pytest.approx(expected, abs=1e-4)
    assert guest.hosted.ledger.by_stage == ours.ledger.by_stage


@pytest.mark.parametrize("stop", [4, 6])
def test_a_stopped_fit_goes_on_from_lightnings_checkpoint(tmp_path, stop):
    """At the end of an epoch of 4 batches, and within one."""
    whole = module(steps=4)
    trainer(tmp_path, max_steps=12).fit(whole)
    first = module(steps=4)
    keep = ModelCheckpoint(tmp_path, filename="kept", save_top_k=-1, every_n_train_steps=stop)
    trainer(tmp_path, max_steps=stop, enable_checkpointing=True, callbacks=[keep]).fit(first)
    second = module(steps=4)
    trainer(tmp_path, max_steps=12).fit(second, ckpt_path=tmp_path / "kept.ckpt")
    assert first.losses + second.losses == pytest.approx(whole.losses, abs=1e-6)
    assert second.players.steps == 12


def test_scores_on_true_labels_and_logs(tmp_path):
    images = toy_images(30, seed=9)
    labels = ToyTeacher()(images).argmax(1).detach()
    guest, fitted = module("logit_mimicry"), trainer(tmp_path, max_epochs=15)
    fitted.fit(guest, val_dataloaders=DataLoader(TensorDataset(images, labels), 30))
    said = fitted.callback_metrics
    assert {"loss", "agreement", "val_accuracy"} <= set(said)
    assert said["val_accuracy"] == (guest(images).argmax(1) == labels).float().mean() and said["val_accuracy"] > 0.8


def test_only_the_student_is_lightnings_to_step(tmp_path):
    guest = module()
    critic = {id(weight) for weight in guest.players.parameters()}
    trainer(tmp_path, max_steps=2).fit(guest)
    (optimizer,) = guest.trainer.optimizers
    assert critic and not critic & {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert any(name.startswith("players.") for name in guest.state_dict())


def test_rows_asked_anew_need_a_length_of_the_epoch(tmp_path):
    student = toy_student()
    box = mekd.BlackBox(ToyTeacher(), "logits", CLASSES)
    settings = {
        "preset": "tiny",
        "emulation_settings": {"steps": 5},
        "mode": "fresh",
        "latent_temperature": 3.0,
        "progress": False,
    }
    hosted = mekd.host(student, box, toy_images(60, seed=1), **settings)
    trainer(tmp_path, max_epochs=2).fit(HostedModule(student, hosted, sgd, batch_size=BATCH, steps=2))
    assert 4 * BATCH <= hosted.ledger.total
    with pytest.raises(InputError, match="steps="):
        trainer(tmp_path, max_epochs=1).fit(HostedModule(student, hosted, sgd))


def test_several_processes_are_refused():
    guest = module("logit_mimicry")
    guest.trainer = trainer(None, devices=2, strategy="ddp", max_steps=1)
    with pytest.raises(NeedsNotMet, match="2 processes: Lightning starts them after"):
        guest.setup("fit")


def test_without_lightning_the_command_that_gets_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.delitem(sys.modules, "mekd_plugin.integrations.lightning")
    with pytest.raises(MissingDependency, match=r'pip install "mekd-plugin\[lightning\]"'):
        importlib.import_module("mekd_plugin.integrations.lightning")
