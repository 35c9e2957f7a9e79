"""DKD: decoupled knowledge distillation (Zhao et al. 2022).

Source: Zhao, Cui, Song, Qiu, Liang, *Decoupled Knowledge Distillation*, CVPR 2022, whose loss is alpha TCKD + beta
NCKD: the divergence over "the target class or another", and the divergence among the other classes, no longer scaled by
the teacher's doubt about the target.

Departures:
- the target is the class that the teacher scores highest: the edge has no labels;
- no cross-entropy with true labels, for the same reason, and no warm-up of the weights over the first epochs, which the
  public code adds: the steps of a recipe are every method's.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from mekd_plugin.checks import as_number
from mekd_plugin.distiller import Needs, Student
from mekd_plugin.errors import InputError
from mekd_plugin.rows import Rows
from mekd_plugin.transfer import TransferSetDistiller

__all__ = ["DKD", "DecoupledDivergence", "decoupled_divergence"]


class DecoupledDivergence(NamedTuple):
    """The two parts, each a scalar of at least 0.

    Attributes:
        target: t^2 KL between the two-way distributions (target class, all others).
        others: t^2 KL between the distributions over the other classes alone.
    """

    target: Tensor
    others: Tensor


def decoupled_divergence(student_logits: Tensor, teacher_scores: Tensor, temperature: float) -> DecoupledDivergence:
    r"""The divergence of the student from the teacher, in its two parts, mean over images.

    With p the softmax of the scores divided by t, k the teacher's arg max, and :math:`\hat p_c = p_c / (1 - p_k)`:

    .. math::
        target = \frac{t^2}{N} \sum_i KL\big((p^T_k, 1 - p^T_k) \,\|\, (p^S_k, 1 - p^S_k)\big), \qquad
        others = \frac{t^2}{N} \sum_i \sum_{c \ne k} \hat p^T_c \log \frac{\hat p^T_c}{\hat p^S_c}

    Hinton's divergence is target + (1 - p^T_k) others, image by image.

    Args:
        student_logits: ``(N, C)``, floating point, any range, C at least 2.
        teacher_scores: ``(N, C)``: logits, or logarithms of probabilities.
        temperature: t, positive.

    Raises:
        InputError: differing shapes, or other tensors than ``(N, C)``.

    >>> same = decoupled_divergence(torch.ones(1, 3), torch.ones(1, 3), temperature=4.0)
    >>> (float(same.target), float(same.others))
    (0.0, 0.0)
    """
    if student_logits.shape != teacher_scores.shape or student_logits.dim() != 2 or student_logits.shape[1] < 2:
        raise InputError(
            f"student_logits of shape {tuple(student_logits.shape)} against teacher_scores of shape "
            f"{tuple(teacher_scores.shape)}: expected (N, C) on both sides, of at least two classes"
        )
    target = teacher_scores.argmax(dim=1, keepdim=True)
    index = torch.arange(student_logits.shape[1] - 1, device=target.device)
    index = index + (index >= target).long()  # (N, C - 1): every class but the target
    teacher, student = teacher_scores / temperature, student_logits / temperature
    return DecoupledDivergence(
        temperature**2 * _divergence(_two_way(teacher, target, index), _two_way(student, target, index)),
        temperature**2 * _divergence(teacher.gather(1, index).log_softmax(1), student.gather(1, index).log_softmax(1)),
    )


def _two_way(scores: Tensor, target: Tensor, others: Tensor) -> Tensor:
    """Logarithms of the probabilities of the target class and of all others together, ``(N, 2)``."""
    of_others = scores.gather(1, others).logsumexp(dim=1, keepdim=True)
    return torch.cat([scores.gather(1, target), of_others], dim=1).log_softmax(dim=1)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL of two distributions given by their logarithms ``(N, K)``, mean over rows."""
    return (teacher.exp() * (teacher - student)).sum(dim=1).mean()


class DKD(TransferSetDistiller):
    """Minimises ``alpha TCKD + beta NCKD`` on the transfer set, see :func:`decoupled_divergence`.

    Args:
        alpha: weight of the target's part, at least 0.
        beta: weight of the other classes' part, at least 0.
        temperature: t, positive.
        queries: see :class:`TransferSetDistiller`.

    Raises:
        InputError: a value cannot be used.
    """

    needs = Needs(responses="soft", leaves_edge="real images")
    presets: ClassVar = {"quick": {}, "paper": {}, "tiny": {}}
    reference: ClassVar = "Zhao et al., *Decoupled Knowledge Distillation*, CVPR 2022"

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        queries: int | None = None,
        **world: Any,
    ) -> None:
        super().__init__(queries=queries, **world)
        self.alpha = as_number("alpha", alpha, at_least=0)
        self.beta = as_number("beta", beta, at_least=0)
        self.temperature = as_number("temperature", temperature, above=0)

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        parts = decoupled_divergence(student(rows.images), rows.answers().scores(), self.temperature)
        return {"loss": self.alpha * parts.target + self.beta * parts.others, **parts._asdict()}
