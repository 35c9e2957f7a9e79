"""A problem: a student, a teacher that can only be asked, images, a method, and everything that decides the result."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from mekd_plugin import registry
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_flag, as_number, as_path, as_seed, as_shape
from mekd_plugin.distiller import Distiller
from mekd_plugin.errors import InputError, NeedsNotMet, QueryBudgetExceeded
from mekd_plugin.files import writable_directory
from mekd_plugin.training.execution import Run
from mekd_plugin.training.inputs import as_images, as_teacher, check_student, classes_of, shape_without_images
from mekd_plugin.training.loop import stage_seed
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.signature import signature_of

__all__ = ["Problem"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What :func:`mekd_plugin.distill`, :func:`mekd_plugin.host` and :func:`mekd_plugin.plan` are asked to solve.

    Attributes:
        student: maps images ``(n, channels, height, width)`` to logits ``(n, C)``.
        teacher: a :class:`BlackBox`, or a callable with ``responses`` and ``num_classes`` (and ``budget``) to wrap.
        images: the edge's, unlabelled, ``(N, channels, height, width)`` in the teacher's value range: a tensor, a
            dataset, or a loader; of items that are tuples, the first entry. Or a folder of image files, or a list of
            files or PIL images, which are brought to ``image_shape``. None for a method that needs none.
        method: a name of :func:`mekd_plugin.available`; or a subclass of :class:`~mekd_plugin.distiller.Distiller`, or
            an instance of one, of which each run takes a copy.
        responses: see :class:`BlackBox`; only for a teacher that is not one yet.
        num_classes: C; where it is None the teacher's, or the width of the student's output.
        budget: the most images that may be sent; only for a teacher that is not a :class:`BlackBox` yet.
        preset: ``"quick"``, ``"fast"``, ``"thorough"`` or ``"paper"``: hyperparameters of the method
            and, without ``recipe``, of the training.
        recipe: how the student is trained.
        seed: the seed of everything random.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        validation: share of the last bank's rows that the student is not trained on, in [0, 1); its agreement with the
            teacher there needs no label and no further query. Fewer than 20 rows are not held out.
        pool: images of another domain, in the same form as ``images``, for a method that asks about those.
        image_shape: ``(channels, height, width)`` where there are no images, or where they come from files, which are
            then scaled to it; None asks the student, and for files without an answer keeps their own size.
        probe: whether a teacher that is a function is asked about one made-up image before a method that asks late
            (``needs.asks_late``) trains anything; it counts, for the stage ``"probe"``.
        classes: names of the classes, see :class:`BlackBox`; only for a teacher that is not one yet.
        teacher_size: ``(height, width)``, or the side of a square, to which images are brought before they are sent,
            see :class:`BlackBox`; only for a teacher that is not one yet. All else stays in the size of ``images``.
        cost_per_1000: price of 1,000 images, in any currency; only for a teacher that is not a :class:`BlackBox` yet.
        cost_limit: the most that a student may cost, in that currency, beside ``budget``, evaluations aside; likewise.
        hyperparameters: the method's, beside or instead of the preset's.
    """

    student: nn.Module
    teacher: BlackBox | Callable[[Tensor], Any]
    images: Tensor | Iterable[Any] | None = None
    method: str | type[Distiller] | Distiller = "mekd"
    responses: str | None = None
    num_classes: int | None = None
    budget: int | None = None
    preset: str = "quick"
    recipe: Recipe | None = None
    seed: int = 0
    device: str = "auto"
    validation: float = 0.02
    pool: Tensor | Iterable[Any] | None = None
    image_shape: tuple[int, int, int] | None = None
    probe: bool = True
    classes: Sequence[str] | None = None
    teacher_size: int | tuple[int, int] | None = None
    cost_per_1000: float | None = None
    cost_limit: float | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Mapping[str, Any], **named: Any) -> Self:
        """A problem from its attributes; everything else in ``settings`` is a hyperparameter of the method."""
        known = {item.name for item in fields(cls)} - {"hyperparameters"}
        own = {name: value for name, value in settings.items() if name in known}
        others = {name: value for name, value in settings.items() if name not in known}
        return cls(**named, **own, hyperparameters=others)

    @contextlib.contextmanager
    def open(self, *, directory: str | Path | None = None, cache: str | Path | None = None) -> Iterator[Run]:
        """A run whose parts fit together; an error within lets go of its directory.

        Args:
            directory: the run's; None keeps nothing.
            cache: directory in which runs share finished stages that need no query; None shares nothing.

        Raises:
            MekdError: as :func:`mekd_plugin.distill`; nothing was asked.
        """
        check_student(self.student)
        seed = as_seed("seed", self.seed)
        probe = as_flag("probe", self.probe)
        folder = None if directory is None else as_path("directory", directory)
        shared = None if cache is None else as_path("cache", cache)
        validation = as_number("validation", self.validation, at_least=0, below=1)
        recipe = Recipe.preset(self.preset) if self.recipe is None else self.recipe
        if not isinstance(recipe, Recipe):
            raise InputError(f"recipe={recipe!r}: expected a mekd_plugin.Recipe, such as Recipe(steps=2000), or None")
        boundary = as_teacher(
            self.teacher,
            responses=self.responses,
            num_classes=self.num_classes,
            budget=self.budget,
            classes=self.classes,
            teacher_size=self.teacher_size,
            cost_per_1000=self.cost_per_1000,
            cost_limit=self.cost_limit,
        )
        processes = Processes.join(self.device)
        wanted = self.image_shape or getattr(self.student, "image_shape", None)
        edge = None if self.images is None else as_images(self.images, boundary, image_shape=wanted)
        pool = None if self.pool is None else as_images(self.pool, boundary, name="pool", image_shape=wanted)
        shape = shape_without_images(self.student, self.image_shape) if edge is None else _shape(edge, self.image_shape)
        classes = classes_of(boundary, self.student, shape, self.num_classes)
        boundary.foresee(shape, classes)
        boundary.expect_classes(classes)
        with processes.own_randomness(), _own_threads():
            torch.manual_seed(stage_seed(seed, "method"))
            distiller = registry.create(
                self.method,
                preset=self.preset,
                num_classes=classes,
                image_shape=shape,
                seed=seed,
                **self.hyperparameters,
            )
            distiller.check(boundary)
            images = _from_pool(distiller, edge, pool, boundary, shape)
            distiller.check_budget(boundary.ledger.budget, len(images))
            settings = self.hyperparameters
            if isinstance(self.method, Distiller):
                settings = registry.settings_of(self.method)
            run = None
            try:
                run = Run(
                    distiller=distiller,
                    student=self.student,
                    teacher=boundary,
                    images=images.to(processes.device),
                    processes=processes,
                    recipe=recipe,
                    seed=seed,
                    directory=None if folder is None else writable_directory(folder),
                    cache=None if shared is None else writable_directory(shared),
                    validation=validation,
                    probes=probe and distiller.needs.asks_late and boundary.is_probed,
                    signature=signature_of(
                        registry.method_name(self.method),
                        self.preset,
                        boundary,
                        classes,
                        recipe,
                        images,
                        seed,
                        validation,
                        settings,
                    ),
                )
                yield run
            except (InputError, NeedsNotMet, QueryBudgetExceeded) as refusal:
                if run is not None:
                    run.withdraw(refusal)
                raise
            except BaseException:
                if run is not None:
                    run.let_go()
                raise


def _shape(edge: Tensor, declared: tuple[int, int, int] | None) -> tuple[int, int, int]:
    channels, height, width = edge.shape[1:]
    if declared is not None and as_shape("image_shape", declared) != (channels, height, width):
        raise InputError(f"image_shape={declared}, but the images are {(channels, height, width)}: leave it out")
    return channels, height, width


def _from_pool(
    distiller: Distiller, edge: Tensor | None, pool: Tensor | None, teacher: BlackBox, shape: tuple[int, int, int]
) -> Tensor:
    """The images that the method may draw from, as its ``needs.pool`` says."""
    name, wanted = type(distiller).__name__, distiller.needs.pool
    if wanted == "none":
        return torch.empty(0, *shape)
    if wanted == "other domain":
        if pool is None:
            raise InputError(f"{name} asks about images of another domain: hand them in, pool=images")
        if tuple(pool.shape[1:]) != shape:
            raise InputError(
                f"pool holds images of {tuple(pool.shape[1:])}: expected {shape}, as teacher and student take"
            )
        return pool
    if edge is None:
        raise InputError(
            f"{name} learns from the edge's unlabelled images, and images=None: hand in at least 2 of them"
        )
    return edge


@contextlib.contextmanager
def _own_threads() -> Iterator[None]:
    """Leave the caller's thread count as it was: a resumed run computes with that of its first life."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
