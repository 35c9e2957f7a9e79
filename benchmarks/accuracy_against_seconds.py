"""What accuracy a number of seconds buys: a figure and a table from grids that differ in `--steps`.

    mekd bench --config configs/races/seconds.yaml --data-root DIR --steps 500 --out results/races/seconds/500
    python benchmarks/accuracy_against_seconds.py results/races/seconds/* --out results/races/seconds

Seconds are those of the run's process on one processor core, both stages and the questions together; the figure is
``accuracy_against_seconds.png`` under ``--out``, the table goes to standard output. Full lines: no real image left the
edge; dotted and hollow: real images, or mixtures of them, did.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import mean

import matplotlib.pyplot as plt

import mekd_plugin as mekd
from mekd_plugin.files import writable_directory


def points(records: list[dict]) -> dict[str, list[tuple[float, float, int]]]:
    """Per row of the grid: mean processor seconds, mean accuracy and the number of seeds, by the student's steps."""
    grouped: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for record in records:
        if record["status"] == "finished":
            found = record["seconds_processor"], record["student_accuracy"]
            grouped[record["label"], record["steps"]].append(found)
    lines = defaultdict(list)
    for (label, _), runs in grouped.items():
        lines[label].append((mean(s for s, _ in runs), mean(a for _, a in runs), len(runs)))
    return {label: sorted(found) for label, found in lines.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="directories that `mekd bench` wrote")
    parser.add_argument("--out", type=Path, help="directory of the figure; default: the first of the results")
    options = parser.parse_args()
    records = [record for directory in options.results for record in mekd.load_records(directory)]
    lines, leaves = points(records), {record["label"]: record["leaves_edge"] for record in records}
    print("| Row | Processor seconds | Accuracy % | Seeds |\n|---|---:|---:|---:|")
    for label, found in lines.items():
        for seconds, accuracy, seeds in found:
            print(f"| {label} | {seconds:.0f} | {100 * accuracy:.2f} | {seeds} |")
    with mekd.plotting.figure_style():
        figure, axes = plt.subplots(figsize=(6.4, 3.8))
        for (label, found), marker in zip(lines.items(), "osD^vPX*", strict=False):
            real = leaves[label] in ("real images", "mixtures")
            style = {"linestyle": ":", "markerfacecolor": plt.rcParams["axes.facecolor"]} if real else {}
            axes.plot([s for s, _, _ in found], [100 * a for _, a, _ in found], marker=marker, label=label, **style)
        axes.set(xscale="log", xlabel="processor seconds of a run", ylabel="test accuracy, %")
        axes.legend(loc="lower right")
        folder = writable_directory(options.out or options.results[0])
        figure.savefig(folder / "accuracy_against_seconds.png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
