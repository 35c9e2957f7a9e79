"""Writes the guide's table of GPU hours for ``configs/paper/``: ``python docs/paper_tables.py``.

The hours are arithmetic: floating-point operations are counted on tensors without data, and divided by the speed that
``ASSUMED`` says. Nothing is trained, asked or timed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mekd_plugin import registry
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Distiller
from mekd_plugin.errors import NeedsNotMet
from mekd_plugin.flags import read_yaml
from mekd_plugin.mekd.method import MEKD
from mekd_plugin.networks import Generator, build
from mekd_plugin.networks.discriminators import paper_discriminator
from mekd_plugin.training.recipe import Recipe

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guide" / "paper-tables.md"
BEGIN, END = "<!-- hours: python docs/paper_tables.py writes them -->", "<!-- end of the hours -->"


class Assumed(NamedTuple):
    """How fast a GPU is taken to be.

    Attributes:
        gpu: its name.
        peak: float32 operations a second outside its tensor cores, by its data sheet.
        share: of ``peak`` that small convolutions are taken to reach.
        a_step: seconds that a training step takes beside its operations: kernels that have to be launched.
    """

    gpu: str
    peak: float
    share: float
    a_step: float


ASSUMED = Assumed("NVIDIA A100", 19.5e12, 0.25, 0.005)


class Data(NamedTuple):
    """What decides operations about a data set at 32x32."""

    classes: int
    channels: int
    training_images: int


DATA = {
    "mnist": Data(10, 1, 60_000),
    "cifar10": Data(10, 3, 50_000),
    "cifar100": Data(100, 3, 50_000),
    "svhn": Data(10, 3, 73_257),
    "tiny_imagenet": Data(200, 3, 100_000),
    "imagefolder:imagenet": Data(1000, 3, 1_281_167),
}
_SIZE = 32


class Work(NamedTuple):
    """Operations, and how many training steps they are divided into."""

    operations: float
    steps: float

    def plus(self, operations: float, steps: float = 0) -> Work:
        """Both added."""
        return Work(self.operations + operations, self.steps + steps)

    @property
    def hours(self) -> float:
        """At the assumed speed."""
        return (self.operations / (ASSUMED.peak * ASSUMED.share) + self.steps * ASSUMED.a_step) / 3600


class Row(NamedTuple):
    """A table of the paper.

    Attributes:
        name: of its configuration.
        runs: that its rules leave.
        all_runs: of its grid.
        queries: of all runs, at most.
        work: of all runs, the teacher's training included.
        fresh: of one student of MEKD with new images and new questions at every step, as in the paper.
    """

    name: str
    runs: int
    all_runs: int
    queries: int
    work: Work
    fresh: Work


@cache
def operations(network: str, classes: int, channels: int, *, learning: bool) -> float:
    """Of one image on its way through a network; and back to its weights, if it learns."""
    with torch.device("meta"):
        module = build(network, classes, (channels, _SIZE, _SIZE))
    return counted(module.train(learning), torch.empty(8, channels, _SIZE, _SIZE, device="meta"), learning=learning)


def counted(module: nn.Module, inputs: Tensor, *, learning: bool) -> float:
    """Operations for each row of ``inputs``, which have no data."""
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(learning):
        output = module(inputs)
        if learning:
            output.sum().backward()
    return float(counter.get_total_flops()) / len(inputs)


@cache
def of_generator(classes: int, channels: int) -> tuple[float, float, float]:
    """For each image: G forward; G forward and back to its latent, its weights frozen; a step of the GAN."""
    shape = (channels, _SIZE, _SIZE)
    with torch.device("meta"):
        generator, discriminator = Generator(classes, shape), paper_discriminator(shape)
    latent = torch.empty(8, classes, device="meta")
    images = torch.empty(8, *shape, device="meta")
    forward = counted(generator, latent, learning=False)
    learning = counted(generator, latent, learning=True)
    judged = counted(discriminator, images, learning=True)
    aligned = counted(generator.requires_grad_(False), latent.clone().requires_grad_(), learning=True)
    return forward, aligned, learning + 3 * judged  # D learns from real and generated images, and then judges for G


def of_student(method: str, instance: Distiller, student: str, teacher: str, data: Data, asked: int) -> Work:
    """One run: the student's training, its teacher's answers, and what the method does beside."""
    recipe = Recipe.preset("paper")
    # The students of earlier rounds come on top of the recipe.
    steps = recipe.steps * (1 + (instance.student_share if instance.needs.queries == "rounds" else 0.0))  # type: ignore[attr-defined]
    rows = steps * recipe.batch_size
    network = (data.classes, data.channels)
    work = Work(rows * operations(student, *network, learning=True), steps)
    work = work.plus(asked * operations(teacher, *network, learning=False))
    if isinstance(instance, MEKD):
        forward, aligned, gan = of_generator(*network)
        settings = instance.emulation.settings
        work = work.plus(settings.steps * settings.batch_size * gan, settings.steps)
        work = work.plus(rows * aligned + 2 * asked * forward)
    if method == "active_mixup":  # the student looks at every candidate
        looked_at = asked * instance.candidates  # type: ignore[attr-defined]
        work = work.plus(looked_at * operations(student, *network, learning=False))
    return work


def row_of(path: Path) -> Row:
    """One configuration."""
    config = BenchConfig.from_mapping(read_yaml(path))
    data = DATA[config.edge_dataset or config.dataset[0]]
    (teacher,), (budget,), network = config.teacher, config.query_budget, (data.classes, data.channels)
    total, runs, fresh = Work(0, 0), 0, list[Work]()
    for student in config.student:
        for name in config.methods:
            settings = config.hyperparameters.get(name, {})
            instance = methods().create(
                name, preset="paper", num_classes=data.classes, image_shape=(data.channels, _SIZE, _SIZE), **settings
            )
            count = len(config.seeds) * sum(takes(instance, kind, budget, data) for kind in config.responses)
            one = of_student(name, instance, student, teacher, data, budget)
            total = total.plus(count * one.operations, count * one.steps)
            runs += count
            if name == "mekd":
                fresh.append(in_the_papers_mode(instance, student, teacher, data))
    batch = Recipe().batch_size
    total = total.plus(
        config.teacher_steps * batch * operations(teacher, *network, learning=True), config.teacher_steps
    )
    all_runs = len(config.student) * len(config.methods) * len(config.responses) * len(config.seeds)
    return Row(path.stem, runs, all_runs, runs * budget, total, max(fresh))


@cache
def methods() -> registry.Registry:
    """Those that are installed, looked up once."""
    return registry.distillers()


def in_the_papers_mode(instance: Distiller, student: str, teacher: str, data: Data) -> Work:
    """MEKD with a question for every image of every step, in both stages."""
    return of_student("mekd", instance, student, teacher, data, questions(instance))


def questions(instance: Distiller) -> int:
    """Of that mode."""
    recipe, settings = Recipe.preset("paper"), instance.emulation.settings  # type: ignore[attr-defined]
    asked: int = recipe.steps * recipe.batch_size + settings.steps * settings.batch_size
    return asked


def takes(instance: Distiller, kind: str, budget: int, data: Data) -> bool:
    """Whether a run of this method is left by the rules of a grid: needs and budget; there is no pool."""
    if instance.needs.pool == "other domain":
        return False
    try:
        instance.check(BlackBox(nobody(data.classes), kind, data.classes))
        instance.check_budget(budget, data.training_images // 10)
    except NeedsNotMet:
        return False
    return True


def nobody(classes: int) -> Callable[[Tensor], Tensor]:
    """A teacher that is never asked."""
    return lambda images: torch.zeros(len(images), classes)


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| table | runs | queries, at most | operations, 10¹⁵ | GPU hours | hours of one `mekd` in the paper's mode |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| `{row.name}` | {row.runs} of {row.all_runs} | {row.queries:,} | {row.work.operations / 1e15:,.0f} | "
            f"{row.work.hours:.0f} | {row.fresh.hours:.1f} |"
        )
    return "\n".join(lines)


def written() -> str:
    """The page with the table as it has to be."""
    before, begin, rest = PAGE.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no lines {BEGIN!r} and {END!r}: put them where the table belongs")
    rows = [row_of(path) for path in sorted((ROOT / "configs" / "paper").glob("*.yaml"))]
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written())
