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
from mekd_plugin.files import writable_directory
from mekd_plugin.training.execution import Distillation, Evaluate, Run
from mekd_plugin.training.inputs import as_images, as_teacher, classes_of
from mekd_plugin.training.loop import stage_seed
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.signature import signature_of

__all__ = ["Distillation", "distill"]


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
        cache: directory in which runs share finished stages that need no query, such as a trained generator.
        progress: whether to show progress bars.
        tensorboard: whether to write event files to ``directory/tensorboard``.
        **hyperparameters: of the method, beside or instead of the preset's.

    Raises:
        InputError: a value cannot be used. UnknownName: no such method. NeedsNotMet: the method cannot work with this
        teacher. QueryBudgetExceeded: the budget is too small. CheckpointError: ``directory`` holds another run.
    """
    boundary = as_teacher(teacher, responses=responses, num_classes=num_classes, budget=budget)
    processes = Processes.join(device)
    edge = as_images(images, boundary)
    classes = classes_of(boundary, student, edge[:2], num_classes)
    settings = recipe or Recipe.preset(preset)
    with _own_randomness_and_threads(processes.device):
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
        run = Run(
            distiller=distiller,
            student=student,
            teacher=boundary,
            images=edge.to(processes.device),
            processes=processes,
            recipe=settings,
            seed=seed,
            directory=None if directory is None else writable_directory(Path(directory)),
            cache=None if cache is None else writable_directory(Path(cache)),
            validation=validation,
            signature=signature_of(
                method, preset, boundary, classes, settings, edge, seed, validation, hyperparameters
            ),
        )
        try:
            run.open(resume=resume, progress=progress, tensorboard=tensorboard, checkpoint_steps=checkpoint_steps)
            run.observe(evaluate, evaluate_steps, snapshots)
            return run.execute()
        finally:
            boundary.release()


@contextlib.contextmanager
def _own_randomness_and_threads(device: torch.device) -> Iterator[None]:
    """Leave the caller's random numbers and thread count as they were."""
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(threads)
