"""A stage's steps on one device, timed in every way: precision, memory format, with and without a CUDA graph."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from measuring import Arm, on_device, precision_of

from mekd_plugin.training.recipe import Recipe

HELPS = 1.1
"""A graph helps if the package's own loop takes this many times as long."""


def every_way(
    options: argparse.Namespace,
    straightforward: Arm,
    product: Callable[[Recipe], Arm],
    bare: Callable[[Recipe, bool], Arm],
    *,
    recipe: Recipe,
    images: int,
) -> dict[str, Any]:
    """``"timings"`` of the straightforward step in float32 and of the product's in all ways, and ``"cuda_graphs"``.

    Args:
        options: with ``device``, ``precisions``, ``rounds`` and ``steps``.
        straightforward: on the device.
        product: makes the package's own loop's steps, each as it stands, by recipe.
        bare: makes the same steps without the loop, by recipe and by whether a recorded one is replayed.
        recipe: whose precision and memory format are changed.
        images: that are learned from in a step.
    """
    windows = {"images": images, "rounds": options.rounds, "steps": options.steps}
    arms = {("straightforward", "float32"): straightforward}
    for precision in options.precisions:
        for channels_last in (False, True):
            name = "product, channels_last" if channels_last else "product"
            arms[name, precision] = product(in_way(recipe, precision, channels_last))
    timings = on_device(arms, options.device, **windows)
    loop = {row["precision"]: row["milliseconds_a_step"] for row in timings if row["arm"] == "product, channels_last"}
    graphs = [graph(options.device, bare, recipe, precision, loop[precision], windows) for precision in loop]
    return {"timings": timings, "cuda_graphs": graphs}


def graph(
    device: str,
    bare: Callable[[Recipe, bool], Arm],
    recipe: Recipe,
    precision: str,
    loop: float,
    windows: dict[str, int],
) -> dict[str, Any]:
    """The steps without the loop, as they stand and recorded, beside the ``loop``'s milliseconds; all channels_last."""
    recipe = in_way(recipe, precision, channels_last=True)
    found: dict[str, Any] = {"precision": precision, "loop_milliseconds_a_step": loop}
    with precision_of(precision):
        arms = {("bare steps", precision): bare(recipe, False)}
        if torch.device(device).type != "cuda":
            found["not_recorded"] = f"{device} has no CUDA graphs"
        else:
            arms["CUDA graph", precision] = bare(recipe, True)
    found["timings"] = on_device(arms, device, **windows)
    if len(arms) == 2:
        found["times_as_fast_as_the_loop"] = round(loop / found["timings"][1]["milliseconds_a_step"], 2)
        found["helps"] = found["times_as_fast_as_the_loop"] >= HELPS
    return found


def in_way(recipe: Recipe, precision: str, channels_last: bool) -> Recipe:
    return replace(recipe, precision="bf16" if precision == "bf16" else "no", channels_last=channels_last)
