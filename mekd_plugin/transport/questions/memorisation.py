"""Does a generator copy the images it was trained on? Nearest neighbours against images it never saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.transport.estimators.neighbours import distance_blocks
from mekd_plugin.transport.samples import Points, as_points, generator
from mekd_plugin.transport.statistics.proportions import Proportion, proportion_of

__all__ = ["Memorisation", "memorisation"]

_NEAR = 0.05


@dataclass(frozen=True)
class Memorisation:
    """Generated images between the training images and held-out ones of the same distribution.

    Attributes:
        nearer_to_training: share of generated images that lie nearer to a training image than to any held-out one, ties
            counted in equal parts. Its interval takes the two real sets as given.
        expected: this share, on average, for a generator that copies nothing: the training images among all real ones.
        chance: the range in which it stays in 95 % of cases if training and held-out images are
            exchangeable. Wide where many generated images share a neighbour.
        p_value: of that exchangeability against copying: the share of relabellings that give at least what was seen.
        near_copies: share of generated images at least as near to a training image as the nearest 5 % of the held-out
            ones are.
        near_copies_expected: that share among the held-out images themselves: 5 %, more with ties.
        to_training: ``(M,)``, distance of each generated image to its nearest training image.
        to_held_out: ``(M,)``, to its nearest held-out one.
        held_out_to_training: ``(H,)``, the baseline: of each held-out image to its nearest training image.
        nearest_training: ``(M,)`` int64, which training image that is.
    """

    nearer_to_training: Proportion
    expected: float
    chance: tuple[float, float]
    p_value: float
    near_copies: Proportion
    near_copies_expected: float
    to_training: Tensor
    to_held_out: Tensor
    held_out_to_training: Tensor
    nearest_training: Tensor

    def as_record(self) -> dict[str, Any]:
        """The numbers as JSON types; of the distances, their deciles."""
        deciles = torch.linspace(0, 1, 11, dtype=torch.float64)
        names = ("to_training", "to_held_out", "held_out_to_training")
        return {
            "nearer_to_training": self.nearer_to_training.as_record(),
            "expected": self.expected,
            "chance": list(self.chance),
            "p_value": self.p_value,
            "near_copies": self.near_copies.as_record(),
            "near_copies_expected": self.near_copies_expected,
            "deciles": {name: getattr(self, name).cpu().quantile(deciles).tolist() for name in names},
        }


def memorisation(
    generated: Points,
    training: Points,
    held_out: Points,
    *,
    permutations: int = 999,
    confidence: float = 0.95,
    seed: int = 0,
) -> Memorisation:
    """How much nearer generated images lie to the training images than to held-out ones.

    Under no memorisation the nearest of all real images is a training image with probability N / (N + H). The labels
    "training" and "held out" are exchanged at random for the range of that share and its p value; generated images
    that gather around one real image are one observation there, as they should be.

    Args:
        generated: ``(M, ...)`` images, or their features.
        training: ``(N, ...)``: what the generator was trained on.
        held_out: ``(H, ...)``: others from the same distribution.
        permutations: relabellings.
        confidence: of the shares' intervals.
        seed: of the relabellings.

    Raises:
        InputError: see ``samples``; numbers of coordinates that differ, or fewer than one relabelling.

    Source of comparing with held-out images: Meehan, Chaudhuri, Dasgupta, *A Non-Parametric Test to Detect Data-Copying
    in Generative Models*, AISTATS 2020.
    """
    made, known = as_points(generated, "generated"), as_points(training, "training")
    other = as_points(held_out, "held_out")
    if not made.shape[1] == known.shape[1] == other.shape[1]:
        raise InputError(
            f"generated, training and held_out have {made.shape[1]}, {known.shape[1]} and {other.shape[1]} coordinates "
            "an image: expected the same"
        )
    if permutations < 1:
        raise InputError(f"permutations={permutations}: expected at least 1, e.g. 999")
    pool = torch.cat([known, other.to(known)]).to(made.device)
    weight = torch.zeros(len(pool), dtype=torch.float64, device=made.device)
    parts = []
    for _, distances in distance_blocks(made, pool):
        own, index = distances[:, : len(known)].min(dim=1)
        foreign = distances[:, len(known) :].amin(dim=1)
        nearest = (distances <= torch.minimum(own, foreign)[:, None]).double()
        weight += (nearest / nearest.sum(dim=1, keepdim=True)).sum(dim=0)
        parts.append((own, foreign, index))
    to_training, to_held_out, index = (torch.cat(column) for column in zip(*parts, strict=True))
    baseline = torch.cat(
        [distances.amin(dim=1) for _, distances in distance_blocks(pool[len(known) :], pool[: len(known)])]
    )
    seen = float(weight[: len(known)].sum())
    rng = generator(seed)
    weight = weight.cpu()
    relabelled = torch.stack(
        [weight[torch.randperm(len(pool), generator=rng)[: len(known)]].sum() for _ in range(permutations)]
    )
    ends = relabelled.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)) / len(made)
    threshold = baseline.quantile(_NEAR, interpolation="lower")
    return Memorisation(
        proportion_of(seen, len(made), confidence=confidence),
        len(known) / len(pool),
        (float(ends[0]), float(ends[1])),
        (1 + int((relabelled >= seen - 1e-9 * len(made)).sum())) / (1 + permutations),
        proportion_of(int((to_training <= threshold).sum()), len(made), confidence=confidence),
        float((baseline <= threshold).double().mean()),
        to_training,
        to_held_out,
        baseline,
        index,
    )
