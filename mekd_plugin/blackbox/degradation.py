"""What an API does to its answers, to defend itself or to save bytes: rounding, leaving classes out, noise.

Rounding and leaving out: Tramer et al., *Stealing Machine Learning Models via Prediction APIs*, USENIX Security 2016,
and Orekondy et al., *Knockoff Nets*, CVPR 2019. Noise: Lee et al., *Defending Against Machine Learning Model Stealing
Attacks Using Deceptive Perturbations*, 2018 (there chosen against the thief, here drawn at random).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from mekd_plugin.blackbox.answers import filled_in
from mekd_plugin.checks import as_number, as_whole
from mekd_plugin.errors import InputError, NeedsNotMet
from mekd_plugin.responses import Kind, Response

__all__ = ["FULL", "Degradation"]

FULL = "full"
"""Answers as the teacher gives them."""

Rule = Literal["full", "rounded", "topk", "noisy"]

_FORM = "full, rounded:DECIMALS, top1, topk:CLASSES or noisy:DEVIATION"
_MOST_DECIMALS = 12
_SMALLEST_PROBABILITY = 1e-8  # of a class left out, before the logarithm: the one that Response.scores takes


@dataclass(frozen=True)
class Degradation:
    """What happens to each answer before anybody sees it; the images are those that would be sent anyway.

    ==============  ==================================================================================================
    ``full``        nothing
    ``rounded:D``   D decimals of every logit or probability
    ``top1``        the same as ``topk:1``: the likeliest class, and how likely it is
    ``topk:K``      the K likeliest classes with their probabilities; of logits, those of their softmax, whose
                    logarithm is then answered
    ``noisy:S``     every logit or probability plus Gaussian noise of deviation S, which the seed and the image decide,
                    so that asking again does not average it away
    ==============  ==================================================================================================

    What probabilities lack of a sum of 1 after that is spread evenly over the classes answered as 0, as with the
    ``rounding=`` and ``top_k=`` of a :class:`~mekd_plugin.BlackBox`. Hard responses have nothing to
    round, to leave out, or to add noise to.

    Attributes:
        rule: which of them.
        amount: D, K or S; 0 for ``full``.
    """

    rule: Rule = "full"
    amount: float = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """From its name, as above.

        Raises:
            InputError: there is no such degradation.
        """
        if not isinstance(text, str):
            raise InputError(f"answers={text!r}: expected {_FORM}")
        name, _, amount = text.strip().partition(":")
        if name == "top1" and not amount:
            name, amount = "topk", "1"
        if name not in get_args(Rule) or (name == "full") != (not amount):
            raise InputError(f"answers={text!r}: expected {_FORM}")
        if name == "rounded":
            return cls(
                "rounded", as_whole(f"answers={text}", amount, at_least=0, at_most=_MOST_DECIMALS, of="decimals")
            )
        if name == "topk":
            return cls("topk", as_whole(f"answers={text}", amount, at_least=1, of="classes"))
        if name == "noisy":
            return cls("noisy", as_number(f"answers={text}", amount, above=0))
        return cls()

    def __str__(self) -> str:
        if self.rule == "full":
            return FULL
        return "top1" if (self.rule, self.amount) == ("topk", 1) else f"{self.rule}:{self.amount:g}"

    def check(self, kind: Kind, num_classes: int | None = None) -> None:
        """Refuse what cannot be done to such answers.

        Raises:
            NeedsNotMet: hard responses, or no class would be left out of ``num_classes``.
        """
        if self.rule != "full" and kind == "hard":
            raise NeedsNotMet(
                f"answers={self} of hard responses, which are a class and nothing else: expected answers=full, or "
                "responses that have scores"
            )
        if self.rule == "topk" and num_classes is not None and self.amount >= num_classes:
            raise NeedsNotMet(
                f"answers={self} of {num_classes} classes leaves none out: expected fewer than {num_classes}, or "
                "answers=full"
            )

    def __call__(self, response: Response, fingerprints: Tensor, seed: int) -> Response:
        """The degraded answers.

        Args:
            response: N soft ones, as the teacher gave them.
            fingerprints: ``(N,)`` int64 on the CPU, of the images.
            seed: of the noise.
        """
        values = response.values
        if self.rule == "full" or not len(values):
            return response
        exact = values.double()  # one less a probability of nearly 1 has no digits left in single precision
        if self.rule == "rounded":
            exact = torch.round(exact, decimals=int(self.amount))
        elif self.rule == "noisy":
            exact = exact + self.amount * _noise(fingerprints, values.shape[1], seed).to(exact.device)
        elif response.kind == "logits":
            kept = filled_in(_largest(exact.softmax(dim=1), int(self.amount)))
            exact = kept.clamp_min(_SMALLEST_PROBABILITY).log()
        else:
            exact = _largest(exact, int(self.amount))
        if response.kind == "probabilities":
            exact = filled_in(exact)
        return replace(response, values=exact.to(values.dtype))


def _largest(probabilities: Tensor, count: int) -> Tensor:
    """``probabilities`` ``(N, C)`` with 0 for all but the ``count`` largest of each row."""
    told = probabilities.topk(min(count, probabilities.shape[1]), dim=1)
    return torch.zeros_like(probabilities).scatter(1, told.indices, told.values)


def _noise(fingerprints: Tensor, classes: int, seed: int) -> Tensor:
    """``(N, classes)`` float64 from N(0, 1): a pure function of the image, the class and the seed.

    Counted numbers are hashed by the finaliser of SplitMix64 (Steele et al., *Fast Splittable Pseudorandom Number
    Generators*, OOPSLA 2014), so an answer does not depend on the batch that its image came in.
    """
    images = _mixed(fingerprints.numpy().astype(np.uint64) ^ _mixed(np.array([seed], dtype=np.uint64)))
    columns = np.arange(1, classes + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = _mixed(images[:, None] + columns) >> np.uint64(11)
    uniform = (bits.astype(np.float64) + 0.5) * 2.0**-53  # never 0 or 1
    normal: Tensor = torch.special.ndtri(torch.from_numpy(uniform))
    return normal


def _mixed(numbers: np.ndarray) -> np.ndarray:
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = numbers ^ (numbers >> np.uint64(31))
    return mixed
