"""The one-call form: distil a teacher that can only be asked into a student of one's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mekd_plugin import registry
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import NeedsNotMet
from mekd_plugin.files import writable_directory
from mekd_plugin.training.execution import Distillation, Evaluate, Run
from mekd_plugin.training.hosting import Hosted
from mekd_plugin.training.inputs import as_images, as_teacher, classes_of
from mekd_plugin.training.loop import stage_seed
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.signature import signature_of

__all__ = ["Distillation", "distill", "host"]


def distill(
    student: nn.Module,
    teacher: BlackBox | Callable[[Tensor], Any],
    images: Tensor | Iterable[Any],
    method: str = "mekd",
    *,
    responses: str | None = None,
    num_classes: int | None = None,
    budget: int | None = None,
    preset: str = "quick",
    recipe: Recipe | None = None,
    seed: int = 0,
    directory: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    evaluate: Evaluate | None = None,
    evaluate_steps: Sequence[int] = (),
    validation: float = 0.02,
    snapshots: int = 0,
    checkpoint_steps: int = 250,
    log_steps: int = 50,
    cache: str | Path | None = None,
    progress: bool = True,
    tensorboard: bool = False,
    **hyperparameters: Any,
) -> Distillation:
    """Distil a teacher that can only be asked into ``student``, with the edge's unlabelled ``images``.

    Args:
        student: maps images ``(n, channels, height, width)`` to logits ``(n, C)``; trained in place.
        teacher: a :class:`BlackBox`, or a callable with ``responses`` and ``num_classes`` (and ``budget``) to wrap.
        images: unlabelled, ``(N, channels, height, width)`` in the teacher's value range: a tensor, a dataset, or a
            loader; of items that are tuples, the first entry.
        method: a name of :func:`mekd_plugin.available`.
        responses: see :class:`BlackBox`; only for a teacher that is none yet.
        num_classes: C; where it is None the teacher's, or the width of the student's output.
        budget: the most images that may be sent; only for a teacher that is no :class:`BlackBox` yet.
        preset: ``"quick"`` or ``"paper"``: hyperparameters of the method and, without ``recipe``, of the training.
        recipe: how the student is trained.
        seed: of everything random.
        directory: where to keep checkpoints, the bank, weights and metrics; None keeps nothing and cannot resume.
        resume: go on from what ``directory`` holds (an empty one starts).
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        evaluate: called with the student; its numbers go into the history.
        evaluate_steps: steps of the student, counted from 1, after which to evaluate; the last one always is.
        validation: share of the last bank's rows that the student is not trained on; its agreement with the teacher
            there needs no label and no further query. Fewer than 20 rows are not held out.
        snapshots: how many log-spaced copies of the student to keep in ``directory/snapshots``.
        checkpoint_steps: how often a training stage's state is written to ``directory``.
        log_steps: how often a training stage's scalars go into the history.
        cache: directory in which runs share finished stages that need no query, such as a trained generator.
        progress: whether to show progress bars.
        tensorboard: whether to write event files to ``directory/tensorboard``.
        **hyperparameters: of the method, beside or instead of the preset's.

    Raises:
        InputError: a value cannot be used.
        UnknownName: no such method.
        NeedsNotMet: the method cannot work with this teacher.
        QueryBudgetExceeded: the budget is too small.
        CheckpointError: ``directory`` holds another run.
    """
    with _open(
        student,
        teacher,
        images,
        method,
        responses=responses,
        num_classes=num_classes,
        budget=budget,
        preset=preset,
        recipe=recipe or Recipe.preset(preset),
        seed=seed,
        directory=directory,
        device=device,
        validation=validation,
        cache=cache,
        hyperparameters=hyperparameters,
    ) as run:
        run.open(
            resume=resume,
            progress=progress,
            tensorboard=tensorboard,
            checkpoint_steps=checkpoint_steps,
            log_steps=log_steps,
        )
        run.observe(evaluate, evaluate_steps, snapshots)
        return run.execute()


def host(
    student: nn.Module,
    teacher: BlackBox | Callable[[Tensor], Any],
    images: Tensor | Iterable[Any],
    method: str = "mekd",
    *,
    responses: str | None = None,
    num_classes: int | None = None,
    budget: int | None = None,
    preset: str = "quick",
    recipe: Recipe | None = None,
    seed: int = 0,
    directory: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    validation: float = 0.02,
    cache: str | Path | None = None,
    progress: bool = True,
    stepwise: bool = False,
    **hyperparameters: Any,
) -> Hosted:
    """Make ``method`` a guest in a loop of one's own, which steps the student.

    Every stage before the student's is trained here, and its questions are asked, so this may take minutes; then::

        for images, labels, numbers in hosted.loader(batch_size=64):
            loss = hosted.losses(student, hosted.rows(images, numbers))["loss"]
            ...  # your backward, your optimiser

    Args:
        student: as in :func:`distill`, and not changed here.
        teacher: as in :func:`distill`.
        images: as in :func:`distill`.
        method: as in :func:`distill`.
        responses: as in :func:`distill`.
        num_classes: as in :func:`distill`.
        budget: as in :func:`distill`.
        preset: as in :func:`distill`.
        recipe: whose precision and memory format the earlier stages take; the rest is the host's.
        seed: as in :func:`distill`.
        directory: where to keep what the earlier stages leave; with ``resume`` nothing is trained or asked twice.
        resume: as in :func:`distill`.
        device: as in :func:`distill`.
        validation: as in :func:`distill`.
        cache: as in :func:`distill`.
        progress: as in :func:`distill`.
        stepwise: leave also the earlier stages to the caller, who calls :meth:`Hosted.step` and
            :meth:`Hosted.finish_stage`.
        **hyperparameters: of the method, beside or instead of the preset's.

    Raises:
        NeedsNotMet: the method works in rounds, each of which needs the student of the last one.
        MekdError: as :func:`distill`.
    """
    with _open(
        student,
        teacher,
        images,
        method,
        responses=responses,
        num_classes=num_classes,
        budget=budget,
        preset=preset,
        recipe=recipe or Recipe(),
        seed=seed,
        directory=directory,
        device=device,
        validation=validation,
        cache=cache,
        hyperparameters=hyperparameters,
    ) as run:
        if run.distiller.needs.queries == "rounds":
            raise NeedsNotMet(
                f"{method} works in rounds, each of which needs the student of the last one, and a host's loop cannot "
                "give it back between them: use mekd_plugin.distill"
            )
        run.open(resume=resume, progress=progress)
        hosted = Hosted(run)
        if not stepwise:
            hosted.run_to_student()
        return hosted


@contextlib.contextmanager
def _open(
    student: nn.Module,
    teacher: BlackBox | Callable[[Tensor], Any],
    images: Tensor | Iterable[Any],
    method: str,
    *,
    responses: str | None,
    num_classes: int | None,
    budget: int | None,
    preset: str,
    recipe: Recipe,
    seed: int,
    directory: str | Path | None,
    device: str,
    validation: float,
    cache: str | Path | None,
    hyperparameters: dict[str, Any],
) -> Iterator[Run]:
    """A run whose parts fit together; an error within lets go of its directory."""
    boundary = as_teacher(teacher, responses=responses, num_classes=num_classes, budget=budget)
    processes = Processes.join(device)
    edge = as_images(images, boundary)
    classes = classes_of(boundary, student, edge[:2], num_classes)
    with processes.own_randomness(), _own_threads():
        torch.manual_seed(stage_seed(seed, "method"))
        distiller = registry.create(
            method,
            preset=preset,
            num_classes=classes,
            image_shape=(edge.shape[1], edge.shape[2], edge.shape[3]),
            seed=seed,
            **hyperparameters,
        )
        distiller.check(boundary)
        try:
            yield Run(
                distiller=distiller,
                student=student,
                teacher=boundary,
                images=edge.to(processes.device),
                processes=processes,
                recipe=recipe,
                seed=seed,
                directory=None if directory is None else writable_directory(Path(directory)),
                cache=None if cache is None else writable_directory(Path(cache)),
                validation=validation,
                signature=signature_of(
                    method, preset, boundary, classes, recipe, edge, seed, validation, hyperparameters
                ),
            )
        except BaseException:
            boundary.release()
            raise


@contextlib.contextmanager
def _own_threads() -> Iterator[None]:
    """Leave the caller's thread count as it was: a resumed run computes with that of its first life."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
