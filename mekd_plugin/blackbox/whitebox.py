"""A teacher whose insides are open, for references that are not source-blind: said by name, still counted."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mekd_plugin.blackbox.image_hashes import image_hashes
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import InputError

__all__ = ["WhiteBox"]


class WhiteBox(BlackBox):
    """A teacher that may be differentiated through; any method may ask it, and a white-box reference needs it.

    Nothing turns a black box into one: whoever makes it says so. What is asked through :meth:`query` or
    :meth:`differentiate` is counted; what a method does with :attr:`module` itself is not.

    Args:
        teacher: ``nn.Module``; its weights are not changed, as long as nobody steps them.
        responses: see :class:`BlackBox`; not ``"hard"``, which has no gradient.
        num_classes: see :class:`BlackBox`.
        **settings: further ones of :class:`BlackBox`.

    Raises:
        InputError: the teacher is not a module, or answers hard labels.
    """

    def __init__(
        self, teacher: nn.Module, responses: str | None = None, num_classes: int | None = None, **settings: Any
    ) -> None:
        if not isinstance(teacher, nn.Module):
            raise InputError(
                f"a WhiteBox of a {type(teacher).__name__}: expected an nn.Module, to differentiate through; "
                "anything else that answers goes into a BlackBox"
            )
        super().__init__(teacher, responses, num_classes, **settings)
        if self.responses == "hard":
            raise InputError('responses="hard" has no gradient: a WhiteBox answers "logits" or "probabilities"')
        if self.answers != "full":
            raise InputError(
                f"answers={self.answers} of a WhiteBox, whose module answers in full to whoever differentiates through "
                "it: leave it out, or use a BlackBox"
            )
        if self.teacher_size is not None:
            raise InputError(
                f"teacher_size={self.teacher_size} of a WhiteBox, whose module is differentiated through as it is: "
                "resize inside the module"
            )
        self.module = teacher
        """The teacher itself, for a method that looks at its features."""

    def differentiate(self, images: Tensor, *, stage: str) -> Tensor:
        """The teacher's answers with their gradient by ``images``, counted for ``stage``.

        Args:
            images: ``(N, channels, height, width)``, on the teacher's device, in whatever mode the teacher is.
            stage: what they are asked for, in the ledger.

        Returns:
            what the module gives, ``(N, C)`` as a rule: ``answer``, ``quantize`` and the value range are not applied.

        Raises:
            QueryBudgetExceeded: they would pass the budget; nothing was computed.
        """
        with self.ledger.in_turn():
            self.ledger.intend(image_hashes(images.detach()), stage)
            answers: Tensor = self.module(images)
            self.ledger.settle()
        return answers
