"""The record of a run: its settings before anything is measured, and what a finished one measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mekd_plugin import registry
from mekd_plugin.adaptation import adaptation
from mekd_plugin.bench.audit import NOT_AUDITED
from mekd_plugin.bench.run_inputs import Method
from mekd_plugin.bench.run_spec import RunSpec
from mekd_plugin.data.datasets import ImageData
from mekd_plugin.distiller import Distiller, Needs
from mekd_plugin.errors import MekdError
from mekd_plugin.records import Queries, RunRecord, Seconds, processor_name
from mekd_plugin.training.run import Distillation

__all__ = ["adapted_on", "blank_record", "record_of"]


def blank_record(spec: RunSpec, methods: Mapping[str, Method] | None = None, **changes: Any) -> RunRecord:
    """A record with the run's settings, and nothing measured yet."""
    needs = _needs(spec, (methods or {}).get(spec.method, spec.method))
    return RunRecord(
        method=spec.method,
        label=spec.label,
        seed=spec.seed,
        dataset=spec.dataset if spec.edge_dataset is None else f"{spec.dataset} to {spec.edge_dataset}",
        teacher=spec.teacher,
        student=spec.student,
        responses=spec.responses,
        signature=spec.signature(),
        key=spec.key,
        budget=spec.query_budget,
        answers=spec.answers,
        split=_split(spec),
        pool=needs.pool,
        leaves_edge=needs.leaves_edge,
        white_box=needs.gradients,
        **{"status": "failed", **changes},
    )


def _split(spec: RunSpec) -> str:
    """Where the edge's images come from, as a record says it."""
    if spec.edge_dataset is not None:
        return "another data set"
    return "disjoint" if spec.disjoint else "teacher's training set"


def _needs(spec: RunSpec, method: str | Method) -> Needs:
    """What the run's method needs with its settings, or, where it cannot be made with them, by default."""
    world: dict[str, Any] = {} if isinstance(method, Distiller) else {"num_classes": 10, "image_shape": (1, 32, 32)}
    try:
        return registry.create(method, preset=spec.preset, **world, **spec.hyperparameters).needs
    except MekdError:
        return registry.distillers().get(method).needs if isinstance(method, str) else method.needs


def adapted_on(data: ImageData, record: RunRecord, student: nn.Module) -> RunRecord:
    """The record, with the accuracy of answers that were adapted to the test images, and a warning where none were.

    The images come in a random order, the same for all: a folder's order, by class, would help.
    """
    order = torch.randperm(len(data.test_images), generator=torch.Generator().manual_seed(0))
    found = adaptation(student, data.test_images[order])
    right = found.probabilities.argmax(dim=1) == data.test_labels[order]
    said = [] if all(not reason for _, reason in found.groups) else [str(found)]
    return replace(record, adapted_accuracy=float(right.float().mean()), warnings=[*record.warnings, *said])


def record_of(
    blank: RunRecord,
    result: Distillation,
    *,
    last: dict[str, float],
    teacher_accuracy: float | None,
    real_images: int,
    test_images: int,
    evaluation: int = 0,
    calibration_error: float | None = None,
) -> RunRecord:
    """The record of a finished run.

    Args:
        blank: its settings.
        result: the distillation's.
        last: ``{"accuracy", "agreement"}`` of the student on the test set; without ``"agreement"`` where the teacher
            was not asked about it, and empty where there is no test set.
        teacher_accuracy: on the test set; None where it was not asked.
        real_images: how many the edge held.
        test_images: size of the test set.
        evaluation: test images that the teacher was asked about outside the budget, for all runs together.
        calibration_error: of the student on the test set.
    """
    generator = result.report.get("generator")
    points = {entry["step"]: entry for entry in result.history if entry["stage"] == "evaluation"}
    points[result.steps] = {"step": result.steps, **last}
    names = ("step", *last)
    curve = [{name: points[step][name] for name in names} for step in sorted(points)] if last else []
    return replace(
        blank,
        status="finished",
        signature=result.signature,
        teacher_accuracy=teacher_accuracy,
        student_accuracy=last.get("accuracy"),
        best_test_accuracy=max((point["accuracy"] for point in curve if "accuracy" in point), default=None),
        agreement=last.get("agreement"),
        calibration_error=calibration_error,
        held_out_agreement=result.held_out_agreement,
        queries=replace(Queries.from_json(result.ledger.as_record()), evaluation=evaluation),
        real_images=real_images,
        generator=None if generator is None else {**NOT_AUDITED, **generator},
        steps=result.steps,
        seconds=Seconds.from_json(result.seconds),
        processor=f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}",
        peak_memory_mb=round(result.peak_memory_mb, 1),
        test_images=test_images,
        curve=curve,
        warnings=list(result.report.get("warnings", [])),
    )
