"""KD: knowledge distillation from softened outputs (Hinton, Vinyals, Dean 2015).

Source: *Distilling the Knowledge in a Neural Network*, arXiv 1503.02531, section 2.

Departures:
- no term for true labels: the edge has none;
- hard responses, of which the paper does not treat: cross-entropy with the teacher's labels, smoothed.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from mekd_plugin.checks import as_number
from mekd_plugin.distiller import Needs, Student
from mekd_plugin.functional import answer_loss
from mekd_plugin.rows import Rows
from mekd_plugin.transfer import TransferSetDistiller

__all__ = ["KD"]


class KD(TransferSetDistiller):
    """Minimises ``t^2 KL(softmax(y_T / t) || softmax(y_S / t))`` on the transfer set.

    Args:
        temperature: t, positive.
        smoothing: share of a hard response that is spread over all classes, in [0, 1).
        queries: see :class:`TransferSetDistiller`.

    Raises:
        InputError: a value cannot be used.
    """

    needs = Needs(responses="either", leaves_edge="real images")
    reference: ClassVar = "Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015"
    presets: ClassVar = {"quick": {}, "paper": {"temperature": 5.0, "smoothing": 0.0}, "tiny": {}}

    def __init__(
        self, *, temperature: float = 4.0, smoothing: float = 0.05, queries: int | None = None, **world: Any
    ) -> None:
        super().__init__(queries=queries, **world)
        self.temperature = as_number("temperature", temperature, above=0)
        self.smoothing = as_number("smoothing", smoothing, at_least=0, below=1)

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        matching = {"temperature": self.temperature, "smoothing": self.smoothing}
        return {"loss": answer_loss(student(rows.images), rows.answers(), **matching)}
