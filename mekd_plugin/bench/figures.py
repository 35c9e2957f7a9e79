"""Figures of a benchmark: what they show, as plain numbers, apart from how they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from mekd_plugin.bench.figure_parts import Look, by_label, interval_of, limit, spread_of, teacher_line
from mekd_plugin.bench.public_spending import public_spending
from mekd_plugin.bench.query_frontier import draw_spending, spending
from mekd_plugin.bench.statistics import Interval
from mekd_plugin.plotting import Picture, Theme, colours, figure_style, markers, picture, png
from mekd_plugin.records import RunRecord

__all__ = ["Curve", "Dots", "Sent", "curves", "dots", "draw_all", "draw_pictures", "sent"]

_BAND = 0.18


class Dots(NamedTuple):
    """Accuracies of one method: each seed's, and their interval."""

    method: str
    values: list[float]
    interval: Interval


class Curve(NamedTuple):
    """Mean test accuracy of one method over its student's steps, and the seeds' lowest and highest."""

    method: str
    steps: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


class Sent(NamedTuple):
    """Images that one method sent: ``(n, height, width, channels)`` uint8, and the class that was answered."""

    method: str
    images: np.ndarray
    labels: np.ndarray


def dots(records: Sequence[RunRecord]) -> list[Dots]:
    """Each method's runs."""
    found = []
    for method, runs in by_label(records).items():
        values = [run.student_accuracy for run in runs if run.student_accuracy is not None]
        if values:
            found.append(Dots(method, values, interval_of(values, runs)))
    return found


def curves(records: Sequence[RunRecord]) -> list[Curve]:
    """Each method's learning curve at the steps that all of its seeds have."""
    found = []
    for method, runs in by_label(records).items():
        points = [{point["step"]: point["accuracy"] for point in run.curve} for run in runs if run.curve]
        steps = sorted(set.intersection(*(set(run) for run in points))) if points else []
        if steps:
            values = np.array([[run[step] for step in steps] for run in points])
            mean, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
            found.append(Curve(method, steps, mean.tolist(), low.tolist(), high.tolist()))
    return found


def sent(records: Sequence[RunRecord], directory: Callable[[str], Path]) -> list[Sent]:
    """What each method's first seed sent, where it was kept in ``sent.npz`` of the run's directory."""
    found = []
    for method, runs in by_label(records).items():
        path = directory(runs[0].key) / "sent.npz"
        if path.exists():
            with np.load(path) as kept:
                found.append(Sent(method, kept["images"], kept["labels"]))
    return found


def draw_all(
    records: Sequence[RunRecord],
    every_budget: Sequence[RunRecord],
    directory: Callable[[str], Path],
    *,
    per_1000: float | None,
    theme: Theme,
) -> dict[str, bytes]:
    """PNG files by name (without suffix); a figure without data is left out.

    The figure over the queries has the frontier, and what public code spends, where there are several budgets.

    Args:
        records: runs that can be compared, of one budget.
        every_budget: the same at all budgets, for the figure over the queries.
        directory: gives a run's directory by its key.
        per_1000: price of 1,000 queries; None draws no price axis.
        theme: light or dark background.
    """
    with figure_style(theme):
        return {
            name: png(draw()) for name, draw in _drawings(records, every_budget, directory, per_1000, theme).items()
        }


def draw_pictures(
    records: Sequence[RunRecord],
    every_budget: Sequence[RunRecord],
    directory: Callable[[str], Path],
    *,
    per_1000: float | None,
    theme: Theme,
    names: Sequence[str] | None = None,
) -> dict[str, Picture]:
    """The same as PNG and as SVG; only some of them where ``names`` are given."""
    with figure_style(theme):
        drawings = _drawings(records, every_budget, directory, per_1000, theme)
        return {name: picture(draw()) for name, draw in drawings.items() if names is None or name in names}


def _drawings(
    records: Sequence[RunRecord],
    every_budget: Sequence[RunRecord],
    directory: Callable[[str], Path],
    per_1000: float | None,
    theme: Theme,
) -> dict[str, Callable[[], Figure]]:
    done = [record for record in records if record.status == "finished"]
    every = [record for record in every_budget if record.status == "finished"]
    known = {record.seed: record.teacher_accuracy for record in [*every, *done] if record.teacher_accuracy is not None}
    teacher = fmean(known.values()) if known else None  # seeds may have teachers of their own
    public = public_spending(every[0].dataset, every[0].responses) if every else []
    # Fixed by the methods, so that a method keeps its colour in every figure.
    methods = list(by_label(every))
    look = dict(zip(methods, zip(colours(len(methods), theme), markers(len(methods)), strict=True), strict=True))
    drawings: dict[str, tuple[Sequence[object], Callable[..., Figure]]] = {
        "accuracy": (dots(done), partial(_draw_dots, teacher=teacher)),
        "learning_curves": (curves(done), partial(_draw_curves, teacher=teacher)),
        "accuracy_against_queries": (
            spending(every),
            partial(draw_spending, teacher=teacher, per_1000=per_1000, public=public),
        ),
        "images_sent": (sent(done, directory), _draw_sent),
    }
    return {name: partial(draw, data, look=look) for name, (data, draw) in drawings.items() if data}


def _draw_dots(data: Sequence[Dots], *, look: Look, teacher: float | None) -> Figure:
    figure, axes = plt.subplots(figsize=(6.4, 1.4 + 0.5 * len(data)))
    for row, entry in enumerate(data):
        colour, marker = look[entry.method]
        mean, low, high = (100 * value for value in entry.interval[:3])
        axes.plot([low, high], [row, row], color=colour, linewidth=2.4, solid_capstyle="round")
        axes.plot([mean], [row], marker=marker, color=colour, markersize=9, linestyle="none")
        jitter = np.linspace(-0.16, 0.16, len(entry.values)) if len(entry.values) > 1 else [0.0]
        axes.plot(
            [100 * value for value in entry.values],
            row + 0.26 + 0.3 * np.asarray(jitter),
            "|",
            color=colour,
            markersize=7,
            markeredgewidth=1.6,
            alpha=0.8,
        )
    if teacher is not None:
        axes.axvline(100 * teacher, linestyle="--", linewidth=1.2, color=plt.rcParams["text.color"])
        axes.annotate(
            f"teacher {100 * teacher:.2f}",
            (100 * teacher, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=9,
        )
    axes.set_yticks(range(len(data)), [entry.method for entry in data])
    axes.set_ylim(len(data) - 0.35, -0.6)
    axes.grid(axis="y", visible=False)
    lowest = min(min(entry.values) for entry in data) * 100
    limit(axes.set_xlim, lowest, [100 * end for entry in data for end in entry.interval[1:3]], teacher)
    axes.set_xlabel(f"test accuracy, %  (mean, {spread_of([entry.interval for entry in data])}; | each seed)")
    return figure


def _draw_curves(data: Sequence[Curve], *, look: Look, teacher: float | None) -> Figure:
    figure, axes = plt.subplots(figsize=(6.4, 4.2))
    for curve in data:
        colour, marker = look[curve.method]
        low, mean, high = (100 * np.asarray(values) for values in (curve.low, curve.mean, curve.high))
        axes.fill_between(curve.steps, low, high, color=colour, alpha=_BAND, linewidth=0)
        axes.plot(curve.steps, mean, color=colour, marker=marker, markersize=5, label=curve.method)
    teacher_line(axes, teacher)
    axes.set_xlabel("student steps")
    axes.set_ylabel("test accuracy, %  (mean; band: all seeds)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    last = [value for curve in data for value in curve.low[len(curve.low) // 3 :]]
    # The first points of a run are near chance and would press everything else into a line.
    limit(axes.set_ylim, 100 * min(last), [100 * value for curve in data for value in curve.high], teacher)
    axes.legend(loc="lower right")
    return figure


def _draw_sent(data: Sequence[Sent], *, look: Look) -> Figure:
    columns = max(len(entry.labels) for entry in data)
    figure, grid = plt.subplots(len(data), columns, figsize=(6.4, 0.35 + 0.72 * len(data)), squeeze=False)
    for axes_row, entry in zip(grid, data, strict=True):
        for index, axes in enumerate(axes_row):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if index >= len(entry.labels):
                continue
            axes.set_title(f"{entry.labels[index]}", fontsize=8, fontweight="normal", loc="center", pad=2)
            image = entry.images[index]
            axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
        axes_row[0].set_ylabel(entry.method.replace("_", "\n"), rotation=0, ha="right", va="center", fontsize=9)
    return figure
