"""Stage 1 of MEKD: a step of this package against a straightforward step of the same GAN.

    python benchmarks/stage1_speed.py [--quick] [--device cuda]

Both take one Adam step of the paper's generator (width 64) and one of a discriminator of 32-64-128 channels on 64 real
and 64 generated images, translated by up to two pixels. Straightforward: a new generated batch for each player, the
discriminator's loss running back through G too, PyTorch's own memory format, upsampling and convolution one after the
other. Product: :func:`deprivatization` in the package's own loop. At 32x32 (images of noise) and on the 16x16 digits,
where a short training of both (width 32, several seeds each) shows whether they end equally far from the real images.
With ``--device`` only the time of steps at 32x32 is taken, there, in every precision, in both memory formats, and as a
CUDA graph where the device has such.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from device_grid import every_way
from graphs import bare_steps
from measuring import Arm, add_device_options, compare, environment, finish, peak_memory, print_peak_memory
from scipy.stats import ttest_ind
from torch import Tensor
from torch.nn.functional import softplus
from torch.optim import Adam

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.data.datasets import load
from mekd_plugin.distiller import Training
from mekd_plugin.mekd.emulations.gan import deprivatization
from mekd_plugin.networks import build
from mekd_plugin.networks.discriminators import small_discriminator
from mekd_plugin.networks.generators import Generator, sample_latent
from mekd_plugin.pot import ot
from mekd_plugin.rows import ImageRows
from mekd_plugin.training.loop import Loop
from mekd_plugin.training.metrics import Metrics
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.views import translate

CLASSES, BATCH, SHIFT, LEARNING_RATE = 10, 64, 2, 2e-4
PAPER_WIDTH, TRAINED_WIDTH = 64, 32
PLAIN = Recipe()


def main() -> None:
    options = parse()
    noise = torch.rand(512, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    if options.peak_of:
        print_peak_memory(ARMS[options.peak_of](noise, 0)[1], threads=1)
        return
    if options.device:
        finish("stage1_speed", on_one_device(noise, options), keep=False, out=options.out)
        return
    digits = load("digits").train_images
    record = {
        "benchmark": "stage 1, steps of 64 real and 64 generated images",
        "environment": environment(),
        "timings": {
            name: [
                compare(
                    *(arm(images, 0)[1] for arm in ARMS.values()),
                    threads=threads,
                    rounds=options.rounds,
                    steps=options.steps,
                )
                for threads in (1, 2)
            ]
            for name, images in (("32x32", noise), ("16x16 digits", digits))
        },
        "peak_memory_at_32x32": peak_memory(list(ARMS)),
        "results_on_digits": results(digits, steps=options.training_steps, seeds=options.seeds),
    }
    finish("stage1_speed", record, keep=not options.quick, out=options.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds, twenty training steps; nothing is kept")
    parser.add_argument("--peak-of", choices=list(ARMS), help=argparse.SUPPRESS)
    add_device_options(parser)
    options = parser.parse_args()
    options.rounds, options.steps, options.training_steps, options.seeds = (
        (3, 1, 20, 2) if options.quick else (9, 4, 400, 8)
    )
    if options.device:
        options.rounds, options.steps = (1, 1) if options.quick else (7, 40)
    return options


def straightforward(images: Tensor, seed: int, width: int = PAPER_WIDTH) -> tuple[Generator, Arm]:
    """The steps as a first implementation has them."""
    torch.manual_seed(seed)
    shape = image_shape(images)
    generator = Generator(CLASSES, shape, width=width).to(images.device)
    discriminator = small_discriminator(shape).to(images.device)
    generator_adam = Adam(generator.parameters(), lr=LEARNING_RATE, betas=(0.5, 0.999))
    discriminator_adam = Adam(discriminator.parameters(), lr=LEARNING_RATE, betas=(0.5, 0.999))

    def judged(shown: Tensor) -> Tensor:
        logits: Tensor = discriminator(translate(shown, SHIFT))
        return logits

    def run(steps: int) -> None:
        generator.train()
        for _ in range(steps):
            real = images[torch.randint(len(images), (BATCH,), device=images.device)]
            fake = generator(sample_latent(generator, BATCH))
            loss = softplus(-judged(real)).mean() + softplus(judged(fake)).mean()
            discriminator_adam.zero_grad()
            loss.backward()
            discriminator_adam.step()

            fake = generator(sample_latent(generator, BATCH))
            loss = softplus(-judged(fake)).mean()
            generator_adam.zero_grad()
            loss.backward()
            generator_adam.step()

    return generator, run


def product_stage(images: Tensor, seed: int, width: int) -> tuple[Generator, Training]:
    """The package's own first stage, of one step."""
    torch.manual_seed(seed)
    shape = image_shape(images)
    generator = Generator(CLASSES, shape, width=width)
    stage = deprivatization(
        generator,
        small_discriminator(shape),
        ImageRows(images, seed=seed),
        steps=1,
        batch_size=BATCH,
        learning_rates=(LEARNING_RATE, LEARNING_RATE),
        average=None,
        shift=SHIFT,
        response_weight=0.0,
        reuse="",
    )
    return generator, stage


def product(
    images: Tensor, seed: int, width: int = PAPER_WIDTH, recipe: Recipe = PLAIN, device: str = "cpu"
) -> tuple[Generator, Arm]:
    """The package's own first stage in the package's own loop."""
    generator, stage = product_stage(images, seed, width)
    loop = Loop(Processes.join(device), recipe, seed=seed, metrics=Metrics(), progress=False, recorded=False)
    nobody = build("lenet5_half", CLASSES, image_shape(images))  # the loop wants a student and a teacher; here is none
    teacher = BlackBox(nobody, "logits", CLASSES)

    def run(steps: int) -> None:
        loop.run(replace(stage, steps=steps), nobody, teacher)

    return generator, run


def bare(images: Tensor, recipe: Recipe, device: str, recorded: bool) -> Arm:
    """The product's steps without the loop; Adam keeps its count of steps on the GPU, which a graph needs."""
    _, stage = product_stage(images, 0, PAPER_WIDTH)
    adam = partial(Adam, lr=LEARNING_RATE, betas=(0.5, 0.999), capturable=recorded)
    players = {name: replace(player, optimizer=adam) for name, player in stage.players.items()}
    return bare_steps(stage, players, recipe, device, batch=BATCH, recorded=recorded)


def on_one_device(images: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """The record of ``--device``."""
    images = images.to(options.device)
    return {
        "benchmark": "stage 1 on a device, steps of 64 real and 64 generated images, 32x32",
        "environment": environment(),
        **every_way(
            options,
            straightforward(images, 0)[1],
            lambda recipe: product(images, 0, recipe=recipe, device=options.device)[1],
            lambda recipe, recorded: bare(images, recipe, options.device, recorded),
            recipe=PLAIN,
            images=BATCH,
        ),
    }


ARMS: dict[str, Callable[..., tuple[Generator, Arm]]] = {
    "straightforward": straightforward,
    "product": product,
}


def image_shape(images: Tensor) -> tuple[int, int, int]:
    return images.shape[1], images.shape[2], images.shape[3]


def results(images: Tensor, *, steps: int, seeds: int) -> dict[str, Any]:
    """Sliced Wasserstein distance of generated images to the real ones after training, for every seed of both."""
    torch.set_num_threads(1)
    half = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).chunk(2)
    record: dict[str, Any] = {"steps": steps, "real_to_real": distance(images[half[0]], images[half[1]])}
    for name, arm in ARMS.items():
        distances = []
        for seed in range(seeds):
            generator, run = arm(images, seed, TRAINED_WIDTH)
            run(steps)
            distances.append(distance(generated(generator), images))
        record[name] = {"distances": distances, "mean": round(statistics.mean(distances), 4)}
    record["untrained"] = distance(generated(straightforward(images, 0, TRAINED_WIDTH)[0]), images)
    test = ttest_ind(*(record[name]["distances"] for name in ARMS), equal_var=False)
    interval = test.confidence_interval(0.95)
    record["p_value_of_equal_means"] = round(float(test.pvalue), 3)
    record["difference_95_percent_interval"] = [round(float(interval.low), 4), round(float(interval.high), 4)]
    return record


@torch.no_grad()
def generated(generator: Generator) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    images: Tensor = generator.eval()(sample_latent(generator, 1000, rng=rng))
    return images


def distance(first: Tensor, second: Tensor) -> float:
    points = (images.flatten(1).double().numpy() for images in (first, second))
    return round(float(ot.sliced_wasserstein_distance(*points, n_projections=500, seed=0)), 4)


if __name__ == "__main__":
    main()
