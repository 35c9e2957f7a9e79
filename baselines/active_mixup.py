"""AM: Active Mixup, mixtures of a few images, chosen by the student's uncertainty (Wang, Li, Wang, Gong 2020).

Source: *Neural Networks Are More Productive Teachers Than Human Raters: Active Mixup for Data-Efficient Knowledge
Distillation from a Blackbox Model*, CVPR 2020. Of each pair of images the mixture of which the student is least sure
stands for the pair; the pairs of which it is least sure are asked about, at most one mixture a pair; the student trains
on all answers so far, and so on. The ratios are those of the public code, 0.30 to 0.70 in steps of 0.04.

Departures:
- preset ``quick`` asks about mixtures alone, and begins with pairs at random: no real image leaves the edge. The paper,
  and preset ``paper``, begins with the images themselves (``originals``);
- the pairs to choose from are a random part of all pairs, several for each question, and the ratios fewer in ``quick``:
  a student's pass over every pair of 6,000 images at 11 ratios takes longer than all the rest;
- each ratio is drawn within its own part of that range, so that a pair that has to be asked about again, since there
  are no others, is another image;
- the student of a round goes on from that of the round before, and takes the recipe whole in the last one;
- hard answers are learnt too, by smoothed cross-entropy; what is asked about is chosen by the student's own sureness;
- preset ``quick`` softens the answers, as it does for every method; ``paper`` does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_flag, as_number, as_whole
from mekd_plugin.distiller import Distiller, Needs, Stage, Student
from mekd_plugin.functional import answer_loss
from mekd_plugin.prediction import predict
from mekd_plugin.rounds import fewest_in_rounds, rounds_of, shares_of
from mekd_plugin.rows import Rows
from mekd_plugin.selection import by_confidence, confidence
from mekd_plugin.transfer import WITHOUT_BUDGET, as_queries, number_of_queries
from mekd_plugin.views import mixup

__all__ = ["ActiveMixup", "least_sure_mixtures"]

_LOWEST, _HIGHEST = 0.3, 0.7
_PART = 1024


def least_sure_mixtures(student: nn.Module, one: Tensor, other: Tensor, ratios: Tensor) -> tuple[Tensor, Tensor]:
    r"""Of each pair the ratio at which the student is least sure of the mixture, and what it says there.

    .. math:: \lambda_{ij} = \arg\min_\lambda \max_c p_c\big(\lambda x_i + (1 - \lambda) x_j\big)

    Args:
        student: images -> logits.
        one: ``(P, channels, height, width)``, the first images of the pairs.
        other: the second ones, of the same shape.
        ratios: ``(R, P)``, those that each pair is tried at.

    Returns:
        ``(P,)`` ratios and ``(P, C)`` probabilities.
    """
    answers = torch.stack([predict(student, mixup(one, other, ratio)).softmax(dim=1) for ratio in ratios])
    lowest = torch.stack([confidence(told) for told in answers]).argmin(dim=0)
    pairs = torch.arange(len(one), device=lowest.device)
    return ratios[lowest, pairs], answers[lowest, pairs]


class ActiveMixup(Distiller):
    """Minimises ``t^2 KL(softmax(y_T / t) || softmax(y_S / t))`` on mixtures of which an earlier student was not sure;
    of hard answers, the cross-entropy.

    Args:
        rounds: how often the teacher is asked, the first time about mixtures at random; at least 2.
        first_share: part of the queries that go to the first round, in (0, 1); the others share the rest equally.
        originals: whether the first round asks about the images themselves, as far as its questions go, and then about
            mixtures; they leave the edge then.
        candidates: pairs to choose from for each question, at least 1.
        ratios: how many ratios each of them is tried at, one in each of so many equal parts of 0.3 to 0.7; at least 1.
        student_share: steps of the students of all rounds but the last together, as a part of the recipe's, on top of
            it; at least 0.
        temperature: t, positive.
        smoothing: share of a hard response that is spread over all classes, in [0, 1).
        queries: in all, at least 2; None takes what the teacher's budget leaves (5,000 without a budget).
        **world: see :class:`~mekd_plugin.distiller.Distiller`.

    Raises:
        InputError: a value cannot be used.
    """

    needs = Needs(responses="either", leaves_edge="mixtures", queries="rounds")
    presets: ClassVar = {
        "quick": {},
        "paper": {"originals": True, "ratios": 11, "temperature": 1.0, "smoothing": 0.0, "candidates": 50.0},
        "tiny": {"rounds": 3, "candidates": 2.0},
    }
    reference: ClassVar = (
        "Wang, Li, Wang, Gong, *Neural Networks Are More Productive Teachers Than Human Raters: Active Mixup for "
        "Data-Efficient Knowledge Distillation from a Blackbox Model*, CVPR 2020"
    )

    def __init__(
        self,
        *,
        rounds: int = 5,
        first_share: float = 0.3,
        originals: bool = False,
        candidates: float = 4.0,
        ratios: int = 3,
        student_share: float = 0.4,
        temperature: float = 4.0,
        smoothing: float = 0.05,
        queries: int | None = None,
        **world: Any,
    ) -> None:
        super().__init__(**world)
        self.rounds = as_whole("rounds", rounds, at_least=2)
        self.first_share = as_number("first_share", first_share, above=0, below=1)
        self.originals = as_flag("originals", originals)
        self.candidates = as_number("candidates", candidates, at_least=1)
        self.ratios = as_whole("ratios", ratios, at_least=1)
        self.student_share = as_number("student_share", student_share, at_least=0)
        self.temperature = as_number("temperature", temperature, above=0)
        self.smoothing = as_number("smoothing", smoothing, at_least=0, below=1)
        self.queries = as_queries(queries)
        if self.originals:
            self.needs = replace(self.needs, leaves_edge="real images")

    @property
    def _shares(self) -> list[float]:
        return shares_of(self.rounds, self.first_share)

    def fewest_queries(self, images: int) -> int:
        return fewest_in_rounds(self._shares)

    def stages(self, teacher: BlackBox, images: Tensor, student: nn.Module) -> Iterator[Stage]:
        size = number_of_queries(teacher, "mixtures", self.queries, otherwise=WITHOUT_BUDGET)
        bank, asked = Bank("mixtures"), torch.empty(0, dtype=torch.int64)
        for round_ in rounds_of(size, self._shares, student_share=self.student_share):
            rng = torch.Generator().manual_seed(self.seed * 1_000_003 + round_.number)
            count = round_.until - len(bank)
            first = images[:0]
            if round_.number == 1 and self.originals:
                first = images[torch.randperm(len(images), generator=rng)[:count].to(images.device)]
            pairs, mixed = self._choose(student, images, asked, count - len(first), round_.number > 1, rng)
            asked = torch.cat([asked, pairs])
            yield round_.asking(bank, Rows(torch.cat([first, mixed])))
            if round_.fraction:
                yield self.align(round_.student, bank.order(self.seed), student, fraction=round_.fraction)

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        matching = {"temperature": self.temperature, "smoothing": self.smoothing}
        return {"loss": answer_loss(student(rows.images), rows.answers(), **matching)}

    def _choose(
        self, student: nn.Module, images: Tensor, asked: Tensor, count: int, looks: bool, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The numbers of ``count`` pairs, and a mixture of each; at random unless it ``looks`` at the student."""
        pairs = _pairs(len(images), asked, count, round(count * self.candidates) if looks else count, rng)
        step = (_HIGHEST - _LOWEST) / self.ratios
        grid = _LOWEST + step * (torch.arange(self.ratios)[:, None] + torch.rand(1, len(pairs), generator=rng))
        grid = grid.to(images)
        if looks and count:  # a part at a time: the images of all pairs would be many times those there are
            parts = zip(pairs.split(_PART), grid.split(_PART, dim=1), strict=True)
            found = [least_sure_mixtures(student, *_both(images, part), ratios) for part, ratios in parts]
            ratio, answers = (torch.cat(column) for column in zip(*found, strict=True))
            chosen = by_confidence(answers, count)
        else:
            rows = torch.arange(len(pairs), device=images.device)
            ratio, chosen = grid[torch.randint(self.ratios, (len(pairs),), generator=rng).to(rows), rows], rows[:count]
        taken = pairs[chosen.cpu()]
        return taken, mixup(*_both(images, taken), ratio[chosen])


def _both(images: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second images of pairs, by their numbers."""
    first, second = pairs // len(images), pairs % len(images)
    return images[first.to(images.device)], images[second.to(images.device)]


def _pairs(images: int, asked: Tensor, fewest: int, most: int, rng: torch.Generator) -> Tensor:
    """The numbers ``first * images + second`` of ``fewest`` to ``most`` pairs: of others than those asked about first.

    Only where too few are left are pairs taken that were asked about, or one several times.
    """
    if images * (images - 1) <= 4 * most + 2 * len(asked):
        first, second = torch.triu_indices(images, images, offset=1)
    else:
        first = torch.randint(images, (2 * most,), generator=rng)
        second = (first + torch.randint(1, images, first.shape, generator=rng)) % images
    known = (torch.minimum(first, second) * images + torch.maximum(first, second)).unique()
    known = known[torch.randperm(len(known), generator=rng)]
    old = torch.isin(known, asked)
    ordered = torch.cat([known[~old], known[old]])
    fresh = int((~old).sum())
    if fresh >= fewest:
        return ordered[: min(fresh, most)]
    return ordered.repeat(-(-fewest // len(ordered)))[:fewest]
