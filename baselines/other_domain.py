"""Images of another data set as questions: what the teacher's answers are worth where no image resembles its own.

No publication's method, but the row that a method which makes its own images has to beat: distillation (Hinton,
Vinyals, Dean, *Distilling the Knowledge in a Neural Network*, arXiv 1503.02531, section 2) on images that are nobody's
secret, all of one other data set as they come, and views of them where there are fewer than queries. Hard responses are
learnt as :class:`~mekd_plugin.baselines.kd.KD` learns them.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from mekd_plugin.checks import as_number
from mekd_plugin.distiller import Needs, Student
from mekd_plugin.functional import answer_loss
from mekd_plugin.rows import Rows
from mekd_plugin.transfer import TransferSetDistiller

__all__ = ["OtherDomain"]


class OtherDomain(TransferSetDistiller):
    """Minimises ``t^2 KL(softmax(y_T / t) || softmax(y_S / t))`` on images of another domain.

    Args:
        temperature: t, positive.
        smoothing: share of a hard response that is spread over all classes, in [0, 1).
        queries: see :class:`TransferSetDistiller`.

    Raises:
        InputError: a value cannot be used.
    """

    needs = Needs(responses="either", leaves_edge="nothing of the edge", pool="other domain")
    presets: ClassVar = {"quick": {}, "paper": {"temperature": 5.0, "smoothing": 0.0}, "tiny": {}}
    reference: ClassVar = "sanity row: `kd` on the images of another data set"

    def __init__(
        self, *, temperature: float = 4.0, smoothing: float = 0.05, queries: int | None = None, **world: Any
    ) -> None:
        super().__init__(queries=queries, **world)
        self.temperature = as_number("temperature", temperature, above=0)
        self.smoothing = as_number("smoothing", smoothing, at_least=0, below=1)

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        matching = {"temperature": self.temperature, "smoothing": self.smoothing}
        return {"loss": answer_loss(student(rows.images), rows.answers(), **matching)}
