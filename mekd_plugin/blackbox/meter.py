"""A teacher in anyone's script: an ``nn.Module`` without parameters that counts what the script really asks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.answers import as_tensor
from mekd_plugin.blackbox.backends import Ask, Call, make_backend, place_of
from mekd_plugin.blackbox.image_hashes import image_hashes
from mekd_plugin.blackbox.images import never_compiled, plain_tensor, refuse_tracing
from mekd_plugin.blackbox.ledger import Ledger
from mekd_plugin.blackbox.patience import teacher_errors
from mekd_plugin.blackbox.spending import Staged
from mekd_plugin.errors import InputError, NeedsNotMet, Refused, TooManyAtOnce

__all__ = ["TeacherModule", "meter"]

_STAGE = "module"

Answer = Callable[[Tensor, Call, str], Tensor]
"""Images, how to hand them over, and a stage -> answers."""


class TeacherModule(Staged, nn.Module):
    """A teacher that can only be asked, in the form of a module: ``module(images)`` is a query.

    It has no parameters, no buffers and no submodules; ``train()`` and ``to()`` do not reach the teacher, answers carry
    no gradient, and a copy is the module itself, so that nothing escapes the count.

    Attributes:
        ledger: what was asked; ``print(module.ledger)`` says it in a line.
    """

    def __init__(self, answer: Answer, ledger: Ledger, where: Callable[[], tuple[torch.device, torch.dtype]]) -> None:
        super().__init__()
        self.ledger = ledger
        self._stage = _STAGE
        _ANSWERS[self] = answer
        _PLACES[self] = where

    @property
    def device(self) -> torch.device:
        """Where the teacher computes; its answers come back to where the images are."""
        return _PLACES[self]()[0]

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """None. Scripts ask ``next(teacher.parameters())`` for its device: that one is empty, on it, in its dtype."""
        return _NoParameters(*_PLACES[self]())

    @never_compiled
    def forward(self, *given: Any, **named: Any) -> Tensor:
        """The teacher's answers to the images, a plain tensor on their device.

        Args:
            given: the images come first among these;
            named: or else first here, as in ``module(pixel_values=images)``. All others are handed on as they are.

        Raises:
            InputError: there is no tensor among them.
            NeedsNotMet: while the code is traced or exported.
        """
        refuse_tracing()
        images, call = _images_of(given, named)
        with torch.no_grad():
            return _ANSWERS[self](plain_tensor(images), call, self._stage)

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


class _NoParameters(Iterator[nn.Parameter]):
    """Empty to whoever iterates over it; only a bare ``next`` gets a parameter without a single number."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype

    def __iter__(self) -> Iterator[nn.Parameter]:
        return iter(())

    def __next__(self) -> nn.Parameter:
        return nn.Parameter(torch.empty(0, device=self._device, dtype=self._dtype), requires_grad=False)


def meter(
    module: nn.Module | Ask, *, budget: int | None = None, answer: Callable[[Any], Any] | None = None
) -> TeacherModule:
    """Count what a script asks of its teacher, for one more line in it.

    That line is ``teacher = meter(teacher)``, and nothing else changes: the model's answers come back as they are,
    whatever their range, as long as they are one tensor with an entry for each image; images are neither checked nor
    changed, but for a class of their own, which is taken off. Arguments besides the images are handed on. A module runs
    in eval and inference mode; a function around one is called as it is, so put the model in it into eval mode first.

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

    def count_and_ask(images: Tensor, call: Call, stage: str) -> Tensor:
        with ledger.in_turn():
            number = ledger.intend(image_hashes(images), stage)
            where = f"batch {number} ({len(images):,} images for {stage!r}) was asked about"
            try:
                with teacher_errors(where, lambda: f"counted so far: {ledger}", len(images)):
                    answered = as_tensor(ask(images.clone(), call), len(images), number).to(images.device)
            except Refused as error:
                ledger.take_back(number)
                if not isinstance(error, TooManyAtOnce) or not 0 < error.limit < len(images):
                    raise
                return torch.cat([count_and_ask(part, call, stage) for part in images.split(error.limit)])
            except BaseException:
                ledger.leave(number)
                raise
            ledger.settle(number)
            return answered

    return TeacherModule(count_and_ask, ledger, lambda: place_of(module, None))


def _images_of(given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Tensor, Call]:
    """The images among the arguments of a call, and the call with others in their place."""
    places: list[tuple[int | str, Any]] = [*enumerate(given), *named.items()]
    for place, value in places:
        if isinstance(value, Tensor):
            return value, functools.partial(_with_images, given, named, place)
    raise InputError("a teacher was called without a tensor: expected the images, module(images)")


def _with_images(
    given: tuple[Any, ...], named: dict[str, Any], place: int | str, teacher: Callable[..., Any], images: Tensor
) -> Any:
    if isinstance(place, str):
        return teacher(*given, **{**named, place: images})
    return teacher(*given[:place], images, *given[place + 1 :], **named)


_ANSWERS: WeakKeyDictionary[TeacherModule, Answer] = WeakKeyDictionary()
_PLACES: WeakKeyDictionary[TeacherModule, Callable[[], tuple[torch.device, torch.dtype]]] = WeakKeyDictionary()
