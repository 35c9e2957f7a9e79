"""The doors: distil a teacher that can only be asked in one call, or make a method a guest in a loop of your own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_flag, as_whole
from mekd_plugin.distiller import Distiller
from mekd_plugin.errors import InputError, NeedsNotMet
from mekd_plugin.training.distillation import Distillation
from mekd_plugin.training.execution import Evaluate
from mekd_plugin.training.hosting import Hosted
from mekd_plugin.training.preflight import preflight
from mekd_plugin.training.problem import Problem
from mekd_plugin.training.recipe import Recipe

__all__ = ["Distillation", "distill", "door", "host"]

Door = TypeVar("Door", bound=Callable[..., Any])


def door(function: Door) -> Door:
    """Show the attributes of :class:`Problem` in the signature of a function that takes them as ``**problem``.

    ``help()``, notebooks and the reference pages then list them, and the list is kept in one place.
    """
    signature = inspect.signature(function)
    own = [item for item in signature.parameters.values() if item.kind is not item.VAR_KEYWORD]
    taken = {item.name for item in own} | {"hyperparameters"}
    added = [
        inspect.Parameter(
            item.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if item.default is MISSING else item.default,
            annotation=item.type,
        )
        for item in fields(Problem)
        if item.name not in taken
    ]
    others = inspect.Parameter("hyperparameters", inspect.Parameter.VAR_KEYWORD, annotation=Any)
    function.__signature__ = signature.replace(parameters=[*own, *added, others])  # type: ignore[attr-defined]
    return function


@door
def distill(
    student: nn.Module,
    teacher: BlackBox | Callable[[Tensor], Any],
    images: Tensor | Iterable[Any] | None = None,
    method: str | type[Distiller] | Distiller = "mekd",
    *,
    directory: str | Path | None = None,
    resume: bool = False,
    evaluate: Evaluate | None = None,
    evaluate_steps: Sequence[int] = (),
    snapshots: int = 0,
    checkpoint_steps: int = 250,
    log_steps: int = 50,
    cache: str | Path | None = None,
    recorded: bool = True,
    progress: bool = True,
    tensorboard: bool = False,
    **problem: Any,
) -> Distillation:
    """Distil a teacher that can only be asked into ``student``, with the edge's unlabelled ``images``.

    Args:
        student: maps images ``(n, channels, height, width)`` to logits ``(n, C)``; trained in place.
        teacher: a :class:`BlackBox`, or a callable with ``responses`` and ``num_classes`` (and ``budget``) to wrap.
        images: unlabelled, ``(N, channels, height, width)`` in the teacher's value range: a tensor, a dataset, or a
            loader; of items that are tuples, the first entry. None for a method that needs none.
        method: a name of :func:`mekd_plugin.available`, a subclass of :class:`~mekd_plugin.distiller.Distiller`, or an
            instance of one.
        directory: where to keep checkpoints, the bank, weights and metrics; None keeps nothing and cannot resume.
        resume: go on from what ``directory`` holds (an empty one starts a new run).
        evaluate: called with the student; its numbers go into the history.
        evaluate_steps: steps of the student, counted from 1, after which to evaluate; the last one always is.
        snapshots: how many log-spaced copies of the student to keep in ``directory/snapshots``.
        checkpoint_steps: how often a training stage's state is written to ``directory``.
        log_steps: how often a training stage's scalars go into the history.
        cache: directory in which runs share finished stages that need no query, such as a trained generator.
        recorded: whether a GPU replays a step that it recorded as a CUDA graph; False for a student that draws random
            numbers or counts in Python, which a replay knows nothing of.
        progress: whether to show progress bars.
        tensorboard: whether to write event files to ``directory/tensorboard``.
        **problem: further attributes of :class:`~mekd_plugin.training.problem.Problem` (``responses``, ``budget``,
            ``preset``, ``recipe``, ``seed``, ``device``, ``validation``, ``pool``, ...), and the method's
            hyperparameters.

    Raises:
        InputError: a value cannot be used.
        UnknownName: there is no such method.
        NeedsNotMet: the method cannot work with this teacher.
        QueryBudgetExceeded: the budget is too small.
        CheckpointError: ``directory`` holds another run.
    """
    if evaluate is not None and not callable(evaluate):
        raise InputError(f"evaluate={evaluate!r}: expected a function from the student to names and numbers, or None")
    if isinstance(evaluate_steps, str) or not isinstance(evaluate_steps, Iterable):
        raise InputError(f"evaluate_steps={evaluate_steps!r}: expected a list of steps")
    evaluate_steps = [as_whole("evaluate_steps", step, at_least=0) for step in evaluate_steps]
    flags = {"resume": resume, "recorded": recorded, "progress": progress, "tensorboard": tensorboard}
    for name, flag in flags.items():
        as_flag(name, flag)
    checkpoint_steps = as_whole("checkpoint_steps", checkpoint_steps, at_least=1)
    log_steps = as_whole("log_steps", log_steps, at_least=1)
    snapshots = as_whole("snapshots", snapshots, at_least=0)
    kept = {"resume": resume, "tensorboard": tensorboard, "snapshots": snapshots}
    if directory is None and (useless := [name for name, given in kept.items() if given]):
        raise InputError(f"{' and '.join(useless)} without directory=: say where the run is kept")
    posed = Problem.of(problem, student=student, teacher=teacher, images=images, method=method)
    with posed.open(directory=directory, cache=cache) as run:
        run.check_budget()
        preflight(
            run.student,
            run.recipe,
            run.processes,
            image_shape=run.distiller.image_shape,
            num_classes=run.distiller.num_classes,
            value_range=run.teacher.value_range,
            dtype=run.images.dtype,
        )
        run.open(
            resume=resume,
            progress=progress,
            tensorboard=tensorboard,
            checkpoint_steps=checkpoint_steps,
            log_steps=log_steps,
            recorded=recorded,
        )
        run.observe(evaluate, evaluate_steps, snapshots)
        return run.execute()


@door
def host(
    student: nn.Module,
    teacher: BlackBox | Callable[[Tensor], Any],
    images: Tensor | Iterable[Any] | None = None,
    method: str | type[Distiller] | Distiller = "mekd",
    *,
    directory: str | Path | None = None,
    resume: bool = False,
    cache: str | Path | None = None,
    progress: bool = True,
    stepwise: bool = False,
    **problem: Any,
) -> Hosted:
    """Make ``method`` a guest in a loop of your own, which steps the student.

    Every stage before the student's is trained here, and its questions are asked, so this may take minutes; then::

        for images, labels, numbers in hosted.loader(batch_size=64):
            loss = hosted.losses(student, hosted.rows(images, numbers))["loss"]
            ...  # your backward, your optimiser

    Args:
        student: as in :func:`distill`, and not changed here.
        teacher: as in :func:`distill`.
        images: as in :func:`distill`.
        method: as in :func:`distill`.
        directory: where to keep what the earlier stages leave; with ``resume`` nothing is trained or asked twice.
        resume: as in :func:`distill`.
        cache: as in :func:`distill`.
        progress: as in :func:`distill`.
        stepwise: leave the earlier stages to the caller too, who calls :meth:`Hosted.step` and
            :meth:`Hosted.finish_stage`.
        **problem: as in :func:`distill`; of the ``recipe`` the earlier stages take precision and memory format, the
            rest of it is the host's.

    Raises:
        NeedsNotMet: the method works in rounds, each of which needs the student of the last one, or takes steps of its
            own with the student, which a host's loop cannot run.
        MekdError: as :func:`distill`.
    """
    for name, flag in (("resume", resume), ("progress", progress), ("stepwise", stepwise)):
        as_flag(name, flag)
    settings = {**problem, "recipe": Recipe() if problem.get("recipe") is None else problem["recipe"]}
    posed = Problem.of(settings, student=student, teacher=teacher, images=images, method=method)
    with posed.open(directory=directory, cache=cache) as run:
        name, needs = type(run.distiller).__name__, run.distiller.needs
        if needs.queries == "rounds":
            raise NeedsNotMet(
                f"{name} works in rounds, each of which needs the student of the last one, and a host's loop cannot "
                "give it back between them: use mekd_plugin.distill"
            )
        if needs.in_step:
            raise NeedsNotMet(
                f"{name} takes the student's steps itself, since it asks within them or makes several updates, and a "
                "host's loop takes its own: use mekd_plugin.distill"
            )
        run.open(resume=resume, progress=progress)
        hosted = Hosted(run)
        if not stepwise:
            hosted.run_to_student()
        return hosted
