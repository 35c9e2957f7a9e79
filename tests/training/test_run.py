"""The one-call form, on one's own model."""

import json
import signal

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mekd_plugin as mekd
from mekd_plugin.errors import (
    CheckpointError,
    DataMissing,
    InputError,
    NeedsNotMet,
    QueryBudgetExceeded,
    ReplayDiverged,
    TeacherAnswerError,
    UnknownName,
)
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.checkpoint import load_state
from mekd_plugin.training.loop import TrainingDiverged
from mekd_plugin.training.recipe import Recipe

SHORT = {"recipe": Recipe(steps=20, batch_size=16, translate=1), "device": "cpu", "progress": False}


def run(teacher=None, images=None, method="kd", *, student=None, budget=200, responses="logits", **options):
    boundary = mekd.BlackBox(teacher or ToyTeacher(), responses, CLASSES, budget=budget)
    images = toy_images(40, seed=1) if images is None else images
    return mekd.distill(student or toy_student(), boundary, images, method, **{**SHORT, **options})


def weights(result):
    return torch.cat([value.flatten().double() for value in result.student.state_dict().values()])


def test_a_callable_needs_no_wrapping():
    result = mekd.distill(
        toy_student(),
        ToyTeacher(),
        toy_images(40, seed=1),
        "kd",
        responses="logits",
        num_classes=CLASSES,
        budget=90,
        **SHORT,
    )
    assert result.ledger.total == 90 and not result.student.training and result.steps == 20


def test_a_tensor_a_dataset_and_a_loader_are_the_same_images():
    images = toy_images(40, seed=1)
    labelled = TensorDataset(images, torch.zeros(40))
    results = [run(images=given) for given in (images, labelled, DataLoader(labelled, batch_size=7))]
    assert torch.equal(weights(results[0]), weights(results[1]))
    assert torch.equal(weights(results[0]), weights(results[2]))


def test_the_same_seed_gives_the_same_student_and_the_callers_randomness_is_left_alone():
    torch.manual_seed(5)
    first, after = run(seed=3), torch.rand(1)
    torch.manual_seed(6)
    second = run(seed=3)
    torch.manual_seed(5)
    assert torch.equal(weights(first), weights(second)) and torch.equal(after, torch.rand(1))
    assert not torch.equal(weights(first), weights(run(seed=4)))


@pytest.mark.parametrize("method", ["mekd", "kd"])
def test_hard_labels_teach_too(method):
    result = run(method=method, responses="hard", budget=600, preset="tiny" if method == "mekd" else "quick")
    assert result.ledger.total == 600 and result.history[-1]["loss"] > 0


def test_the_papers_mode_asks_at_every_step():
    settings = {
        "preset": "tiny",
        "mode": "fresh",
        "latent_temperature": 5.0,
        "emulation": "gan",
        "emulation_settings": {"steps": 10, "response_weight": 0.5, "batch_size": 8},
    }
    result = run(method="mekd", budget=None, **settings)
    assert result.ledger.by_stage == {"deprivatization": 10 * 8, "alignment": 20 * 16}
    assert result.report["warnings"], "ten steps make no generator, and the paper's mode says so too"


def test_stage_one_asks_nothing_where_there_is_a_budget():
    with pytest.warns(UserWarning, match="would ask about 80 images in stage 1; there is a query budget"):
        result = run(
            method="mekd",
            preset="tiny",
            emulation="gan",
            surrogate=None,
            emulation_settings={"steps": 10, "batch_size": 8, "response_weight": 0.5},
        )
    assert result.ledger.by_stage == {"bank": 200}


@pytest.mark.parametrize("method", ["mekd", "kd"])
def test_a_teacher_with_another_value_range(method):
    lowest = []

    class Watched(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, images):
            lowest.append(float(images.min()))
            return self.inner(images)

    boundary = mekd.BlackBox(Watched(ToyTeacher()), "logits", CLASSES, budget=100, value_range=(0, 1))
    settings = {"preset": "tiny", "emulation.steps": 20} if method == "mekd" else {}
    mekd.distill(Watched(toy_student()), boundary, (toy_images(40, seed=1) + 1) / 2, method, **settings, **SHORT)
    assert min(lowest) >= 0, "shifted or generated images left the range"


def test_a_paid_bank_and_its_generator_serve_another_student(tmp_path):
    run(
        method="mekd",
        preset="tiny",
        emulation="gan",
        surrogate=None,
        emulation_settings={"steps": 30},
        directory=tmp_path,
    )
    kept = {path: path.read_bytes() for path in (tmp_path / "banks/bank").iterdir()}
    toy = ToyTeacher()
    settings = {"generator": str(tmp_path / "generator.safetensors"), "bank": str(tmp_path / "banks/bank")}
    for seed in (8, 9):
        result = run(toy, method="mekd", preset="tiny", student=toy_student(seed=seed), **settings, validation=0.1)
        assert toy.count == 0 and result.ledger.total == 0 and result.held_out_agreement is not None
    assert {path: path.read_bytes() for path in (tmp_path / "banks/bank").iterdir()} == kept, "the bank was written to"
    with pytest.raises(InputError, match="was drawn by a generator: give that one too"):
        run(method="mekd", bank=settings["bank"])
    with pytest.raises(CheckpointError, match="no bank in"):
        run(method="mekd", generator=settings["generator"], bank=str(tmp_path), preset="tiny")


def test_health_warnings_are_said_not_only_recorded():
    with pytest.warns(UserWarning, match="train stage 1 for more steps|nearly the same image"):
        run(method="mekd", preset="tiny", emulation="gan", surrogate=None, emulation_settings={"steps": 2})


def test_ctrl_c_stops_between_steps_and_says_how_to_go_on(tmp_path):
    def interrupt(student):
        signal.raise_signal(signal.SIGINT)
        return {}

    with pytest.raises(KeyboardInterrupt, match="stopped after step 8 of stage 'student'; go on with resume=True"):
        run(directory=tmp_path, evaluate=interrupt, evaluate_steps=[7])
    resumed = run(directory=tmp_path, resume=True, evaluate=lambda student: {}, evaluate_steps=[7])
    undisturbed = run(evaluate=lambda student: {}, evaluate_steps=[7])
    assert torch.equal(weights(resumed), weights(undisturbed))


def test_a_file_that_holds_no_generator_is_named(tmp_path):
    run(directory=tmp_path)
    with pytest.raises(CheckpointError, match=r"student\.safetensors does not hold a generator of ours"):
        run(method="mekd", generator=str(tmp_path / "student.safetensors"))


def test_an_evaluation_that_switches_modes_and_draws_numbers_changes_nothing():
    def meddling(student):
        student.eval()
        return {"drawn": float(torch.rand(1))}

    plain, meddled = run(), run(evaluate=meddling, evaluate_steps=[3, 7])
    assert torch.equal(weights(plain), weights(meddled))


def test_held_out_answers_cost_nothing_more():
    result = run(budget=300, validation=0.1)
    assert result.ledger.total == 300 and 0 <= result.held_out_agreement <= 1
    assert run(budget=100, validation=0.1).held_out_agreement is None  # ten rows say too little


def test_a_generator_is_trained_once_for_all_students(tmp_path):
    options = {"method": "mekd", "preset": "tiny", "cache": tmp_path / "cache", "emulation.steps": 30}
    options |= {"emulation": "gan", "surrogate": None}
    first = run(**options, directory=tmp_path / "a")
    kept = list((tmp_path / "cache").iterdir())
    second = run(**options, directory=tmp_path / "b", student=toy_student(seed=7))
    assert len(kept) == 1 and list((tmp_path / "cache").iterdir()) == kept
    assert (tmp_path / "a/generator.safetensors").read_bytes() == (tmp_path / "b/generator.safetensors").read_bytes()
    assert "deprivatization" in {record["stage"] for record in first.history}
    assert "deprivatization" not in {record["stage"] for record in second.history}
    spent = load_state(kept[0])["processor seconds"]
    assert 0 < spent <= first.seconds["processor"] and spent < second.seconds["processor"], (
        "what it took is not forgotten"
    )


def test_the_directory_holds_what_a_later_look_needs(tmp_path):
    run(
        method="mekd",
        preset="tiny",
        emulation="gan",
        surrogate=None,
        emulation_settings={"steps": 30},
        directory=tmp_path,
        snapshots=4,
    )
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"student.safetensors", "generator.safetensors", "metrics.jsonl", "run.json", "ledger-0.jsonl"} <= names
    assert sorted(name for name in names if name.startswith("snapshots")) == [
        f"snapshots/step-{step:06d}.safetensors" for step in (1, 3, 7, 20)
    ]
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def test_a_generators_health_is_reported():
    report = run(method="mekd", preset="tiny", emulation="gan", surrogate=None, emulation_settings={"steps": 5}).report
    assert len(report["generator"]["class_shares"]) == CLASSES
    assert report["warnings"], "five steps make no generator"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("settings", [{"mode": "fresh", "latent_temperature": 3.0}, {"queries": 60}])
def test_a_finished_run_reports_what_it_reported_at_first(tmp_path, settings):
    settings = {
        "preset": "tiny",
        "emulation": "gan",
        "surrogate": None,
        "emulation_settings": {"steps": 10},
        "budget": 1000,
        **settings,
    }
    first = run(method="mekd", directory=tmp_path / "run", **settings)
    assert first.report["generator"] and "warnings" in first.report
    again = run(method="mekd", directory=tmp_path / "run", resume=True, **settings)
    assert again.report == first.report
    (tmp_path / "run" / "report.json").write_text("{")
    assert torch.equal(weights(run(method="mekd", directory=tmp_path / "run", resume=True, **settings)), weights(first))


def test_a_result_says_on_what_it_was_measured_and_on_how_many(caplog):
    with caplog.at_level("DEBUG", logger="mekd_plugin"):
        result = run(validation=0.1)
    value, low, high, count = result.held_out
    assert count == 20 and low < value == result.held_out_agreement < high or value in (low, high)
    said = str(result)
    assert repr(result) == said and f"of {count} held-out real images" in said and "kd:quick" in said
    assert str(result.ledger) in said and repr(result.ledger) == str(result.ledger)
    told = [(entry.levelname, entry.getMessage()) for entry in caplog.records]
    assert ("INFO", "stage student begins") in told
    assert [words for level, words in told if level == "DEBUG"][0].startswith("logits: 200 images answered for 'trans")


def test_a_check_on_real_images_counts_its_questions():
    teacher = ToyTeacher()
    box = mekd.BlackBox(teacher, "logits", CLASSES, budget=40)
    result = mekd.distill(toy_student(), box, toy_images(40, seed=1), "kd", **SHORT)
    images = toy_images(30, seed=9)
    found = result.check(box, images)
    guesses = mekd.predict(result.student, images).argmax(dim=1)
    assert found.value == (guesses == teacher(images).argmax(dim=1)).double().mean() and found.images == 30
    assert (box.ledger.total, box.ledger.evaluation) == (40, 30) and result.held_out is None


def test_evaluation_stands_in_the_history():
    result = run(evaluate=lambda student: {"accuracy": 0.5}, evaluate_steps=[10])
    assert [record["step"] for record in result.history if record["stage"] == "evaluation"] == [10, 20]


def test_a_plan_asks_nothing_and_foretells_the_ledger():
    toy = ToyTeacher()
    boundary = mekd.BlackBox(toy, "logits", CLASSES, budget=150)
    student = toy_student()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    settings = {"method": "mekd", "preset": "tiny", "emulation.steps": 10}
    plan = mekd.plan(
        student, boundary, toy_images(40, seed=1), recipe=SHORT["recipe"], device="cpu", price_per_1000=2.0, **settings
    )
    assert toy.count == 0 and boundary.ledger.total == 0
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    result = mekd.distill(student, boundary, toy_images(40, seed=1), **settings, **SHORT)
    assert plan.queries == result.ledger.by_stage and plan.total == 150
    assert plan.price == pytest.approx(0.3) and plan.seconds > 0
    assert "150 queries (bank 150), price 0.30" in str(plan)


def test_a_sum_of_money_bounds_a_run_and_is_foretold():
    toy, words = ToyTeacher(), {"responses": "logits", "num_classes": CLASSES, "method": "kd", **SHORT}
    paid = {"cost_per_1000": 2.0, "cost_limit": 0.0805, "validation": 0.0}
    planned = {name: value for name, value in words.items() if name != "progress"}
    plan = mekd.plan(toy_student(), toy, toy_images(60, seed=1), **planned, **paid)
    assert toy.count == 0 and plan.total == 40 and plan.price == pytest.approx(0.08) and "price 0.08" in str(plan)
    with pytest.raises(InputError, match="price_per_1000=3 and cost_per_1000=2.0: both are the price of 1,000 queries"):
        mekd.plan(toy_student(), toy, toy_images(60, seed=1), price_per_1000=3, **planned, **paid)
    result = mekd.distill(toy_student(), toy, toy_images(60, seed=1), budget=50, **words, **paid)
    assert result.ledger.total == toy.count == 40 == result.ledger.budget
    with pytest.raises(InputError, match="cost_limit=3 without a price: say what 1,000 images cost, cost_per_1000="):
        mekd.distill(toy_student(), toy, toy_images(60, seed=1), cost_limit=3, **words)
    box = mekd.BlackBox(toy, "logits", CLASSES, cost_per_1000=2.0, cost_limit=0.08, budget=50)
    with pytest.raises(QueryBudgetExceeded, match=r"the query budget of 40 \(cost_limit=0.08\): 0 are spent"):
        box.query(toy_images(41, seed=1))
    with pytest.raises(InputError, match="cost_limit belongs to the BlackBox"):
        mekd.distill(toy_student(), box, toy_images(60, seed=1), "kd", cost_limit=3, **SHORT)


def test_a_plan_of_the_papers_mode_counts_every_step():
    plan = mekd.plan(
        toy_student(),
        mekd.BlackBox(ToyTeacher(), "logits", CLASSES),
        toy_images(40, seed=1),
        "mekd",
        preset="paper",
        device="cpu",
    )
    assert plan.queries == {"deprivatization": 18_800 * 64, "alignment": 120_000 * 128}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "medk"}, UnknownName, "did you mean 'mekd'"),
        ({"method": "ml", "responses": "hard"}, NeedsNotMet, "LogitMimicry needs soft responses"),
        ({"budget": 1}, InputError, "1 queries for stage 'transfer_set': expected at least 2"),
        (
            {"queries": 500},
            QueryBudgetExceeded,
            "needs 500 more answers .* query budget of 200 has 200 left .* nothing was asked",
        ),
        ({"images": toy_images(1, 0)}, InputError, "1 images: expected at least 2"),
        ({"images": []}, InputError, "images is empty"),
        ({"images": toy_images(4, 0)[0]}, InputError, "expected floating point"),
        ({"images": toy_images(4, 0).int()}, InputError, "torch.int32: expected floating point"),
        ({"images": toy_images(4, 0) * 3}, InputError, r"outside the teacher's value_range \(-1, 1\)"),
        ({"images": toy_images(4, 0) * float("nan")}, InputError, "NaN or infinite"),
        ({"images": [torch.zeros(1, 8, 8), torch.zeros(1, 9, 9)]}, InputError, "item 1 of images has shape"),
        ({"images": ["picture.png"]}, DataMissing, "picture.png cannot be read as an image"),
        ({"images": [3]}, InputError, "images"),
        ({"images": toy_images(4, 0).expand(4, 3, 8, 8)}, InputError, "the student cannot take images of shape"),
        ({"student": nn.Conv2d(1, 3, 3)}, InputError, r"the student returned .*: expected logits \(2, C\)"),
        ({"num_classes": 5}, InputError, "num_classes=5, but the student has 3 outputs"),
        ({"preset": "huge"}, UnknownName, "unknown preset of kd 'huge': expected one of fast, paper, quick, thorough"),
        ({"temprature": 3.0}, InputError, "temprature.*did you mean 'temperature'"),
        ({"device": "cuda:99"}, InputError, "device='cuda:99' cannot be used here"),
        ({"method": "mekd", "mode": "stale"}, InputError, "mode='stale'"),
        ({"method": "mekd", "mode": "fresh"}, InputError, "give latent_temperature"),
        ({"method": "mekd", "emulation": "gan", "emulation.discriminator": "big"}, InputError, "discriminator='big'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(options, error, message):
    toy = ToyTeacher()
    with pytest.raises(error, match=message):
        run(toy, **options)
    assert toy.count == 0


def test_images_too_small_for_a_discriminator_are_refused():
    student = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))
    with pytest.raises(
        InputError, match=r"image_shape \(1, 6, 6\): too small for 3 stride-2 .*resize the images to 8x8"
    ):
        run(images=torch.zeros(4, 1, 6, 6), student=student, method="mekd", emulation="gan")


def test_a_teacher_is_described_once():
    boundary = mekd.BlackBox(ToyTeacher(), "logits", CLASSES)
    with pytest.raises(InputError, match="responses and budget belong to the BlackBox"):
        mekd.distill(toy_student(), boundary, toy_images(4, 0), responses="hard", budget=5)


def test_a_teacher_of_other_classes_is_refused():
    with pytest.raises(InputError, match="this teacher answers about 5 classes"):
        mekd.distill(toy_student(), mekd.BlackBox(ToyTeacher(), "logits", 5), toy_images(4, 0), "kd", **SHORT)


def test_nonsense_from_the_teacher_ends_the_run_and_names_the_batch():
    class Broken(ToyTeacher):
        def forward(self, images):
            return super().forward(images) * float("nan")

    with pytest.raises(TeacherAnswerError, match="batch"):
        run(Broken())


def test_a_run_that_diverges_says_so():
    with pytest.raises(TrainingDiverged, match=r"stage 'student', step 20: .* is not finite; lower the learning rate"):
        run(recipe=Recipe(steps=20, batch_size=16, learning_rate=1e30))


def test_a_student_with_nothing_to_train_is_refused():
    frozen = toy_student().requires_grad_(False)
    with pytest.raises(InputError, match="no weight that requires a gradient"):
        run(student=frozen)


def test_a_directory_with_another_run_is_left_alone(tmp_path):
    run(directory=tmp_path)
    with pytest.raises(CheckpointError, match="holds a run already; resume it, or name another directory"):
        run(directory=tmp_path)
    with pytest.raises(CheckpointError, match="holds another run"):
        run(directory=tmp_path, resume=True, seed=1)


def test_a_truncated_checkpoint_is_named_on_resuming(tmp_path):
    class Stop(Exception):
        pass

    def stop(student):
        raise Stop

    with pytest.raises(Stop):
        run(directory=tmp_path, checkpoint_steps=5, evaluate=stop, evaluate_steps=[12])
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors is not a checkpoint .* cut off"):
        run(directory=tmp_path, resume=True)
    path.unlink()
    assert run(directory=tmp_path, resume=True).ledger.total == 200


def test_a_stage_that_asks_at_every_step_cannot_do_without_its_checkpoint(tmp_path):
    class Stop(Exception):
        pass

    def stop(student):
        raise Stop

    settings = {
        "preset": "tiny",
        "emulation": "gan",
        "surrogate": None,
        "emulation_settings": {"steps": 10},
        "mode": "fresh",
        "latent_temperature": 3.0,
    }
    settings |= {"method": "mekd", "budget": 1000, "resume": True, "checkpoint_steps": 4}
    teacher = ToyTeacher()
    with pytest.raises(Stop):
        run(teacher, directory=tmp_path / "run", evaluate=stop, evaluate_steps=[10], **settings)
    (tmp_path / "run" / "checkpoint.safetensors").unlink()
    asked = teacher.count
    for _ in range(2):
        with pytest.raises(ReplayDiverged, match=r"Nothing was sent\..* has to start in a new directory"):
            run(teacher, directory=tmp_path / "run", **settings)
    assert teacher.count == asked > 0
    assert run(teacher, directory=tmp_path / "new", **settings).ledger.total == teacher.count - asked


def test_bfloat16_is_an_option():
    result = run(recipe=Recipe(steps=20, batch_size=16, precision="bf16"))
    assert all(parameter.dtype == torch.float32 for parameter in result.student.parameters())
    assert all(record["loss"] == record["loss"] for record in result.history if "loss" in record)


def test_answers_of_another_teacher_are_not_taken_over(tmp_path):
    settings = {"method": "kd", "queries": 40, "directory": tmp_path / "run", "progress": False}
    settings["recipe"] = Recipe(steps=5)
    images = toy_images(40, seed=1)
    mekd.distill(toy_student(), mekd.BlackBox(ToyTeacher(), "logits", CLASSES), images, **settings)
    retrained = ToyTeacher()
    with torch.no_grad():
        retrained.kernels.mul_(2)
    with pytest.raises(CheckpointError, match="holds another run"):
        mekd.distill(toy_student(), mekd.BlackBox(retrained, "logits", CLASSES), images, resume=True, **settings)


def test_numbers_of_torch_and_numpy_are_numbers_of_an_evaluation():
    told = {"a": torch.tensor(0.5), "b": np.float32(0.25), "c": np.array(2), "d": 1}
    result = run(evaluate=lambda student: told)
    (entry,) = [entry for entry in result.history if entry["stage"] == "evaluation"]
    assert entry == {"stage": "evaluation", "step": 20, "a": 0.5, "b": 0.25, "c": 2, "d": 1}


def test_an_evaluation_without_numbers_costs_no_training(tmp_path):
    teacher = ToyTeacher()
    with pytest.raises(InputError, match="for 'accuracy': expected a number") as caught:
        run(teacher, directory=tmp_path, evaluate=lambda student: {"accuracy": torch.zeros(3)})
    assert "trained to its end" in caught.value.__notes__[-1]
    count = teacher.count
    result = run(teacher, directory=tmp_path, resume=True, evaluate=lambda student: {"accuracy": 0.5})
    assert teacher.count == count and result.history[-1] == {"stage": "evaluation", "step": 20, "accuracy": 0.5}
    with pytest.raises(InputError, match="for 'accuracy': expected a number"):
        run(evaluate=lambda student: {"accuracy": "high"}, evaluate_steps=[3])


def test_queries_that_others_leave_no_budget_for_are_refused_before_a_generator_is_trained(tmp_path):
    boundary = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=100)
    boundary.query(toy_images(51, seed=2), stage="elsewhere")
    settings = {
        "preset": "tiny",
        "emulation": "gan",
        "surrogate": None,
        "emulation_settings": {"steps": 10},
        "queries": 100,
        "directory": tmp_path,
        **SHORT,
    }
    with pytest.raises(QueryBudgetExceeded, match="queries=100 needs 100 more answers for 'bank'.* has 49 left"):
        mekd.distill(toy_student(), boundary, toy_images(40, seed=1), "mekd", **settings)
    assert boundary.ledger.total == 51 and not [*tmp_path.glob("stages/*"), *tmp_path.glob("*.safetensors")]
    fresh = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=100)
    assert mekd.distill(toy_student(), fresh, toy_images(40, seed=1), "mekd", **settings).ledger.total == 100
