"""A grid looked at as a whole before anything is trained or asked: what no run can use, and what single runs cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mekd_plugin import registry
from mekd_plugin.bench.comparisons import Comparison, resolved
from mekd_plugin.bench.run_inputs import Method, Place, edge_of, learnt_by_teacher, load_data, pool_of, recipe_of
from mekd_plugin.bench.run_spec import RunSpec
from mekd_plugin.bench.teacher_names import ASKED, kind_of_teacher
from mekd_plugin.bench.teachers import load_teacher
from mekd_plugin.blackbox.degradation import Degradation
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.blackbox.whitebox import WhiteBox
from mekd_plugin.data.datasets import ImageData
from mekd_plugin.distiller import Distiller
from mekd_plugin.errors import InputError, MekdError, NeedsNotMet
from mekd_plugin.networks import build
from mekd_plugin.rows import Shard
from mekd_plugin.training.inputs import check_student, classes_of
from mekd_plugin.training.preflight import preflight
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.recipe import Recipe

__all__ = ["check_grid"]


def check_grid(
    specs: Sequence[RunSpec],
    place: Place,
    methods: Mapping[str, Method],
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    comparisons: Sequence[Comparison] = (),
) -> dict[str, str]:
    """Look at every run's settings without training or asking.

    Args:
        specs: the runs.
        place: where they would work.
        methods: classes and instances by the names that stand for them.
        overrides: hyperparameters by method, of which no run may use some: those are looked at too.
        comparisons: of the runs' labels.

    Returns:
        The keys of the runs that a rule takes out, each with the reason: a method that needs what this teacher does not
        answer, or a budget that buys nothing.

    Raises:
        MekdError: something that no run could use: a name, a file, a value, a student that does not fit the data, or
            a pool of images in another shape.
        NeedsNotMet: rules take out every run.
    """
    _check_unused(overrides or {}, {spec.method for spec in specs})
    resolved(comparisons, (spec.label for spec in specs))
    ruled_out: dict[str, str] = {}
    known: dict[tuple[object, ...], str | None] = {}
    students = set[tuple[object, ...]]()
    for spec in specs:
        identity = (
            spec.dataset, spec.image_size, spec.teacher, spec.student, spec.label, spec.responses, spec.answers,
            spec.query_budget, spec.seed if spec.disjoint else None,
        )  # fmt: skip
        student = (spec.dataset, spec.edge_dataset, spec.image_size, spec.student)
        if student not in students:
            _check_student(spec, load_data(spec, place), recipe_of(spec))
            students.add(student)
        if identity not in known:
            known[identity] = _reason(spec, place, methods.get(spec.method, spec.method))
        if (reason := known[identity]) is not None:
            ruled_out[spec.key] = reason
    if specs and len(ruled_out) == len(specs):
        raise NeedsNotMet("no run of this grid can be done: " + "; ".join(dict.fromkeys(ruled_out.values())))
    return ruled_out


def _check_unused(overrides: Mapping[str, Mapping[str, Any]], used: set[str]) -> None:
    """Refuse hyperparameters that a method does not have, though no run is of that method."""
    for name, settings in overrides.items():
        if name != "recipe" and registry.method_name(name) not in used:
            try:
                registry.create(name, num_classes=10, image_shape=(1, 32, 32), **settings)
            except MekdError as error:
                raise type(error)(f"hyperparameters of {name}, which no run of this grid uses: {error}") from error


def _check_student(spec: RunSpec, data: ImageData, recipe: Recipe) -> None:
    """Refuse a student that its runs would refuse, once their teacher was trained and had answered.

    It is tried on the CPU: a benchmark leaves its GPUs to its workers.
    """
    student = build(spec.student, data.num_classes, data.image_shape, seed=spec.seed)
    asked = _stand_in(spec, data.num_classes)
    alone = Processes(torch.device("cpu"), Shard())
    try:
        check_student(student)
        with alone.own_randomness():
            classes_of(asked, student, data.image_shape, data.num_classes)
        preflight(
            student,
            recipe,
            alone,
            image_shape=data.image_shape,
            num_classes=data.num_classes,
            value_range=asked.value_range,
        )
    except InputError as error:
        raise InputError(f"student {spec.student} on {spec.edge_dataset or spec.dataset}: {error}") from error


def _stand_in(spec: RunSpec, num_classes: int) -> BlackBox:
    """A teacher of the run's kind of responses that nobody asks."""
    return BlackBox(lambda images: torch.zeros(len(images), num_classes), spec.responses, num_classes)


def _reason(spec: RunSpec, place: Place, method: str | Method) -> str | None:
    """Why a run is not applicable; None where it is."""
    data = load_data(spec, place)
    edge = edge_of(spec, data).images
    learnt_by_teacher(spec, place, data)
    recipe = recipe_of(spec)
    pool = pool_of(spec, place)
    if kind_of_teacher(spec.teacher) == "network":
        build(spec.teacher, data.num_classes, data.image_shape)
    else:
        load_teacher(spec.teacher, num_classes=data.num_classes, image_shape=spec.teacher_shape(data.image_shape))
    settings = {} if isinstance(method, Distiller) else {"seed": spec.seed}
    distiller = registry.create(
        method,
        preset=spec.preset,
        num_classes=data.num_classes,
        image_shape=data.image_shape,
        **settings,
        **spec.hyperparameters,
    )
    asked: BlackBox
    if spec.white_box and (spec.responses == "hard" or kind_of_teacher(spec.teacher) in ASKED):
        return f"a white box is a module that answers scores: {spec.teacher} with {spec.responses} responses is not"
    if spec.white_box and spec.answers != "full":
        return f"answers={spec.answers} of a white box, whose module answers in full to whoever differentiates it"
    if spec.white_box:
        asked = WhiteBox(nn.Identity(), spec.responses, data.num_classes)
    else:
        asked = _stand_in(spec, data.num_classes)
    try:
        Degradation.parse(spec.answers).check(asked.responses, data.num_classes)
        distiller.check(asked)
    except NeedsNotMet as error:
        return str(error)
    if distiller.needs.pool == "other domain" and pool is None:
        return f"{spec.label} asks about images of another domain: name them, --pool-dataset"
    if distiller.needs.pool == "other domain" and pool is not None and tuple(pool.shape[1:]) != data.image_shape:
        raise InputError(
            f"pool_dataset={spec.pool_dataset} has images of {tuple(pool.shape[1:])}, and {spec.label} is to ask about "
            f"such as {spec.edge_dataset or spec.dataset} has, {data.image_shape}: image_size= scales both"
        )
    if spec.query_budget is not None and spec.query_budget < 2:
        return f"a budget of {spec.query_budget} buys nothing: a method asks about at least 2 images"
    drawn_from = {"edge": edge, "other domain": pool, "none": None}[distiller.needs.pool]
    try:
        distiller.check_budget(spec.query_budget, 0 if drawn_from is None else len(drawn_from))
        distiller.check_training(spec.query_budget, recipe.steps, recipe.batch_size)
    except NeedsNotMet as error:
        return str(error)
    return None
