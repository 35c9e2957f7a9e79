"""Transport distances: this package's choice of estimator against the exact problem on the whole matrix.

    python benchmarks/transport_speed.py [--quick]

Straightforward: ``ot.dist`` and ``ot.emd2`` on all points. Product: ``wasserstein(x, y)``, which is that up to 5,000
points and bounds from both sides beyond. Responses as a student and a teacher give them: ten groups (50 in 1,000
dimensions) with twenty directions of spread, the student's 10 % larger and noisier, drawn independently. At 3,000
points every estimator is held against the exact distance; at 10,000 both arms' time and memory; at 100,000 the
product's alone, since the straightforward arm's matrix would hold 80 GB.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from measuring import environment, finish, peak_memory, print_peak_memory
from torch import Tensor

from mekd_plugin.pot import ot
from mekd_plugin.transport import bures_wasserstein, sinkhorn_divergence, wasserstein
from mekd_plugin.transport.estimates import Estimate
from mekd_plugin.transport.estimators.exact import EXACT_POINTS, Order
from mekd_plugin.transport.estimators.scalable import bijection, bracket, low_rank, lower_bound, minibatch
from mekd_plugin.transport.estimators.slices import max_sliced, slice_factor, sliced
from mekd_plugin.transport.samples import Sample

DIMENSIONS = (10, 1000)
LARGE, BOTH, HELD_AGAINST = 100_000, 10_000, 3000
THREADS = 2


def main() -> None:
    options = parse()
    torch.set_num_threads(THREADS)
    if options.peak_of:
        arm, size, dimension, order = options.peak_of.split("-")
        x, y = responses(int(size), int(dimension))
        print_peak_memory(lambda _: ARMS[arm](x, y, int(order)), threads=THREADS)
        return
    large, both, held_against = (n // options.smaller for n in (LARGE, BOTH, HELD_AGAINST))
    record = {
        "benchmark": "Wasserstein distances between two sets of responses",
        "environment": {**environment(), "pot": ot.__version__, "threads": THREADS},
        "against_the_whole_matrix": [ratio(both, d, 1) for d in options.dimensions],
        "large": [at_size(large, d, order) for d in options.dimensions for order in (1, 2)],
        "against_exact": [convergence(held_against, d, order) for d in options.dimensions for order in (1, 2)],
    }
    finish("transport_speed", record, keep=options.smaller == 1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the points, ten dimensions; nothing is kept")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.smaller = 10 if options.quick else 1
    options.dimensions = DIMENSIONS[:1] if options.quick else DIMENSIONS
    return options


def responses(count: int, dimension: int) -> tuple[Tensor, Tensor]:
    """Student's and teacher's, ``(count, dimension)`` float32, filled block by block: no temporary as large as they."""
    shared = torch.Generator().manual_seed(0)
    groups = min(dimension, 50)
    centres = 2 * torch.randn(groups, dimension, generator=shared) + 8 * torch.eye(groups, dimension)
    directions = torch.randn(20, dimension, generator=shared) / 20**0.5
    sets = []
    for seed, scale, noise in ((1, 1.1, 0.3), (2, 1.0, 0.1)):
        rng, points = torch.Generator().manual_seed(seed), torch.empty(count, dimension)
        for block in points.split(1024):
            spread = torch.randn(len(block), 20, generator=rng) @ directions
            block.copy_(centres[torch.randint(groups, (len(block),), generator=rng)] + spread)
            block.add_(torch.randn(block.shape, generator=rng), alpha=noise).mul_(scale)
        sets.append(points)
    return sets[0], sets[1]


def straightforward(x: Tensor, y: Tensor, order: Order) -> float:
    cost = ot.dist(x.double().numpy(), y.double().numpy(), metric="euclidean" if order == 1 else "sqeuclidean")
    return float(ot.emd2([], [], cost, numItermax=10_000_000)) ** (1 / order)


def scalable(x: Tensor, y: Tensor, order: Order) -> Estimate:
    """What ``wasserstein`` does: by itself beyond 5,000 points, asked to do so below."""
    if len(x) > EXACT_POINTS:
        return wasserstein(x, y, order=order)
    return bracket(Sample(x, None), Sample(y, None), order=order, confidence=0.95, seed=0)


def clocked(call: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """What it answers, and its seconds, wall-clock time and the processor time of all threads together."""
    wall, processor = time.perf_counter(), time.process_time()
    answer = call()
    return answer, (time.perf_counter() - wall, time.process_time() - processor)


ARMS: dict[str, Callable[[Tensor, Tensor, Any], Any]] = {"straightforward": straightforward, "scalable": scalable}


def ratio(count: int, dimension: int, order: Order) -> dict[str, Any]:
    """Both arms at a size that both can do."""
    x, y = responses(count, dimension)
    values, wall, processor = {}, {}, {}
    for name, arm in ARMS.items():
        values[name], (wall[name], processor[name]) = clocked(lambda arm=arm: arm(x, y, order))
    found = values["scalable"]
    return {
        "points": count,
        "dimension": dimension,
        "order": order,
        "seconds": {name: round(value, 2) for name, value in wall.items()},
        "processor_seconds": {name: round(value, 2) for name, value in processor.items()},
        "ratio": round(wall["straightforward"] / wall["scalable"], 2),
        "ratio_of_processor_time": round(processor["straightforward"] / processor["scalable"], 2),
        "peak_memory": peak_memory([f"{name}-{count}-{dimension}-{order}" for name in ARMS]),
        "exact": round(values["straightforward"], 4),
        "estimator": found.estimator,
        "value": round(found.value, 4),
        "interval": [round(found.low, 4), round(found.high, 4)],
        "relative_error": round(found.value / values["straightforward"] - 1, 4),
    }


def at_size(count: int, dimension: int, order: Order) -> dict[str, Any]:
    """The product alone: ``wasserstein`` at a size where the whole matrix cannot be had."""
    x, y = responses(count, dimension)
    found, (wall, processor) = clocked(lambda: scalable(x, y, order))
    return {
        "points": count,
        "dimension": dimension,
        "order": order,
        "seconds": round(wall, 1),
        "processor_seconds": round(processor, 1),
        "memory_beyond_inputs_mb": peak_memory([f"scalable-{count}-{dimension}-{order}"]).popitem()[1]["steps_mb"],
        "whole_matrix_gb": round(8e-9 * count**2, 1),
        "estimator": found.estimator,
        "value": round(found.value, 4),
        "interval": [round(found.low, 4), round(found.high, 4)],
    }


def convergence(count: int, dimension: int, order: Order) -> dict[str, Any]:
    """Every estimator at several settings, as a ratio to the exact distance, with its seconds."""
    points = responses(count, dimension)
    x, y = (Sample(part, None) for part in points)
    exact = straightforward(*points, order)
    settings: dict[str, Callable[[], float]] = {
        "slices, scaled (below)": lambda: sliced(x, y, order=order).value / slice_factor(dimension, order),
        "widest slice (below)": lambda: max_sliced(x, y, order=order).value,
        "lower bound": lambda: lower_bound(x, y, order=order),
    }
    if order == 2:
        settings["Gaussian fits (below)"] = lambda: bures_wasserstein(*points).value
    for size in (250, 500, 1000, 2000):
        settings[f"minibatch of {size}"] = lambda size=size: minibatch(x, y, order=order, points=size, low=0.0).value
    for plans in (8, 40):
        settings[f"bijection, {plans} partitions"] = lambda plans=plans: (
            bijection(x, y, order=order, plans=plans, low=0.0).value
        )
    if order == 2:
        for rank in (10, 50):
            settings[f"rank {rank}"] = lambda rank=rank: low_rank(x, y, order=2, rank=rank).value
    median = float(ot.dist(*(part[:1000].double() for part in points)).sqrt().median()) ** order
    for share in (0.5, 0.05, 0.005):
        settings[f"Sinkhorn, reg {share:g} median, 1000 points"] = lambda share=share: (
            sinkhorn_divergence(*points, reg=share * median, order=order).value
        )
    rows = {}
    for name, estimate in settings.items():
        value, (_, processor) = clocked(estimate)
        rows[name] = {"ratio_to_exact": round(value / exact, 3), "processor_seconds": round(processor, 2)}
    return {"points": count, "dimension": dimension, "order": order, "exact": round(exact, 4), "estimators": rows}


if __name__ == "__main__":
    main()
