"""timm's tasks: the losses of our own loop; state, EMA, compile and processes of timm's; the script of a timm user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from timm.task import (
    DistillationTeacher,
    FeatureDistillationTask,
    LogitDistillationTask,
    TokenDistillationTask,
    load_task_ema_checkpoint,
    resume_task_checkpoint,
)
from timm.utils import CheckpointSaver
from torch import nn

import mekd_plugin as mekd
from mekd_plugin.errors import InputError, MissingDependency
from mekd_plugin.files import bundled
from mekd_plugin.harness import suite as suites
from mekd_plugin.harness import timm as adapter
from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem
from mekd_plugin.harness.evidence.trials.timm import trial
from mekd_plugin.harness.launch import launch
from mekd_plugin.harness.meter import Counted
from mekd_plugin.registry import available
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe

METHODS = {
    "mekd": {"preset": "tiny", "emulation": "gan", "surrogate": None, "emulation_settings": {"steps": 20}},
    "logit_mimicry": {},
    "distribution_alignment": {},
}
STEPS, BATCH = 20, 32
SCRIPT = bundled("configs") / "timm_student.py"
PROCESS = Path(__file__).with_name("timm_process.py")


def task(method="distribution_alignment", student=None, teacher=None, images=None, **settings):
    images = toy_images(60, seed=1) if images is None else images
    settings = {"budget": 300, "progress": False, **METHODS.get(method, {}), **settings}
    return adapter.task(method, student or toy_student(), teacher or ToyTeacher(), images, **settings)


def sgd(guest):
    return create_optimizer_v2(guest.get_trainable_module(), opt="momentum", lr=0.02, weight_decay=0.0, momentum=0.9)


def train(guest, optimizer, steps):
    losses = []
    while len(losses) < steps:
        for input, target in guest.loader(BATCH):
            if len(losses) == steps:
                break
            result = guest(input.contiguous(memory_format=torch.channels_last), target)
            optimizer.zero_grad()
            result["loss"].backward()
            optimizer.step()
            guest.update_ema()
            losses.append(result["loss"].item())
    return losses


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_those_of_our_own_loop(method):
    first, second = toy_student(), toy_student().to(memory_format=torch.channels_last)
    recipe = Recipe(STEPS, BATCH, "sgd", 0.02, 0.0, "constant", translate=0)
    teacher = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=300)
    images, settings = toy_images(60, seed=1), METHODS[method]
    ours = mekd.distill(first, teacher, images, method, recipe=recipe, log_steps=1, progress=False, **settings)
    expected = [entry["loss"] for entry in ours.history if entry["stage"] in ("alignment", "student")][-STEPS:]
    probe = ToyTeacher()
    guest = task(method, second, probe, value_range=(-1, 1))
    assert train(guest, sgd(guest), STEPS) == pytest.approx(expected, abs=1e-4)
    assert guest.hosted.ledger.by_stage == ours.ledger.by_stage and probe.count == guest.hosted.ledger.total == 300


class Colourless(ToyTeacher):
    def forward(self, images):
        return super().forward(images.mean(dim=1, keepdim=True))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_model_of_timms_is_a_student(name, channels):
    size = {"img_size": 32} if name == "test_vit" else {}
    torch.manual_seed(0)
    student = timm.create_model(name, num_classes=CLASSES, in_chans=channels, **size)
    images = nn.functional.interpolate(toy_images(60, seed=1), 32).expand(-1, channels, -1, -1)
    guest = task("logit_mimicry", student, Colourless(), images)
    optimizer = create_optimizer_v2(guest.get_trainable_module(), opt="adamw", lr=3e-3)
    input, target = next(iter(guest.loader(BATCH)))
    losses = []
    for _ in range(8):  # on one batch
        losses.append(guest(input, target)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_a_student_by_name_is_made_for_the_images():
    guest = task("logit_mimicry", "test_resnet", num_classes=CLASSES)
    student = guest.get_trainable_module()
    assert student.num_classes == CLASSES and student.conv1[0].in_channels == 1
    boundary = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=300)
    assert task("kd", "test_resnet", boundary, budget=None).get_trainable_module().num_classes == CLASSES
    with pytest.raises(InputError, match="num_classes= is missing: 'test_resnet'"):
        task("logit_mimicry", "test_resnet")


def test_a_step_gives_loss_output_and_what_to_measure_it_by():
    guest = task("logit_mimicry")
    input, target = next(iter(guest.loader(BATCH)))
    result = guest(input, target)
    assert result["output"].shape == (BATCH, CLASSES) and result["loss"].requires_grad
    assert torch.equal(result["target"], ToyTeacher()(input).argmax(1))
    with torch.no_grad():
        guest(input, target)
    assert guest.players.steps == 1  # scoring is not a step


@pytest.mark.parametrize("target", [torch.zeros(BATCH, CLASSES), torch.zeros(BATCH), torch.zeros(3, dtype=torch.int64)])
def test_a_target_that_is_not_row_numbers_is_refused(target):
    guest = task("logit_mimicry")
    with pytest.raises(InputError, match="expected the rows' numbers"):
        guest(toy_images(BATCH, seed=2), target)


def test_a_teacher_behind_the_boundary_is_described_once():
    boundary = mekd.BlackBox(ToyTeacher(), "probabilities", CLASSES)
    with pytest.raises(InputError, match="responses, budget: belong to the BlackBox"):
        task("kd", teacher=boundary, responses="logits")


def test_there_is_a_function_for_each_method():
    for name in available():
        assert getattr(adapter, name).args == (name,)
    assert adapter.SUITE.register() == [f"mekd_plugin.harness.timm.{name}" for name in adapter.SUITE.check().fits]
    guest = adapter.kd(toy_student(), ToyTeacher(), toy_images(60, seed=1), queries=50, progress=False)
    assert guest.hosted.ledger.total == 50
    with pytest.raises(AttributeError, match="no attribute 'kdd'"):
        adapter.kdd  # noqa: B018


def test_a_stopped_run_goes_on_from_timms_checkpoint(tmp_path):
    whole = task()
    undisturbed = train(whole, sgd(whole), 12)
    guest = task()
    guest.setup_ema(decay=0.5)
    optimizer = sgd(guest)
    begun = train(guest, optimizer, 6)
    mean = [value.clone() for value in guest.get_eval_model(ema=True).state_dict().values()]
    saver = CheckpointSaver(guest.get_trainable_module(), optimizer, task=guest, checkpoint_dir=tmp_path, max_history=1)
    saver.save_checkpoint(0)

    again = task()
    again.setup_ema(decay=0.5)
    optimizer = sgd(again)
    path = tmp_path / "last.pth.tar"
    assert resume_task_checkpoint(again, path, optimizer) == 1
    load_task_ema_checkpoint(again, path)
    for value, kept in zip(again.get_eval_model(ema=True).state_dict().values(), mean, strict=True):
        assert torch.equal(value, kept)
    assert again.players.steps == 6
    assert begun + train(again, optimizer, 6) == pytest.approx(undisturbed, abs=1e-6)
    content = torch.load(path, weights_only=True)
    assert set(content["state_dict"]) == set(content["state_dict_ema"]) == set(toy_student().state_dict())
    assert "task_state_ema" not in content and content["task_state"]["players"]["_extra_state"]["steps"] == 6


def test_weights_alone_can_be_started_from(tmp_path):
    torch.save({"state_dict": toy_student(seed=3).state_dict()}, tmp_path / "weights.pth")
    guest = task()
    resume_task_checkpoint(guest, tmp_path / "weights.pth")
    assert guest.players.steps == 0
    wanted = toy_student(seed=3).state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in guest.get_eval_model().state_dict().items())


def test_the_mean_is_of_the_student_and_no_critic_is_clipped():
    guest = task()
    guest.setup_ema(decay=0.0)
    train(guest, sgd(guest), 3)
    student = guest.get_trainable_module()
    for value, mean in zip(student.parameters(), guest.get_eval_model(ema=True).parameters(), strict=True):
        assert torch.equal(value, mean)
    assert len(list(guest.get_clip_parameters())) == len(list(student.parameters()))


def test_a_compiled_student_learns_the_same():
    plain, compiled = task(), task()
    wrapped = compiled.compile(backend="eager")
    assert compiled.get_eval_model() is wrapped is compiled.get_trainable_module()
    losses = train(compiled, sgd(compiled), 4)
    assert losses == pytest.approx(train(plain, sgd(plain), 4), abs=1e-5)
    assert set(compiled.get_checkpoint_state()["state_dict"]) == set(toy_student().state_dict())


def test_mixed_precision_and_channels_last_are_the_users():
    student = toy_student().to(memory_format=torch.channels_last)
    seen = []
    student.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    guest = task("distribution_alignment", student)
    input, target = next(iter(guest.loader(BATCH)))
    with torch.autocast("cpu", torch.bfloat16):
        result = guest(input.contiguous(memory_format=torch.channels_last), target)
    result["loss"].backward()
    assert result["output"].dtype == torch.bfloat16 and torch.isfinite(result["loss"])
    assert seen[-1].is_contiguous(memory_format=torch.channels_last)


def test_rows_asked_anew_at_every_step():
    probe = ToyTeacher()
    guest = task(
        "mekd", teacher=probe, mode="fresh", latent_temperature=3.0, emulation_settings={"steps": 5}, budget=None
    )
    for input, target in guest.loader(BATCH, steps=3):
        guest(input, target)["loss"].backward()
    assert probe.count == guest.hosted.ledger.total == 3 * BATCH
    with pytest.raises(InputError, match="steps="):
        guest.loader(BATCH)


def test_timms_teacher_sees_what_timms_own_task_shows_it():
    student = timm.create_model("test_resnet", num_classes=CLASSES)
    student.pretrained_cfg = {**student.pretrained_cfg, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    images = toy_images(60, seed=1).expand(-1, 3, -1, -1)
    ours, theirs = Colourless(), Colourless()
    task("logit_mimicry", student, DistillationTeacher(ours), images, queries=60, budget=60, validation=0)
    criterion = nn.CrossEntropyLoss()
    LogitDistillationTask(student, theirs, criterion, verbose=False)(images, torch.zeros(60, dtype=torch.int64))
    assert not torch.allclose(theirs.asked[0], images)
    asked, shown = torch.cat(ours.asked), torch.cat(theirs.asked)
    assert torch.allclose(asked[:, 0].flatten(1).sort(0).values, shown[:, 0].flatten(1).sort(0).values, atol=1e-5)


def test_the_meter_counts_what_timms_own_tasks_ask():
    student, model = (timm.create_model("test_resnet", num_classes=CLASSES) for _ in range(2))
    images, labels = torch.randn(6, 3, 32, 32), torch.zeros(6, dtype=torch.int64)
    settings = {"criterion": nn.CrossEntropyLoss(), "verbose": False}
    counted = Counted()
    with adapter.SUITE.metered(counted):
        logits = LogitDistillationTask(student, model, **settings)
        features = FeatureDistillationTask(student, DistillationTeacher(model), **settings)
        tokens = TokenDistillationTask(
            timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1, num_classes=CLASSES),
            model,
            **settings,
        )
    logits(images, labels)["loss"].backward()
    tokens(images[:4], labels[:4])["loss"].backward()
    assert counted.ledger.total == 10 and not counted.inner and not counted.differentiated
    features(images, labels)["loss"].backward()
    assert counted.ledger.total == 16 and counted.inner
    LogitDistillationTask(student, model, **settings)(images, labels)  # made outside
    assert counted.ledger.total == 16


def test_timm_is_imported_when_it_is_used():
    code = (
        "import sys, mekd_plugin, mekd_plugin.harness.timm as suite; suite.SUITE.version(); suite.mekd; "
        "print(sorted({'timm', 'lightning', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_timm_the_command_that_gets_it(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(suites, "version", missing)
    with pytest.raises(MissingDependency, match=r'timm is not installed: pip install "mekd-plugin\[timm\]"'):
        task("kd")


def processes(folder, command, environment):
    done = subprocess.run(
        [*command, str(PROCESS), str(folder)],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"report-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
def test_two_processes_learn_what_one_would_from_batches_twice_as_large(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    first, second = processes(tmp_path, [*command, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"], {})
    assert first["weights"] == second["weights"] and first["critic"] == second["critic"]
    assert first["ledger"] == second["ledger"] == 300 == first["asked"] + second["asked"]
    assert not set(first["rows"]) & set(second["rows"])
    assert first["batches"] == 294 // 32  # 6 of the 300 rows are held out
    alone = processes(tmp_path, [sys.executable], {"MEKD_ALONE": "1"})[0]
    assert first["weights"] == pytest.approx(alone["weights"], rel=1e-4, abs=1e-5)
    assert first["critic"] == pytest.approx(alone["critic"], rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_processes_that_hosted_for_themselves_are_refused(tmp_path):
    reports = processes(tmp_path, [sys.executable], {"MEKD_ALONE": "spawned"})
    assert all("2 processes, and the method was hosted by 1" in report["refused"] for report in reports)


@pytest.mark.slow
def test_the_script_of_a_timm_user_trains_and_resumes(tmp_path, capsys):
    command = [str(SCRIPT), "--method", "logit_mimicry", "--ema", "0.9", "--output", str(tmp_path), "--budget", "1000"]
    launch(adapter.SUITE, [*command, "--epochs", "2"], meter=False)
    launch(adapter.SUITE, [*command, "--epochs", "3", "--resume"], meter=False)
    said = capsys.readouterr().out
    assert [line.split(":")[0] for line in said.splitlines() if line.startswith("epoch")] == [
        "epoch 0",
        "epoch 1",
        "epoch 2",
    ]
    assert "EMA" in said and (tmp_path / "last.pth.tar").exists()


@pytest.mark.slow
def test_the_digits_are_learnt_and_shuffled_answers_teach_nothing(tmp_path):
    world = ReferenceProblem(cache=tmp_path / "cache")
    found = trial("mekd", world, tmp_path / "mekd")
    assert found.accuracy >= 0.9 and found.steps == world.steps and found.queries["total"] == world.budget
    assert len(found.last_lines) == 3
    assert (
        trial("logit_mimicry", ReferenceProblem(shuffled=True, budget=1000, steps=150), tmp_path / "shuffled").accuracy
        < 0.2
    )
