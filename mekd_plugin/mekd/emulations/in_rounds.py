"""What emulations share that ask in rounds, and learn between them from a surrogate's answers at home.

Ask about a first part of the queries, teach a surrogate by the answers, have it answer about the real images at home,
condition the generator on those answers, and ask the rest about images drawn for wanted ones. The conditioning costs no
query and shows no real image to anybody.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_number, as_one_of, as_whole
from mekd_plugin.distiller import Asking, Stage, Training
from mekd_plugin.errors import InputError
from mekd_plugin.mekd.emulations.emulation import Emulation
from mekd_plugin.mekd.generated import generated_rows, to_range
from mekd_plugin.mekd.surrogate import Surrogate, consistency_for, surrogate_network, teach_surrogate
from mekd_plugin.mekd.wanted import Choice, WantedAnswers
from mekd_plugin.prediction import predict, reference_of
from mekd_plugin.responses import Response, ScoreNormalisation, centre_scores
from mekd_plugin.rows import Rows

__all__ = ["FAR", "InRounds", "RoundSettings"]

_ATTEMPTS = 50
_TYPICAL = 5000
_PART = 1000  # images whose distances to all others are in memory at a time
FAR = 7_919_000_003  # beyond any bank's rows: another attempt draws other numbers


@dataclass(frozen=True)
class RoundSettings:
    """How the teacher is asked in rounds.

    Attributes:
        rounds: how often the teacher is asked: once about images drawn at random, then about wanted answers.
        first_share: part of the queries that go to the first round, in (0, 1); the others share the rest equally.
        choice: which answers are wanted: those to real images as they come (``"random"``), all classes alike
            (``"balanced"``), or the more unsure ones the more often (``"uncertain"``).
        mixed: share of wanted answers that are mixtures of two, in [0, 1].
        surrogate: network of the surrogate; see :func:`~mekd_plugin.mekd.surrogate.surrogate_network`.
        surrogate_steps: its training steps in each round.
        consistency: weight of its consistency on real images; None lets the number of answers decide, see
            :func:`~mekd_plugin.mekd.surrogate.consistency_for`.
        apart: how far from every real image an image that is sent must lie, as a part of the median distance from a
            real image to its nearest other one; nearer ones are drawn again, and never sent. 0 sends all.

    Raises:
        InputError: a value cannot be used.
    """

    rounds: int = 2
    first_share: float = 0.3
    choice: Choice = "random"
    mixed: float = 0.5
    surrogate: str = "wide"
    surrogate_steps: int = 1000
    consistency: float | None = None
    apart: float = 0.0

    def __post_init__(self) -> None:
        consistency = self.consistency
        if consistency is not None:
            consistency = as_number("emulation.consistency", consistency, at_least=0)
        checked: dict[str, Any] = {
            "rounds": as_whole("emulation.rounds", self.rounds, at_least=2),
            "first_share": as_number("emulation.first_share", self.first_share, above=0, below=1),
            "choice": as_one_of("emulation.choice", self.choice, ("random", "balanced", "uncertain")),
            "mixed": as_number("emulation.mixed", self.mixed, at_least=0, at_most=1),
            "surrogate_steps": as_whole("emulation.surrogate_steps", self.surrogate_steps, at_least=1),
            "consistency": consistency,
            "apart": as_number("emulation.apart", self.apart, at_least=0),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


class InRounds(Emulation):
    """An emulation that is conditioned, round by round, on a surrogate's answers about the real images at home."""

    needs_answers = True
    settings: Any

    def __init__(self, settings: Any, **world: Any) -> None:
        super().__init__(settings, **world)
        self._wanted: WantedAnswers | None = None
        self._real: Tensor | None = None
        self._least = 0.0
        with torch.device("meta"):  # an unknown network is refused here
            self._new_surrogate(0)

    @abstractmethod
    def begin(self, teacher: BlackBox, images: Tensor, bank: Bank, size: int) -> Iterator[Stage]:
        """The stages before the first question, which leave a generator of images without wanted answers."""

    @abstractmethod
    def condition(
        self, round_: int, surrogate: Surrogate, real: Tensor, scores: Tensor, span: tuple[float, float]
    ) -> Training:
        """The stage that conditions the generator.

        Args:
            round_: from 1.
            surrogate: taught, in evaluation mode, for images in ``span``.
            real: the edge's images in [-1, 1].
            scores: its centred answers to them, ``(N, C)``; ``wanted`` and ``normalisation`` are theirs already.
            span: the teacher's value range.
        """

    @abstractmethod
    def normalise(self, normalisation: ScoreNormalisation) -> None:
        """Note what makes centred scores the generator's coordinates from here on."""

    @property
    def wanted(self) -> WantedAnswers:
        """The answers to draw images for, once there are any."""
        assert self._wanted is not None
        return self._wanted

    def stages(self, teacher: BlackBox, images: Tensor, bank: Bank, size: int) -> Iterator[Stage]:
        """Those of :meth:`begin`; then ``bank``, ``surrogate_1``, the conditioning one, and so on, round by round."""
        settings, span = self.settings, teacher.value_range
        real = self._real = to_range(images, span, (-1.0, 1.0))
        if settings.apart:
            typical = _typical_distance(real)
            if typical == 0:
                raise InputError(
                    f"emulation.apart={settings.apart}: more than half of the {len(real)} images have an exact copy, "
                    "so there is no distance to keep; leave the copies out, or apart at 0"
                )
            self._least = settings.apart * typical
        yield from self.begin(teacher, images, bank, size)
        for round_ in range(1, settings.rounds):
            yield Asking("bank", bank, partial(self._draw, span=span), self._rows_by(round_, size), grows=True)
            surrogate = Surrogate(self._new_surrogate(round_))
            yield teach_surrogate(
                f"surrogate_{round_}",
                surrogate,
                bank,
                images,
                steps=settings.surrogate_steps,
                consistency=consistency_for(settings.consistency, bank.response, size),
                hard_scale=self.hard_scale,
                seed=self.seed,
                fill=span[0],
            )
            surrogate.eval().requires_grad_(False)
            scores = centre_scores(predict(surrogate, images).clone())
            self.normalise(ScoreNormalisation.of(scores))
            self._wanted = WantedAnswers(scores, choice=settings.choice, mixed=settings.mixed, seed=self.seed)
            yield self.condition(round_, surrogate, real, scores, span)

    @property
    def hard_scores(self) -> Tensor | None:
        """The mean of each class's wanted scores, ``(C, C)``; a class that has none keeps its one-hot vector."""
        if self._wanted is None:
            return None
        means = self._wanted.class_means
        one_hot = Response(torch.arange(self.num_classes), "hard", self.num_classes)
        return torch.where(means.isnan(), one_hot.scores(hard_scale=self.hard_scale).to(means), means)

    @property
    def drawn_for(self) -> Literal["noise", "answers"]:
        return "noise" if self.normalisation is None else "answers"

    def want(self, scores: Tensor) -> None:
        """Take answers like these for the wanted ones."""
        self._wanted = WantedAnswers(scores, choice="random", mixed=0.0, seed=self.seed)

    def draw(self, start: int, stop: int) -> Tensor:
        """Latents of wanted answers; of N(0, I) as long as the generator was not conditioned.

        Raises:
            InputError: it was, in another run, and nobody said on what; or none are found whose images lie far enough
                from the real ones.
        """
        latent = self._propose(start, stop, 0)
        if not self.settings.apart:
            return latent
        if self._real is None:
            raise InputError(
                f"emulation.apart={self.settings.apart}: the generator was trained by another run, and its images "
                "would be kept away from none: leave it out, or leave generator= out"
            )
        for attempt in range(1, _ATTEMPTS):
            near = self._nearness(latent) < self._least
            if not bool(near.any()):
                return latent
            latent = torch.where(near[:, None], self._propose(start, stop, attempt), latent)
        if left := int((self._nearness(latent) < self._least).sum()):
            raise InputError(
                f"emulation.apart={self.settings.apart}: {left} of {stop - start} generated images lie closer to a "
                f"real one in each of {_ATTEMPTS} draws; nothing of them was sent: lower it"
            )
        return latent

    def _nearness(self, latent: Tensor) -> Tensor:
        """Root mean square distance from the image of each latent to its nearest real one, ``(N,)`` on the CPU."""
        generator, real = self.frozen(), self._real
        assert real is not None
        with torch.no_grad():
            images = generator(latent.to(reference_of(generator).device))
        nearest: Tensor = torch.cdist(images.flatten(1), real.flatten(1).to(images)).amin(dim=1).cpu()
        return nearest / math.sqrt(real[0].numel())

    def _propose(self, start: int, stop: int, attempt: int) -> Tensor:
        """Latents to draw from, others at each attempt; a pure function of its arguments."""
        begin = start + attempt * FAR
        latent: Tensor = super().draw(begin, begin + stop - start)
        if self.normalisation is None:
            return latent
        if self._wanted is None:
            raise InputError(
                "this generator draws for wanted answers, and without the bank of its run none are known: give bank= "
                "beside generator="
            )
        scores = self._wanted.draw(begin, begin + stop - start)
        return torch.cat([self.normalisation(scores), latent[:, self.num_classes :].to(scores)], dim=1)

    def _draw(self, start: int, stop: int, *, span: tuple[float, float]) -> Rows:
        generator = self.frozen()
        device = reference_of(generator).device
        return generated_rows(generator, self.draw(start, stop).to(device), self.num_classes, span)

    def _rows_by(self, round_: int, size: int) -> int:
        """Rows of the bank after a round."""
        first, rounds = self.settings.first_share, self.settings.rounds
        share: float = first + (1 - first) * (round_ - 1) / (rounds - 1)
        return max(2, round(size * share))

    def _new_surrogate(self, round_: int) -> nn.Module:
        seed = self.seed * 1_000_003 + round_
        return surrogate_network(self.settings.surrogate, self.num_classes, self.image_shape, seed)


def _typical_distance(images: Tensor) -> float:
    """The median, over at most 5,000 images, of the root mean square distance to the nearest other one."""
    points = images.flatten(1)
    some = points
    if len(points) > _TYPICAL:
        some = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:_TYPICAL]]
    nearest: Tensor = torch.cat([
        torch.cdist(part, points).topk(2, largest=False).values[:, 1] for part in some.split(_PART)
    ])  # fmt: skip
    return float(nearest.median()) / math.sqrt(points.shape[1])
