"""What the boundary costs: the same batches put to a module as it is, under a meter, and through a black box.

    python benchmarks/boundary_cost.py [--quick] [--network resnet8]

All arms ask the same network about the same batches, by turns in one process, a batch each; ratios are medians over the
turns of an arm's time to the bare module's in the same turn, by the wall's clock and by the processor's. Counting,
fingerprints and checks grow with the images; the two writes that a directory gets, one of them synced, do not. The last
arm is 16 threads that take turns at one black box, beside the same threads one after the other: what waiting for each
other costs where the teacher itself cannot go faster.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import environment, finish
from torch import Tensor

from mekd_plugin.blackbox import BlackBox, meter
from mekd_plugin.networks import build

CLASSES, SHAPE, BATCH, THREADS = 10, (3, 32, 32), 128, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few turns; nothing is kept")
    parser.add_argument("--network", default="resnet8", help="the teacher; the smaller, the dearer the boundary looks")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        record = {
            "benchmark": f"a batch of {BATCH} images {SHAPE} put to {given.network}, one thread of torch",
            "environment": environment(),
            "one_asker": one_asker(given.network, Path(folder), turns=10 if given.quick else 60),
            "threads": many_askers(given.network, questions=1 if given.quick else 4),
        }
    finish("boundary_cost", record, keep=not given.quick)


def one_asker(network: str, folder: Path, turns: int) -> dict[str, Any]:
    """Milliseconds a batch by the wall's clock, and the ratios to the bare module's."""
    module = build(network, CLASSES, SHAPE).eval()
    images = torch.rand(BATCH, *SHAPE) * 2 - 1

    def bare(batch: Tensor) -> Tensor:
        with torch.inference_mode():
            answer: Tensor = module(batch)
        return answer

    def function(batch: Tensor) -> Tensor:
        return bare(batch)

    kept = BlackBox(module, "logits", CLASSES)
    kept.keep(folder / "kept")
    arms: dict[str, Callable[[Tensor], Any]] = {
        "bare module": bare,
        "meter": meter(module),
        "black box": BlackBox(module, "logits", CLASSES).query,
        "black box of a function": BlackBox(function, "logits", CLASSES, identity="function").query,
        "black box with timeout=": BlackBox(function, "logits", CLASSES, identity="function", timeout=60.0).query,
        "black box in a directory": kept.query,
    }
    clocks = {"wall": time.perf_counter, "processor": time.process_time}
    turns_of: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for _ in range(turns + 2):
        for name, ask in arms.items():
            began = {clock: now() for clock, now in clocks.items()}
            ask(images)
            turns_of[name].append({clock: now() - began[clock] for clock, now in clocks.items()})
    kept.release()

    def ratio(name: str, clock: str) -> float:
        pairs = zip(turns_of[name][2:], turns_of["bare module"][2:], strict=True)  # the first two set things up
        return round(statistics.median(ours[clock] / bare[clock] for ours, bare in pairs), 3)

    return {
        name: {
            "milliseconds": round(1000 * statistics.median(turn["wall"] for turn in measured[2:]), 2),
            "ratio": ratio(name, "wall"),
            "ratio_of_processor_time": ratio(name, "processor"),
        }
        for name, measured in turns_of.items()
    }


def many_askers(network: str, questions: int) -> dict[str, Any]:
    """Seconds that 16 threads take for their questions at once, and one after the other, by turns."""
    box = BlackBox(build(network, CLASSES, SHAPE), "logits", CLASSES)
    images = torch.rand(BATCH, *SHAPE) * 2 - 1

    def work() -> None:
        for _ in range(questions):
            box.query(images)

    def together() -> None:
        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def one_by_one() -> None:
        for _ in range(THREADS):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

    arms = {"together": together, "one by one": one_by_one}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for _ in range(3):
        for name, run in arms.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - processor))

    def ratio(clock: int) -> float:
        pairs = zip(seconds["together"], seconds["one by one"], strict=True)
        return round(statistics.median(ours[clock] / one[clock] for ours, one in pairs), 3)

    return {
        "threads": THREADS,
        "questions_each": questions,
        "seconds": {name: round(statistics.median(wall for wall, _ in taken), 2) for name, taken in seconds.items()},
        "ratio": ratio(0),
        "ratio_of_processor_time": ratio(1),
    }


if __name__ == "__main__":
    main()
