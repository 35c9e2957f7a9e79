"""Noise and procedural images as questions: what the teacher's answers are worth without any image at all.

No publication's method, but the rows that a method which makes its own images has to beat: distillation (Hinton,
Vinyals, Dean, *Distilling the Knowledge in a Neural Network*, arXiv 1503.02531, section 2) on images of one of three
kinds, each drawn and asked about once. Hard responses are learnt as :class:`~mekd_plugin.baselines.kd.KD` learns them.

Source of the smooth and the procedural images, in kind: Baradad, Wulff, Wang, Isola, Torralba, *Learning to See by
Looking at Noise*, NeurIPS 2021, whose statistical images have the falling spectrum of natural ones, and whose "dead
leaves" are shapes that cover each other. Departures: noise of several scales stands for a spectrum, and half of the
shapes are strokes, since many teachers know drawings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_number, as_one_of
from mekd_plugin.distiller import Asking, Distiller, Needs, Stage, Student
from mekd_plugin.functional import answer_loss
from mekd_plugin.rows import Rows
from mekd_plugin.transfer import WITHOUT_BUDGET, as_queries, number_of_queries

__all__ = ["Noise", "procedural_images", "smooth_noise", "uniform_noise"]

_SHAPES = 6  # at most, in a procedural image


def uniform_noise(count: int, shape: tuple[int, int, int], rng: torch.Generator) -> Tensor:
    """Every pixel drawn on its own, ``(count, *shape)`` in [0, 1], on the CPU."""
    return torch.rand(count, *shape, generator=rng)


def smooth_noise(count: int, shape: tuple[int, int, int], rng: torch.Generator) -> Tensor:
    """Noise of grids of 2, 4, 8, ... points a side, each finer one half as strong; stretched to span [0, 1].

    Args:
        count: images.
        shape: ``(channels, height, width)``.
        rng: source of the draws, on the CPU.

    Returns:
        ``(count, channels, height, width)``, each image with its smallest value at 0 and its largest at 1.
    """
    channels, height, width = shape
    images, side, strength = torch.zeros(count, *shape), 2, 1.0
    while side <= max(height, width):
        grid = torch.randn(count, channels, min(side, height), min(side, width), generator=rng)
        images += strength * F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=True)
        side, strength = 2 * side, strength / 2
    low, high = images.flatten(1).amin(dim=1), images.flatten(1).amax(dim=1)
    return (images - low.view(-1, 1, 1, 1)) / (high - low).clamp_min(1e-6).view(-1, 1, 1, 1)


def procedural_images(count: int, shape: tuple[int, int, int], rng: torch.Generator) -> Tensor:
    """One to six ellipses and strokes of random place, size, direction and colour that cover each other.

    Half of the images have a plain black or white ground, as drawings have, the others a random one; the shapes' edges
    are about a pixel wide.

    Args:
        count: images.
        shape: ``(channels, height, width)``.
        rng: source of the draws, on the CPU.

    Returns:
        ``(count, channels, height, width)`` in [0, 1].
    """
    channels, height, width = shape
    draw = partial(torch.rand, generator=rng)
    pixel = 1 / max(height, width)
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) * pixel, (torch.arange(width) + 0.5) * pixel, indexing="ij"
    )  # both within [0, 1]
    ground = torch.where(draw(count, 1, 1, 1) < 0.5, draw(count, 1, 1, 1).round(), draw(count, channels, 1, 1))
    images = ground.expand(count, *shape).clone()
    shapes = torch.randint(1, _SHAPES + 1, (count, 1, 1), generator=rng)
    for index in range(_SHAPES):
        centre_y, centre_x = draw(2, count, 1, 1).unbind()
        angle = 2 * torch.pi * draw(count, 1, 1)
        along = (x - centre_x) * angle.cos() + (y - centre_y) * angle.sin()
        across = (y - centre_y) * angle.cos() - (x - centre_x) * angle.sin()
        long, short = 0.05 + 0.35 * draw(count, 1, 1), 0.03 + 0.22 * draw(count, 1, 1)
        ellipse = ((along / long).square() + (across / short).square()).sqrt().sub(1) * torch.minimum(long, short)
        beyond = (along.abs() - long).clamp_min(0)  # a stroke is half as thick as an ellipse is broad
        stroke = (beyond.square() + across.square()).sqrt() - short / 2
        distance = torch.where(draw(count, 1, 1) < 0.5, ellipse, stroke)
        cover = (0.5 - distance / pixel).clamp(0, 1) * (index < shapes)
        colour = draw(count, channels, 1, 1)
        images += cover.unsqueeze(1) * (colour - images)
    return images


_KINDS: dict[str, Callable[[int, tuple[int, int, int], torch.Generator], Tensor]] = {
    "uniform": uniform_noise,
    "smooth": smooth_noise,
    "procedural": procedural_images,
}


class Noise(Distiller):
    """Minimises ``t^2 KL(softmax(y_T / t) || softmax(y_S / t))`` on images that nobody took.

    Args:
        kind: ``"uniform"`` (every pixel on its own), ``"smooth"`` (noise of several scales) or ``"procedural"`` (shapes
            that cover each other).
        queries: images drawn, at least 2; None takes what the teacher's budget leaves (5,000 without a budget).
        temperature: t, positive.
        smoothing: share of a hard response that is spread over all classes, in [0, 1).
        **world: see :class:`~mekd_plugin.distiller.Distiller`.

    Raises:
        InputError: a value cannot be used.
    """

    needs = Needs(responses="either", leaves_edge="nothing of the edge", pool="none")
    presets: ClassVar = {
        "quick": {},
        "paper": {"temperature": 5.0, "smoothing": 0.0},
        "tiny": {"kind": "procedural"},
    }
    reference: ClassVar = "sanity row: `kd` on noise; procedural images as in Baradad et al., NeurIPS 2021"

    def __init__(
        self,
        *,
        kind: str = "uniform",
        queries: int | None = None,
        temperature: float = 4.0,
        smoothing: float = 0.05,
        **world: Any,
    ) -> None:
        super().__init__(**world)
        self.kind: str = as_one_of("kind", kind, tuple(_KINDS))
        self.queries = as_queries(queries)
        self.temperature = as_number("temperature", temperature, above=0)
        self.smoothing = as_number("smoothing", smoothing, at_least=0, below=1)

    def stages(self, teacher: BlackBox, images: Tensor, student: nn.Module) -> Iterator[Stage]:
        size = number_of_queries(teacher, "noise", self.queries, otherwise=WITHOUT_BUDGET)
        bank = Bank("noise")
        yield Asking("noise", bank, partial(self._draw, span=teacher.value_range), size)
        yield self.align("student", bank.order(self.seed), student)

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        matching = {"temperature": self.temperature, "smoothing": self.smoothing}
        return {"loss": answer_loss(student(rows.images), rows.answers(), **matching)}

    def _draw(self, start: int, stop: int, *, span: tuple[float, float]) -> Rows:
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + start)
        low, high = span
        return Rows(low + (high - low) * _KINDS[self.kind](stop - start, self.image_shape, rng))
