"""DB3KD: soft labels out of distances to the teacher's decision boundaries, from hard answers alone (Wang 2021).

Source: Wang, *Zero-Shot Knowledge Distillation from a Decision-Based Black-Box Model*, ICML 2021, of which this is the
half with real images: how far an image is from each other class says how unlike that class it is. The boundary distance
(BD) is found by bisection on the line to an image of the other class; the minimal boundary distance (MBD) turns that
line towards nearer points of the boundary, by a zeroth-order estimate of the sign of the gradient.

Departures:
- the line leads to the nearest image of the other class among those that the teacher named; the public code tries
  hundreds of them an image and keeps the shortest distance;
- the own score is above another class's by an amount in proportion to the distance, as it is for a teacher that is
  linear around the image. The public code gives each class its distance as score, the far ones the higher, and the own
  class their sum, which the temperature of 20 all but levels;
- the class of an image is what the teacher answers about it, a query like any other: the edge has no labels; a class
  that it named for no image counts as far as the farthest one found;
- views of images stand beside them where the budget buys more searches than there are images;
- preset ``quick`` bisects four times and never turns: BD, and no MBD, which costs several times as many questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_number, as_whole
from mekd_plugin.distiller import Asking, Distiller, Needs, Stage, Student
from mekd_plugin.errors import NeedsNotMet
from mekd_plugin.functional import cross_entropy_labels, kd_divergence
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows
from mekd_plugin.transfer import images_and_views

__all__ = ["DB3KD", "Boundary", "bisect", "nearest_of_class", "turn"]

Ask = Callable[[Tensor], Tensor]
"""Images ``(P, ...)`` -> the class that the teacher names, ``(P,)`` int64; -1 where there was no query left."""
_PROBE = 0.01  # how far a random direction turns a line, as part of its length
_TURN = 0.2  # how far a line is turned against the estimated gradient
_NEARER = 0.8  # a turned line is searched from this part of its length on


class Boundary(NamedTuple):
    """Where the lines from images to other classes cross into them; P lines.

    Attributes:
        direction: ``(P, channels, height, width)``, of unit length.
        low: ``(P,)``, a distance at which the line was not in the other class.
        high: ``(P,)``, one at which it was: the boundary lies between the two.
    """

    direction: Tensor
    low: Tensor
    high: Tensor


def bisect(ask: Ask, images: Tensor, classes: Tensor, found: Boundary, steps: int) -> Boundary:
    """Halve the interval of every line ``steps`` times, a query each; a line without an answer stays as it was.

    Args:
        ask: the teacher.
        images: ``(P, channels, height, width)``, where the lines begin.
        classes: ``(P,)``, the other class of each line.
        found: the intervals so far.
        steps: 0 or more.
    """
    direction, low, high = found
    for _ in range(steps):
        middle = (low + high) / 2
        named = ask(images + _per_image(middle) * direction)
        high = torch.where(named == classes, middle, high)
        low = torch.where((named != classes) & (named >= 0), middle, low)
    return Boundary(direction, low, high)


def turn(
    ask: Ask, images: Tensor, classes: Tensor, found: Boundary, *, directions: int, steps: int, rng: torch.Generator
) -> Boundary:
    """Turn every line towards a nearer point of the boundary, and bisect anew: ``directions + 1 + steps`` queries each.

    A random change of the direction after which the end of the line is still in the other class makes that class
    nearer, any other one farther; the line turns along the sum of the changes with these signs, if its end then stays
    in the other class.

    Args:
        ask: the teacher.
        images: ``(P, channels, height, width)``, where the lines begin.
        classes: ``(P,)``, the other class of each line.
        found: the intervals so far.
        directions: random changes, at least 1.
        steps: of the bisection.
        rng: source of the changes, on the CPU.
    """
    direction, low, high = found
    nearer = torch.zeros_like(direction)
    for _ in range(directions):
        change = _PROBE * _unit(torch.randn(direction.shape, generator=rng).to(direction))
        named = ask(images + _per_image(high) * _unit(direction + change))
        nearer += torch.where(_per_image(named == classes), change, -change)
    turned = _unit(direction + _TURN * _unit(nearer))
    better = ask(images + _per_image(high) * turned) == classes
    kept = torch.where(_per_image(better), turned, direction)
    return bisect(ask, images, classes, Boundary(kept, torch.where(better, _NEARER * high, low), high), steps)


def nearest_of_class(images: Tensor, pool: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The nearest image of each class in a pool.

    Args:
        images: ``(N, channels, height, width)``.
        pool: ``(M, channels, height, width)``.
        labels: ``(M,)`` int64, the pool's.
        num_classes: C.

    Returns:
        distances ``(N, C)``, infinite for a class of which the pool has none, and numbers in the pool ``(N, C)``.
    """
    between = torch.cdist(images.flatten(1), pool.flatten(1))
    distances = between.new_full((len(images), num_classes), torch.inf)
    numbers = torch.zeros(len(images), num_classes, dtype=torch.int64, device=images.device)
    for label in labels.unique().tolist():
        own = (labels == label).nonzero().squeeze(1)
        distances[:, label], place = between[:, own].min(dim=1)
        numbers[:, label] = own[place]
    return distances, numbers


class DB3KD(Distiller):
    """Minimises ``t^2 KL(softmax(s / t) || softmax(y_S / t)) + w CE(y_S, k)`` with s from distances, k the own class.

    The score of the teacher's own class is 0, that of another one ``-sharpness * distance / mean distance``.

    Args:
        searched: how many images are searched from, at least 2, the edge's first, then views of them; None takes all of
            the edge's, and views as far as the budget goes.
        steps: of each bisection: a query each, for every other class; at least 1.
        turns: how often each line is turned towards a nearer point of the boundary, at least 0; 0 keeps to the boundary
            distance.
        directions: random directions of each turn, a query each; at least 1.
        sharpness: mean gap of the scores, positive.
        temperature: t, positive.
        label_weight: w, at least 0, of the teacher's own class beside the soft label.
        **world: see :class:`~mekd_plugin.distiller.Distiller`.

    Raises:
        InputError: a value cannot be used.
    """

    needs = Needs(responses="either", leaves_edge="real images")
    presets: ClassVar = {
        "quick": {},
        "paper": {"steps": 20, "turns": 10, "directions": 200, "temperature": 20.0},
        "tiny": {},
    }
    reference: ClassVar = "Wang, *Zero-Shot KD from a Decision-Based Black-Box Model*, ICML 2021"

    def __init__(
        self,
        *,
        searched: int | None = None,
        steps: int = 4,
        turns: int = 0,
        directions: int = 20,
        sharpness: float = 8.0,
        temperature: float = 4.0,
        label_weight: float = 1.0,
        **world: Any,
    ) -> None:
        super().__init__(**world)
        self.searched = None if searched is None else as_whole("searched", searched, at_least=2)
        self.steps = as_whole("steps", steps, at_least=1)
        self.turns = as_whole("turns", turns, at_least=0)
        self.directions = as_whole("directions", directions, at_least=1)
        self.sharpness = as_number("sharpness", sharpness, above=0)
        self.temperature = as_number("temperature", temperature, above=0)
        self.label_weight = as_number("label_weight", label_weight, at_least=0)
        self._scale = 1.0

    @property
    def queries_an_image(self) -> int:
        """Its own class, and a search towards every other."""
        return 1 + (self.num_classes - 1) * (self.steps + self.turns * (self.directions + 1 + self.steps))

    def fewest_queries(self, images: int) -> int:
        return (self.searched or images) * self.queries_an_image

    def stages(self, teacher: BlackBox, images: Tensor, student: nn.Module) -> Iterator[Stage]:
        if teacher.ledger.peers.world > 1:
            raise NeedsNotMet("db3kd searches in a single process: start it in one")
        size, available = self.searched or len(images), teacher.ledger.available("labels")
        if self.searched is None and available is not None:
            size = available // self.queries_an_image
        draw = images_and_views(images, self.seed, fill=teacher.value_range[0])
        labels, bank = Bank("labels"), Bank("boundaries")
        yield Asking("labels", labels, draw, size, grows=True)  # as what is learnt from comes with the searches
        known = labels.rows()

        def again(start: int, stop: int) -> Rows:
            return Rows(known.images[start:stop], extra={"label": known.answers().labels[start:stop]})

        search = partial(self._search, pool=known.images, labels=known.answers().labels)
        yield Asking("boundaries", bank, again, len(labels), label=search)
        far = -bank.response.values[bank.response.values < 0]
        self._scale = self.sharpness / float(far.mean()) if len(far) else 1.0
        yield self.align("student", bank.order(self.seed), student)

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        logits, response = student(rows.images), rows.answers()
        divergence = kd_divergence(logits, self._scale * response.scores(), self.temperature)
        label = cross_entropy_labels(logits, response.labels)
        return {"loss": divergence + self.label_weight * label, "divergence": divergence, "label": label}

    def _search(self, teacher: BlackBox, rows: Rows, *, pool: Tensor, labels: Tensor) -> Response:
        """Minus the distance to every other class, ``(N, C)``, 0 for the own one."""
        own = rows.extra["label"]
        reach, numbers = nearest_of_class(rows.images, pool, labels, self.num_classes)
        reach[torch.arange(len(own)), own] = torch.inf
        row, other = reach.isfinite().nonzero().unbind(dim=1)
        scores = torch.zeros_like(reach)
        if len(row):
            images, high = rows.images[row], reach[row, other]
            found = Boundary(_unit(pool[numbers[row, other]] - images), torch.zeros_like(high), high)
            ask, rng = partial(_ask, teacher), torch.Generator().manual_seed(self.seed)
            found = bisect(ask, images, other, found, self.steps)
            for _ in range(self.turns):
                found = turn(ask, images, other, found, directions=self.directions, steps=self.steps, rng=rng)
            scores[row, other] = -found.high
        farthest = scores.amin(dim=1, keepdim=True).expand_as(scores)
        scores = torch.where(reach.isfinite(), scores, farthest)
        scores[torch.arange(len(own)), own] = 0.0
        return Response(scores, "logits", self.num_classes)


def _ask(teacher: BlackBox, images: Tensor) -> Tensor:
    """The classes of as many of ``images`` as there are queries for, -1 for the others."""
    low, high = teacher.value_range
    count, ledger = len(images), teacher.ledger
    if ledger.remaining is not None:  # where answers were lost, the last searches end earlier
        count = min(count, ledger.remaining + (0 if teacher.journal is None else teacher.journal.images_ahead))
    named = torch.full((len(images),), -1, dtype=torch.int64, device=images.device)
    if count:
        named[:count] = teacher.query(images[:count].clamp(low, high)).labels
    return named


def _unit(lines: Tensor) -> Tensor:
    return lines / _per_image(lines.flatten(1).norm(dim=1).clamp_min(1e-12))


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
