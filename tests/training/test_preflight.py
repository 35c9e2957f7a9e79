"""What would only fail after the budget is spent is refused before the first question."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import mekd_plugin as mekd
from mekd_plugin.errors import InputError, TeacherAnswerError
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.preflight import preflight
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.recipe import Recipe

SHORT = {"recipe": Recipe(steps=5, batch_size=16), "progress": False, "device": "cpu", "method": "kd"}


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = toy_student()

    def forward(self, images):
        return self.inner(images)


class Auxiliary(Wrapped):
    def forward(self, images):
        logits = super().forward(images)
        return (logits, logits) if self.training else logits


class Untaught(Wrapped):
    def forward(self, images):
        return super().forward(images).detach()


class Failing(Wrapped):
    def forward(self, images):
        if self.training:
            raise ValueError("too few rows")
        return super().forward(images)


class Secretive(Wrapped):
    def get_extra_state(self):
        return {"opened": "2026"}

    def set_extra_state(self, state):
        pass


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.last = nn.Linear(64, CLASSES)

    def forward(self, images):
        return self.last(self.second(self.first(images.flatten(1)).relu()).relu())


def run(student, **options):
    toy = ToyTeacher()
    box = mekd.BlackBox(toy, "logits", CLASSES, budget=100)
    try:
        return mekd.distill(student, box, toy_images(40, seed=1), **{**SHORT, **options})
    except Exception:
        assert toy.count == 0, "the teacher was asked before the fault was found"
        raise


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (Auxiliary, "in training mode the student Auxiliary returns tuple: expected logits .* auxiliary outputs off"),
        (Untaught, "Untaught returns logits without a gradient"),
        (Failing, "Failing fails in training mode on images .*too few rows"),
        (Secretive, "the state of the student Secretive cannot be kept"),
        (lambda: toy_student().half(), "weights of torch.float16.*student.float()"),
        (lambda: toy_student().requires_grad_(False), "no weight that requires a gradient"),
    ],
)
def test_a_student_that_cannot_be_trained_or_kept_is_refused(student, message):
    with pytest.raises(InputError, match=message):
        run(student())


def test_tied_weights_are_trained_and_kept(tmp_path):
    result = run(Tied(), directory=tmp_path)
    assert result.student.first.weight is result.student.second.weight
    kept = load_file(tmp_path / "student.safetensors")
    assert torch.equal(kept["second.weight"], result.student.first.weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_other_precisions_are_taken(dtype):
    box = mekd.BlackBox(ToyTeacher().to(torch.float64 if dtype == torch.float64 else torch.float32), "logits", CLASSES)
    student = toy_student().double() if dtype == torch.float64 else toy_student()
    assert mekd.distill(student, box, toy_images(40, seed=1).to(dtype), queries=40, **SHORT).steps == 5


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(100, CLASSES)), "the teacher Sequential cannot take images of shape"),
        (nn.Sequential(nn.Conv2d(3, CLASSES, 8), nn.Flatten()), "the teacher Sequential cannot take images of shape"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), "answers about 7 classes, and 3 are expected"),
    ],
)
def test_a_module_that_does_not_fit_is_refused_without_a_question(teacher, message):
    box = mekd.BlackBox(teacher, "logits", budget=100)
    with pytest.raises(InputError, match=message):
        mekd.distill(toy_student(), box, toy_images(40, seed=1), **SHORT)
    assert box.ledger.total == 0


def test_a_refused_student_leaves_the_black_box_as_it_was():
    box = mekd.BlackBox(nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)), "logits", budget=60)
    with pytest.raises(InputError, match="answers about 3 classes, and 7 are expected"):
        mekd.distill(nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), box, toy_images(40, seed=1), **SHORT)
    assert mekd.distill(toy_student(), box, toy_images(40, seed=1), **SHORT).ledger.total == 60


def test_a_module_that_the_meta_device_cannot_run_is_not_refused():
    class Looking(ToyTeacher):
        def forward(self, images):
            assert float(images.max()) < 2
            return super().forward(images)

    toy = Looking()
    assert mekd.distill(toy_student(), mekd.BlackBox(toy, "logits", CLASSES, budget=60), toy_images(40, 1), **SHORT)
    assert toy.count == 60


def test_a_function_is_seen_to_answer_before_a_generator_is_trained(tmp_path):
    asked, settings = (
        [],
        {
            **SHORT,
            "method": "mekd",
            "preset": "tiny",
            "emulation": "gan",
            "surrogate": None,
            "emulation_settings": {"steps": 5},
        },
    )

    def odd(images):
        asked.append(len(images))
        return "three"

    with pytest.raises(TeacherAnswerError):
        mekd.distill(toy_student(), mekd.BlackBox(odd, "logits", CLASSES, budget=50), toy_images(40, 1), **settings)
    assert asked == [1]
    toy = ToyTeacher()
    box = mekd.BlackBox(lambda images: toy(images).tolist(), "logits", CLASSES, budget=50, identity="toy")
    foreseen = mekd.plan(
        toy_student(), box, toy_images(40, 1), **{k: v for k, v in settings.items() if k != "progress"}
    )
    result = mekd.distill(toy_student(), box, toy_images(40, 1), directory=tmp_path, **settings)
    assert result.ledger.by_stage == foreseen.queries == {"probe": 1, "bank": 49}


def test_trying_it_changes_neither_student_nor_random_numbers():
    student = toy_student()
    before = copy.deepcopy(student.state_dict())
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    shape = {"image_shape": (1, 8, 8), "num_classes": CLASSES, "value_range": (-1.0, 1.0)}
    preflight(student, SHORT["recipe"], Processes.join("cpu"), **shape)
    assert torch.equal(torch.rand(3), expected) and student.training
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
