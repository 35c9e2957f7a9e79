"""MEKD's bank without MEKD's image term: ``kd`` on generated images, what the image-space term is measured against.

Sources: the generator and its images are those of Ma et al., *Aligning Logits Generatively for Principled Black-Box
Knowledge Distillation*, CVPR 2024; what the student learns is Hinton, Vinyals, Dean, *Distilling the Knowledge in a
Neural Network*, arXiv 1503.02531.

Stage 1, the questions, and the order in which the student sees the rows are MEKD's own code under its own stage names,
so with the same settings and seed the generator and the bank are the same to the byte, and what differs between the two
rows of a table is the term of the loss. As with MEKD, only generated images leave the edge.

Departures:
- preset ``paper`` keeps a bank, where MEKD's asks anew at every step: a bank is what this method is about;
- hard responses are learnt as ``kd`` learns them, by smoothed cross-entropy. (MEKD gives them a scale, and takes the
  divergence: with its preset ``quick`` a target of nearly the same sureness.)
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from mekd_plugin.checks import as_number
from mekd_plugin.distiller import Student
from mekd_plugin.errors import InputError
from mekd_plugin.functional import answer_loss
from mekd_plugin.mekd.method import MEKD
from mekd_plugin.rows import Rows

__all__ = ["MEKDBank"]

_OF_THE_IMAGE_TERM = (
    "mode",
    "image_weight",
    "divergence_weight",
    "hard_temperature",
    "latent_temperature",
    "norm",
)


class MEKDBank(MEKD):
    """Minimises ``t^2 KL(softmax(y_T / t) || softmax(y_S / t))`` on the rows of MEKD's bank.

    Args:
        temperature: t, positive.
        smoothing: share of a hard response that is spread over all classes, in [0, 1).
        **bank: the arguments of :class:`~mekd_plugin.mekd.method.MEKD` that decide the bank: ``queries``,
            ``emulation`` and its settings, ``generator``, ``balance``, ...; and see
            :class:`~mekd_plugin.distiller.Distiller`.

    Raises:
        InputError: an argument of MEKD that only its image term reads; and the errors of MEKD.
    """

    reference: ClassVar = (
        "`kd` on the bank of `mekd` (Ma et al., CVPR 2024): the same generator and questions, no image term"
    )
    presets: ClassVar = {
        name: {key: value for key, value in settings.items() if key not in _OF_THE_IMAGE_TERM}
        | ({"smoothing": 0.0} if name == "paper" else {})
        for name, settings in MEKD.presets.items()
    }

    inapplicable: ClassVar = _OF_THE_IMAGE_TERM

    def __init__(self, *, temperature: float = 4.0, smoothing: float = 0.05, **bank: Any) -> None:
        if unread := sorted(set(_OF_THE_IMAGE_TERM) & bank.keys()):
            raise InputError(
                f"{', '.join(unread)}: this method has a bank and no image term; leave it out, or give it to mekd"
            )
        super().__init__(image_weight=0.0, temperature=temperature, **bank)
        self.smoothing = as_number("smoothing", smoothing, at_least=0, below=1)

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        matching = {"temperature": self.temperature, "smoothing": self.smoothing}
        return {"loss": answer_loss(student(rows.images), rows.answers(), **matching)}
