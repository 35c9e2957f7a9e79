"""SwiftThief: contrastive learning on asked and unasked images beside the answers (Lee, Han, Lee 2024).

Source: *SwiftThief: Enhancing Query Efficiency of Model Stealing by Contrastive Learning*, IJCAI 2024: a
self-supervised contrast of views of unasked images, as in SimSiam (Chen, He, *Exploring Simple Siamese Representation
Learning*, CVPR 2021); a soft-supervised one of asked images, whose pairs weigh by how alike and how sure the teacher's
answers are; the usual matching of answers; and questions in rounds about the images of which the student is most
unsure, until the rest of the budget is needed for the classes that were answered too seldom.

Departures:
- all three losses in every step, by the student's own optimiser and recipe (the public code alternates epochs), so half
  of a batch is contrasted in preset ``quick``, with a weight of 0.1 (1 in preset ``paper``), and plain and augmented
  images pass the student's batch norms together; the recipe is taken whole in the last round;
- views are small affine maps: mirror images and other colours change the class of a digit;
- the term for the sharpness of the representation, of weight 0.01 in the public code, is left out;
- in a round for rare classes the rarest one is found anew for each fifth of its questions, as in the public code, but
  counts the questions of the round as answers of the class that they are meant for;
- where the edge has fewer images than are to choose from, views of them are candidates too, a query each;
- preset ``quick`` softens the answers, and smooths hard ones, as it does for every method.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_number, as_whole
from mekd_plugin.distiller import Distiller, Needs, Player, Query, Stage, Training, Update
from mekd_plugin.functional import answer_loss
from mekd_plugin.prediction import predict_with_features, with_features
from mekd_plugin.rounds import Round, candidates, fewest_in_rounds, rounds_of
from mekd_plugin.rows import ImageRows, PairedRows, Rows
from mekd_plugin.selection import by_entropy
from mekd_plugin.transfer import as_queries, number_of_queries
from mekd_plugin.views import affine

__all__ = ["SwiftThief", "by_rarity", "rare_ones_first", "self_supervised_contrast", "soft_supervised_contrast"]

_PARTS = 5  # of a round for rare classes
_BANDWIDTH = 0.5


def self_supervised_contrast(predictions: Tensor, projections: Tensor) -> Tensor:
    r"""SimSiam's loss, :math:`-\frac{1}{2N} \sum_i \cos(p_i, z_{i'})`, where i and i' are two views of one image.

    Args:
        predictions: p, ``(2N, d)``: N views, then another view of each image in the same order.
        projections: z, ``(2N, d)``, in the same order; they get no gradient.

    Returns:
        a scalar in [-1, 1].
    """
    other = projections.detach().roll(len(projections) // 2, dims=0)
    return -F.cosine_similarity(predictions, other, dim=1).mean()


def soft_supervised_contrast(predictions: Tensor, projections: Tensor, probabilities: Tensor) -> Tensor:
    r"""The contrast of answered images, mean over the pairs of views that weigh anything:

    .. math:: -\frac{1}{|\{w_{ij} > 0\}|} \sum_{i \ne j} w_{ij} \cos(p_i, z_j), \qquad
        w_{ij} = \Big(1 - \frac{H(y_i)}{\log C}\Big) \Big(1 - \frac{H(y_j)}{\log C}\Big) \cos(y_i, y_j)

    With hard answers w is 1 for two views of one class, and 0 for others.

    Args:
        predictions: p, ``(M, d)``.
        projections: z, ``(M, d)``; they get no gradient.
        probabilities: y, the teacher's answers to the views' images, ``(M, C)``.

    Returns:
        a scalar in [-1, 1].
    """
    entropy = torch.special.entr(probabilities).sum(dim=1)
    sure = (1 - entropy / torch.log(torch.full_like(entropy, probabilities.shape[1]))).clamp_min(0)
    answers = F.normalize(probabilities, dim=1)
    weights = sure.outer(sure) * (answers @ answers.T)
    weights = weights * (1 - torch.eye(len(weights), device=weights.device, dtype=weights.dtype))
    alike = F.normalize(predictions, dim=1) @ F.normalize(projections.detach(), dim=1).T
    contrast: Tensor = -(weights * alike).sum() / (weights > 0).sum().clamp_min(1)
    return contrast


def rare_ones_first(counts: Tensor, left: int) -> bool:
    """Whether all ``left`` questions are needed to bring classes of few answers to the mean of ``counts`` ``(C,)``."""
    missing = (counts.float().mean() - counts).clamp_min(0)
    return 0 < left <= float(missing.sum())


def by_rarity(features: Tensor, known: Tensor, labels: Tensor, num_classes: int, count: int) -> Tensor:
    """The numbers of ``count`` rows that lie, by a kernel density, among the known ones of the rarest classes.

    Args:
        features: ``(N, d)``, of the images to choose from.
        known: ``(M, d)``, of those that were asked about.
        labels: the classes of their answers, ``(M,)``; one that was never answered is nobody's aim.
        num_classes: C.
        count: how many, 0 to N; no row twice.
    """
    counts = labels.bincount(minlength=num_classes).float()
    free = torch.arange(len(features), device=features.device)
    chosen = [free[:0]]
    for part in range(_PARTS):
        size = count * (part + 1) // _PARTS - count * part // _PARTS
        rarest = counts.where(counts > 0, torch.inf).argmin()
        distances = torch.cdist(features[free], known[labels == rarest]).square()
        density = torch.logsumexp(-distances / (2 * _BANDWIDTH**2), dim=1)
        order = density.argsort(descending=True, stable=True)
        chosen.append(free[order[:size]])
        free = free[order[size:]].sort().values
        counts[rarest] += size
    return torch.cat(chosen)


class SwiftThief(Distiller):
    """Minimises ``t^2 KL(softmax(y_T / t) || softmax(y_S / t))`` and the weighted sum of two contrasts.

    Args:
        rounds: how often the teacher is asked, at least 2, equally much each time; the first time at random.
        candidates: real images and views to choose from, and to contrast, for each question, at least 1.
        contrast_weight: weight of the contrasts, at least 0.
        contrasted: share of a batch's rows that are contrasted, in (0, 1], beside as many unasked images.
        head_width: d, of projections and predictions, at least 4.
        head_learning_rate: of the Adam that trains their two heads, positive.
        student_share: steps of the students of all rounds but the last together, as a part of the recipe's, on top of
            it; above 0.
        temperature: t, positive.
        smoothing: share of a hard response that is spread over all classes, in [0, 1).
        queries: in all, at least 2; None takes what the teacher's budget leaves, or, without a budget, as many as there
            are images.
        **world: see :class:`~mekd_plugin.distiller.Distiller`.

    Raises:
        InputError: a value cannot be used.
    """

    needs = Needs(responses="either", leaves_edge="real images", queries="rounds")
    presets: ClassVar = {
        "quick": {},
        "paper": {
            "rounds": 10, "candidates": 4.0, "contrast_weight": 1.0, "contrasted": 1.0, "head_width": 2048,
            "temperature": 1.0, "smoothing": 0.0,
        },
        "tiny": {"rounds": 3, "head_width": 16},
    }  # fmt: skip
    reference: ClassVar = (
        "Lee, Han, Lee, *SwiftThief: Enhancing Query Efficiency of Model Stealing by Contrastive Learning*, IJCAI 2024"
    )

    def __init__(
        self,
        *,
        rounds: int = 5,
        candidates: float = 2.0,
        contrast_weight: float = 0.1,
        contrasted: float = 0.5,
        head_width: int = 128,
        head_learning_rate: float = 1e-3,
        student_share: float = 0.4,
        temperature: float = 4.0,
        smoothing: float = 0.05,
        queries: int | None = None,
        **world: Any,
    ) -> None:
        super().__init__(**world)
        self.rounds = as_whole("rounds", rounds, at_least=2)
        self.candidates = as_number("candidates", candidates, at_least=1)
        self.contrast_weight = as_number("contrast_weight", contrast_weight, at_least=0)
        self.contrasted = as_number("contrasted", contrasted, above=0, at_most=1)
        self.head_width = as_whole("head_width", head_width, at_least=4)
        self.head_learning_rate = as_number("head_learning_rate", head_learning_rate, above=0)
        self.student_share = as_number("student_share", student_share, above=0)
        self.temperature = as_number("temperature", temperature, above=0)
        self.smoothing = as_number("smoothing", smoothing, at_least=0, below=1)
        self.queries = as_queries(queries)

    def fewest_queries(self, images: int) -> int:
        return fewest_in_rounds([1.0] * self.rounds)

    def stages(self, teacher: BlackBox, images: Tensor, student: nn.Module) -> Iterator[Stage]:
        size = number_of_queries(teacher, "transfer_set", self.queries, otherwise=len(images))
        fill = teacher.value_range[0]
        pool = candidates(images, round(size * self.candidates) + 1, self.seed, fill=fill)
        head = self._new_head(predict_with_features(student, images[:1])[1].shape[1])
        bank, chosen = Bank("transfer_set"), torch.empty(0, dtype=torch.int64, device=pool.device)
        for round_ in rounds_of(size, [1.0] * self.rounds, student_share=self.student_share):
            chosen = chosen[: len(bank)]  # a bank that lost answers has fewer rows than were chosen
            found = self._choose(student, pool, chosen, bank, round_.until - len(bank), size)
            chosen = torch.cat([chosen, found])
            yield round_.asking(bank, Rows(pool[found]))
            yield self._train(round_, bank, pool[_others(pool, chosen)], student, head, fill)

    def _choose(self, student: nn.Module, pool: Tensor, chosen: Tensor, bank: Bank, count: int, size: int) -> Tensor:
        """The numbers of the ``count`` images of the pool to ask about next."""
        rest = _others(pool, chosen)
        if not len(bank):
            return rest[:count]  # the pool is in shuffled order
        labels = bank.response.labels.to(pool.device)
        logits, features = predict_with_features(student, pool)
        if rare_ones_first(labels.bincount(minlength=self.num_classes), size - len(bank)):
            return rest[by_rarity(features[rest], features[chosen], labels, self.num_classes, count)]
        return rest[by_entropy(logits[rest].softmax(dim=1), count)]

    def _train(
        self, round_: Round, bank: Bank, unasked: Tensor, student: nn.Module, head: nn.ModuleDict, fill: float
    ) -> Training:
        """The student's stage: answers matched, views of asked and unasked images contrasted."""
        view = partial(affine, degrees=15, scale=(0.8, 1.2), translate=0.1 * self.image_shape[2], fill=fill)

        def step(rows: Rows, update: Update, query: Query) -> dict[str, Tensor]:
            response, part = rows.answers(), max(1, round(self.contrasted * len(rows)))
            asked, others = rows.images[:part], rows.extra["unasked"][:part]
            views = view(torch.cat([asked, asked, others, others]))
            logits, features = with_features(student, torch.cat([rows.images, views]))
            matching = answer_loss(
                logits[: len(rows)], response, temperature=self.temperature, smoothing=self.smoothing
            )
            projections = head["projector"](features[len(rows) :])
            predictions = head["predictor"](projections)
            by_answers = soft_supervised_contrast(
                predictions[: 2 * part], projections[: 2 * part], response[:part].probabilities().repeat(2, 1)
            )
            by_images = self_supervised_contrast(predictions[2 * part :], projections[2 * part :])
            contrast = by_answers + by_images
            loss = matching + self.contrast_weight * contrast
            update({"student": loss, "head": contrast})
            agreement = (logits[: len(rows)].argmax(dim=1) == response.labels).float().mean()
            parts = {"loss": loss, "matching": matching, "soft_supervised": by_answers, "self_supervised": by_images}
            return {name: value.detach() for name, value in parts.items()} | {"agreement": agreement}

        rows = PairedRows(bank.order(self.seed), "unasked", ImageRows(unasked, seed=self.seed))
        players = {"head": Player(head, partial(Adam, lr=self.head_learning_rate))}
        fraction = round_.fraction
        return Training(round_.student, rows, step, players, trains_student=True, fraction=fraction, recordable=True)

    def _new_head(self, width: int) -> nn.ModuleDict:
        """Projector and predictor, as in SimSiam."""
        d = self.head_width
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed * 1_000_003)
            projector = nn.Sequential(_two_layers(width, d, d), nn.BatchNorm1d(d, affine=False))
            return nn.ModuleDict({"projector": projector, "predictor": _two_layers(d, d // 4, d)})


def _two_layers(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, out))


def _others(pool: Tensor, chosen: Tensor) -> Tensor:
    """The numbers of the pool's images but the chosen ones."""
    free = torch.ones(len(pool), dtype=torch.bool, device=pool.device)
    free[chosen] = False
    return free.nonzero().squeeze(1)
