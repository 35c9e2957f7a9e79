"""Stage 2 of MEKD: a step of this package in ``bank`` mode against a straightforward step of the same mathematics.

    python benchmarks/stage2_speed.py [--quick] [--channels 3] [--device cuda]

Both minimise ``mean |G(y_S / t) - G(y_T / t)| + t^2 KL`` over 32x32 images, batch 128, ResNet-32 to ResNet-8, G (the
paper's size) frozen, SGD. Straightforward: new noise at every step, so a teacher forward and three generator forwards,
in PyTorch's own memory format. Product: :class:`MEKD`'s own stages in the package's own loop, on a bank filled once.
With ``--device`` only the time of steps is taken, there, in every precision, in both memory formats, and as a CUDA
graph where the device has such.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from device_grid import every_way
from graphs import bare_steps
from measuring import Arm, add_device_options, compare, environment, finish, peak_memory, print_peak_memory
from torch import Tensor, nn
from torch.nn import functional as F

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Asking, Player, Training
from mekd_plugin.mekd.folding import fold
from mekd_plugin.mekd.method import MEKD
from mekd_plugin.networks import build
from mekd_plugin.networks.generators import Generator
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows
from mekd_plugin.training.loop import Loop
from mekd_plugin.training.metrics import Metrics
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.recipe import Recipe

Networks = tuple[nn.Module, nn.Module, Generator]

CLASSES, SIZE, BATCH, TEMPERATURE, LEARNING_RATE = 10, 32, 128, 5.0, 0.01


def main() -> None:
    options = parse()
    networks = make_networks((options.channels, SIZE, SIZE))
    if options.device:
        record = on_one_device(networks, options)
        finish(f"stage2_speed_{options.channels}_channel", record, keep=False, out=options.out)
        return
    if options.peak_of == "straightforward":
        print_peak_memory(straightforward(*networks), threads=1)
        return
    began = time.perf_counter()
    product = product_arm(*networks, bank_rows=options.bank_rows)
    filling = time.perf_counter() - began
    if options.peak_of == "product":
        print_peak_memory(product, threads=1)
        return
    differences = float32_differences(*networks)
    record = {
        "benchmark": "stage 2, steps of batch 128, ResNet-32 to ResNet-8",
        "image_shape": [options.channels, SIZE, SIZE],
        "environment": environment(),
        "timings": [
            compare(straightforward(*networks), product, threads=threads, rounds=options.rounds, steps=options.steps)
            for threads in (1, 2)
        ],
        "bank": {"rows": options.bank_rows, "seconds_to_fill": round(filling, 1)},
        "float32_differences": differences,
        "peak_memory": peak_memory(["straightforward", "product"]),
    }
    finish(f"stage2_speed_{options.channels}_channel", record, keep=not options.quick, out=options.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small bank and three rounds; nothing is kept")
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1)
    parser.add_argument("--peak-of", choices=("straightforward", "product"), help=argparse.SUPPRESS)
    add_device_options(parser)
    options = parser.parse_args()
    options.rounds, options.steps, options.bank_rows = (3, 1, 512) if options.quick else (11, 4, 5000)
    if options.device:
        options.rounds, options.steps = (1, 1) if options.quick else (7, 40)
    return options


def make_networks(image_shape: tuple[int, int, int]) -> Networks:
    """Teacher, student and generator, untrained, but with batch-norm statistics of what they will see."""
    torch.manual_seed(0)
    teacher, student = build("resnet32", CLASSES, image_shape, seed=0), build("resnet8", CLASSES, image_shape, seed=1)
    generator = Generator(CLASSES, image_shape)
    with torch.no_grad():
        for _ in range(20):
            teacher(generator(torch.randn(32, CLASSES)))
    return teacher.eval(), student, generator.eval()


def straightforward(teacher: nn.Module, student: nn.Module, generator: Generator) -> Arm:
    """The step as a first implementation has it; G is frozen."""
    student, generator = copy.deepcopy(student).train(), copy.deepcopy(generator).requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=5e-4)
    device = next(student.parameters()).device

    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            straightforward_loss(teacher, student, generator, torch.randn(BATCH, CLASSES, device=device)).backward()
            optimizer.step()

    return run


def straightforward_loss(teacher: nn.Module, student: nn.Module, generator: nn.Module, latent: Tensor) -> Tensor:
    with torch.no_grad():
        images = generator(latent)
        teacher_scores = centred(teacher(images))
        target = generator(teacher_scores / TEMPERATURE)
    student_scores = centred(student(images))
    distance = F.l1_loss(generator(student_scores / TEMPERATURE), target)
    student_log, teacher_log = (F.log_softmax(scores / TEMPERATURE, 1) for scores in (student_scores, teacher_scores))
    divergence = F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)
    return distance + TEMPERATURE**2 * divergence


def centred(scores: Tensor) -> Tensor:
    return scores - scores.mean(1, keepdim=True)


def make_method(generator: Generator, bank_rows: int) -> MEKD:
    return MEKD(
        num_classes=CLASSES,
        image_shape=generator.image_shape,
        generator=generator,
        queries=bank_rows,
        image_weight=1.0,
        divergence_weight=1.0,
        norm="l1",
        temperature=TEMPERATURE,
        latent_temperature=TEMPERATURE,
        balance=False,
        surrogate=None,
    )


def make_recipe() -> Recipe:
    return Recipe(
        batch_size=BATCH,
        optimizer="sgd",
        learning_rate=LEARNING_RATE,
        weight_decay=5e-4,
        schedule="constant",
        translate=0,
    )


def alignment_stage(boundary: BlackBox, student: nn.Module, generator: Generator, bank_rows: int) -> Training:
    """The package's own last stage, its bank full and where the networks are."""
    place = next(generator.parameters()).device
    real = torch.randn(64, *generator.image_shape, device=place)
    stages = make_method(generator, bank_rows).stages(boundary, real, student)
    asking = next(stages)
    if not isinstance(asking, Asking):
        raise TypeError(f"MEKD's first stage is {asking}: with a generator of one's own it should ask")
    asking.bank.fill(boundary, asking.draw, asking.size, stage=asking.name)
    asking.bank.to(place)
    alignment = next(stages)
    if not isinstance(alignment, Training):
        raise TypeError(f"MEKD's second stage is {alignment}: with a full bank it should train the student")
    return alignment


def product_arm(
    teacher: nn.Module,
    student: nn.Module,
    generator: Generator,
    *,
    bank_rows: int,
    recipe: Recipe | None = None,
    device: str = "cpu",
) -> Arm:
    """The package's own last stage in the package's own loop."""
    student, boundary = copy.deepcopy(student), BlackBox(teacher, "logits")
    alignment = alignment_stage(boundary, student, copy.deepcopy(generator), bank_rows)
    loop = Loop(
        Processes.join(device), recipe or make_recipe(), seed=0, metrics=Metrics(), progress=False, recorded=False
    )

    def run(steps: int) -> None:
        loop.run(replace(alignment, steps=steps), student, boundary)

    return run


def bare_arm(networks: Networks, recipe: Recipe, options: argparse.Namespace, recorded: bool) -> Arm:
    """The product's steps without the loop."""
    teacher, student, generator = networks[0], *copy.deepcopy(networks[1:])
    stage = alignment_stage(BlackBox(teacher, "logits"), student, generator, options.bank_rows)
    players = {**stage.players, "student": Player(student, recipe.make_optimizer)}
    return bare_steps(stage, players, recipe, options.device, batch=BATCH, recorded=recorded)


def on_one_device(networks: Networks, options: argparse.Namespace) -> dict[str, Any]:
    """The record of ``--device``."""
    for network in networks:
        network.to(options.device)
    settings = {"bank_rows": options.bank_rows, "device": options.device}
    return {
        "benchmark": "stage 2 on a device, steps of batch 128, ResNet-32 to ResNet-8",
        "image_shape": [options.channels, SIZE, SIZE],
        "environment": environment(),
        **every_way(
            options,
            straightforward(*networks),
            lambda recipe: product_arm(*networks, recipe=recipe, **settings),
            lambda recipe, recorded: bare_arm(networks, recipe, options, recorded),
            recipe=make_recipe(),
            images=BATCH,
        ),
    }


def float32_differences(teacher: nn.Module, student: nn.Module, generator: Generator) -> dict[str, Any]:
    """Both arms' loss and gradients on the same images, and G against its folded form: largest absolute values."""
    student, generator = copy.deepcopy(student).train(), copy.deepcopy(generator).requires_grad_(False)
    latent = torch.randn(BATCH, CLASSES, generator=torch.Generator().manual_seed(0))
    method = make_method(generator, BATCH)
    method.freeze(generator)
    with torch.no_grad():
        images = fold(generator)(latent)
        rows = Rows(images, Response(teacher(images), "logits", CLASSES))
    rows = replace(rows, extra={"target": method.targets(rows)})
    weights = list(student.parameters())
    losses = [straightforward_loss(teacher, student, generator, latent), method.losses(student, rows)["loss"]]
    gradients = [torch.autograd.grad(loss, weights) for loss in losses]
    if not torch.isclose(losses[0], losses[1], rtol=1e-4):
        raise SystemExit(f"the arms do not compute the same loss ({losses}), so their speeds cannot be compared")
    return {
        "images": largest_difference([generator(latent)], [images]),
        "loss": largest_difference(losses[:1], losses[1:]),
        "student_gradients": largest_difference(*gradients),
        "largest_student_gradient": largest_difference(gradients[0], [torch.zeros(())] * len(weights)),
    }


@torch.no_grad()
def largest_difference(first: Iterable[Tensor], second: Iterable[Tensor]) -> float:
    return float(f"{max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True)):.2e}")


if __name__ == "__main__":
    main()
