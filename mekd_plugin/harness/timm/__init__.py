"""timm: every method as a ``timm.task.TrainingTask``, with timm's own EMA, compile, DDP, evaluator and checkpoints.

Run with timm 1.0.31. ``timm.task`` has no registry, and ``train.py`` chooses among its tasks by an if; so the door is
Python, a task for a loop of one's own (``configs/timm_student.py`` is one)::

    from mekd_plugin.harness.timm import mekd

    task = mekd(timm.create_model("resnet18", num_classes=10), teacher, images, budget=100_000)
    for input, target in task.loader(batch_size=64):
        result = task(input, target)  # "loss", its parts, "output", "target"

There is such a function for each name of :func:`mekd_plugin.available`; :func:`task` takes the name.

What this relies on:

- ``TrainingTask(device, dtype, verbose)`` is a module whose ``trainable_module`` is trained, copied by ``setup_ema()``,
  given to the optimiser (``get_trainable_module()``) and evaluated (``eval_model``, if it is set, in its place);
- ``forward(input, target)`` returns a dictionary with ``loss`` and ``output``;
- ``get_task_state(module, ema)`` is saved beside the student by ``CheckpointSaver(task=...)``, and given back to
  ``load_task_state(state, strict, module, ema)`` by ``resume_task_checkpoint``;
- ``DistillationTeacher(images, return_features=False)`` is all that timm's own tasks ask, under ``torch.no_grad()``,
  after ``normalize_input(images, mean, std)`` with the student's mean and standard deviation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import InputError
from mekd_plugin.harness.guests import open_guest
from mekd_plugin.harness.meter import Counted
from mekd_plugin.harness.stand_ins import replaced
from mekd_plugin.harness.suite import Suite
from mekd_plugin.registry import available

if TYPE_CHECKING:
    from mekd_plugin.harness.timm.guest import HostedTask

__all__ = ["SUITE", "task"]


def task(
    method: str,
    student: nn.Module | str,
    teacher: BlackBox | nn.Module | Callable[[Tensor], Any],
    images: Tensor,
    *,
    num_classes: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    **settings: Any,
) -> HostedTask:
    """``method`` as a task of timm's, its earlier stages trained and its questions asked.

    Args:
        method: by name.
        student: any module from images to logits, on ``device``; or a name for ``timm.create_model``, which makes it
            with the channels of ``images``.
        teacher: timm's ``DistillationTeacher``, any other module or function, or a :class:`mekd_plugin.BlackBox`; from
            here on it is only asked.
        images: the edge's unlabelled ones, ``(N, channels, height, width)``, normalised as the student takes them.
        num_classes: C; None takes it from the teacher's answers or the student's output.
        device: where student and method compute.
        dtype: of timm's task.
        **settings: ``responses``, ``budget``, ``answer`` and ``value_range`` of the boundary, and further ones of
            :func:`mekd_plugin.host`: ``directory``, ``preset``, ``seed``, the method's hyperparameters.

    Raises:
        MissingDependency: timm is not installed.
        InputError: a student by name, of which nobody says how many classes it has. The others are those of
        :func:`mekd_plugin.host`.
    """
    SUITE.require()
    from timm.models import create_model
    from timm.task import DistillationTeacher

    from mekd_plugin.harness.timm.guest import HostedTask, NormalisedTeacher

    if isinstance(student, str):
        classes = teacher.num_classes if isinstance(teacher, BlackBox) else num_classes
        if classes is None:
            raise InputError(f"num_classes= is missing: {student!r} is to be made for how many classes?")
        student = create_model(student, num_classes=classes, in_chans=images.shape[1]).to(device)
    if isinstance(teacher, DistillationTeacher):
        teacher = NormalisedTeacher(teacher, student)
    hosted = open_guest(
        method, student, teacher, images, suite="timm", num_classes=num_classes, device=str(device), **settings
    )
    return HostedTask(student, hosted, device=torch.device(device), dtype=dtype)


def __getattr__(name: str) -> Any:
    """A method's own function, ``task`` with its first argument filled in."""
    if name.startswith("_") or name not in available():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return functools.partial(task, name)


class Timm(Suite):
    """timm's training tasks."""

    name = "timm"
    package = "timm"
    distribution = "timm"
    tested = ("1.0.31",)
    install = 'pip install "mekd-plugin[timm]"'
    next_step = (
        "from mekd_plugin.harness.timm import mekd, then task = mekd(student, teacher, images, budget=...) for a loop "
        "of yours, such as configs/timm_student.py"
    )

    def register(self) -> list[str]:
        """Nothing is to be registered: the functions of this module are the door; returns their full names."""
        return [f"{__name__}.{name}" for name in self.methods()]

    @contextmanager
    def metered(self, counted: Counted) -> Iterator[None]:
        """Within it, what timm's own distillation tasks ask a teacher made there is counted."""
        from timm.task import DistillationTeacher

        made: Any = DistillationTeacher.__init__

        @functools.wraps(made)
        def watched(teacher: DistillationTeacher, *args: Any, **kwargs: Any) -> None:
            made(teacher, *args, **kwargs)
            counted.watch(teacher)
            teacher.register_forward_pre_hook(note_features, with_kwargs=True)

        def note_features(teacher: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            counted.inner |= bool(kwargs.get("return_features", False) or args[1:2] == (True,))

        with replaced(DistillationTeacher, "__init__", watched):
            yield


SUITE = Timm()
