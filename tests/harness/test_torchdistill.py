"""torchdistill runs our methods by its own DistillationBox, its own configs and its own checkpoints."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import RandomSampler, SequentialSampler, TensorDataset
from torchdistill.common.main_util import import_dependencies, load_ckpt, save_ckpt
from torchdistill.common.yaml_util import load_yaml_file
from torchdistill.core.distillation import DistillationBox, get_distillation_box
from torchdistill.core.training import get_training_box
from torchdistill.models.registry import get_model

import mekd_plugin as mekd
from mekd_plugin.errors import CheckpointError, InputError, MekdError, NeedsNotMet
from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem
from mekd_plugin.harness.evidence.trials.torchdistill import train_section, trial
from mekd_plugin.harness.meter import Counted
from mekd_plugin.harness.suite import how_it_runs
from mekd_plugin.harness.torchdistill import SUITE, train
from mekd_plugin.harness.torchdistill.data import Answers, Bank, Images, Synthesised
from mekd_plugin.registry import available, distillers
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_strokes, toy_student
from mekd_plugin.training.checkpoint import save_weights
from mekd_plugin.training.recipe import Recipe

CONFIGS = Path(__file__).parents[2] / "configs" / "torchdistill"
TINY = {"preset": "tiny", "emulation": "gan", "surrogate": None, "emulation_settings": {"steps": 20}}
SETTINGS = {
    "mekd": TINY,
    "logit_mimicry": {},
    "distribution_alignment": {},
    "kd": {},
    "db3kd": {"searched": 30},
    "dfme": {"preset": "tiny", "budget": 600},
}
FITTING = [name for name in available() if how_it_runs(SUITE, distillers().get(name).needs)[0]]
STEPS, BATCH = 20, 32
PATHS = {
    f"{side}_module_{part}": value
    for side in ("student", "teacher")
    for part, value in (("path", "."), ("io", "output"))
}
KD = {**PATHS, "temperature": 4.0, "alpha": 0.0}


def loader(dataset, sampler=RandomSampler, **kwargs):
    return {
        "dataset_id": dataset,
        "sampler": {"class_or_func": sampler},
        "kwargs": {"batch_size": BATCH, "num_workers": 0, **kwargs},
    }


def training(method, epochs=1, **kwargs):
    """A stage that trains the student."""
    settings = {"responses": "logits", "budget": 300, **SETTINGS.get(method, {}), **kwargs}
    if distillers().get(method).needs.pool == "other domain":
        settings = {"pool": {"dataset_id": "strokes"}, **settings}
    return {
        "num_epochs": epochs,
        "train_data_loader": loader("edge"),
        "val_data_loader": loader("test", SequentialSampler),
        "teacher": {
            "forward_proc": "forward_batch_supp_dict",
            "requires_grad": False,
            "auxiliary_model_wrapper": {"key": method, "kwargs": settings},
        },
        "student": {"forward_proc": "forward_batch_only"},
        "pre_epoch_process": "mekd_student",
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.02, "momentum": 0.9}},
        "criterion": criterion("BlackBoxLoss"),
    }


def criterion(key, **kwargs):
    return {
        "key": "WeightedSumLoss",
        "kwargs": {"sub_terms": {"term": {"criterion": {"key": key, "kwargs": kwargs}, "weight": 1.0}}},
    }


def earlier(epochs=1, **kwargs):
    """A stage that trains the generator."""
    stage = training("mekd", epochs, **kwargs)
    return {
        **stage,
        "student": {"forward_proc": "mekd_no_forward"},
        "pre_epoch_process": "mekd_stage",
        "post_forward_process": "mekd_no_update",
    }


def sets():
    held_out = toy_images(60, seed=99)
    labels = ToyTeacher()(held_out).argmax(dim=1)
    return {
        "edge": TensorDataset(toy_images(60, seed=1), torch.full((60,), -100)),
        "test": TensorDataset(held_out, labels),
        "strokes": TensorDataset(toy_strokes(60, seed=5), torch.full((60,), -100)),
    }


def box_of(config, teacher=None, student=None):
    teacher, student = teacher or ToyTeacher(), student or toy_student()
    return get_distillation_box(teacher, student, sets(), config, torch.device("cpu"), None, False, 1)


def epochs_of(box, first=0, last=None):
    """Run epochs as any script does; the losses."""
    losses = []
    for epoch in range(first, box.num_epochs if last is None else last):
        box.pre_epoch_process(epoch=epoch)
        for images, targets, supplement in box.train_data_loader:
            loss = box.forward_process(images, targets, supplement)
            box.post_forward_process(loss=loss)
            losses.append(loss.item())
        box.post_epoch_process()
    return losses


# The loop


@pytest.mark.parametrize("method", SETTINGS)
def test_losses_are_those_of_our_own_loop(method):
    first, second = toy_student(), toy_student()
    recipe = Recipe(STEPS, BATCH, "sgd", 0.02, 0.0, "constant", translate=0)
    settings = {"budget": 300, **SETTINGS[method]}
    ours = mekd.distill(
        first,
        mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=settings.pop("budget"), value_range=span()),
        toy_images(60, seed=1),
        method=method,
        recipe=recipe,
        log_steps=1,
        progress=False,
        **settings,
    )
    stage = "alignment" if method == "mekd" else "student"
    expected = [entry["loss"] for entry in ours.history if entry["stage"] == stage]
    second = second.to(memory_format=torch.channels_last)  # as our own loop has it: rounding is then alike
    box = box_of(training(method, epochs=2, steps_per_epoch=STEPS // 2), student=second)
    torch.testing.assert_close(epochs_of(box), expected, atol=1e-4, rtol=0)
    assert box.mekd.hosted.ledger.by_stage == ours.ledger.by_stage and len(expected) == STEPS


def span():
    images = toy_images(60, seed=1)
    return images.min().item(), images.max().item()


@pytest.mark.parametrize("method", FITTING)
def test_every_method_that_fits_runs_by_its_name(method):
    tiny = {"preset": "tiny"} if "tiny" in distillers().get(method).presets else {}
    config = training(method, steps_per_epoch=2, **tiny)
    box = box_of(config)
    losses = epochs_of(box)
    assert len(losses) == 2 and torch.isfinite(torch.tensor(losses)).all()
    budget = config["teacher"]["auxiliary_model_wrapper"]["kwargs"]["budget"]
    assert 0 < box.mekd.hosted.ledger.total <= budget


def test_a_pool_is_named_as_any_data_set_is():
    teacher = ToyTeacher()
    epochs_of(box_of(training("copycat", steps_per_epoch=1), teacher))
    asked, strokes = torch.cat(teacher.asked).flatten(1), toy_strokes(60, seed=5).flatten(1)
    assert (torch.cdist(strokes, asked).amin(dim=1) < 1e-2).all(), "all of the pool is asked about, as it is"
    assert torch.cdist(toy_images(60, seed=1).flatten(1), asked).min() > 1e-2, "and nothing of the edge"
    for named in ({"dataset_id": "strikes"}, "strokes", {"dataset_id": "strokes", "shuffle": True}):
        with pytest.raises(InputError, match="pool: .*expected {dataset_id: ID}, with one of datasets: .*'strokes'"):
            epochs_of(box_of(training("copycat", pool=named)))
    with pytest.raises(InputError, match="images of another domain: hand them in, pool=images"):
        config = training("copycat")
        del config["teacher"]["auxiliary_model_wrapper"]["kwargs"]["pool"]
        epochs_of(box_of(config))


def test_check_says_what_is_registered():
    told = SUITE.check()
    assert told.registered == available() == mekd.register("torchdistill")
    assert set(told.fits) == set(FITTING) and "in the suite's loop" in told.fits["mekd"]


def test_the_ledger_is_what_the_teacher_saw():
    teacher, seen = ToyTeacher(), []
    teacher.register_forward_hook(lambda module, args, answer: seen.append(len(args[0])))
    box = box_of(training("mekd", epochs=2), teacher)
    assert not list(box.teacher_model.parameters()) and not list(box.teacher_model.children())
    epochs_of(box)
    assert sum(seen) == box.mekd.hosted.ledger.total == 300


def test_an_epoch_shows_each_row_of_the_bank_once():
    box = box_of(training("kd"))
    box.pre_epoch_process(epoch=0)
    assert len(box.train_data_loader) == (300 - 6) // BATCH
    numbers = torch.cat([supplement["rows"] for _, _, supplement in box.train_data_loader])
    assert len(numbers.unique()) == len(numbers)


def test_rows_are_asked_anew_where_the_method_says_so():
    settings = {"mode": "fresh", "latent_temperature": 3.0, "budget": None}
    box = box_of(training("mekd", epochs=2, **settings))
    assert len(epochs_of(box)) == 4  # the edge's own loader has two batches
    assert box.mekd.hosted.ledger.by_stage == {"alignment": 4 * BATCH}


def test_torchdistills_own_loss_gets_the_answers():
    config = training("kd", steps_per_epoch=3)
    config["criterion"] = criterion("KDLoss", **KD)
    box = box_of(config)
    assert torch.isfinite(torch.tensor(epochs_of(box))).all() and box.mekd.hosted.ledger.total == 300


# Stages


def stages(**kwargs):
    shared = {"emulation_settings": {"steps": 999}, **kwargs}  # torchdistill's epochs say how many steps there are
    student = training("mekd", 2, steps_per_epoch=5, **shared)
    del student["train_data_loader"]
    return {"stage1": earlier(2, steps_per_epoch=6, **shared), "stage2": student}


def test_the_generator_trains_in_torchdistills_own_stage(tmp_path):
    student, teacher = toy_student(), ToyTeacher()
    before = copy.deepcopy(student.state_dict())
    box = box_of(stages(directory=str(tmp_path / "run")), teacher, student)
    first = epochs_of(box, last=1)
    assert len(first) == 6 and box.mekd.hosted.players.steps == 6 and teacher.count == 0
    epochs_of(box, first=1, last=2)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    losses = epochs_of(box, first=2)
    assert len(losses) == 10 and teacher.count == box.mekd.hosted.ledger.total == 300
    assert (tmp_path / "run" / "generator.safetensors").exists()
    assert not torch.equal(student[0].weight, before["0.weight"])


def test_a_run_that_starts_again_takes_over_what_stage_one_left(tmp_path, capsys):
    settings, teacher = {"directory": str(tmp_path / "run")}, ToyTeacher()
    losses = epochs_of(box_of(stages(**settings), teacher))
    again = epochs_of(box_of(stages(**settings), teacher))
    assert teacher.count == 300 and "nothing is left to train" in capsys.readouterr().out
    assert set(again[:-10]) == {0.0}
    assert again[-10:] == pytest.approx(losses[-10:], abs=1e-5)


def test_a_method_without_earlier_stages_lets_them_pass():
    config = stages()
    for stage in config.values():
        stage["teacher"]["auxiliary_model_wrapper"] = {"key": "kd", "kwargs": {"steps_per_epoch": 3}}
    losses = epochs_of(box_of(config))
    assert set(losses[:6]) == {0.0} and losses[6] > 0


def test_stages_with_different_settings_are_refused():
    config = stages()
    config["stage2"]["teacher"]["auxiliary_model_wrapper"]["kwargs"] = {"budget": 200}
    with pytest.raises(InputError, match="one run is one method"):
        epochs_of(box_of(config))


def test_a_saved_generator_serves(tmp_path):
    epochs_of(box_of(training("mekd", directory=str(tmp_path / "run"))))
    teacher = ToyTeacher()
    run = tmp_path / "run"
    settings = {"generator": str(run / "generator.safetensors"), "bank": str(run / "banks" / "bank")}
    box = box_of(training("mekd", **settings), teacher)
    assert len(epochs_of(box)) == (300 - 6) // BATCH and teacher.count == 0


# Stop and resume


@pytest.mark.parametrize("method", ["distribution_alignment", "mekd"])
def test_a_stopped_run_goes_on_where_its_checkpoint_was(tmp_path, method):
    def fresh(seed=0):
        student = toy_student(seed)
        return student, partial(box_of, config(), teacher, student)

    def config():
        return training(method, 4, steps_per_epoch=6, directory=str(tmp_path / "run"))

    teacher, checkpoint = ToyTeacher(), str(tmp_path / "student.pt")
    student, make = fresh()
    box = make()
    epochs_of(box, last=2)
    save_ckpt(box.student_model, box.optimizer, box.lr_scheduler, 0.5, None, checkpoint)
    undisturbed = epochs_of(box, first=2)
    resumed, make = fresh(seed=9)
    load_ckpt(checkpoint, model=resumed)
    box = make()
    assert load_ckpt(checkpoint, optimizer=box.optimizer, lr_scheduler=box.lr_scheduler)[0] == 0.5
    assert epochs_of(box, first=2) == pytest.approx(undisturbed, abs=1e-6)
    assert box.mekd.hosted.players.steps == 24 and teacher.count == 300
    for name, value in student.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, atol=1e-6, rtol=0)


def test_the_scripts_flow_stops_and_goes_on(tmp_path):
    files = dict.fromkeys(("src_ckpt", "dst_ckpt"), str(tmp_path / "student.pt"))
    lines, teacher = [], ToyTeacher()

    def run(epochs, **kwargs):
        config = {
            "datasets": sets(),
            "models": {"student_model": files},
            "train": training("kd", epochs, directory=str(tmp_path / "run")),
            "test": {"test_data_loader": loader("test", SequentialSampler)},
        }
        return train(teacher, toy_student(), config, say=lines.append, **kwargs)

    _, before = run(2)
    best = torch.load(files["dst_ckpt"], weights_only=False)["best_value"]
    _, after = run(3, start_epoch=2)
    assert best == before > 0.5 and after >= before and teacher.count == 300
    assert [line.split(":")[0] for line in lines if "epoch" in line] == ["epoch 0", "epoch 1", "epoch 2"]


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "Adagrad"])
def test_the_checkpoint_serves_without_us(tmp_path, optimizer):
    config = training("distribution_alignment", steps_per_epoch=3)
    config["optimizer"] = {"key": optimizer, "kwargs": {"lr": 0.02}}
    box = box_of(config)
    epochs_of(box)
    save_ckpt(box.student_model, box.optimizer, None, 0.5, None, str(tmp_path / "student.pt"))
    student = toy_student()
    plain = getattr(torch.optim, optimizer)(student.parameters(), lr=0.1)
    load_ckpt(str(tmp_path / "student.pt"), model=student, optimizer=plain)
    before = student[0].weight.clone()
    student(toy_images(4, seed=0)).sum().backward()
    plain.step()
    assert plain.param_groups[0]["lr"] == 0.02 and not torch.equal(student[0].weight, before)


# What is refused


LEFT_OUT = object()


def change(config, path, value):
    *parents, last = path.split(".")
    for key in parents:
        config = config[key]
    if value is LEFT_OUT:
        del config[last]
    else:
        config[last] = value


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("pre_epoch_process", LEFT_OUT, "pre_epoch_process: mekd_student"),
        (
            "teacher.auxiliary_model_wrapper",
            LEFT_OUT,
            "auxiliary_model_wrapper.key must be one of .*distribution_alignment, .*kd",
        ),
        ("teacher.forward_proc", "forward_batch_only", "forward_proc: forward_batch_supp_dict"),
        ("teacher.auxiliary_model_wrapper.kwargs.temprature", 3, "temperature"),
        ("teacher.auxiliary_model_wrapper.kwargs.budget", 10, "batch_size=32: expected at most the 10 rows"),
        ("teacher.auxiliary_model_wrapper.kwargs.responses", "words", "words"),
        ("teacher.auxiliary_model_wrapper.kwargs.preset", "slow", "preset of mekd"),
        ("train_data_loader.kwargs.batch_size", None, "batch_size"),
        ("train_data_loader", LEFT_OUT, "train_data_loader is missing"),
    ],
)
def test_a_bad_config_is_told_what_it_needs(path, value, words):
    config = training("mekd", emulation_settings={"steps": 2})
    change(config, path, value)
    with pytest.raises(MekdError, match=words):
        epochs_of(box_of(config))


def test_a_teacher_of_ours_stands_at_the_teacher():
    config = training("kd")
    config["student"]["auxiliary_model_wrapper"] = {"key": "kd", "kwargs": {"budget": 300}}
    with pytest.raises(InputError, match="move it from student: to teacher:"):
        box_of(config)


def test_a_box_without_a_teacher_is_told():
    config = {**training("kd"), "model": {"forward_proc": "forward_batch_only"}}
    box = get_training_box(toy_student(), sets(), config, torch.device("cpu"), None, False, 1)
    with pytest.raises(InputError, match="need a teacher"):
        box.pre_epoch_process(epoch=0)


@pytest.mark.parametrize("attribute", ["distributed", "accelerator"])
def test_several_processes_are_refused(attribute):
    box = box_of(training("kd"))
    setattr(box, attribute, True)
    with pytest.raises(NeedsNotMet, match="one process"):
        box.pre_epoch_process(epoch=0)


def test_our_loss_without_our_teacher_is_told_even_before_an_epoch_of_ours():
    config = training("kd")
    config["teacher"] = {"forward_proc": "forward_batch_only"}
    del config["pre_epoch_process"]
    with pytest.raises(InputError, match="auxiliary_model_wrapper.key must be one of"):
        epochs_of(box_of(config))


def test_a_replicated_teacher_is_refused():
    box = box_of(training("kd"))
    box.teacher_model = nn.DataParallel(box.teacher_model)
    with pytest.raises(InputError, match="leave it out"):
        box.pre_epoch_process(epoch=0)


def test_a_replicated_student_works():
    box = box_of(training("kd", steps_per_epoch=2))
    box.student_model = nn.DataParallel(box.student_model)
    assert len(epochs_of(box)) == 2


def test_another_run_in_the_directory_is_refused(tmp_path):
    epochs_of(box_of(training("kd", directory=str(tmp_path), steps_per_epoch=1)))
    with pytest.raises(CheckpointError, match="another run"):
        epochs_of(box_of(training("logit_mimicry", directory=str(tmp_path))))


def test_process_functions_that_leak_between_boxes_do_no_harm():
    plain = {
        **training("kd"),
        "teacher": {"forward_proc": "forward_batch_only"},
        "criterion": criterion("KDLoss", **KD),
    }
    del plain["pre_epoch_process"]
    theirs = box_of(plain)
    ours = box_of(training("kd", steps_per_epoch=2))  # from here on both have our pre-epoch function
    assert len(epochs_of(theirs)) == 2 and len(epochs_of(ours)) == 2
    ours, theirs = box_of(training("kd", steps_per_epoch=2)), box_of(plain)
    with pytest.raises(InputError, match="of several boxes"):
        epochs_of(ours)


# Data


def test_data_sets_by_name():
    edge = Images("digits", "edge", real_images=20, seed=3)
    image, label = edge[0]
    assert len(edge) == 20 and image.shape == (1, 16, 16) and label == -100
    test = Images("digits", "test", transform=lambda image: image + 1)
    assert len(test) == 540 and test[0][0].min() >= 0 and 0 <= test[0][1] < 10
    assert len(Images("digits", "train")) == 1257
    with pytest.raises(InputError, match='expected "train", "test" or "edge"'):
        Images("digits", "valid")


def test_banks_and_synthesised_images(tmp_path):
    teacher = ToyTeacher()
    epochs_of(box_of(training("mekd", directory=str(tmp_path / "run"), steps_per_epoch=1), teacher))
    bank = Bank(str(tmp_path / "run" / "banks" / "bank"))
    asked = torch.cat(teacher.asked)
    assert len(bank) == 300 and torch.equal(bank.images, asked)
    image, label, supplement = Answers(bank)[7]
    scores = teacher(image[None])[0]
    assert label == scores.argmax() and torch.allclose(supplement["scores"], scores - scores.mean(), atol=1e-5)
    drawn = Synthesised(str(tmp_path / "run" / "generator.safetensors"), 5, seed=1)
    assert len(drawn) == 5 and drawn[0][0].shape == (1, 8, 8) and drawn[0][1] == -100 and drawn.images.abs().max() <= 1
    with pytest.raises(InputError, match="not Synthesised"):
        Answers(drawn)


def test_torchdistills_own_loss_learns_from_a_bank_without_asking(tmp_path):
    epochs_of(box_of(training("kd", directory=str(tmp_path / "run"), steps_per_epoch=1)))
    config = {**training("kd"), "teacher": {"forward_proc": "mekd_answers"}, "criterion": criterion("KDLoss", **KD)}
    del config["pre_epoch_process"]
    config["train_data_loader"] = {**loader("bank"), "dataset_wrapper": {"key": "mekd_answers"}}
    teacher = ToyTeacher()
    data = {**sets(), "bank": Bank(str(tmp_path / "run" / "banks" / "transfer_set"))}
    box = get_distillation_box(teacher, toy_student(), data, config, torch.device("cpu"), None, False, 1)
    losses = epochs_of(box)
    assert teacher.count == 0 and losses[-1] < losses[0]
    del config["train_data_loader"]["dataset_wrapper"]
    box = get_distillation_box(teacher, toy_student(), data, config, torch.device("cpu"), None, False, 1)
    with pytest.raises(InputError, match="dataset_wrapper mekd_answers"):
        epochs_of(box)


# The meter under torchdistill's own methods


def test_what_torchdistills_own_kd_asks():
    kept = DistillationBox.forward_process
    config = {**training("kd", 2), "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False}}
    del config["pre_epoch_process"]
    config["criterion"] = criterion("KDLoss", **KD)
    counted, teacher = Counted(), ToyTeacher()
    with SUITE.metered(counted):
        box = box_of(config, teacher)
        epochs_of(box)
        teacher(toy_images(9, seed=3))
    assert counted.ledger.by_stage == {"training": 2 * 60, "evaluation": 9} and not counted.inner
    assert teacher.count == 129 and DistillationBox.forward_process is kept
    counted = Counted()
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES), nn.Tanh())
    config["teacher"] = {"sequential": ["0", "1"], "forward_proc": "forward_batch_only"}
    with SUITE.metered(counted):
        epochs_of(box_of(config, teacher))  # torchdistill builds another module from the teacher's first two layers
    assert counted.ledger.total == 120 and counted.differentiated


# The digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder as a user has it: a teacher's file, and configs that name relative paths."""
    folder = tmp_path_factory.mktemp("digits")
    save_weights(ReferenceProblem().teacher, folder / "teacher.safetensors")
    return folder


def follow(name, epochs=None):
    """What the script does with a config: dependencies, networks, training, test."""
    config = load_yaml_file(str(CONFIGS / f"{name}.yaml"))
    import_dependencies(config["dependencies"])
    teacher, student = (get_model(**parts(config["models"][f"{role}_model"])) for role in ("teacher", "student"))
    if epochs is not None:
        config["train"]["num_epochs"] = epochs
    return train(teacher, student, config)


def parts(model):
    return {"key": model["key"], **model["kwargs"]}


# In this order: the second one learns from what the first one leaves.
RUNS = {
    "mekd": 5,
    "mekd_from_generator": 5,
    "kd_loss_from_bank": 5,
    "mekd_two_stages": None,
    "kd": 5,
    "logit_mimicry": 5,
    "distribution_alignment": None,
}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_says_how_it_is_run_on_a_cpu(path):
    assert f"--config configs/torchdistill/{path.name} --device cpu\n" in path.read_text()


def test_every_config_is_run():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(RUNS)
    assert set(RUNS) >= {"mekd", "kd", "logit_mimicry", "distribution_alignment"}


@pytest.mark.slow
def test_every_config_learns_the_digits(digits, monkeypatch):
    monkeypatch.chdir(digits)
    reached = {name: follow(name, epochs)[1] for name, epochs in RUNS.items()}
    assert min(reached.values()) >= 0.9, reached


@pytest.mark.slow
def test_shuffled_answers_teach_nothing(tmp_path):
    tried = trial("logit_mimicry", ReferenceProblem(shuffled=True, budget=1000, steps=150), tmp_path)
    assert tried.accuracy < 0.2 and tried.steps == 150 and tried.queries["total"] == 1000
    assert tried.last_lines[-1].startswith("test ")


def test_a_trial_has_the_settings_of_the_config(digits, monkeypatch):
    monkeypatch.chdir(digits)
    for method in ("mekd", "kd", "logit_mimicry", "distribution_alignment"):
        written = load_yaml_file(str(CONFIGS / f"{method}.yaml"))
        tried = train_section(method, ReferenceProblem(), Path(f"./runs/{method}/run"))
        written["train"]["teacher"]["auxiliary_model_wrapper"]["kwargs"]["directory"] = f"runs/{method}/run"
        assert written["train"] == tried
