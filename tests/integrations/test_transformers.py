"""A hosted method in Hugging Face's Trainer, with a small network of theirs."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from torch.utils.data import Dataset
from transformers import ConvNextConfig, ConvNextForImageClassification, TrainingArguments
from transformers.modeling_outputs import ImageClassifierOutput

import mekd_plugin as mekd
from mekd_plugin.errors import CheckpointError, MissingDependency, NeedsNotMet
from mekd_plugin.integrations.transformers import HostedTrainer, Logits
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images
from mekd_plugin.training.recipe import Recipe

METHODS = {
    "mekd": {"preset": "tiny", "emulation": "gan", "surrogate": None, "emulation_settings": {"steps": 20}},
    "logit_mimicry": {},
    "distribution_alignment": {},
}
STEPS, BATCH = 20, 32


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = ConvNextConfig(
            num_channels=1, patch_size=2, num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], num_labels=CLASSES
        )
        return ConvNextForImageClassification(config)


def hosting(model, method="distribution_alignment", **settings):
    box = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=300)
    settings = {"method": method, "progress": False, **METHODS[method], **settings}
    return mekd.host(Logits(model), box, toy_images(60, seed=1), **settings)


class Told(HostedTrainer):
    """Remembers its losses."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.losses = []

    def compute_loss(self, *args, **settings):
        found = super().compute_loss(*args, **settings)
        self.losses.append((found[0] if isinstance(found, tuple) else found).item())
        return found


def trainer(folder, method="distribution_alignment", **settings):
    model = network().to(memory_format=torch.channels_last)
    wanted = {
        "per_device_train_batch_size": BATCH,
        "learning_rate": 0.02,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    extra = {name: settings.pop(name) for name in ("steps", "eval_dataset") if name in settings}
    args = TrainingArguments(str(folder), **{**wanted, "optim": "sgd", "optim_args": "momentum=0.9", **settings})
    return Told(model, args, hosted=hosting(model, method), **extra)


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_those_of_our_own_loop(tmp_path, method):
    recipe = Recipe(STEPS, BATCH, "sgd", 0.02, 0.0, "constant", translate=0)
    box = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=300)
    images, settings = toy_images(60, seed=1), METHODS[method]
    ours = mekd.distill(Logits(network()), box, images, method, recipe=recipe, log_steps=1, progress=False, **settings)
    expected = [entry["loss"] for entry in ours.history if entry["stage"] in ("alignment", "student")][-STEPS:]
    guest = trainer(tmp_path, method, max_steps=STEPS)
    assert guest.train().global_step == STEPS
    assert guest.losses == pytest.approx(expected, abs=1e-4)
    assert guest.hosted.ledger.by_stage == ours.ledger.by_stage


@pytest.mark.parametrize("stop", [4, 6])
@pytest.mark.parametrize("by_name", [True, False])
def test_a_stopped_run_goes_on_from_the_trainers_checkpoint(tmp_path, stop, by_name):
    """At the end of an epoch of 4 batches, and within one."""
    whole = trainer(tmp_path, max_steps=12, steps=4)
    whole.train()
    saving = {"save_strategy": "steps", "save_steps": stop}
    first = trainer(tmp_path / "run", max_steps=stop, steps=4, **saving)
    first.train()
    second = trainer(tmp_path / "run", max_steps=12, steps=4)
    second.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{stop}") if by_name else True)
    assert first.losses + second.losses == pytest.approx(whole.losses, abs=1e-5)
    assert second.hosted.players.steps == 12


def test_a_checkpoint_of_another_trainer_is_named(tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(CheckpointError, match="checkpoint that a HostedTrainer wrote"):
        trainer(tmp_path, max_steps=2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_accumulated_batches_weigh_as_one(tmp_path):
    once = trainer(tmp_path, "logit_mimicry", max_steps=1)
    once.train()
    parts = trainer(
        tmp_path, "logit_mimicry", max_steps=1, per_device_train_batch_size=16, gradient_accumulation_steps=2
    )
    parts.train()
    assert sum(parts.losses) / 2 == pytest.approx(once.losses[0], abs=1e-5)
    for value, wanted in zip(parts.model.parameters(), once.model.parameters(), strict=True):
        torch.testing.assert_close(value, wanted, atol=1e-5, rtol=1e-4)


class Labelled(Dataset):
    def __init__(self):
        self.images = toy_images(30, seed=9)
        self.labels = ToyTeacher()(self.images).argmax(1)

    def __len__(self):
        return 30

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": int(self.labels[index])}


def test_evaluation_is_the_models_own_on_true_labels(tmp_path):
    dataset = Labelled()
    guest = trainer(tmp_path, "logit_mimicry", max_steps=5, eval_dataset=dataset)
    guest.train()
    found = guest.evaluate()["eval_loss"]
    logits = Logits(guest.model.eval())(dataset.images)
    assert found == pytest.approx(torch.nn.functional.cross_entropy(logits, dataset.labels).item(), rel=1e-4)
    assert guest.hosted.players.steps == 5


def test_a_loss_comes_with_its_logits(tmp_path):
    guest = trainer(tmp_path, "logit_mimicry")
    inputs = next(iter(guest.get_train_dataloader()))
    loss, outputs = guest.compute_loss(guest.model, inputs, return_outputs=True)
    assert loss.requires_grad and outputs["logits"].shape == (BATCH, CLASSES)


def test_a_teacher_of_theirs_is_asked_for_its_logits():
    class Theirs(ToyTeacher):
        def forward(self, pixel_values):
            return ImageClassifierOutput(logits=super().forward(pixel_values))

    box = mekd.BlackBox(Logits(Theirs()), "logits", CLASSES)
    images = toy_images(5, seed=3)
    assert torch.equal(box.query(images).values, ToyTeacher()(images))


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    with pytest.raises(NeedsNotMet, match="2 processes"):
        trainer(tmp_path, "logit_mimicry")


def test_without_transformers_the_command_that_gets_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "mekd_plugin.integrations.transformers")
    with pytest.raises(MissingDependency, match=r'pip install "mekd-plugin\[transformers\]"'):
        importlib.import_module("mekd_plugin.integrations.transformers")
