"""Permutation tests of "both sets come from one distribution"."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.transport.estimates import PermutationTest
from mekd_plugin.transport.estimators.slices import projected_costs, random_directions
from mekd_plugin.transport.samples import Points, Sample, as_pair, generator

__all__ = ["PERMUTATION_POINTS", "permutation_test", "sliced_statistic"]

PERMUTATION_POINTS = 1000
"""Largest set that a permutation test relabels as a whole."""


def sliced_statistic(x: Tensor, y: Tensor) -> float:
    """Sliced W2 over 30 fixed directions: cheap enough to be computed hundreds of times."""
    directions = random_directions(x.shape[1], 30, seed=0)
    return math.sqrt(float(projected_costs(Sample(x, None), Sample(y, None), directions, 2).mean()))


def permutation_test(
    x: Points,
    y: Points,
    *,
    statistic: Callable[[Tensor, Tensor], float] = sliced_statistic,
    permutations: int = 200,
    paired: bool = False,
    seed: int = 0,
) -> PermutationTest:
    r"""Test of "x and y come from one distribution":

    .. math:: p = \frac{1 + \#\{\text{relabelled statistics at least as large as the one seen}\}}{1 + permutations}

    The 1 counts the labelling seen, which is one of the equally likely ones; without it p could be 0, and the test
    would reject too often.

    Args:
        x: ``(N, ...)``; of more than 1,000 points a random 1,000, which ``note`` says.
        y: ``(M, ...)``, the same.
        statistic: of two ``(n, d)`` tensors, larger where they differ more.
        permutations: how many random relabellings, at least 1.
        paired: x and y answer to the same images in the same order. Then each pair is exchanged or not by a fair coin,
            and the null hypothesis is that both answers to an image come from one (joint) distribution. A transport
            distance then sees a difference as soon as it exceeds the distance between neighbouring images' answers.
        seed: of subsample and relabellings.

    Raises:
        InputError: points that cannot be used (see ``samples``), dimensions that differ; ``paired`` with numbers
            that differ.

    Source of the 1: Phipson, Smyth, *Permutation p-values should never be zero*, 2010.
    """
    if permutations < 1:
        raise InputError(f"permutations={permutations}: expected at least 1")
    first, second = (sample.points for sample in as_pair(x, y))
    if paired and len(first) != len(second):
        raise InputError(f"{len(first)} points against {len(second)}: a paired test needs partners; use paired=False")
    rng, note = generator(seed), "pairs exchanged" if paired else "points relabelled"
    if max(len(first), len(second)) > PERMUTATION_POINTS:
        rows = [torch.randperm(len(points), generator=rng)[:PERMUTATION_POINTS] for points in (first, second)]
        first, second = first[rows[0].to(first.device)], second[rows[0 if paired else 1].to(second.device)]
        note += f", on {len(first)} and {len(second)} of the points, drawn at random"
    pool, count = torch.cat([first, second]), len(first)
    seen = float(statistic(first, second))
    reached = 0
    for _ in range(permutations):
        if paired:
            order = torch.arange(2 * count).reshape(2, count)
            order = torch.where(torch.rand(count, generator=rng) < 0.5, order, order.flip(0)).flatten()
        else:
            order = torch.randperm(len(pool), generator=rng)
        shuffled = pool[order.to(pool.device)]
        reached += float(statistic(shuffled[:count], shuffled[count:])) >= seen * (1 - 1e-12)
    return PermutationTest((1 + reached) / (1 + permutations), seen, permutations, note)
