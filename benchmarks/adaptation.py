"""What adapting a student's answers at test time is worth, and where it does harm.

    python benchmarks/adaptation.py [--data mnist --data-root DIR] [--seeds 3] [--quick]

A LeNet5-Half learns by ``kd`` from a LeNet5 with few images (digits: 125; others: 500). Then it answers test images as
they are, turned, noisy, blurred and with less contrast, which come in together in four ways: up to 1,000 at a time in
the data set's own shares of the classes; 64 at a time in these shares; 200 and 64 at a time with class shares drawn for
each batch from a Dirichlet distribution of concentration 0.1 (one to three classes make up most of a batch). Accuracy
of the student's own answers, of adapted ones without the rule that turns adaptation off (``guard=False``), and with it.
Means over the seeds, which draw the edge's images, the student and the batches, with 95 % intervals of the paired gain.

The rule's limits were chosen on training images of the digits that the student had not seen; nothing here chose them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from measuring import environment
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import gaussian_blur, rotate

from mekd_plugin.adaptation import adaptation
from mekd_plugin.bench.statistics import mean_interval
from mekd_plugin.bench.teachers import LabelledImages, trained_teacher
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.data import edge_images, load
from mekd_plugin.data.datasets import ImageData
from mekd_plugin.networks import build
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.run import distill

TEACHER, STUDENT = "lenet5", "lenet5_half"
ROOT = Path(__file__).resolve().parents[1]
SKEW = 0.1
BATCHES = 8
WAYS = {
    "all together": (1000, False),
    "64 at a time": (64, False),
    "200, skewed": (200, True),
    "64, skewed": (64, True),
}


def changed(images: Tensor, rng: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """The test images, as they are and otherwise, by name."""
    yield "clean", images
    for degrees in (15, 30):
        yield f"turned by {degrees}°", rotate(images, degrees, InterpolationMode.BILINEAR, fill=[-1.0])
    for deviation in (0.5, 1.0):
        noise = torch.randn(images.shape, generator=rng)
        yield f"noise {deviation}", (images + deviation * noise).clamp(-1, 1)
    for width in (1.0, 2.0):
        yield f"blur {width}", gaussian_blur(images, [7, 7], [width, width])
    for contrast in (0.5, 0.25):
        yield f"contrast {contrast}", contrast * (images + 1) - 1


def batches(labels: Tensor, size: int, skewed: bool, classes: int, rng: torch.Generator) -> list[Tensor]:
    """Which images come in together."""
    if not skewed:
        order = torch.randperm(len(labels), generator=rng)
        return [part for part in order.split(size) if len(part) == min(size, len(labels))][:BATCHES]
    shares = torch._sample_dirichlet(torch.full((BATCHES, classes), SKEW), generator=rng)
    drawn = []
    for share in shares:
        weights = (share.clamp_min(1e-6) / labels.bincount(minlength=classes))[labels]
        drawn.append(torch.multinomial(weights, min(size, int((weights > 0).sum())), replacement=True, generator=rng))
    return drawn


def student_of(data: ImageData, teacher: nn.Module, count: int, seed: int, steps: int) -> nn.Module:
    """A student that learnt from the teacher's answers to ``count`` images."""
    edge = edge_images(data, real_images=count, seed=seed).images
    box = BlackBox(teacher, "soft", data.num_classes)
    student = build(STUDENT, data.num_classes, data.image_shape, seed=seed)
    recipe = Recipe(steps=steps)
    return distill(
        student, box, edge, "kd", queries=count, recipe=recipe, seed=seed, device="cpu", progress=False
    ).student


def measured(student: nn.Module, data: ImageData, seed: int) -> dict[tuple[str, str], dict[str, float]]:
    """Mean accuracies over the batches of each change and way, and the share of groups in which adaptation was off."""
    found = {}
    rng = torch.Generator().manual_seed(seed)
    for change, images in changed(data.test_images, rng):
        for way, (size, skewed) in WAYS.items():
            rows = []
            for index in batches(data.test_labels, size, skewed, data.num_classes, rng):
                free = adaptation(student, images[index], guard=False)
                kept = adaptation(student, images[index])
                answers = {"own": free.own, "adapted": free.probabilities, "with rule": kept.probabilities}
                right = {
                    name: float((value.argmax(dim=1) == data.test_labels[index]).double().mean())
                    for name, value in answers.items()
                }
                rows.append({**right, "off": float(not kept.on)})
            found[change, way] = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    return found


def summary(runs: list[dict[tuple[str, str], dict[str, float]]]) -> list[dict[str, Any]]:
    """A row for each change and way, over the seeds; gains in points of accuracy."""
    rows: list[dict[str, Any]] = []
    for change, way in runs[0]:
        cells = [run[change, way] for run in runs]
        row: dict[str, Any] = {"images": change, "come in": way}
        row |= {name: sum(cell[name] for cell in cells) / len(cells) for name in cells[0]}
        for name in ("adapted", "with rule"):
            row[f"gain {name}"] = mean_interval([100 * (cell[name] - cell["own"]) for cell in cells])._asdict()
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| images | come in | own % | adapted % | gain, points | with the rule % | gain, points | off in |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        gains = [_gain(row[f"gain {name}"]) for name in ("adapted", "with rule")]
        own, free, kept = (f"{100 * row[name]:.1f}" for name in ("own", "adapted", "with rule"))
        cells = [row["images"], row["come in"], own, free, gains[0], kept, gains[1], f"{100 * row['off']:.0f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _gain(interval: dict[str, Any]) -> str:
    half = (interval["high"] - interval["low"]) / 2
    return f"{interval['mean']:+.1f} ± {half:.1f}" if interval["values"] > 1 else f"{interval['mean']:+.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy with and without adaptation at test time.")
    parser.add_argument("--data", default="digits", help="a data set that `mekd bench` knows")
    parser.add_argument("--data-root", default=None, help="where its files are")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600, help="of the student")
    parser.add_argument("--quick", action="store_true", help="one seed, few steps; keeps nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds, steps = (1, 60) if arguments.quick else (arguments.seeds, arguments.steps)
    data = load(arguments.data, arguments.data_root)
    labelled = LabelledImages(data.train_images, data.train_labels, data.num_classes)
    teacher, _ = trained_teacher(TEACHER, labelled, steps=60 if arguments.quick else 2000, device="cpu", progress=False)
    count = 125 if arguments.data == "digits" else 500
    runs = []
    for seed in range(seeds):
        runs.append(measured(student_of(data, teacher, count, seed, steps), data, seed))
        print(f"seed {seed} is done", flush=True)
    rows = summary(runs)
    print(table(rows))
    if arguments.quick:
        return
    folder = ROOT / "results" / "adaptation"
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "command": f"python benchmarks/adaptation.py --data {arguments.data} --seeds {seeds} --steps {steps}",
        "environment": environment(),
        "teacher": TEACHER,
        "student": STUDENT,
        "real_images": count,
        "rows": rows,
    }
    (folder / f"{arguments.data}.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / f"{arguments.data}.md").write_text(table(rows))


if __name__ == "__main__":
    main()
