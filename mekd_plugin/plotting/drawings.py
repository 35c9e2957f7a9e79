"""What one wants to look at while distilling: tensors or plain numbers in, a :class:`Picture` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from mekd_plugin.errors import InputError
from mekd_plugin.plotting.style import Picture, colours, figure_style, markers, picture

__all__ = ["bars", "class_map", "curves", "images", "intervals", "matched_points"]

Ends = tuple[float, float, float]
"""An estimate and the ends of its interval; records of :func:`mekd_plugin.bench.mean_interval` begin like that."""

_WIDTH = 6.4  # inches; a page shows it 640 points wide
_SMALLEST_NAMED = 20  # points of a class map below which a class is not named: its number would cover it


def images(
    rows: Mapping[str, Any],
    *,
    columns: int = 10,
    titles: Mapping[str, Sequence[Any]] | None = None,
    marked: Mapping[str, Sequence[bool]] | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
    alt: str = "",
) -> Picture:
    """Rows of images, one under another: what stayed above what was sent, say.

    Args:
        rows: by name, images ``(N, channels, height, width)`` in ``value_range``, grey or RGB, on any device; the
            first ``columns`` of each are shown.
        columns: images in a row; a shorter row is left open at its end.
        titles: by name of a row, what stands above its images, such as the teacher's answers.
        marked: by name of a row, which of its titles are bold and in colour, such as the right ones.
        value_range: of black and of white.
        alt: what is to be seen, in words.

    Raises:
        InputError: no rows, other shapes than these, or titles of a row that is not there.

    >>> import torch
    >>> images({"noise": torch.rand(4, 1, 16, 16)}, columns=4, titles={"noise": [7, 7, 1, 7]}, alt="four of noise")
    Picture: four of noise
    """
    shown = {name: _pixels(name, part, columns, value_range) for name, part in rows.items()}
    if not shown or min(len(part) for part in shown.values()) == 0:
        raise InputError(f"images of {', '.join(rows) or 'no rows'}: expected at least one row of at least one image")
    for name in {**(titles or {}), **(marked or {})}:
        if name not in shown:
            raise InputError(f"titles of {name!r}: expected one of the rows, {', '.join(shown)}")
    height, width = next(iter(shown.values())).shape[1:3]
    high = (_WIDTH - 1) / columns * height / width + 0.15
    with figure_style():
        figure, grid = plt.subplots(len(shown), columns, figsize=(_WIDTH, high * len(shown) + 0.2), squeeze=False)
        for axes, (name, part) in zip(grid, shown.items(), strict=True):
            for column, axis in enumerate(axes):
                axis.set(xticks=[], yticks=[])
                axis.grid(visible=False)
                axis.spines[:].set_visible(False)
                if column >= len(part):
                    continue
                axis.imshow(part[column])
                if titles and name in titles and column < len(titles[name]):
                    right = bool(marked and column < len(marked.get(name, ())) and marked[name][column])
                    look: dict[str, Any] = {"color": colours(3)[2]} if right else {"fontweight": "normal"}
                    axis.set_title(str(titles[name][column]), loc="center", fontsize=8, pad=2, **look)
            axes[0].set_ylabel(name, rotation=0, ha="right", va="center")
        return picture(figure, alt=alt)


def _pixels(name: str, part: Any, columns: int, value_range: tuple[float, float]) -> np.ndarray:
    """``(at most columns, height, width, 3)`` in [0, 1]."""
    pixels = _array(part[:columns])
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise InputError(f"images of {name!r} are {pixels.shape}: expected (N, 1 or 3, height, width)")
    low, high = value_range
    scaled = ((pixels - low) / (high - low)).clip(0, 1)
    return np.broadcast_to(scaled, (len(scaled), 3, *scaled.shape[2:])).transpose(0, 2, 3, 1)


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x: str,
    y: str,
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    levels: Mapping[str, float] | None = None,
    log_x: bool = False,
    alt: str = "",
) -> Picture:
    """Lines with markers over a common axis: accuracy over steps, or over queries.

    Args:
        lines: by name, where the points are along the axis, and how high.
        x: what the axis is of, with its unit.
        y: what the height is of, with its unit.
        bands: by name of a line, lower and upper ends at its points, shaded.
        levels: by name, heights that are drawn as dashed lines, such as the teacher's accuracy.
        log_x: whether the axis is logarithmic; then its ticks are the points.
        alt: what is to be seen, in words.

    >>> curves({"student": ([0, 100], [10, 93])}, x="steps", y="accuracy, %", levels={"teacher": 97}, alt="it learns")
    Picture: it learns
    """
    if bands and (unknown := set(bands) - set(lines)):
        raise InputError(f"bands of {', '.join(sorted(unknown))}: expected names of lines, {', '.join(lines)}")
    with figure_style():
        figure, axes = plt.subplots(figsize=(_WIDTH, 3.4))
        for (name, (along, high)), marker in zip(lines.items(), markers(len(lines)), strict=True):
            (line,) = axes.plot(along, high, marker=marker, label=name)
            if bands and name in bands:
                axes.fill_between(along, *bands[name], color=line.get_color(), alpha=0.15, linewidth=0)
        for name, height in (levels or {}).items():
            axes.axhline(height, color=plt.rcParams["text.color"], linestyle="--", linewidth=1.2, label=name)
        axes.set(xlabel=x, ylabel=y)
        if log_x:
            points = sorted({point for along, _ in lines.values() for point in along})
            axes.set_xscale("log")
            axes.set_xticks(points, [f"{point:,}" for point in points])
            axes.minorticks_off()
        axes.legend()
        return picture(figure, alt=alt)


def intervals(rows: Mapping[str, Ends], *, x: str, name: str = "", alt: str = "") -> Picture:
    """Estimates with their intervals, one under another: whether two of them can be told apart.

    Args:
        rows: by name, an estimate, its lower and its upper end; what stands behind these three is not looked at.
        x: what is estimated, with its unit.
        name: what the rows are.
        alt: what is to be seen, in words.

    >>> intervals({"mekd": (93, 91, 95), "kd": (96, 94, 97)}, x="accuracy, %", alt="two intervals that overlap")
    Picture: two intervals that overlap
    """
    with figure_style():
        figure, axes = plt.subplots(figsize=(_WIDTH, 0.35 * len(rows) + 0.9))
        for row, (middle, low, high, *_) in enumerate(rows.values()):
            axes.plot([low, middle, high], [row] * 3, marker="o", markevery=[1], color=colours(1)[0])
        axes.set(xlabel=x, ylabel=name, ylim=(len(rows) - 0.5, -0.5))
        axes.set_yticks(range(len(rows)), list(rows))
        return picture(figure, alt=alt)


def bars(
    groups: Mapping[str, Sequence[float]],
    *,
    x: str,
    y: str,
    names: Sequence[str] | None = None,
    levels: Mapping[str, float] | None = None,
    alt: str = "",
) -> Picture:
    """Groups of bars side by side: a number for each class, from one source or from several.

    Args:
        groups: by name, as many numbers as in the others.
        x: what stands side by side.
        y: what the height is of, with its unit.
        names: of the places; default: their numbers from 0.
        levels: by name, heights that are drawn as dashed lines.
        alt: what is to be seen, in words.

    >>> bars({"bank": [9, 11]}, x="class", y="share, %", levels={"even": 10}, alt="nearly even shares")
    Picture: nearly even shares
    """
    (count,) = sizes if len(sizes := {len(values) for values in groups.values()}) == 1 else (0,)
    if not count:
        raise InputError(
            f"bars of {', '.join(groups) or 'nothing'}: expected as many numbers in each group, at least 1"
        )
    width = 0.8 / len(groups)
    with figure_style():
        figure, axes = plt.subplots(figsize=(_WIDTH, 2.8))
        for place, (name, values) in enumerate(groups.items()):
            shift = (place - (len(groups) - 1) / 2) * width
            axes.bar(np.arange(count) + shift, _array(values), width=width, label=name)
        for name, height in (levels or {}).items():
            axes.axhline(height, color=plt.rcParams["text.color"], linestyle="--", linewidth=1.2, label=name)
        axes.set(xlabel=x, ylabel=y)
        axes.set_xticks(range(count), names or [str(place) for place in range(count)])
        if len(groups) + len(levels or {}) > 1:
            figure.legend(loc="outside lower center", ncols=3)
        return picture(figure, alt=alt)


def class_map(labels: Any, *, confidence: Any = None, alt: str = "") -> Picture:
    """Classes over a plane, a colour each: the cells of a network in a slice of what it is asked about.

    Args:
        labels: ``(rows, columns)``, whole numbers.
        confidence: ``(rows, columns)`` in [0, 1]; where it is small, the colour is pale.
        alt: what is to be seen, in words.

    >>> class_map([[0, 0], [0, 1]], alt="a corner that is another class")
    Picture: a corner that is another class
    """
    cells = _array(labels).astype(int)
    if cells.ndim != 2:
        raise InputError(f"labels are {cells.shape}: expected (rows, columns)")
    present, places = np.unique(cells, return_inverse=True)
    shade = np.array([to_rgb(colour) for colour in colours(len(present))])[places.reshape(cells.shape)]
    opacity = np.ones(cells.shape) if confidence is None else _array(confidence).clip(0, 1) ** 2
    with figure_style():
        figure, axes = plt.subplots(figsize=(_WIDTH / 2, _WIDTH / 2 * len(cells) / cells.shape[1]))
        axes.imshow(shade * opacity[..., None] + 1 - opacity[..., None])
        for label in present:
            inside = np.argwhere(cells == label)
            row, column = inside.mean(axis=0).round().astype(int)
            if len(inside) > _SMALLEST_NAMED and cells[row, column] == label:
                axes.text(column, row, str(label), ha="center", va="center", fontweight="bold", color="black")
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        return picture(figure, alt=alt)


def matched_points(x: Any, y: Any, partners: Mapping[str, Any], *, names: tuple[str, str], alt: str = "") -> Picture:
    """Two clouds of points in the plane, joined in one way or in several: transport plans, side by side.

    Args:
        x: ``(n, 2)``.
        y: ``(m, 2)``.
        partners: by name of the plan, ``(n,)``: for each point of ``x`` the number of its partner in ``y``.
        names: of ``x`` and of ``y``.
        alt: what is to be seen, in words.

    >>> matched_points([[0, 0]], [[1, 1]], {"the only way": [0]}, names=("earth", "holes"), alt="one line")
    Picture: one line
    """
    ours, theirs = _array(x), _array(y)
    if ours.shape[1:] != (2,) or theirs.shape[1:] != (2,):
        raise InputError(f"points are {ours.shape} and {theirs.shape}: expected (n, 2) and (m, 2)")
    with figure_style():
        figure, grid = plt.subplots(1, len(partners), figsize=(_WIDTH, 3.0), squeeze=False)
        for axes, (name, numbers) in zip(grid[0], partners.items(), strict=True):
            for start, stop in zip(ours, theirs[_array(numbers).astype(int)], strict=True):
                axes.plot(*zip(start, stop, strict=True), color="0.6", linewidth=0.8, zorder=1)
            for cloud, marker, label in zip((ours, theirs), "os", names, strict=True):
                axes.scatter(*cloud.T, s=22, marker=marker, zorder=2, label=label)
            axes.set(title=name, aspect="equal")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return picture(figure, alt=alt)


def _array(values: Any) -> np.ndarray:
    """A tensor of any device, or a sequence, as floats."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double()
    return np.asarray(values, dtype=float)
