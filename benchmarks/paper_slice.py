"""Preset ``paper`` on MNIST's shape: a slice of it timed, and the whole foretold from that.

    python benchmarks/paper_slice.py --device cuda [--steps 200] [--precisions float32 tf32 bf16] [--out FILE] [--quick]

The paper's setting asks 16.6 million questions: 18,800 steps of stage 1, each of which asks the teacher, and 120,000
steps of stage 2 with new questions at every step. Here each stage takes some steps, twice: a short run and a longer
one. Their difference is the time of a step with no share of what is done once. ResNet-32 to ResNet-8, 6,000 images of
noise, since no step's time depends on what the images show. On a GPU both runs are long enough for their steps to be
recorded. **The whole is an extrapolation**, and its record says so.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import torch
from measuring import add_device_options, environment, finish, precision_of, synchronize

import mekd_plugin as mekd
from mekd_plugin.mekd.emulations.gan import GAN
from mekd_plugin.networks import build
from mekd_plugin.training.recipe import Recipe

CLASSES, SHAPE, IMAGES = 10, (1, 32, 32), 6000
STAGES = {"stage 1": "prepare", "stage 2": "distill"}
"""What a run's ``seconds`` calls them."""


def main() -> None:
    options = parse()
    record = {
        "benchmark": "preset paper, ResNet-32 to ResNet-8 at 1x32x32, a slice",
        "environment": environment(),
        "extrapolated": True,
        "how": f"the time of {options.short + options.steps} steps of each stage less that of {options.short}, a step, "
        "times the number of steps; no run of the whole length was made",
        "by_precision": {precision: timed(precision, options) for precision in options.precisions},
    }
    finish("paper_slice", record, keep=False, out=options.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="of each stage, on top of the short run's")
    parser.add_argument("--quick", action="store_true", help="two steps in place of --steps, beyond one")
    add_device_options(parser)
    options = parser.parse_args()
    options.device = options.device or "cpu"
    options.short, options.steps = (1, 2) if options.quick else (40, options.steps)
    return options


def lengths() -> dict[str, int]:
    """Steps of each stage of the whole."""
    return {"stage 1": GAN.presets["paper"]["steps"], "stage 2": Recipe.preset("paper").steps}


def shortened(steps: int) -> dict[str, Any]:
    """MEKD's settings for a run of the preset with that many steps of stage 1."""
    return {"preset": "paper", "emulation_settings": {"steps": steps}}


def timed(precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """A step of each stage in seconds, and the hours of the whole."""
    with precision_of(precision):
        short, long = (
            run(steps, precision, options.device) for steps in (options.short, options.short + options.steps)
        )
    seconds = {stage: (long[stage] - short[stage]) / options.steps for stage in STAGES}
    whole = {stage: seconds[stage] * length for stage, length in lengths().items()}
    return {
        "milliseconds_a_step": {stage: round(1000 * value, 2) for stage, value in seconds.items()},
        "steps_timed": options.steps,
        "steps_of_the_whole": lengths(),
        "hours_of_the_whole_extrapolated": {
            **{stage: round(value / 3600, 2) for stage, value in whole.items()},
            "together": round(sum(whole.values()) / 3600, 2),
        },
    }


def run(steps: int, precision: str, device: str) -> dict[str, float]:
    """Seconds of each stage in a run of ``steps`` steps of each."""
    images = torch.rand(IMAGES, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    teacher = build("resnet32", CLASSES, SHAPE, seed=0).eval().to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the generator is poor after so few steps
        result = mekd.distill(
            build("resnet8", CLASSES, SHAPE, seed=1),
            mekd.BlackBox(teacher, "logits", CLASSES),
            images,
            "mekd",
            recipe=Recipe.preset("paper", steps=steps, precision="bf16" if precision == "bf16" else "no"),
            validation=0.0,
            device=device,
            progress=False,
            **shortened(steps),
        )
    synchronize(device)
    return {stage: result.seconds[name] for stage, name in STAGES.items()}


if __name__ == "__main__":
    main()
