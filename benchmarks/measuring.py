"""How the benchmarks measure: arms by turns in one process, this machine's floor, peak memory in child processes.

On a device that is named (``--device cuda``) there is no floor to hold a step against: there, :func:`on_device` takes
the median of windows of steps, each closed by a synchronisation.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mekd_plugin.records import processor_name

RESULTS = Path(__file__).resolve().parent.parent / "results" / "benchmarks"

PRECISIONS = ("float32", "tf32", "bf16")

Arm = Callable[[int], None]
"""Runs that many steps."""


def compare(slow: Arm, fast: Arm, *, threads: int, rounds: int, steps: int) -> dict[str, Any]:
    """Milliseconds a step of both arms and of their floors, by turns in each round, so that a busy spell hits both.

    Wall-clock time is kept and, on one thread, processor time, which other programs on a busy machine disturb less.
    The floor of an arm is its multiply-adds at the best rate of this machine, that of a matrix product or of a
    convolution of many channels, whichever is higher.
    """
    torch.set_num_threads(threads)
    work = {"straightforward": multiply_adds(slow), "product": multiply_adds(fast)}
    clocks: dict[str, list[tuple[float, float]]] = {"straightforward": [], "product": []}
    rates: dict[str, list[float]] = {name: [] for name in _RATES}
    for _ in range(rounds):
        clocks["straightforward"].append(_clocked(slow, steps))
        clocks["product"].append(_clocked(fast, steps))
        for name, (probe, count) in _RATES.items():
            rates[name].append(2e-9 * count / _clocked(probe, 1)[0])
    milliseconds = {name: 1000 * statistics.median(wall for wall, _ in times) for name, times in clocks.items()}
    result: dict[str, Any] = {
        "threads": threads,
        "rounds": rounds,
        "steps_a_round": steps,
        "milliseconds_a_step": {name: round(milliseconds[name], 2) for name in work},
        "steps_a_second": {name: round(1000 / milliseconds[name], 2) for name in work},
        "ratio": round(milliseconds["straightforward"] / milliseconds["product"], 2),
    }
    ratios = [slow_time[0] / fast_time[0] for slow_time, fast_time in zip(*list(clocks.values())[:2], strict=True)]
    result["ratio_by_round"] = [round(min(ratios), 2), round(max(ratios), 2)]
    if threads == 1:
        processor = {name: statistics.median(cpu for _, cpu in times) for name, times in clocks.items()}
        result["ratio_of_processor_time"] = round(processor["straightforward"] / processor["product"], 2)
    result["gflops"] = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    result["million_multiply_adds_a_step"] = {name: round(count / 1e6) for name, count in work.items()}
    best = max(result["gflops"].values())
    result["floor_milliseconds_a_step"] = {name: round(2e-6 * count / best, 2) for name, count in work.items()}
    return result


def multiply_adds(arm: Arm) -> int:
    """Multiply-adds of one step, forward and backward, in convolutions and matrix products."""
    arm(1)  # what is only done at the first step is not counted
    with FlopCounterMode(display=False) as counter:
        arm(1)
    return int(counter.get_total_flops()) // 2


def peak_memory(arms: Sequence[str]) -> dict[str, dict[str, int]]:
    """Peak resident MB of each arm in a child process of its own, and how much of it came after set-up.

    The child is this script with its own arguments and ``--peak-of ARM``; it answers with :func:`print_peak_memory`.
    """
    peaks = {}
    for arm in arms:
        command = [sys.executable, *sys.argv, "--peak-of", arm]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        peaks[arm] = json.loads(answer.splitlines()[-1])
    return peaks


def print_peak_memory(arm: Arm, *, threads: int) -> None:
    """In the child: take three steps, and say how far the resident size went."""
    torch.set_num_threads(threads)
    before = _peak_mb()
    arm(3)
    print(json.dumps({"peak_mb": round(_peak_mb()), "steps_mb": round(_peak_mb() - before)}))


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """``--device`` and what goes with it."""
    parser.add_argument(
        "--device",
        help="time this device instead (cuda, cuda:1, cpu), in every precision and memory format; kept only in --out",
    )
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="with --device")
    parser.add_argument("--out", type=Path, help="keep the record in this file, --quick or not")


@contextlib.contextmanager
def precision_of(name: str) -> Iterator[None]:
    """Within it, float32 products are exact (``"float32"``) or may round to TensorFloat-32 (``"tf32"``, ``"bf16"``)."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name != "float32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def on_device(
    arms: Mapping[tuple[str, str], Arm], device: str, *, images: int, rounds: int, steps: int
) -> list[dict[str, Any]]:
    """Milliseconds a step and images a second of each arm: the median of ``rounds`` windows of ``steps`` steps.

    Args:
        arms: by what they are called and their precision, one of ``PRECISIONS``.
        device: waited for at both ends of a window.
        images: the student or the players learn from in a step.
        rounds: windows of each arm; the arms take turns.
        steps: in a window.
    """
    times: dict[tuple[str, str], list[float]] = {key: [] for key in arms}
    for turn in range(rounds + 1):
        for key, arm in arms.items():
            with precision_of(key[1]):
                synchronize(device)
                began = time.perf_counter()
                arm(steps)
                synchronize(device)
            if turn:  # the first window warms up
                times[key].append(1000 * (time.perf_counter() - began) / steps)
    return [
        {
            "arm": name,
            "precision": precision,
            "milliseconds_a_step": round(statistics.median(found), 3),
            "range_of_windows": [round(min(found), 3), round(max(found), 3)],
            "images_a_second": round(1000 * images / statistics.median(found)),
        }
        for (name, precision), found in times.items()
    ]


def synchronize(device: str) -> None:
    """Wait until a GPU has done all that it was told to do; a CPU always has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def environment() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def finish(name: str, record: Mapping[str, Any], *, keep: bool, out: Path | None = None) -> None:
    """Print the record, and keep it in ``out``, or in ``results/benchmarks/NAME.json`` where it is to be kept."""
    text = json.dumps(record, indent=1)
    print(text)
    if out is None and keep:
        out = RESULTS / f"{name}.json"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")


_MATRIX = torch.ones(1024, 1024)
_IMAGES = torch.ones(8, 128, 32, 32).contiguous(memory_format=torch.channels_last)
_KERNELS = torch.ones(128, 128, 3, 3).contiguous(memory_format=torch.channels_last)


def _matrix_products(count: int) -> None:
    for _ in range(8 * count):
        torch.mm(_MATRIX, _MATRIX)


@torch.no_grad()
def _convolutions(count: int) -> None:
    for _ in range(8 * count):
        torch.conv2d(_IMAGES, _KERNELS, padding=1)


_RATES: dict[str, tuple[Arm, int]] = {
    "matrix product": (_matrix_products, 8 * 1024**3),
    "3x3 convolution": (_convolutions, 8 * 8 * 32 * 32 * 128 * 128 * 9),
}
"""What the machine can do at most: a run, and its multiply-adds."""


def _clocked(arm: Arm, steps: int) -> tuple[float, float]:
    """Seconds a step, wall-clock time and processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    arm(steps)
    return (time.perf_counter() - wall) / steps, (time.process_time() - processor) / steps


def _peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would go on from the size of the process that started this one
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
