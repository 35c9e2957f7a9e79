"""The meter under a suite's own methods: counts the images that a teacher module is shown, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.image_hashes import image_hashes
from mekd_plugin.blackbox.ledger import Ledger
from mekd_plugin.blackbox.spending import Staged

__all__ = ["Counted"]


class Counted(Staged):
    """Counts what teachers are asked by code that must not be changed.

    A meter that hides its teacher (:func:`mekd_plugin.meter`) would break a method that reads features or
    differentiates; this one lets it, and says that it did.

    Attributes:
        ledger: images sent, by stage.
        differentiated: whether a query was made with gradients recorded through the teacher: no black box could serve
            this method.
        inner: whether the teacher gave more than one tensor, such as its features: likewise.
    """

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.differentiated = False
        self.inner = False
        self._stage = "training"
        self._hooked: WeakSet[nn.Module] = WeakSet()

    def watch(self, teacher: nn.Module, *, answer: Callable[[Any], Any] | None = None) -> None:
        """Count what ``teacher`` is asked from now on; once, however often this is called.

        Args:
            teacher: of the suite.
            answer: takes the answer out of what it returns, in a suite whose models return more even to a method that
                looks at nothing else; such a suite says itself when one looks (``inner``).
        """
        if teacher in self._hooked:
            return
        self._hooked.add(teacher)

        def saw(teacher: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            self._saw((*args, *kwargs.values()), out if answer is None else answer(out))

        teacher.register_forward_hook(saw, with_kwargs=True)

    def count(self, images: Tensor) -> None:
        """Count images that went to a teacher that is not a module."""
        with self.ledger.in_turn():
            self.ledger.intend(image_hashes(images.detach()), self._stage)
            self.ledger.settle()

    def __str__(self) -> str:
        beyond = [
            words
            for seen, words in (
                (self.differentiated, "gradients were recorded through the teacher"),
                (self.inner, "the teacher gave more than its answer, such as features"),
            )
            if seen
        ]
        return f"{self.ledger}" + "".join(f"\n  beyond a black box: {words}" for words in beyond)

    def _saw(self, inputs: tuple[Any, ...], answer: Any) -> None:
        images = next(value for value in inputs if isinstance(value, Tensor))
        self.count(images)
        self.inner |= not isinstance(answer, Tensor)
        tensors = answer if isinstance(answer, tuple | list) else [answer]
        self.differentiated |= torch.is_grad_enabled() and any(
            isinstance(value, Tensor) and value.requires_grad for value in tensors
        )
