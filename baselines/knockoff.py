"""KN: Knockoff Nets, a transfer set of images out of a large pool (Orekondy, Schiele, Fritz 2019).

Source: *Knockoff Nets: Stealing Functionality of Black-Box Models*, CVPR 2019, section 4: the ``random`` and the
``adaptive`` strategy, the latter a gradient bandit whose actions are groups of the pool's images, with the rewards
certainty, diversity and loss. The policies ``k_center`` and ``entropy`` choose by the student instead: Pal, Gupta,
Shukla, Kanade, Shevade, Ganapathy, *ActiveThief: Model Extraction Using Active Learning and Unannotated Public Data*,
AAAI 2020.

Departures:
- the pool has no labels, so the bandit's actions are clusters of it (the paper's: classes of ImageNet);
- where the pool holds fewer images than candidates are wanted, views of them are candidates too, a query each;
- answers come a round at a time: the policy learns from them one after the other, as in the paper, but is the same for
  all questions of a round; averages run over all answers so far, and so does the scale that brings each reward to
  [0, 1] before they are added up;
- the student of a round goes on from that of the round before, and takes the recipe whole in the last one; the papers
  train a new one;
- preset ``quick`` softens the answers, and smooths hard ones, as it does for every method; ``paper`` does neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_number, as_one_of, as_whole
from mekd_plugin.distiller import Needs, Stage, Student
from mekd_plugin.errors import InputError, NeedsNotMet
from mekd_plugin.functional import answer_loss
from mekd_plugin.prediction import predict
from mekd_plugin.rounds import candidates, rounds_of
from mekd_plugin.rows import Rows
from mekd_plugin.selection import by_entropy, clusters, coarse, k_center, margin, preferences
from mekd_plugin.transfer import TransferSetDistiller, number_of_queries

__all__ = ["Knockoff", "diversity"]

_REWARDS = ("certainty", "diversity", "loss")


def diversity(probabilities: Tensor) -> Tensor:
    r"""How far each answer rises above the mean of those before it, :math:`\sum_c \max(0, y_{tc} - \bar y_{<t,c})`.

    Of probabilities ``(N, C)`` in the order of the answers, ``(N,)`` in [0, 1]; 0 for the first.
    """
    before = torch.arange(len(probabilities), device=probabilities.device).clamp_min(1).unsqueeze(1)
    mean = (probabilities.cumsum(dim=0) - probabilities) / before
    mean[:1] = probabilities[:1]
    return (probabilities - mean).clamp_min(0).sum(dim=1)


class Knockoff(TransferSetDistiller):
    """Minimises ``t^2 KL(softmax(y_T / t) || softmax(y_S / t))`` on images that a policy chose from a pool.

    Args:
        domain: whose images are the pool: the ``"edge"``'s, or the ``"other"`` ones of the run's ``pool=``.
        policy: ``"random"``; ``"adaptive"``; ``"entropy"``, where the student is most unsure; or ``"k_center"``, the
            farthest from all that was asked, as the student sees them.
        rewards: of the adaptive policy: one or several of ``"certainty"``, ``"diversity"`` and ``"loss"``, each once.
        rounds: in how many equal rounds all policies but the random one ask, at least 2; the first draws at random.
        student_share: steps of the students of all rounds but the last together, as a part of the recipe's, on top of
            it, where the policy looks at the student; above 0.
        candidates: how many images a question is chosen from, at least 1.
        actions: into how many clusters the adaptive policy groups the candidates, at least 2.
        temperature: t, positive.
        smoothing: share of a hard response that is spread over all classes, in [0, 1).
        queries: see :class:`TransferSetDistiller`.

    Raises:
        InputError: a value cannot be used.
    """

    needs = Needs(responses="either", leaves_edge="real images")
    presets: ClassVar = {
        "quick": {},
        "paper": {"temperature": 1.0, "smoothing": 0.0, "domain": "other"},
        "tiny": {},
    }
    reference: ClassVar = "Orekondy et al., *Knockoff Nets*, CVPR 2019; policies: Pal et al., *ActiveThief*, AAAI 2020"

    def __init__(
        self,
        *,
        domain: str = "edge",
        policy: str = "random",
        rewards: str | Sequence[str] = _REWARDS,
        rounds: int = 5,
        student_share: float = 0.4,
        candidates: float = 4.0,
        actions: int = 20,
        temperature: float = 4.0,
        smoothing: float = 0.05,
        queries: int | None = None,
        **world: Any,
    ) -> None:
        super().__init__(queries=queries, **world)
        self.domain: str = as_one_of("domain", domain, ("edge", "other"))
        self.policy: str = as_one_of("policy", policy, ("random", "adaptive", "k_center", "entropy"))
        named = (rewards,) if isinstance(rewards, str) else tuple(rewards)
        if not named or len(set(named)) < len(named):
            raise InputError(f"rewards={rewards!r}: expected one or several of {', '.join(_REWARDS)}, each once")
        self.rewards = tuple(as_one_of("rewards", name, _REWARDS) for name in named)
        self.rounds = as_whole("rounds", rounds, at_least=2)
        self.student_share = as_number("student_share", student_share, above=0)
        self.candidates = as_number("candidates", candidates, at_least=1)
        self.actions = as_whole("actions", actions, at_least=2)
        self.temperature = as_number("temperature", temperature, above=0)
        self.smoothing = as_number("smoothing", smoothing, at_least=0, below=1)
        if domain == "other":
            self.needs = replace(self.needs, pool="other domain", leaves_edge="nothing of the edge")
        if self._looks_at_student:
            self.needs = replace(self.needs, queries="rounds")

    @property
    def _looks_at_student(self) -> bool:
        return self.policy in ("k_center", "entropy") or (self.policy == "adaptive" and "loss" in self.rewards)

    def check(self, teacher: BlackBox) -> None:
        super().check(teacher)
        if self.policy == "adaptive" and self.rewards == ("certainty",) and teacher.responses == "hard":
            raise NeedsNotMet(
                "a hard response is always certain, so the reward certainty tells no image from another: add diversity "
                "or loss to knockoff's rewards"
            )

    def fewest_queries(self, images: int) -> int:
        return 0 if self.policy == "random" else 2 * self.rounds

    def stages(self, teacher: BlackBox, images: Tensor, student: nn.Module) -> Iterator[Stage]:
        if self.policy == "random":
            yield from super().stages(teacher, images, student)
            return
        size = number_of_queries(teacher, "transfer_set", self.queries, otherwise=len(images))
        pool = candidates(images, round(size * self.candidates), self.seed, fill=teacher.value_range[0])
        groups = self._groups(pool) if self.policy == "adaptive" else None
        student_share = self.student_share if self._looks_at_student else 0.0
        bank, chosen, losses = Bank("transfer_set"), torch.empty(0, dtype=torch.int64), torch.empty(0)
        for round_ in rounds_of(size, [1.0] * self.rounds, student_share=student_share):
            answered = len(bank)
            chosen, losses = chosen[:answered], losses[:answered]  # a bank that lost answers has fewer rows
            free = torch.ones(len(pool), dtype=torch.bool)
            free[chosen] = False
            rest, more = free.nonzero().squeeze(1), round_.until - answered
            if groups is not None:
                preferred = self._preferred(bank, groups[chosen], losses) if len(bank) else torch.zeros(self.actions)
                found = self._by_action(groups[rest], preferred, more, round_.number)
            elif len(bank):
                found = self._by_student(student, pool, rest, chosen, more)
            else:
                found = torch.arange(more)  # candidates come in shuffled order
            chosen = torch.cat([chosen, rest[found]])
            yield round_.asking(bank, Rows(pool[rest[found].to(pool.device)]))
            if "loss" in self.rewards and groups is not None and not round_.last:
                losses = torch.cat([losses, _losses(student, bank.rows()[answered:])])
            if round_.fraction:
                yield self.align(round_.student, bank.order(self.seed), student, fraction=round_.fraction)

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        matching = {"temperature": self.temperature, "smoothing": self.smoothing}
        return {"loss": answer_loss(student(rows.images), rows.answers(), **matching)}

    def _groups(self, candidates: Tensor) -> Tensor:
        """The action of each candidate, ``(N,)`` int64 on the CPU."""
        return clusters(coarse(candidates).cpu(), min(self.actions, len(candidates)))

    def _preferred(self, bank: Bank, actions: Tensor, losses: Tensor) -> Tensor:
        """What the bandit prefers after the bank's answers, of whose rows these are the actions and the losses."""
        probabilities = bank.response.probabilities().cpu()
        known = {"certainty": margin(probabilities), "diversity": diversity(probabilities), "loss": losses}
        rewards = torch.stack([known[name] for name in self.rewards])
        low, high = rewards.amin(dim=1, keepdim=True), rewards.amax(dim=1, keepdim=True)
        together = ((rewards - low) / (high - low).clamp_min(1e-12)).sum(dim=0)
        return preferences(actions[: len(together)], together, self.actions)

    def _by_action(self, actions: Tensor, preferred: Tensor, count: int, round_: int) -> Tensor:
        """The numbers of ``count`` rows, an action drawn by the policy, then one of its images."""
        left = actions.bincount(minlength=len(preferred)).clamp_min(1)
        weights = (preferred.softmax(dim=0) / left)[actions].clamp_min(1e-12)
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + round_)
        return torch.multinomial(weights, count, replacement=False, generator=rng)

    def _by_student(self, student: nn.Module, candidates: Tensor, rest: Tensor, chosen: Tensor, count: int) -> Tensor:
        """The numbers of ``count`` rows of ``rest`` that the student's answers single out."""
        answers = predict(student, candidates).cpu().softmax(dim=1)
        if self.policy == "entropy":
            return by_entropy(answers[rest], count)
        return k_center(answers[rest], count, centres=answers[chosen])


def _losses(student: nn.Module, rows: Rows) -> Tensor:
    """The student's cross-entropy with the answers to ``rows``, ``(N,)`` on the CPU."""
    guessed = predict(student, rows.images).log_softmax(dim=1)
    return -(rows.answers().probabilities() * guessed).sum(dim=1).cpu()
