"""What a teacher answers: class scores (soft) or a class index (hard), as one immutable value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from mekd_plugin.errors import InputError

__all__ = ["Kind", "Response", "centre_scores", "resolve_kind"]

Kind = Literal["logits", "probabilities", "hard"]
_SMALLEST_PROBABILITY = 1e-8


def resolve_kind(responses: str) -> Kind:
    """The kind that ``responses`` names; ``"soft"`` is short for ``"logits"``.

    Raises:
        InputError: for any other name.
    """
    kind = "logits" if responses == "soft" else responses
    if kind not in get_args(Kind):
        raise InputError(
            f'responses={responses!r}: expected "logits" (or "soft"), "probabilities" or "hard"; '
            "say what the teacher returns, it is never guessed"
        )
    return kind  # type: ignore[return-value]


def centre_scores(scores: Tensor) -> Tensor:
    """Scores ``(N, C)`` less their own mean over the classes, image by image.

    Logits, and the logarithms of probabilities, are defined up to a constant per image. A softmax does not see it, but
    a generator that is fed them does, so teacher and student are centred alike.
    """
    return scores - scores.mean(dim=1, keepdim=True)


@dataclass(frozen=True)
class Response:
    """The answers to a batch of N images.

    Attributes:
        values: ``(N, C)`` floating point for ``"logits"`` (any range) and ``"probabilities"`` (in [0, 1], rows sum to
            1); ``(N,)`` int64 class indices for ``"hard"``.
        kind: ``"logits"``, ``"probabilities"`` or ``"hard"``.
        num_classes: C.
    """

    values: Tensor
    kind: Kind
    num_classes: int

    def __len__(self) -> int:
        return self.values.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Response:
        return replace(self, values=self.values[index])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Response:
        """The same answers on ``device``."""
        return replace(self, values=self.values.to(device, non_blocking=non_blocking))

    @property
    def soft(self) -> bool:
        """Whether every class has a score."""
        return self.kind != "hard"

    @property
    def labels(self) -> Tensor:
        """``(N,)`` int64: the class that the teacher answered, or to which it gave the highest score."""
        return self.values.argmax(dim=1) if self.soft else self.values

    def scores(self, *, hard_scale: float = 1.0) -> Tensor:
        """Centred class scores ``(N, C)``: logits, log-probabilities, or ``hard_scale`` times the one-hot vector.

        Probabilities are clamped from below at 1e-8 before the logarithm.
        """
        if self.kind == "logits":
            return centre_scores(self.values)
        if self.kind == "probabilities":
            return centre_scores(self.values.clamp_min(_SMALLEST_PROBABILITY).log())
        one_hot = torch.nn.functional.one_hot(self.values, self.num_classes)
        return centre_scores(hard_scale * one_hot.to(torch.get_default_dtype()))
