"""What a teacher answers: class scores (soft) or a class index (hard), as one immutable value; scores normalised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from mekd_plugin.errors import InputError

__all__ = ["Kind", "Response", "ScoreNormalisation", "centre_scores", "resolve_kind"]

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

    def to(self, device: torch.device | str) -> Response:
        """The same answers on ``device``."""
        return replace(self, values=self.values.to(device))

    @property
    def soft(self) -> bool:
        """Whether every class has a score."""
        return self.kind != "hard"

    @property
    def labels(self) -> Tensor:
        """``(N,)`` int64: the class that the teacher answered, or to which it gave the highest score."""
        return self.values.argmax(dim=1) if self.soft else self.values

    def probabilities(self) -> Tensor:
        """``(N, C)`` in [0, 1], each row summing to 1; of hard answers the one-hot vectors."""
        if self.soft:
            return self.scores().softmax(dim=1)
        return torch.nn.functional.one_hot(self.values, self.num_classes).to(torch.get_default_dtype())

    def scores(self, *, hard_scale: float = 1.0, hard_scores: Tensor | None = None) -> Tensor:
        """Centred class scores ``(N, C)``: logits, log-probabilities, or the scores that hard answers stand for.

        Probabilities are clamped from below at 1e-8 before the logarithm.

        Args:
            hard_scale: by which a hard answer's one-hot vector is multiplied.
            hard_scores: ``(C, C)``, centred: the scores of a hard answer of each class, in place of one-hot vectors.
        """
        if self.kind == "logits":
            return centre_scores(self.values)
        if self.kind == "probabilities":
            return centre_scores(self.values.clamp_min(_SMALLEST_PROBABILITY).log())
        if hard_scores is not None:
            return hard_scores.to(self.values.device)[self.values]
        one_hot = torch.nn.functional.one_hot(self.values, self.num_classes)
        return centre_scores(hard_scale * one_hot.to(torch.get_default_dtype()))


class ScoreNormalisation(NamedTuple):
    """How centred class scores become the generator's first C coordinates: ``(scores - shift) / scale``.

    Attributes:
        shift: ``(C,)``, or one number for all classes.
        scale: ``(C,)``, or one number for all classes: the paper's temperature ``t_g`` is one.
    """

    shift: Tensor | float
    scale: Tensor | float

    @classmethod
    def by_temperature(cls, temperature: Tensor | float) -> ScoreNormalisation:
        """The paper's: scores divided by t_g."""
        return cls(0.0, temperature)

    @classmethod
    def by_spread(cls, scores: Tensor) -> ScoreNormalisation:
        """The one after which all of ``scores`` ``(N, C)`` together have deviation 1: one number for every class.

        For a generator that was trained on N(0, I) and on no teacher's scores.
        """
        return cls(0.0, float(scores.std().clamp_min(torch.finfo(scores.dtype).eps)))

    @classmethod
    def of(cls, scores: Tensor) -> ScoreNormalisation:
        """The one after which each class's scores, of ``(N, C)`` with N at least 2, have mean 0 and deviation 1.

        A generator is trained on inputs of that spread, and a teacher's scores differ from class to class in theirs.
        A class whose score never changes keeps the deviation of all scores.
        """
        overall = scores.std().clamp_min(torch.finfo(scores.dtype).eps)
        scale = scores.std(dim=0)
        return cls(scores.mean(dim=0), torch.where(scale > 1e-3 * overall, scale, overall))

    def __call__(self, scores: Tensor) -> Tensor:
        """Scores ``(N, C)``, of the teacher or of the student, as the generator takes them."""
        return (scores - _like(self.shift, scores)) / _like(self.scale, scores)

    def to(self, device: torch.device | str) -> ScoreNormalisation:
        """The same one, its tensors on ``device``."""
        return ScoreNormalisation(*(part.to(device) if isinstance(part, Tensor) else part for part in self))

    def as_record(self) -> dict[str, Any]:
        """The same as JSON; ``ScoreNormalisation.from_record`` reads it."""
        return {name: torch.as_tensor(part).tolist() for name, part in self._asdict().items()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ScoreNormalisation:
        """Read what :meth:`as_record` wrote."""
        return cls(torch.tensor(record["shift"]), torch.tensor(record["scale"]))

    def undone(self, coordinates: Tensor) -> Tensor:
        """The scores that become ``coordinates`` ``(N, C)``."""
        return coordinates * _like(self.scale, coordinates) + _like(self.shift, coordinates)


def _like(value: Tensor | float, scores: Tensor) -> Tensor | float:
    return value.to(scores) if isinstance(value, Tensor) else value
