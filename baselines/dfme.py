"""DFME: a generator that seeks what the student gets wrong, its gradient felt out by questions (Truong et al. 2021).

Source: Truong, Maini, Walls, Papernot, *Data-Free Model Extraction*, CVPR 2021, algorithm 1. In each iteration the
generator is shown, by forward differences along random directions, how its images would have to change for teacher and
student to differ more: m + 1 questions an image. Then the student learns, in several updates, to agree with the teacher
on fresh images. Both play for the l1 distance of their scores, the teacher's recovered from probabilities up to a
constant.

Departures:
- the student that plays against the generator is a copy of the run's; the run's own learns afterwards, by every
  method's recipe, from all answers that the play was given (all but those to displaced images, which differ from their
  neighbours by ``epsilon``). The paper's student sees each batch once;
- the student's scores are centred, as the teacher's are;
- the l1 distance of an image is averaged over the classes once; the public code divides its gradient by their number a
  second time, to which Adam is nearly blind;
- the play ends where the budget does: its iterations are the budget divided by ``batch_size (m + 1 + student_updates)``.
  A budget of fewer than ten is refused, since the generator would not have learnt anything;
- preset ``quick``: batches of 16 in place of 256, for budgets of thousands in place of 20 million, and higher rates.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_number, as_whole
from mekd_plugin.distiller import Distiller, Needs, Player, Query, Stage, Student, Training, Update
from mekd_plugin.errors import InputError
from mekd_plugin.mekd.generated import to_range
from mekd_plugin.modes import evaluating
from mekd_plugin.networks.generators import NoiseGenerator
from mekd_plugin.replay import Replay, covered
from mekd_plugin.responses import centre_scores
from mekd_plugin.rows import NoiseRows, Rows
from mekd_plugin.synthetic import WITHOUT_BUDGET, generator_width
from mekd_plugin.transfer import as_queries, number_of_queries

__all__ = ["DFME", "forward_difference", "score_distance"]

_FEWEST_ITERATIONS = 10


def score_distance(logits: Tensor, scores: Tensor) -> Tensor:
    """The mean over the classes of ``|logits - scores|``, both ``(N, C)`` and centred here: one number an image."""
    return (centre_scores(logits) - centre_scores(scores)).abs().mean(dim=1)


def forward_difference(here: Tensor, there: Tensor, directions: Tensor, epsilon: float) -> Tensor:
    r"""A gradient from values at a point and at displaced ones, image by image, mean over the directions:

    .. math:: \frac{1}{m} \sum_{i=1}^m d \, \frac{f(x + \epsilon u_i) - f(x)}{\epsilon} u_i

    Args:
        here: f at the images, ``(N,)``.
        there: f at them displaced along each direction, ``(m, N)``.
        directions: u, ``(m, N, ...)``: unit vectors, each as long as an image has d numbers.
        epsilon: length of the displacement.

    Returns:
        ``(N, ...)``.
    """
    numbers = directions[0, 0].numel()
    slopes = numbers * (there - here) / epsilon
    return (slopes.view(*slopes.shape, *[1] * (directions.dim() - 2)) * directions).mean(dim=0)


class DFME(Distiller):
    """The student minimises the l1 distance of centred scores on the images of the play.

    Args:
        queries: questions in all; None takes what the teacher's budget leaves (5,000 without a budget).
        batch_size: images per update of either player.
        directions: m, along which an image is displaced.
        epsilon: by how much, before tanh.
        student_updates: of the copy, on fresh images each, for one of the generator.
        generator_rate: of the generator's Adam.
        student_rate: of the copy's SGD with momentum 0.9.
        latent_dim: coordinates of noise that the generator is fed; at least C.
        generator_width: channels of its last hidden layer; None takes as many as the longer side of the images has
            pixels, from 16 to 64.
        memory: answered images that are kept for the run's student, the last ones.
        **world: see :class:`~mekd_plugin.distiller.Distiller`.
    """

    needs = Needs(responses="soft", leaves_edge="nothing of the edge", pool="none", queries="every step")
    presets: ClassVar = {
        "quick": {},
        "paper": {"batch_size": 256, "generator_rate": 1e-4, "student_rate": 0.1, "latent_dim": 256}
        | {"generator_width": 64},
        "tiny": {"batch_size": 8, "latent_dim": 16},
    }
    reference: ClassVar = "Truong, Maini, Walls, Papernot, *Data-Free Model Extraction*, CVPR 2021"

    def __init__(
        self,
        *,
        queries: int | None = None,
        batch_size: int = 16,
        directions: int = 1,
        epsilon: float = 1e-3,
        student_updates: int = 5,
        generator_rate: float = 1e-3,
        student_rate: float = 0.03,
        latent_dim: int = 64,
        generator_width: int | None = None,
        memory: int = 20_000,
        **world: Any,
    ) -> None:
        super().__init__(**world)
        self.queries = as_queries(queries)
        self.batch_size = as_whole("batch_size", batch_size, at_least=2)
        self.directions = as_whole("directions", directions, at_least=1)
        self.epsilon = as_number("epsilon", epsilon, above=0)
        self.student_updates = as_whole("student_updates", student_updates, at_least=1)
        self.generator_rate = as_number("generator_rate", generator_rate, above=0)
        self.student_rate = as_number("student_rate", student_rate, above=0)
        self.latent_dim = as_whole("latent_dim", latent_dim, at_least=1)
        self.generator_width = None if generator_width is None else as_whole("generator_width", generator_width, at_least=1)
        self.memory = as_whole("memory", memory, at_least=2)
        with torch.device("meta"):  # images that it cannot draw are refused here
            self._new_generator()
        if self.queries is not None and self.queries < self.fewest_queries(0):
            raise InputError(f"queries={self.queries}: expected at least {self.fewest_queries(0):,}, ten iterations")

    @property
    def questions(self) -> int:
        """Questions of one iteration."""
        return self.batch_size * (self.directions + 1 + self.student_updates)

    def fewest_queries(self, images: int) -> int:
        """Ten iterations."""
        return _FEWEST_ITERATIONS * self.questions

    def stages(self, teacher: BlackBox, images: Tensor, student: nn.Module) -> Iterator[Stage]:
        size = number_of_queries(teacher, "play", self.queries, otherwise=WITHOUT_BUDGET)
        iterations = max(1, size // self.questions)
        seen = iterations * self.batch_size * (1 + self.student_updates)
        replay = Replay(
            min(self.memory, seen), self.image_shape, teacher.responses, self.num_classes, seed=self.seed
        )
        yield self._play(teacher, self._new_generator(), _copied(student), replay, iterations)
        yield self.align("student", replay, student)

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        return {"loss": score_distance(student(rows.images), rows.answers().scores()).mean()}

    def _play(
        self, teacher: BlackBox, generator: NoiseGenerator, clone: nn.Module, replay: Replay, iterations: int
    ) -> Training:
        """Algorithm 1: the generator's update, then the copy's."""
        span, size, many, updates = teacher.value_range, self.batch_size, self.directions, self.student_updates

        def shown(raw: Tensor) -> Tensor:
            return to_range(raw.tanh(), (-1.0, 1.0), span)

        def step(batch: Rows, update: Update, query: Query) -> dict[str, Tensor]:
            latents = batch.images
            if not covered(teacher, self.questions):
                return {"loss": latents.new_zeros(())}
            raw = generator.before_tanh(latents[:size])
            with torch.no_grad():
                directions = F.normalize(torch.randn(many, *raw.shape, device=raw.device).flatten(2), dim=2)
                directions = directions.view(many, *raw.shape)
                points = shown(torch.cat([raw.unsqueeze(0), raw + self.epsilon * directions]).flatten(0, 1))
                response = query(points)
                with evaluating(clone):
                    distances = score_distance(clone(points), response.scores()).view(1 + many, size)
                slope = forward_difference(distances[0], distances[1:], directions, self.epsilon) / size
                replay.keep(points[:size], response[:size])
            update({"generator": -(slope * raw).sum()})
            with torch.no_grad():
                fresh = shown(generator.before_tanh(latents[size:]))
                answers = query(fresh)
                replay.keep(fresh, answers)
            loss = distances[0].mean()
            for part in range(updates):
                chosen = slice(part * size, (part + 1) * size)
                loss = score_distance(clone(fresh[chosen]), answers[chosen].scores()).mean()
                update({"clone": loss})
            return {"loss": loss.detach(), "distance": distances[0].mean()}

        players = {
            "generator": Player(generator, partial(Adam, lr=self.generator_rate)),
            "clone": Player(clone, partial(SGD, lr=self.student_rate, momentum=0.9, weight_decay=5e-4)),
            "replay": Player(replay, None),
        }
        rows = NoiseRows(self.latent_dim, seed=self.seed)
        return Training("play", rows, step, players, steps=iterations, batch_size=size * (1 + updates))

    def _new_generator(self) -> NoiseGenerator:
        return NoiseGenerator(
            self.latent_dim,
            num_classes=self.num_classes,
            image_shape=self.image_shape,
            width=generator_width(self.generator_width, self.image_shape),
        )


def _copied(student: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(student)
    except Exception as error:  # a student is the user's code, and may raise anything
        raise InputError(
            f"the student {type(student).__name__} cannot be copied ({error}), and the generator plays against a copy: "
            "hand in an nn.Module with weights of its own"
        ) from error
