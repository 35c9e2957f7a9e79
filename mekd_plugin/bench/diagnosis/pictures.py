"""The figures of the diagnosis, one per question."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from mekd_plugin.bench.diagnosis.findings import Finding
from mekd_plugin.plotting import Theme, colours, figure_style, markers, png

__all__ = ["draw"]


def draw(finding: Finding, theme: Theme = "light") -> bytes:
    """The figure of a finding, as a PNG file's content."""
    with figure_style(theme):
        return png(_DRAWN[finding.name](finding.results, theme))


def _responses(results: Mapping[str, Any], theme: Theme) -> Figure:
    found, floor = results["comparison"], results["floor"]
    figure, (all_of_them, each) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(1, 1.5))
    one, other = colours(2, theme)
    logits = found.logits
    bars = [("paired", logits.paired, one), ("W1", logits.w1, other), ("teacher's\nhalves, W1", floor, "0.6")]
    for place, (_, estimate, colour) in enumerate(bars):
        all_of_them.bar(place, estimate.value, color=colour, width=0.6, yerr=_error(estimate), capsize=3)
    all_of_them.set_xticks(range(len(bars)), [name for name, _, _ in bars])
    all_of_them.set(ylabel="distance (logits)", title="All images")
    all_of_them.grid(axis="x", visible=False)
    labels = [label for label, estimate in found.classes.items() if estimate is not None]
    places = np.arange(len(labels))
    paired = [found.classes_paired[label].value for label in labels]
    each.bar(places - 0.2, paired, width=0.38, color=one, label="paired: an image's own two responses")
    each.bar(
        places + 0.2, [found.classes[label].value for label in labels], width=0.38, color=other, label="W1: as sets"
    )
    each.set_xticks(places, [str(label) for label in labels])
    each.set(xlabel="class that the teacher names", title="By class")
    each.set_ylim(top=1.25 * max(paired, default=1))
    each.legend(loc="upper right")
    each.grid(axis="x", visible=False)
    return figure


def _inversion(results: Mapping[str, Any], theme: Theme) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6))
    one, other, third = colours(3, theme)
    for place, space in enumerate((results["pixels"], results["features"])):
        unit = space.baseline_w1.value
        axes[0].bar(
            place - 0.2, space.w1.value / unit, width=0.38, color=one, label="generated" if place == 0 else None
        )
        axes[0].bar(place + 0.2, 1, width=0.38, color="0.6", label="held-out real" if place == 0 else None)
        axes[0].text(place - 0.2, space.w1.value / unit, f"{space.w1.value:.1f}", ha="center", va="bottom", fontsize=9)
        axes[0].text(place + 0.2, 1, f"{unit:.1f}", ha="center", va="bottom", fontsize=9)
    axes[0].set_xticks((0, 1), ("pixels", "student's features"))
    axes[0].set(title="W1 to the edge's images", ylabel="as a multiple of held-out images'")
    axes[0].set_ylim(top=1.35 * axes[0].get_ylim()[1])
    axes[0].legend(loc="upper left")
    axes[0].grid(axis="x", visible=False)
    shares = [
        ("z → G → T\nsame class", results["latent"].same_class, one),
        ("coverage of\nresponses", results["region"].coverage, other),
        ("nearer to a\ntraining image", results["memorisation"].nearer_to_training, third),
    ]
    for place, (_, share, colour) in enumerate(shares):
        error = [[max(share.value - share.low, 0)], [max(share.high - share.value, 0)]]
        axes[1].bar(place, share.value, width=0.6, color=colour, yerr=error, capsize=3)
    expected = (None, results["region"].expected_coverage, results["memorisation"].expected)
    for place, value in enumerate(expected):
        if value is not None:
            axes[1].hlines(value, place - 0.38, place + 0.38, linestyles="dashed", colors=plt.rcParams["text.color"])
    axes[1].set_xticks(range(3), [name for name, _, _ in shares], fontsize=8)
    axes[1].set(ylim=(0, 1.05), title="Shares (dashed: ideal)", ylabel="share of images")
    axes[1].grid(axis="x", visible=False)
    copies = results["memorisation"]
    bins = np.linspace(0, float(max(copies.to_training.max(), copies.held_out_to_training.max())), 40)
    axes[2].hist(_array(copies.to_training), bins=bins, density=True, histtype="step", color=one, label="generated")
    held = _array(copies.held_out_to_training)
    axes[2].hist(held, bins=bins, density=True, histtype="step", color=other, linestyle="dashed", label="held-out real")
    axes[2].set(xlabel="pixels to the nearest training image", ylabel="density", title="Copies?")
    axes[2].legend()
    return figure


def _image_space(results: Mapping[str, Any], theme: Theme) -> Figure:
    tracks = results["tracks"]
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6))
    for (name, found), colour, marker in zip(
        tracks.items(), colours(len(tracks), theme), markers(len(tracks)), strict=True
    ):
        steps = [snapshot.step for snapshot in found.snapshots]
        image = [snapshot.image_distance.value for snapshot in found.snapshots]
        logit = [snapshot.logit_distance.value for snapshot in found.snapshots]
        for axis, x, y in ((axes[0], steps, image), (axes[1], steps, logit), (axes[2], logit, image)):
            axis.plot(x, y, color=colour, marker=marker, label=name.replace("_", " "))
    for axis, title, bottom, left in (
        (axes[0], "Image space", "student steps", "|G(y_S) - G(y_T)| (pixels)"),
        (axes[1], "Logits", "student steps", "|y_S - y_T| (logits)"),
        (axes[2], "One against the other", "|y_S - y_T| (logits)", "|G(y_S) - G(y_T)| (pixels)"),
    ):
        axis.set(title=title, xlabel=bottom, ylabel=left, xscale="linear" if axis is axes[2] else "log")
    axes[0].legend(fontsize=8)
    return figure


def _direction(results: Mapping[str, Any], theme: Theme) -> Figure:
    found = results["directions"]
    figure, (last, over) = plt.subplots(1, 2, figsize=(9, 3.6))
    low, middle, high = results["chance"]
    bins = np.linspace(0, 180, 37)
    for (part, steps), colour, marker in zip(
        found.items(), colours(len(found), theme), markers(len(found)), strict=True
    ):
        angles = {step: _known(one.to_teacher) for step, one in steps.items()}
        name = "whole loss" if part == "loss" else part.replace("_", " ")
        last.hist(list(angles.values())[-1], bins=bins, density=True, histtype="step", color=colour, label=name)
        known = {step: np.median(values) for step, values in angles.items() if len(values)}
        over.plot(list(known), list(known.values()), color=colour, marker=marker, label=name)
    for axis in (last, over):
        span = axis.axvspan if axis is last else axis.axhspan
        span(low, high, color="0.5", alpha=0.2, label="random direction (middle half)")
    last.axvline(middle, color="0.5", linewidth=1)
    last.set(xlabel="angle with the straight line to the teacher (degrees)", ylabel="density", title="At the end")
    over.set(xlabel="student steps", ylabel="median angle (degrees)", ylim=(0, 180), title="Over the training")
    if any(step > 1 for steps in found.values() for step in steps):
        over.set_xscale("log")
    over.legend(fontsize=8, loc="upper right")
    return figure


def _cells(results: Mapping[str, Any], theme: Theme) -> Figure:
    found, picture = results["cells"], results.get("picture")
    figure, axes = plt.subplots(1, 2 if picture is None else 3, figsize=(11, 3.8))
    masses: Axes = axes[0]
    one, _ = colours(2, theme)
    labels = np.arange(len(found.masses.shares))
    masses.bar(labels - 0.2, [share.value for share in found.masses.shares], width=0.38, color=one, label="cells")
    masses.bar(labels + 0.2, found.masses.expected, width=0.38, color="0.6", label="real images")
    masses.set_xticks(labels)
    masses.set(xlabel="class", ylabel="share", title="Masses of the cells")
    masses.legend(fontsize=8)
    masses.grid(axis="x", visible=False)
    image = axes[1].imshow(_array(found.confusion), cmap="Blues" if theme == "light" else "viridis", aspect="auto")
    axes[1].set(xlabel="class that the teacher names", ylabel="arg max of the latent", title="Share of latents")
    axes[1].grid(visible=False)
    figure.colorbar(image, ax=axes[1], shrink=0.9)
    if picture is not None:
        _draw_cells(axes[2], picture, theme)
    return figure


def _draw_cells(axis: Axes, picture: Any, theme: Theme) -> None:
    side = picture.grid
    labels = _array(picture.classes).reshape(side, side)
    shown = np.unique(labels)
    index = np.searchsorted(shown, labels)
    extent = float(picture.points.abs().max())
    palette = [*colours(8, theme), "0.35", "0.75"]
    chosen = [palette[label % len(palette)] for label in shown]
    bounds = (-extent, extent, -extent, extent)
    axis.imshow(index, origin="lower", extent=bounds, cmap=ListedColormap(chosen), vmin=-0.5, vmax=len(shown) - 0.5)
    corners = _array(picture.corners)
    for label, corner in zip(
        picture.shown, 0.85 * extent * corners / np.linalg.norm(corners, axis=1)[:, None], strict=True
    ):
        axis.annotate(str(label), corner, ha="center", va="center", weight="bold", color="black", fontsize=11).set_bbox(
            {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": "black"}
        )
    for label in shown:
        rows, columns = np.nonzero(labels == label)
        if len(rows) > 0.02 * labels.size:
            middle = len(rows) // 2
            place = _array(picture.points).reshape(side, side, 2)[rows[middle], columns[middle]]
            axis.text(place[0], place[1], str(label), ha="center", va="center", fontsize=8, color="white")
    axis.set(xlabel="latent (standard deviations)", title=f"Teacher's cells: {picture.kind}")
    axis.text(0.5, -0.3, picture.note, transform=axis.transAxes, ha="center", fontsize=7, wrap=True)
    axis.grid(visible=False)


def _domains(results: Mapping[str, Any], theme: Theme) -> Figure:
    figure = plt.figure(figsize=(11, 4.2))
    grid = figure.add_gridspec(2, 3, width_ratios=(1, 1, 1.15))
    for place, (name, found) in enumerate(
        (("student's features", results["features"]), ("responses", results["responses"]))
    ):
        axis = figure.add_subplot(grid[:, place])
        values = np.array([[estimate.value for estimate in row] for row in found.matrix])
        axis.imshow(values, cmap="Blues" if theme == "light" else "viridis")
        middle = (values.min() + values.max()) / 2
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                dark = (value > middle) == (theme == "light")
                axis.text(
                    j, i, f"{value:.1f}", ha="center", va="center", fontsize=8, color="white" if dark else "black"
                )
        axis.set_xticks(range(len(found.names)), found.names, rotation=30, ha="right", fontsize=8)
        axis.set_yticks(range(len(found.names)), found.names if place == 0 else [], fontsize=8)
        axis.set_title(f"W1 in {name}")
        axis.grid(visible=False)
    lonely = results["unmatched"]
    for row, (title, images, chosen) in enumerate(
        (
            ("Real, without a synthetic counterpart", results["edge"], lonely.x),
            ("Synthetic, without a real one", results["synthetic"], lonely.y),
        )
    ):
        axis = figure.add_subplot(grid[row, 2])
        axis.set_title(f"{title}: {len(chosen)} of {len(images)}", fontsize=9)
        axis.axis("off")
        if len(chosen):
            axis.imshow(_strip(images[chosen[:12]], results["value_range"]), cmap="gray", vmin=0, vmax=1)
    return figure


def _membership(results: Mapping[str, Any], theme: Theme) -> Figure:
    figure, (scores, curve) = plt.subplots(1, 2, figsize=(9, 3.6))
    found = results.get("membership")
    if found is None:
        return figure
    groups = [_array(found.member_scores), _array(found.other_scores)]
    edges = np.histogram_bin_edges(np.concatenate(groups), bins=30)
    for values, colour, name in zip(groups, colours(2, theme), ("the edge's", "others"), strict=True):
        weights = np.full(len(values), 1 / len(values))
        scores.hist(values, bins=edges, weights=weights, color=colour, alpha=0.6, label=name)
    scores.set(xlabel="score: 1 is a copy of what was sent", ylabel="share of images", title="Attacked images")
    scores.legend()
    thresholds = np.unique(np.concatenate(groups))[::-1]
    found_at, wrong_at = (1 - np.searchsorted(np.sort(values), thresholds) / len(values) for values in groups)
    curve.step([0, *wrong_at], [0, *found_at], where="post", color=colours(1, theme)[0])
    curve.plot([0, 1], [0, 1], linestyle="dashed", color=plt.rcParams["text.color"], label="guessing")
    auc = found.auc
    title = f"Area {auc.value:.2f} [{auc.low:.2f}, {auc.high:.2f}]"
    curve.set(xlabel="others taken for the edge's", ylabel="of the edge's, found", title=title)
    curve.legend(loc="lower right")
    return figure


def _strip(images: Tensor, value_range: tuple[float, float]) -> np.ndarray:
    """Up to twelve images in two rows of six."""
    low, high = value_range
    pictures = [*((images.float().cpu() - low) / (high - low)).clamp(0, 1).permute(0, 2, 3, 1).numpy()]
    pictures += [np.ones_like(pictures[0])] * (12 - len(pictures))
    rows = [
        np.concatenate([np.pad(one, ((1, 1), (1, 1), (0, 0)), constant_values=1) for one in part], axis=1)
        for part in (pictures[:6], pictures[6:])
    ]
    tiled: np.ndarray = np.concatenate(rows, axis=0)
    return tiled


def _error(estimate: Any) -> list[list[float]] | None:
    if estimate.low is None or estimate.high is None:
        return None
    return [[max(estimate.value - estimate.low, 0)], [max(estimate.high - estimate.value, 0)]]


def _array(tensor: Tensor) -> np.ndarray:
    values: np.ndarray = np.asarray(tensor.detach().cpu())
    return values


def _known(angles: Tensor) -> np.ndarray:
    values: np.ndarray = _array(angles)[~np.isnan(_array(angles))]
    return values


_DRAWN: dict[str, Callable[[Mapping[str, Any], Theme], Figure]] = {
    "responses": _responses,
    "inversion": _inversion,
    "image_space": _image_space,
    "direction": _direction,
    "cells": _cells,
    "domains": _domains,
    "membership": _membership,
}
