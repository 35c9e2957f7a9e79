"""ML: mimicking logits (Ba & Caruana 2014).

Source: *Do Deep Nets Really Need to be Deep?*, NeurIPS 2014, equation 1.

Departure: scores are compared after centring them image by image, since a response is known up to a constant.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mekd_plugin.distiller import Needs, Student
from mekd_plugin.functional import logit_mse
from mekd_plugin.rows import Rows
from mekd_plugin.transfer import TransferSetDistiller

__all__ = ["LogitMimicry"]


class LogitMimicry(TransferSetDistiller):
    """Minimises the mean squared difference between the student's and the teacher's centred logits.

    Args:
        queries: see :class:`TransferSetDistiller`.

    Raises:
        InputError: a value cannot be used.
    """

    needs = Needs(responses="soft", leaves_edge="real images")
    reference: ClassVar = "Ba & Caruana, *Do Deep Nets Really Need to be Deep?*, NeurIPS 2014"
    presets: ClassVar = {"quick": {}, "paper": {}, "tiny": {}}

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        return {"loss": logit_mse(student(rows.images), rows.answers().scores())}
