"""The contract that any distiller must pass, ours or a third party's.

In a package of one's own::

    from mekd_plugin.testing import DistillerContract

    class TestMine(DistillerContract):
        method = "mine"            # as in the entry-point group mekd.distillers
        settings = {"rounds": 2}   # hyperparameters that make it small; optional

and run pytest. The problem is a toy with an exact teacher: bright bars, of which the direction is the class.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mekd_plugin import registry
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Asking, Distiller, Training
from mekd_plugin.rows import Shard
from mekd_plugin.training.evaluation import agreement
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.run import Distillation, distill

__all__ = ["DistillerContract", "NoHost", "ToyTeacher", "toy_images", "toy_student"]

CLASSES = 3
SHAPE = (1, 8, 8)


def toy_images(count: int, seed: int) -> Tensor:
    """``(count, 1, 8, 8)`` in [-1, 1]: one bar of 5 pixels, horizontal, vertical or diagonal, somewhere, and noise."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.full((count, *SHAPE), -1.0)
    for index in range(count):
        kernel = _bars()[index % CLASSES]
        top, left = torch.randint(0, 4, (2,), generator=rng).tolist()
        images[index, 0, top : top + 5, left : left + 5] += 1.8 * kernel
    return (images + 0.1 * torch.randn(images.shape, generator=rng)).clamp(-1, 1)


def toy_student(seed: int = 0) -> nn.Module:
    """A small convolutional network for the toy, its initial weights by ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(16, CLASSES),
        )


class ToyTeacher(nn.Module):
    """Knows the toy exactly, and remembers all that was asked.

    Attributes:
        asked: every batch of images, in order.
        shuffled: whether each answer goes to another image of the batch: the control from which nothing can be learnt.
        fails_at: the batch, from 0, at which it is out of reach, once; None never.
    """

    def __init__(self, *, shuffled: bool = False, fails_at: int | None = None) -> None:
        super().__init__()
        self.kernels = nn.Parameter(_bars().unsqueeze(1))
        self.asked: list[Tensor] = []
        self.shuffled, self.fails_at = shuffled, fails_at

    def forward(self, images: Tensor) -> Tensor:
        if self.fails_at == len(self.asked):
            self.fails_at = None
            raise ConnectionError("the toy teacher is out of reach")
        self.asked.append(images.clone())
        scores: Tensor = 2 * torch.nn.functional.conv2d(images, self.kernels).amax(dim=(2, 3))
        return scores.roll(1, dims=0)[torch.randperm(len(scores))] if self.shuffled else scores

    @property
    def count(self) -> int:
        """Images that it was asked about."""
        return sum(len(batch) for batch in self.asked)


class NoHost(TorchDispatchMode):
    """While active, an operation that makes a tensor on the CPU is an error: inside a step it would stall a GPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, out)):
            if isinstance(leaf, Tensor) and leaf.device.type == "cpu":
                raise AssertionError(
                    f"{func} touches a tensor {tuple(leaf.shape)} on the CPU inside a step; make tensors on the device "
                    "of what they meet"
                )
        return out


class DistillerContract:
    """Tests over one method; subclass it with ``method`` set.

    Attributes:
        method: name in the registry.
        settings: hyperparameters that keep it small.
        budget: queries that it may ask.
        steps: of the student.
    """

    method: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = {}
    budget: ClassVar[int] = 600
    steps: ClassVar[int] = 150

    def test_beats_an_untrained_student_and_shuffled_answers(self) -> None:
        """What the student knows comes from the teacher's answers."""
        held_out = toy_images(300, seed=99)
        truth = BlackBox(ToyTeacher(), "logits", CLASSES).query(held_out)
        untrained = agreement(toy_student(), held_out, truth)
        taught = agreement(self._distill(ToyTeacher()).student, held_out, truth)
        control = agreement(self._distill(ToyTeacher(shuffled=True)).student, held_out, truth)
        assert taught > untrained + 0.2, (taught, untrained)
        assert taught > control + 0.2, (taught, control)

    def test_ledger_is_what_the_teacher_saw(self) -> None:
        """Every image sent is counted, in a stage, within the budget."""
        teacher = ToyTeacher()
        ledger = self._distill(teacher).ledger
        assert ledger.total == teacher.count == sum(ledger.by_stage.values())
        assert 0 < ledger.total <= self.budget
        assert ledger.distinct == len(torch.cat(teacher.asked).flatten(1).unique(dim=0))

    def test_sends_only_what_it_declares(self) -> None:
        """A method that says that only synthetic images leave the edge sends no real one."""
        teacher = ToyTeacher()
        self._distill(teacher)
        real = toy_images(60, seed=1).flatten(1)
        sent = torch.cat(teacher.asked).flatten(1)
        leaves = bool((torch.cdist(sent, real) < 1e-4).any())
        assert leaves == (self._class().needs.leaves_edge == "real images")

    def test_resumes_bit_identically(self, tmp_path: Path) -> None:
        """Stopped while asking, then while the student trains: the same weights and the same bill in the end."""
        undisturbed = self._distill(ToyTeacher(), directory=tmp_path / "undisturbed")
        directory = tmp_path / "disturbed"
        lives: list[dict[str, Any]] = [{"stop_after_batch": 2}, {"evaluate": _stop}]
        for life in lives:
            try:
                self._distill(ToyTeacher(), directory=directory, resume=True, **life)
            except InterruptedError:
                continue
            raise AssertionError(f"the run was not stopped by {life}")
        resumed = self._distill(ToyTeacher(), directory=directory, resume=True)
        expected = undisturbed.student.state_dict()
        for name, value in resumed.student.state_dict().items():
            assert torch.equal(value, expected[name]), name
        assert resumed.ledger.as_record() == undisturbed.ledger.as_record()

    def test_a_lost_batch_is_counted(self, tmp_path: Path) -> None:
        """A teacher out of reach: the images may have arrived, so they count; the run goes on within its budget."""
        teacher = ToyTeacher(fails_at=1)
        try:
            self._distill(teacher, directory=tmp_path)
        except ConnectionError:
            pass
        assert teacher.fails_at is None, f"{self.method} asked a single batch: give it a larger budget"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a bank may be that batch shorter, and says so
            ledger = self._distill(teacher, directory=tmp_path, resume=True).ledger
        assert ledger.uncertain > 0
        assert teacher.count <= ledger.total <= min(self.budget, teacher.count + ledger.uncertain)

    def test_steps_run_on_the_meta_device(self) -> None:
        """No hidden copy to the host, no tensor made on the CPU: evidence that the steps will run on a GPU."""
        needs = self._class().needs
        index = 0
        while not needs.host_sync:
            distiller = self._make()
            student = toy_student()
            teacher = BlackBox(ToyTeacher(), self._responses(), CLASSES, budget=self.budget)
            stages = distiller.stages(teacher, toy_images(60, seed=1), student)
            stage = None
            for _ in range(index + 1):
                stage = next(stages, None)
                if isinstance(stage, Asking):
                    stage.bank.fill(teacher, stage.draw, min(stage.size, 128), stage=stage.name, label=stage.label)
            if stage is None:
                break
            if isinstance(stage, Training):
                _step_on_meta(distiller, stage, teacher, student)
            index += 1

    def _class(self) -> type[Distiller]:
        return registry.distillers().get(self.method)

    def _responses(self) -> str:
        return "hard" if self._class().needs.responses == "hard" else "logits"

    def _hyperparameters(self) -> dict[str, Any]:
        return {**self._class().presets.get("tiny", {}), **self.settings}

    def _make(self) -> Distiller:
        return registry.create(self.method, num_classes=CLASSES, image_shape=SHAPE, **self._hyperparameters())

    def _distill(self, teacher: ToyTeacher, *, stop_after_batch: int | None = None, **options: Any) -> Distillation:
        boundary = BlackBox(teacher, self._responses(), CLASSES, budget=self.budget, batch_size=128)
        if stop_after_batch is not None:
            _stop_after(boundary, stop_after_batch)
        return distill(
            toy_student(),
            boundary,
            toy_images(60, seed=1),
            self.method,
            recipe=Recipe(steps=self.steps, batch_size=32, translate=0),
            validation=0.0,
            device="cpu",
            progress=False,
            **{"evaluate_steps": [self.steps // 2], **options},
            **self._hyperparameters(),
        )


def _bars() -> Tensor:
    horizontal, vertical = torch.zeros(5, 5), torch.zeros(5, 5)
    horizontal[2], vertical[:, 2] = 1, 1
    return torch.stack([horizontal, vertical, torch.eye(5)])


def _stop(student: nn.Module) -> dict[str, float]:
    """An evaluation that stops its run."""
    raise InterruptedError("stopped while the student trains")


def _stop_after(teacher: BlackBox, batch: int) -> None:
    """Have a run stopped as soon as the answers to its ``batch``-th batch are kept."""
    settle = teacher.ledger.settle
    seen: list[None] = []

    def settle_and_stop() -> None:
        settle()
        seen.append(None)
        if len(seen) == batch:
            raise InterruptedError("stopped while asking")

    teacher.ledger.settle = settle_and_stop  # type: ignore[method-assign]


def _step_on_meta(distiller: Distiller, stage: Training, teacher: BlackBox, student: nn.Module) -> None:
    rows = stage.rows.batch(0, 8, Shard())
    asked = None
    if stage.ask is not None:
        asked = stage.ask(rows)
        asked = asked.answered(teacher.query(asked.images, stage=stage.name))
    modules = {name: player.module for name, player in stage.players.items()}
    if stage.trains_student:
        modules["student"] = student
    for module in modules.values():
        module.train().to("meta")
    answers = None if asked is None else asked.answers().to("meta")

    def update(losses: Mapping[str, Tensor]) -> None:
        for index, (name, loss) in enumerate(losses.items()):
            assert loss.dim() == 0, f"the loss of {name!r} is no scalar"
            weights = [weight for weight in modules[name].parameters() if weight.requires_grad]
            torch.autograd.backward(loss, inputs=weights, retain_graph=index + 1 < len(losses))

    moved = rows.to("meta")

    def step() -> dict[str, Tensor]:
        batch = moved
        if stage.ask is not None and answers is not None:
            batch = replace(batch, asked=stage.ask(batch).answered(answers))
        return stage.step(batch, update)

    step()  # what a method holds besides follows its rows to a new device once
    with NoHost():
        assert "loss" in step()
    if stage.trains_student:
        with NoHost():
            assert "loss" in distiller.losses(student, moved)
