"""DFME: a generator that seeks what the student gets wrong, its gradient felt out by questions (Truong et al. 2021).

Source: Truong, Maini, Walls, Papernot, *Data-Free Model Extraction*, CVPR 2021, algorithm 1. In each iteration the
generator is shown, by forward differences along random directions, how its images would have to change for teacher and
student to differ more: m + 1 questions an image. Then the student learns, in several updates, to agree with the teacher
on fresh images. Both play for the l1 distance of their scores, the teacher's recovered from probabilities up to a
constant.

Departures:
- the student that plays against the generator is a copy of the run's; the run's own learns afterwards, by every
  method's recipe, from the answers that the play was given: all but those to displaced images, which differ from their
  neighbours by ``epsilon``, and of more than ``memory`` the last ones. The paper's student sees each batch once, and is
  the one that played;
- both rates stay as they are; the public code multiplies them by 0.3 at 10, 30 and 50 % of its budget;
- the student's scores are centred, as the teacher's are;
- the l1 distance of an image is averaged over the classes once; the public code divides its gradient by their number a
  second time, to which Adam is nearly blind;
- the play ends where the budget does: an iteration costs ``batch_size (m + 1 + student_updates)`` questions. A budget
  of fewer than ten iterations is refused, since the generator would not have learnt anything;
- preset ``quick``: batches of 16 in place of 256, for budgets of thousands in place of 20 million, a higher rate of
  the generator and a lower one of the student's copy.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_number, as_whole
from mekd_plugin.distiller import Needs, Player, Query, Student, Update
from mekd_plugin.errors import InputError
from mekd_plugin.mekd.generated import to_range
from mekd_plugin.modes import evaluating, full_precision
from mekd_plugin.networks.generators import NoiseGenerator, sample_latent
from mekd_plugin.replay import Replay
from mekd_plugin.responses import centre_scores
from mekd_plugin.rows import Rows
from mekd_plugin.synthetic_steps import Step, SyntheticSteps

__all__ = ["DFME", "forward_difference", "score_distance"]


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


class DFME(SyntheticSteps):
    """The student minimises the l1 distance of centred scores on the images of the play.

    Args:
        directions: m, along which an image is displaced, at least 1.
        epsilon: by how much, before tanh; positive.
        student_updates: of the copy, on fresh images each, for one of the generator; at least 1.
        student_rate: of the copy's SGD with momentum 0.9, positive.
        **settings: see :class:`~mekd_plugin.synthetic_steps.SyntheticSteps`.

    Raises:
        InputError: a value cannot be used.
    """

    stage, steps_are = "play", "iterations"
    needs = Needs(responses="soft", leaves_edge="nothing of the edge", pool="none", queries="every step")
    presets: ClassVar = {
        "quick": {},
        "paper": {"batch_size": 256, "generator_rate": 1e-4, "student_rate": 0.1, "latent_dim": 256}
        | {"generator_width": 64},
        "tiny": {"batch_size": 8, "latent_dim": 16, "generator_rate": 3e-2},
    }
    reference: ClassVar = "Truong, Maini, Walls, Papernot, *Data-Free Model Extraction*, CVPR 2021"

    def __init__(
        self,
        *,
        batch_size: int = 16,
        directions: int = 1,
        epsilon: float = 1e-3,
        student_updates: int = 5,
        student_rate: float = 0.03,
        **settings: Any,
    ) -> None:
        self.directions = as_whole("directions", directions, at_least=1)  # on which the fewest queries hang
        self.student_updates = as_whole("student_updates", student_updates, at_least=1)
        super().__init__(batch_size=batch_size, **settings)
        self.epsilon = as_number("epsilon", epsilon, above=0)
        self.student_rate = as_number("student_rate", student_rate, above=0)

    @property
    def questions(self) -> int:
        return self.batch_size * (self.directions + 1 + self.student_updates)

    @property
    def kept(self) -> int:
        return self.batch_size * (1 + self.student_updates)

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        return {"loss": score_distance(student(rows.images), rows.answers().scores()).mean()}

    def generator_step(
        self, teacher: BlackBox, generator: nn.Module, student: nn.Module, replay: Replay
    ) -> tuple[Step, Mapping[str, Player]]:
        """Algorithm 1: the generator's update, then the copy's."""
        assert isinstance(generator, NoiseGenerator)
        clone, span, many, updates = _copied(student), teacher.value_range, self.directions, self.student_updates

        def shown(raw: Tensor) -> Tensor:
            return to_range(raw.tanh(), (-1.0, 1.0), span)

        def step(batch: Rows, update: Update, query: Query) -> dict[str, Tensor]:
            latents, size = batch.images, len(batch)
            raw = generator.before_tanh(latents).float()
            with torch.no_grad():
                directions = F.normalize(torch.randn(many, *raw.shape, device=raw.device).flatten(2), dim=2)
                directions = directions.view(many, *raw.shape)
                points = shown(torch.cat([raw.unsqueeze(0), raw + self.epsilon * directions]).flatten(0, 1))
                response = query(points)
                # In half precision the difference of two points so near would be rounding and nothing else.
                with evaluating(clone), full_precision(raw.device):
                    distances = score_distance(clone(points), response.scores()).view(1 + many, size)
                slope = forward_difference(distances[0], distances[1:], directions, self.epsilon) / size
                replay.keep(points[:size], response[:size])
            update({"generator": -(slope * raw).sum()})
            with torch.no_grad():
                fresh = shown(generator.before_tanh(sample_latent(generator, size * updates)))
                answers = query(fresh)
                replay.keep(fresh, answers)
            loss = distances[0].mean()
            for part in range(updates):
                chosen = slice(part * size, (part + 1) * size)
                loss = score_distance(clone(fresh[chosen]), answers[chosen].scores()).mean()
                update({"clone": loss})
            return {"loss": loss.detach(), "distance": distances[0].mean()}

        optimizer = partial(SGD, lr=self.student_rate, momentum=0.9, weight_decay=5e-4)
        return step, {"clone": Player(clone, optimizer)}


def _copied(student: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(student)
    except Exception as error:  # a student is the user's code, and may raise anything
        raise InputError(
            f"the student {type(student).__name__} cannot be copied ({error}), and the generator plays against a copy: "
            "hand in an nn.Module with weights of its own"
        ) from error
