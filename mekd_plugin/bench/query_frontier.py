"""The query frontier: which accuracy is reached for how many queries, what that costs, and what public code spends."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from mekd_plugin.bench.figure_parts import Look, by_label, interval_of, limit, spread_of, teacher_line
from mekd_plugin.bench.pricing import format_price
from mekd_plugin.bench.public_spending import PublicSpending
from mekd_plugin.bench.statistics import Interval
from mekd_plugin.records import RunRecord

__all__ = ["Spending", "draw_spending", "frontier", "spending"]

_FEW = 6
_MANY_TICKS = 7
_WORST, _BEST = 1.0, 99.95
"""Ends of the axis of odds, %: a share of 0 or 1 has no place on one."""


class Spending(NamedTuple):
    """Accuracy of one method against what it asked: a point for each budget, in order of queries.

    Attributes:
        method: its label.
        queries: asked in fact, the mean over the seeds.
        intervals: of the accuracies over the seeds.
        private: whether no real image, nor a mixture of some, left the edge.
    """

    method: str
    queries: list[float]
    intervals: list[Interval]
    private: bool = False


def spending(records: Sequence[RunRecord]) -> list[Spending]:
    """Each method's accuracy against its queries; runs that asked nothing have no place on a logarithmic axis."""
    found = []
    for method, runs in by_label(records).items():
        points = []
        for budget in dict.fromkeys(run.budget for run in runs):
            group = [run for run in runs if run.budget == budget and run.student_accuracy is not None]
            asked = [run.queries.total for run in group]
            if group and min(asked) > 0:
                values = [run.student_accuracy for run in group if run.student_accuracy is not None]
                points.append((sum(asked) / len(asked), interval_of(values, group)))
        if points:
            points.sort(key=lambda point: point[0])
            private = runs[0].leaves_edge in ("synthetic images", "nothing of the edge")
            found.append(Spending(method, [point[0] for point in points], [point[1] for point in points], private))
    return found


def frontier(data: Sequence[Spending]) -> list[tuple[float, float]]:
    """The points ``(queries, mean accuracy)`` that no other one beats with as many queries or fewer.

    It is the best of many noisy means, so it lies a little high; which method is better is what comparisons say.

    >>> def found(method, *points):
    ...     return Spending(method, [x for x, _ in points], [Interval(y, y, y, 1, "none") for _, y in points])
    >>> frontier([found("a", (100, 0.5), (900, 0.7)), found("b", (100, 0.6), (500, 0.55))])
    [(100, 0.6), (900, 0.7)]
    """
    every = [(x, interval.mean) for one in data for x, interval in zip(one.queries, one.intervals, strict=True)]
    best: list[tuple[float, float]] = []
    for x, mean in sorted(every, key=lambda point: (point[0], -point[1])):
        if not best or mean > best[-1][1]:
            best.append((x, mean))
    return best


def draw_spending(
    data: Sequence[Spending],
    *,
    look: Look,
    teacher: float | None,
    per_1000: float | None,
    public: Sequence[PublicSpending] = (),
) -> Figure:
    """Accuracy against queries; with several budgets, the frontier too.

    Args:
        data: the methods.
        look: their colours and markers.
        teacher: its accuracy.
        per_1000: price of 1,000 queries, for the axis above; None draws none.
        public: what public code spends on the same data set, marked by strokes.
    """
    several = any(len(entry.queries) > 1 for entry in data)
    public = public if several else ()
    beside = len(data) > _FEW or bool(public)  # a legend within would hide something
    figure, axes = plt.subplots(figsize=(9.6, 5.6) if beside else (6.4, 4.6))
    axes.set_xscale("log")
    ends = [100 * end for entry in data for interval in entry.intervals for end in interval[1:3]]
    every = [*(queries for entry in data for queries in entry.queries), *(one.asked for one in public)]
    axes.set_xlim(min(every) / 1.8, max(every) * 1.8)
    if several:
        best = frontier(data)
        x, y = [*(point[0] for point in best), axes.get_xlim()[1]], [*(100 * point[1] for point in best)]
        ink = plt.rcParams["text.color"]
        axes.plot(
            x, [*y, y[-1]], drawstyle="steps-post", color=ink, alpha=0.18, linewidth=6, label="frontier", zorder=1
        )
    for index, entry in enumerate(data):
        _draw_method(
            axes, entry, look[entry.method], shift=1 + (0.012 if beside else 0.03) * (index - (len(data) - 1) / 2)
        )
    teacher_line(axes, teacher)
    means = [100 * interval.mean for entry in data for interval in entry.intervals]
    odds = min(means) < 80 and max(means) > 95  # where the good ones would lie on top of each other
    if odds:
        _odds_axis(axes, ends, teacher)
    else:
        limit(axes.set_ylim, min(means), ends, teacher)
    _mark(axes, public)
    _queries_axis(axes)
    axes.set_xlabel("queries: images sent to the teacher (logarithmic)")
    spread = spread_of([interval for entry in data for interval in entry.intervals])
    axes.set_ylabel(f"test accuracy, %  ({'scale of odds; ' if odds else ''}mean, {spread})")
    if per_1000:
        _price_axis(axes, per_1000)
    if beside:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
    else:
        axes.legend(loc="lower right")
    return figure


def _draw_method(axes: Axes, entry: Spending, look: tuple[str, str], shift: float) -> None:
    """One method; methods that spend the same budget stand side by side, shifted by a few per cent of the queries."""
    colour, marker = look
    mean = [100 * interval.mean for interval in entry.intervals]
    reach = [
        [100 * (interval.mean - interval.low) for interval in entry.intervals],
        [100 * (interval.high - interval.mean) for interval in entry.intervals],
    ]
    line = axes.errorbar(
        [queries * shift for queries in entry.queries],
        mean,
        yerr=reach,
        color=colour,
        marker=marker,
        linestyle="-" if entry.private else ":",
        markerfacecolor=colour if entry.private else plt.rcParams["axes.facecolor"],
        capsize=2,
        elinewidth=1.0,
        label=entry.method,
        zorder=3,
    )
    for part in (*line[1], *line[2]):
        part.set_alpha(0.55)
    line[0].set_clip_on(False)  # a marker at the very edge is shown whole


def _mark(axes: Axes, public: Sequence[PublicSpending]) -> None:
    """A stroke with a name for what each public code spends."""
    ink = plt.rcParams["text.color"]
    for one in public:
        axes.axvline(one.asked, ymax=0.06, color=ink, linewidth=1.4, zorder=2)
        axes.annotate(
            f"{one.name}, public code: {one.asked:,}",
            (one.asked, 0.07),
            xycoords=("data", "axes fraction"),
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=7,
            bbox={"facecolor": plt.rcParams["axes.facecolor"], "edgecolor": "none", "alpha": 0.7, "pad": 0.6},
        )


def _odds_axis(axes: Axes, ends: Sequence[float], teacher: float | None) -> None:
    """The logarithm of right to wrong upwards: from 98 to 99 % is as far as from 96 to 98."""
    axes.set_yscale("function", functions=(_log_odds, _from_log_odds))
    every = [*ends, *([] if teacher is None else [100 * teacher])]
    low, high = (float(_log_odds(end(every))) for end in (min, max))
    margin = 0.04 * (high - low)
    low, high = (float(_from_log_odds(value)) for value in (low - margin, high + margin))
    axes.set_ylim(low, high)
    ticks = (2, 5, 10, 20, 30, 50, 70, 80, 90, 95, 98, 99, 99.5, 99.8)
    axes.set_yticks([tick for tick in ticks if low <= tick <= high])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _log_odds(percent: Any) -> Any:
    inside = np.clip(percent, _WORST, _BEST)
    return np.log(inside / (100 - inside))


def _from_log_odds(value: Any) -> Any:
    return 100 / (1 + np.exp(-np.asarray(value)))


def _queries_axis(axes: Axes) -> None:
    """Ticks at powers of ten, and at 2 and 5 times those where a narrow range of queries needs them."""
    low, high = axes.get_xlim()
    for subs in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        ticks = [tick for tick in LogLocator(base=10, subs=subs).tick_values(low, high) if low <= tick <= high]
        if len(ticks) <= _MANY_TICKS:
            break
    axes.minorticks_off()
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _price_axis(axes: Axes, per_1000: float) -> None:
    price = axes.secondary_xaxis(
        "top", functions=(partial(_scaled, per_1000 / 1000), partial(_scaled, 1000 / per_1000))
    )
    price.set_xlabel(f"price at {format_price(per_1000)} per 1,000 queries")
    price.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_price(value)))
    price.minorticks_off()
    price.set_xticks([float(value) * per_1000 / 1000 for value in axes.get_xticks()])


def _scaled(factor: float, values: Any) -> Any:
    return values * factor
