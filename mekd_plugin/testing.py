"""The contract that any distiller must pass, ours or a third party's.

In a package of your own::

    from mekd_plugin.testing import DistillerContract

    class TestMine(DistillerContract):
        method = "mine"            # as in the entry-point group mekd.distillers; or distiller = MyClass
        settings = {"rounds": 2}   # hyperparameters that make it small; optional

and run pytest. The problem is a toy with an exact teacher: bright bars, whose direction is the class.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mekd_plugin import registry
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.blackbox.whitebox import WhiteBox
from mekd_plugin.distiller import Asking, Distiller, Needs, Training
from mekd_plugin.errors import NeedsNotMet
from mekd_plugin.responses import Response
from mekd_plugin.rows import Shard
from mekd_plugin.training.evaluation import agreement
from mekd_plugin.training.plan import plan
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.run import Distillation, distill, host

__all__ = ["DistillerContract", "NoHost", "ToyTeacher", "toy_images", "toy_strokes", "toy_student"]

CLASSES = 3
SHAPE = (1, 8, 8)
_UNDISTURBED: dict[tuple[type[DistillerContract], str], tuple[ToyTeacher, Distillation]] = {}


def toy_images(count: int, seed: int) -> Tensor:
    """``(count, 1, 8, 8)`` in [-1, 1]: one bar of 5 pixels, horizontal, vertical or diagonal, somewhere, and noise."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.full((count, *SHAPE), -1.0)
    for index in range(count):
        kernel = _bars()[index % CLASSES]
        top, left = torch.randint(0, 4, (2,), generator=rng).tolist()
        images[index, 0, top : top + 5, left : left + 5] += 1.8 * kernel
    return (images + 0.1 * torch.randn(images.shape, generator=rng)).clamp(-1, 1)


def toy_strokes(count: int, seed: int) -> Tensor:
    """``(count, 1, 8, 8)`` in [-1, 1]: three strokes of 3 to 6 pixels in any direction, another domain."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.full((count, *SHAPE), -1.0)
    steps = torch.tensor([[0, 1], [1, 0], [1, 1], [1, -1]])
    for image in images:
        for _ in range(3):
            direction, length = torch.randint(0, 4, (), generator=rng), torch.randint(3, 7, (), generator=rng)
            start = torch.randint(0, 8, (2,), generator=rng)
            rows, columns = (start + torch.arange(int(length))[:, None] * steps[direction]).clamp(0, 7).T
            image[0, rows, columns] = 0.8
    return (images + 0.1 * torch.randn(images.shape, generator=rng)).clamp(-1, 1)


def toy_student(seed: int = 0) -> nn.Module:
    """A small convolutional network for the toy, its initial weights drawn by ``seed``."""
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
        shuffled: whether it gives its scores to classes at random: the control from which nothing can be learnt.
        fails_at: the batch, counted from 0, at which it is out of reach, once; None for never.
    """

    def __init__(self, *, shuffled: bool = False, fails_at: int | None = None) -> None:
        super().__init__()
        self.kernels = nn.Parameter(_bars().unsqueeze(1))
        self.asked: list[Tensor] = []
        self.shuffled, self.fails_at = shuffled, fails_at

    def forward(self, images: Tensor) -> Tensor:
        if not images.requires_grad:  # a question carries no gradient; what a white-box reference looks at does
            if self.fails_at == len(self.asked):
                self.fails_at = None
                raise ConnectionError("the toy teacher is out of reach")
            self.asked.append(images.clone())
        scores: Tensor = 2 * torch.nn.functional.conv2d(images, self.kernels).amax(dim=(2, 3))
        return scores.gather(1, torch.rand_like(scores).argsort(dim=1)) if self.shuffled else scores

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
                    "of those they meet"
                )
        return out


class DistillerContract:
    """Tests over one method; subclass it with ``method`` or ``distiller`` set.

    Attributes:
        method: name in the registry.
        distiller: the class itself, which need not be registered, in place of a name.
        settings: hyperparameters that keep it small.
        budget: queries that it may ask.
        steps: the student's.
        device: where it trains.
        plannable: whether a plan can foretell its queries exactly; not if they depend on the answers.
    """

    method: ClassVar[str] = ""
    distiller: ClassVar[type[Distiller] | None] = None
    settings: ClassVar[Mapping[str, Any]] = {}
    budget: ClassVar[int] = 600
    steps: ClassVar[int] = 150
    device: ClassVar[str] = "cpu"
    plannable: ClassVar[bool] = True

    def test_beats_an_untrained_student_and_shuffled_answers(self) -> None:
        """What the student knows comes from the teacher's answers.

        A method that makes its images up need not draw any like the toy's, and whether it does is chance: its students
        are asked about images such as it asks about, and have to beat the control alone.
        """
        if self._needs().pool == "none" and not self._needs().gradients:
            taught, control = self._agreement_on_its_own()
            assert taught > control + 0.1, (taught, control)
            return
        held_out = toy_images(300, seed=99).to(self.device)
        truth = BlackBox(ToyTeacher().to(self.device), "logits", CLASSES).query(held_out)
        untrained = agreement(toy_student(), held_out, truth)
        taught = agreement(self._undisturbed()[1].student, held_out, truth)
        control = agreement(self._distill(ToyTeacher(shuffled=True)).student, held_out, truth)
        assert taught > untrained + 0.2, (taught, untrained)
        assert taught > control + 0.2, (taught, control)

    def test_ledger_is_what_the_teacher_saw(self) -> None:
        """Every image sent is counted, in a stage, within the budget."""
        teacher, run = self._undisturbed()
        ledger = run.ledger
        assert ledger.total == teacher.count == sum(ledger.by_stage.values())
        assert 0 < ledger.total <= self.budget
        assert ledger.distinct == len(torch.cat(teacher.asked).flatten(1).unique(dim=0))

    def test_sends_only_what_it_declares(self) -> None:
        """Real images are sent by a method that says so, and by no other."""
        teacher, _ = self._undisturbed()
        sent = torch.cat(teacher.asked).flatten(1).cpu()
        leaves = bool((torch.cdist(sent, toy_images(60, seed=1).flatten(1)) < 1e-4).any())
        assert leaves == (self._needs().leaves_edge == "real images")

    def test_a_plan_foretells_what_is_asked(self) -> None:
        """A plan tells all that will be asked, stage by stage, without asking."""
        if not self.plannable:
            return
        teacher = ToyTeacher()
        settings = {"device": self.device, **self._problem()}
        foreseen = plan(toy_student(), self._boundary(teacher), self._images(), self._method(), **settings)
        assert teacher.count == 0
        assert foreseen.queries == self._undisturbed()[1].ledger.by_stage

    def test_needs_say_where_it_can_be_a_guest(self) -> None:
        """In somebody else's loop it gives its losses, or is refused before anything is asked."""
        teacher, needs = ToyTeacher(), self._needs()
        settings = {"device": self.device, "progress": False, **self._problem()}
        if needs.queries == "rounds" or needs.in_step:
            try:
                host(toy_student(), self._boundary(teacher), self._images(), self._method(), **settings)
            except NeedsNotMet:
                assert teacher.count == 0
                return
            raise AssertionError("the method says that no host can run it, and was accepted")
        hosted = host(toy_student(), self._boundary(teacher), self._images(), self._method(), **settings)
        assert hosted.stage.by_losses, "the student's step is the method's own: declare Needs(in_step=True)"
        images, _, numbers = next(iter(hosted.loader(16, steps=1)))
        rows, student = hosted.rows(images, numbers), toy_student().to(self.device)
        assert hosted.losses(student, rows)["loss"].isfinite()
        losses = []
        for _ in range(3):
            torch.manual_seed(0)
            losses.append(hosted.method.losses(student, rows)["loss"].detach())
        for loss in losses[1:]:  # a loop may record a step and replay it, which knows nothing of Python
            torch.testing.assert_close(loss, losses[0], msg="losses() keeps something from one step to the next")
        hosted.close()

    def test_resumes_bit_identically(self, tmp_path: Path) -> None:
        """Stopped while asking, then while the student trains: the weights and the bill of a run without files."""
        _, undisturbed = self._undisturbed()
        lives: list[dict[str, Any]] = [{"stop_after_batch": 2}, {"evaluate": _stop}]
        for life in lives:
            try:
                self._distill(ToyTeacher(), directory=tmp_path, resume=True, **life)
            except InterruptedError:
                continue
            raise AssertionError(f"the run was not stopped by {life}")
        resumed = self._distill(ToyTeacher(), directory=tmp_path, resume=True)
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
        assert teacher.fails_at is None, f"{self._method()} asked a single batch: give it a larger budget"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a bank may be that batch shorter, and says so
            ledger = self._distill(teacher, directory=tmp_path, resume=True).ledger
        assert ledger.uncertain > 0
        assert teacher.count <= ledger.total <= min(self.budget, teacher.count + ledger.uncertain)

    def test_steps_run_on_the_meta_device(self) -> None:
        """No hidden copy to the host, no tensor made on the CPU: evidence that the steps will run on a GPU."""
        index = 0
        while not self._needs().host_sync:
            distiller = self._make()
            student = toy_student()
            teacher = self._boundary(ToyTeacher())
            stages = distiller.stages(teacher, self._drawn_from(), student)
            stage = None
            for _ in range(index + 1):
                stage = next(stages, None)
                if isinstance(stage, Asking):
                    stage.bank.fill(teacher, stage.draw, stage.size, stage=stage.name, label=stage.label)
            if stage is None:
                break
            if isinstance(stage, Training):
                _step_on_meta(distiller, stage, teacher, student)
            index += 1

    def _method(self) -> str | type[Distiller]:
        return self.distiller or self.method

    def _class(self) -> type[Distiller]:
        return self.distiller or registry.distillers().get(self.method)

    def _needs(self) -> Needs:
        """What the method needs with the settings that are tested."""
        return self._make().needs

    def _hyperparameters(self) -> dict[str, Any]:
        return {**self._class().presets.get("tiny", {}), **self.settings}

    def _make(self) -> Distiller:
        world: dict[str, Any] = {"num_classes": CLASSES, "image_shape": SHAPE}
        return registry.create(self._method(), **world, **self._hyperparameters())

    def _agreement_on_its_own(self) -> tuple[float, float]:
        """The students' and the control's, means over two seeds, on what the method asked about under another seed."""
        found = []
        for seed in (0, 1):
            teacher = ToyTeacher()
            self._distill(teacher, seed=seed + 2)
            asked = torch.cat(teacher.asked)
            chosen = torch.randperm(len(asked), generator=torch.Generator().manual_seed(seed))[:300]
            held_out = asked[chosen.to(asked.device)]
            truth = BlackBox(ToyTeacher().to(self.device), "logits", CLASSES).query(held_out)
            taught = self._distill(ToyTeacher(), seed=seed) if seed else self._undisturbed()[1]
            control = self._distill(ToyTeacher(shuffled=True), seed=seed)
            found.append([agreement(run.student, held_out, truth) for run in (taught, control)])
        taught_mean, control_mean = torch.tensor(found).mean(dim=0).tolist()
        return taught_mean, control_mean

    def _images(self) -> Tensor | None:
        return None if self._needs().pool == "none" else toy_images(60, seed=1)

    def _pool(self) -> Tensor:
        """Images of another domain."""
        return toy_strokes(60, seed=5)

    def _drawn_from(self) -> Tensor:
        """What the method's stages are handed."""
        pools = {"edge": toy_images(60, seed=1), "other domain": self._pool(), "none": torch.empty(0, *SHAPE)}
        return pools[self._needs().pool]

    def _problem(self) -> dict[str, Any]:
        return {
            "recipe": Recipe(steps=self.steps, batch_size=32, translate=0),
            "validation": 0.0,
            "pool": self._pool() if self._needs().pool == "other domain" else None,
            "image_shape": SHAPE,
            **self._hyperparameters(),
        }

    def _boundary(self, teacher: ToyTeacher) -> BlackBox:
        needs = self._class().needs
        kind = WhiteBox if needs.gradients else BlackBox
        responses = "hard" if needs.responses == "hard" else "logits"
        return kind(teacher.to(self.device), responses, CLASSES, budget=self.budget, batch_size=128)

    def _undisturbed(self) -> tuple[ToyTeacher, Distillation]:
        """A teacher, and the run that asked it: made once, since most tests look at the same one."""
        key = type(self), repr(vars(self))
        if key not in _UNDISTURBED:
            teacher = ToyTeacher()
            _UNDISTURBED[key] = teacher, self._distill(teacher)
        return _UNDISTURBED[key]

    def _distill(self, teacher: ToyTeacher, *, stop_after_batch: int | None = None, **options: Any) -> Distillation:
        boundary = self._boundary(teacher)
        if stop_after_batch is not None:
            _stop_after(boundary, stop_after_batch)
        return distill(
            toy_student(),
            boundary,
            self._images(),
            self._method(),
            device=self.device,
            progress=False,
            **{"evaluate_steps": [self.steps // 2], **options},
            **self._problem(),
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

    def settle_and_stop(serial: int | None = None) -> None:
        settle(serial)
        seen.append(None)
        if len(seen) == batch:
            raise InterruptedError("stopped while asking")

    teacher.ledger.settle = settle_and_stop  # type: ignore[method-assign]


def _step_on_meta(distiller: Distiller, stage: Training, teacher: BlackBox, student: nn.Module) -> None:
    rows = stage.rows.batch(0, 8, Shard())
    modules = {name: player.module for name, player in stage.players.items()}
    if stage.trains_student:
        modules["student"] = student
    for module in modules.values():
        module.train().to("meta")

    def update(losses: Mapping[str, Tensor]) -> None:
        for index, (name, loss) in enumerate(losses.items()):
            assert loss.dim() == 0, f"the loss of {name!r} is not a scalar"
            weights = [weight for weight in modules[name].parameters() if weight.requires_grad]
            torch.autograd.backward(loss, inputs=weights, retain_graph=index + 1 < len(losses))

    def query(images: Tensor) -> Response:
        # The way to a teacher leads through the host by nature; what a step does before and after it must not.
        if teacher.responses == "hard":
            return Response(torch.empty(len(images), dtype=torch.int64, device="meta"), "hard", CLASSES)
        return Response(torch.empty(len(images), CLASSES, device="meta"), teacher.responses, CLASSES)

    batch = rows.to("meta")
    stage.step(batch, update, query)  # what a method holds besides follows its rows to a new device once
    with NoHost():
        assert "loss" in stage.step(batch, update, query)
    if stage.by_losses:
        with NoHost():
            assert "loss" in distiller.losses(student, batch)
