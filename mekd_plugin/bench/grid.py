"""The runs that a benchmark's settings expand into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from mekd_plugin.bench.run_spec import RunSpec
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.bench.teacher_names import digest_of_teacher, kind_of_teacher
from mekd_plugin.bench.values import canonical_kind, variant_of
from mekd_plugin.errors import InputError
from mekd_plugin.registry import distillers

__all__ = ["Cell", "cells", "expand"]


class Cell(NamedTuple):
    """A column of the grid: what tables call it, the method, its hyperparameters; of an object, a digest of itself."""

    label: str
    method: str
    hyperparameters: Mapping[str, Any]
    digest: str | None = None


def cells(config: BenchConfig) -> list[Cell]:
    """The methods of a grid, then its variants."""
    registry = distillers()
    given = {name: values for name, values in config.hyperparameters.items() if name != "recipe"}
    overrides = {registry.canonical(name): dict(values) for name, values in given.items()}
    names = [registry.canonical(name) for name in config.methods]
    plain = [Cell(name, name, overrides.get(name, {})) for name in names]
    named = [(label, variant_of(label, values, taken=())) for label, values in config.variants.items()]
    return plain + [
        Cell(label, found.method, {**overrides.get(found.method, {}), **found.settings}) for label, found in named
    ]


def expand(config: BenchConfig, *, device: str, columns: Sequence[Cell] | None = None) -> list[RunSpec]:
    """The runs of a grid. Seeds vary fastest, so that neighbours in the queue do not prepare the same thing.

    Args:
        config: the settings.
        device: the kind of device that ``config.device`` stands for on this machine.
        columns: methods and variants; None takes those of ``config``.

    Raises:
        InputError: a teacher that is trained here is to be sent another size than it learns from; or each seed is to
            have its own, and none is trained here.
    """
    trained = [teacher for teacher in config.teacher if kind_of_teacher(teacher) == "network"]
    if config.teacher_size is not None and trained:
        raise InputError(
            f"teacher_size={config.teacher_size}: {', '.join(trained)} is trained here, on images of the data's own "
            "size; leave it out, or name a teacher that is there already (a file, a service, a function)"
        )
    if config.teacher_per_seed and not trained:
        raise InputError(
            f"teacher_per_seed: {', '.join(config.teacher)} is there already, the same for every seed; leave it out, "
            "or name a network, which is then trained here"
        )
    recipe = dict(config.hyperparameters.get("recipe", {}))
    fraction = 0.1 if config.real_fraction is None and config.real_images is None else config.real_fraction
    axes = product(
        config.dataset,
        config.teacher,
        config.responses,
        config.answers,
        config.student,
        config.query_budget,
        cells(config) if columns is None else columns,
        config.seeds,
    )
    return [
        RunSpec(
            dataset=dataset,
            image_size=config.image_size,
            teacher=teacher,
            teacher_steps=config.teacher_steps if kind_of_teacher(teacher) == "network" else None,
            teacher_digest=digest_of_teacher(teacher),
            student=student,
            method=cell.method,
            responses=canonical_kind(responses),
            real_fraction=fraction,
            real_images=config.real_images,
            disjoint=config.disjoint,
            query_budget=budget or None,
            preset=config.preset,
            steps=config.steps,
            validation=config.validation,
            seed=seed,
            hyperparameters=cell.hyperparameters,
            recipe=recipe,
            device=device,
            threads=config.threads,
            label=cell.label,
            pool_dataset=config.pool_dataset,
            white_box=config.white_box,
            adapt=config.adapt,
            edge_dataset=config.edge_dataset,
            teacher_size=config.teacher_size,
            teacher_seed=seed if config.teacher_per_seed and kind_of_teacher(teacher) == "network" else 0,
            answers=answers,
            method_digest=cell.digest,
        )
        for dataset, teacher, responses, answers, student, budget, cell, seed in axes
    ]
