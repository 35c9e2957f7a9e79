"""A teacher in anybody's script: an ``nn.Module`` without parameters that counts what the script really asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.answers import as_tensor
from mekd_plugin.blackbox.backends import Ask, make_backend
from mekd_plugin.blackbox.image_hashes import image_hashes
from mekd_plugin.blackbox.ledger import Ledger
from mekd_plugin.errors import InputError, NeedsNotMet

__all__ = ["TeacherModule", "meter"]

_STAGE = "module"


class TeacherModule(nn.Module):
    """A teacher that can only be asked, in the shape of a module: ``module(images)`` is a query.

    It has no parameters, no buffers and no submodules; ``train()`` and ``to()`` do not reach the teacher, answers carry
    no gradient, and a copy is the module itself, so that nothing escapes the count.

    Attributes:
        ledger: what was asked; ``print(module.ledger)`` says it in a line.
    """

    def __init__(self, answer: Callable[[Tensor, str], Tensor], ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        self._stage = _STAGE
        _ANSWERS[self] = answer

    @torch.compiler.disable  # a query is no part of a graph
    def forward(self, images: Tensor) -> Tensor:
        """The teacher's answers to ``images``, a plain tensor on their device."""
        with torch.no_grad():
            return _ANSWERS[self](images, self._stage)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Within it, queries count for the stage ``name``: ``with module.stage("test"): ...`` tells scoring apart."""
        before, self._stage = self._stage, name
        try:
            yield
        finally:
            self._stage = before

    def _replicate_for_data_parallel(self) -> NoReturn:
        raise NeedsNotMet(
            "a black-box teacher cannot be replicated by torch.nn.DataParallel, whose threads would count past each "
            "other: leave the teacher out of it, or use one process a GPU"
        )

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise InputError("a black-box teacher cannot be pickled, which would hand it out: save its answers instead")

    def extra_repr(self) -> str:
        return str(self.ledger)


def meter(
    module: nn.Module | Ask, *, budget: int | None = None, answer: Callable[[Any], Any] | None = None
) -> TeacherModule:
    """Count what a script asks of its teacher, for one more line in it.

    That line is ``teacher = meter(teacher)``, and nothing else changes: the model's answers come back as they are,
    whatever their range, as long as they are one tensor with an entry for each image; images are neither checked nor
    changed. A module runs in eval and inference mode; a function around one is called as it is, so put the model in it
    into eval mode before.

    Args:
        module: the script's teacher, its weights loaded: the meter has none to load into.
        budget: images that may be sent; None only counts.
        answer: takes the scores or labels out of what the model returns, such as ``lambda out: out[0]``; None where it
            returns nothing else.

    Raises:
        InputError: it cannot be called.
        QueryBudgetExceeded: in the script, before the budget is passed.
        TeacherAnswerError: in the script, where the model returns more than its answer, or no tensor.
    """
    ask, ledger = make_backend(module, answer=answer), Ledger(budget)

    def count_and_ask(images: Tensor, stage: str) -> Tensor:
        number = ledger.intend(image_hashes(images), stage)
        answered = as_tensor(ask(images.detach().clone()), len(images), number).to(images.device)
        ledger.settle()
        return answered

    return TeacherModule(count_and_ask, ledger)


_ANSWERS: WeakKeyDictionary[TeacherModule, Callable[[Tensor, str], Tensor]] = WeakKeyDictionary()
