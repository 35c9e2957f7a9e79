"""What several figures share: runs by their labels, intervals, limits, the teacher's line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from mekd_plugin.bench.statistics import Interval, mean_interval, wilson_interval
from mekd_plugin.records import RunRecord

__all__ = ["Look", "by_label", "interval_of", "limit", "spread_of", "teacher_line"]

Look = dict[str, tuple[str, str]]
"""Colour and marker of each label."""


def by_label(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """The runs of each label, in order of first appearance."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(record.label or record.method, []).append(record)
    return groups


def interval_of(values: Sequence[float], runs: Sequence[RunRecord]) -> Interval:
    """Over the seeds; of a single run over its test images."""
    if len(values) == 1 and runs[0].test_images:
        return wilson_interval(values[0], runs[0].test_images)
    return mean_interval(values)


def spread_of(intervals: Sequence[Interval]) -> str:
    """What the bars about means are, in words for an axis: two seeds have no interval."""
    of_two = {interval.kind == "seeds" for interval in intervals}
    if of_two == {True, False}:
        return "95 % interval, or two seeds"
    return "two seeds" if True in of_two else "95 % interval"


def teacher_line(axes: Axes, teacher: float | None) -> None:
    """A dashed line at the teacher's accuracy, where it is known."""
    if teacher is not None:
        axes.axhline(100 * teacher, linestyle="--", linewidth=1.2, color=plt.rcParams["text.color"], label="teacher")


def limit(
    set_limits: Callable[[float, float], object], lowest: float, ends: Sequence[float], teacher: float | None
) -> None:
    """Limits that hold every point and interval, but never more than twice the points' own range below them."""
    highest = min(max([*ends, lowest, *([100 * teacher] if teacher is not None else [])]), 100.0)
    bottom = max(min([*ends, lowest]), lowest - 2 * max(highest - lowest, 0.5))
    margin = 0.06 * max(highest - bottom, 1.0)
    set_limits(max(bottom - margin, 0.0), min(highest + margin, 100.4))
