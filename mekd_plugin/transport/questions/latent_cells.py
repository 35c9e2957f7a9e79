"""What do the cells look like? The latent space divided by the teacher's answers and by the latents' own arg max.

A *cell* of class c is the set of latents whose image the teacher takes for c. Were G the inverse of T, it would be the
set of latents with their arg max at c. ``transport_cells.py`` makes a third division, by transport to class prototypes,
and ``cell_picture.py`` a picture of any of them.

Source: Ma et al., *Aligning Logits Generatively for Principled Black-Box Knowledge Distillation*, CVPR 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mekd_plugin.transport.matching import as_scores
from mekd_plugin.transport.questions.coverage import ClassCoverage, class_coverage
from mekd_plugin.transport.samples import Points
from mekd_plugin.transport.statistics.proportions import Proportion, proportion_of

__all__ = ["LatentCells", "latent_cells"]


@dataclass(frozen=True)
class LatentCells:
    """The division of latents by the teacher's answers beside that by their own arg max.

    Attributes:
        by_teacher: ``(N,)`` int64, arg max of the teacher's answer to G(z).
        by_latent: ``(N,)`` int64, arg max of z.
        masses: of the teacher's cells, against the classes' expected shares: missing and rare ones are mode collapse.
        agreement: share of latents in the same cell of both divisions; 1/C by chance where masses are equal.
        confusion: ``(C, C)`` shares of all latents: row by the latent's arg max, column by the teacher's.
    """

    by_teacher: Tensor
    by_latent: Tensor
    masses: ClassCoverage
    agreement: Proportion
    confusion: Tensor

    def as_record(self) -> dict[str, Any]:
        """The numbers as JSON types."""
        return {
            "masses": self.masses.as_record(),
            "agreement": self.agreement.as_record(),
            "confusion": self.confusion.tolist(),
        }


def latent_cells(
    latent: Points, answers: Points, *, expected: Points | None = None, rare_below: float = 0.1
) -> LatentCells:
    """Compare the teacher's cells with those of the arg max, on latents whose images the teacher has answered.

    Args:
        latent: z, ``(N, C)``: the coordinates that stand for class scores, without any style.
        answers: the teacher's scores for G(z), ``(N, C)``; of hard responses, one-hot rows.
        expected: ``(C,)`` shares or counts of the classes among real images; None is 1/C each.
        rare_below: a class counts as rare below this fraction of its expected share.

    Raises:
        InputError: see ``samples`` and :func:`~mekd_plugin.transport.questions.coverage.class_coverage`; shapes that
            differ, or fewer than two classes.

    >>> found = latent_cells(torch.eye(3), torch.eye(3)[[0, 1, 1]])
    >>> round(found.agreement.value, 2), found.masses.missing
    (0.67, (2,))
    """
    z, y = as_scores(latent, answers, "latent", "answers")
    own, told, classes = z.argmax(dim=1), y.argmax(dim=1), z.shape[1]
    counts = torch.bincount(own * classes + told, minlength=classes**2)
    return LatentCells(
        told,
        own,
        class_coverage(told, classes, expected=expected, rare_below=rare_below),
        proportion_of(int((own == told).sum()), len(z)),
        counts.reshape(classes, classes) / len(z),
    )
