"""Means and intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from scipy import stats

from mekd_plugin.errors import InputError
from mekd_plugin.records import RunRecord

__all__ = ["Interval", "mean_interval", "summarize", "wilson_interval"]


class Interval(NamedTuple):
    """An estimate and its interval.

    Attributes:
        mean: the estimate.
        low: lower end.
        high: upper end.
        values: how many values it comes from.
        kind: ``"t"`` over seeds; ``"wilson"`` over the test images of a single run, and ``"attack"`` over the images
            that a membership attack on it was made with, which say nothing about other seeds; ``"none"`` where neither
            is possible (then both ends are the estimate).
    """

    mean: float
    low: float
    high: float
    values: int
    kind: Literal["t", "wilson", "attack", "none"]


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Mean of at least one value, with Student's t interval where there are two or more.

    >>> mean_interval([0.9, 1.0]).mean
    0.95
    """
    if not values:
        raise InputError("no values to average: expected at least one")
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, mean, mean, 1, "none")
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(stats.t.ppf(0.5 + confidence / 2, count - 1)) * deviation / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count, "t")


def wilson_interval(share: float, trials: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of the share of ``trials`` that succeeded (Wilson 1927).

    Raises:
        InputError: a share outside [0, 1] or no trials.
    """
    if not 0 <= share <= 1 or trials < 1:
        raise InputError(f"share={share} of {trials} trials: expected a share in [0, 1] of at least one trial")
    interval = stats.binomtest(round(share * trials), trials).proportion_ci(confidence, method="wilson")
    return Interval(share, float(interval.low), float(interval.high), 1, "wilson")


def summarize(records: Iterable[RunRecord]) -> list[dict[str, Any]]:
    """One row for each label and setting, over its seeds, in order of first appearance.

    Accuracies and agreements are intervals as dicts; runs that failed, or that a rule takes out, are counted, with
    their reasons, and left out of the numbers.
    """
    groups: dict[tuple[Any, ...], list[RunRecord]] = {}
    for record in records:
        identity = (record.dataset, record.teacher, record.student, record.responses, record.budget, _label(record))
        groups.setdefault(identity, []).append(record)
    return [_row(group) for group in groups.values()]


def _row(group: list[RunRecord]) -> dict[str, Any]:
    first = group[0]
    done = [record for record in group if record.status == "finished"]
    failed = [record for record in group if record.status == "failed"]
    ruled_out = [record for record in group if record.status == "not applicable"]
    return {
        "dataset": first.dataset,
        "teacher": first.teacher,
        "student": first.student,
        "responses": first.responses,
        "budget": first.budget,
        "method": first.method,
        "label": _label(first),
        "finished": len(done),
        "failed": len(failed),
        "not_applicable": len(ruled_out),
        "errors": sorted({record.error or "unknown" for record in [*failed, *ruled_out]}),
        "real_images": _mean(record.real_images for record in done),
        "pool": first.pool,
        "leaves_edge": first.leaves_edge,
        "white_box": first.white_box,
        "teacher_accuracy": _mean(record.teacher_accuracy for record in done),
        "student_accuracy": _share(done, "student_accuracy"),
        "adapted_accuracy": _share(done, "adapted_accuracy"),
        "best_test_accuracy": _share(done, "best_test_accuracy"),
        "agreement": _share(done, "agreement"),
        "membership_auc": _attacked(done, "auc"),
        "membership_true_positives": _attacked(done, "true_positives"),
        "queries": _mean(record.queries.total for record in done),
        "evaluation_queries": _mean(record.queries.evaluation for record in done),
        "distinct": _mean(record.queries.distinct for record in done),
        "price": _mean(record.price for record in done),
        "seconds": _mean(record.seconds.prepare + record.seconds.distill for record in done),
        "peak_memory_mb": max((record.peak_memory_mb or 0.0 for record in done), default=None),
        "warnings": sorted({warning for record in done for warning in record.warnings}),
    }


def _label(record: RunRecord) -> str:
    return record.label or record.method


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _share(records: list[RunRecord], name: str) -> dict[str, Any] | None:
    values = [getattr(record, name) for record in records if getattr(record, name) is not None]
    if not values:
        return None
    if len(values) == 1 and records[0].test_images:
        return wilson_interval(values[0], records[0].test_images)._asdict()
    return mean_interval(values)._asdict()


def _attacked(records: list[RunRecord], name: str) -> dict[str, Any] | None:
    """A figure of the membership attacks; of a single run with the attack's own interval."""
    attacks = [record.sent["membership"] for record in records if record.sent is not None]
    found = [attack[name] for attack in attacks if attack is not None]
    if len(found) == 1:
        return Interval(found[0]["value"], found[0]["low"], found[0]["high"], 1, "attack")._asdict()
    return mean_interval([one["value"] for one in found])._asdict() if found else None
