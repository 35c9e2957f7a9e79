"""Values that a caller hands in, checked at the door: one rule and one wording for all of them."""

from __future__ import annotations

import contextlib
import math
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mekd_plugin.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = [
    "as_device",
    "as_flag",
    "as_number",
    "as_one_of",
    "as_path",
    "as_plain",
    "as_range",
    "as_seed",
    "as_shape",
    "as_size",
    "as_whole",
]

_LONGEST_NAME = 255  # of a file or a directory, on every common file system
_LARGEST_SEED = 2**32 - 1
"""The streams of a run take their seeds from 32 bits of it: of two larger ones they could not tell which is which."""


def as_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    strict: bool = False,
) -> float:
    """``value`` as a finite number within its bounds.

    Args:
        name: what the message calls it.
        value: a number, NumPy's too.
        above: it is larger.
        at_least: the smallest.
        below: it is smaller.
        at_most: the largest.
        strict: whether a text that spells a number, as YAML gives ``1e-3``, is refused; else it is that number.

    Raises:
        InputError: it is not one; the message names it and the bounds.

    >>> as_number("temperature", "1e-3", above=0)
    0.001
    """
    number = math.nan
    if not isinstance(value, bool) and (hasattr(value, "__float__") or (isinstance(value, str) and not strict)):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):  # an array, or a number beyond all floats
            number = math.nan
    fits = (
        math.isfinite(number)
        and (above is None or number > above)
        and (at_least is None or number >= at_least)
        and (below is None or number < below)
        and (at_most is None or number <= at_most)
    )
    if not fits:
        raise InputError(f"{name}={_shown(value)}: expected a number{_bounds(above, at_least, below, at_most)}")
    return number


def as_whole(
    name: str,
    value: Any,
    *,
    at_least: int | None = None,
    at_most: int | None = None,
    of: str = "",
    otherwise: str = "",
    strict: bool = False,
) -> int:
    """``value`` as a whole number within its bounds; never rounded.

    Args:
        name: what the message calls it.
        value: a number, NumPy's too.
        at_least: the smallest.
        at_most: the largest.
        of: what is counted, for the message, such as ``"images"``.
        otherwise: what may be given instead, for the message, such as ``"None for no limit"``.
        strict: whether all but integers are refused; else a text that spells one, and ``20.0``, are that number.

    Raises:
        InputError: it is not one; the message names it and the bounds.

    >>> as_whole("steps", 20.0, at_least=1)
    20
    """
    exact: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        exact = value
    elif hasattr(value, "__index__") and not isinstance(value, bool):  # NumPy's
        with contextlib.suppress(TypeError):  # an array has it, too
            exact = operator.index(value)
    elif strict:
        pass
    elif isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
        with contextlib.suppress(ValueError):  # Python reads no number of thousands of digits
            exact = int(value)
    else:  # 20.0, "1e3"
        try:
            number = as_number(name, value)
        except InputError:
            number = math.nan
        if not math.isnan(number) and number == int(number):
            exact = int(number)
    if exact is None or (at_least is not None and exact < at_least) or (at_most is not None and exact > at_most):
        counted, instead = f" of {of}" if of else "", f", or {otherwise}" if otherwise else ""
        bounds = _bounds(None, at_least, None, at_most)
        raise InputError(f"{name}={_shown(value)}: expected a whole number{counted}{bounds}{instead}")
    return exact


def as_seed(name: str, value: Any) -> int:
    """``value`` as a seed: a whole number of 32 bits.

    Raises:
        InputError: it is not one.
    """
    return as_whole(name, value, at_least=0, at_most=_LARGEST_SEED)


def as_shape(name: str, value: Any) -> tuple[int, int, int]:
    """``value`` as the shape of an image.

    Raises:
        InputError: it is not ``(channels, height, width)``, each at least 1.
    """
    if isinstance(value, str) or not hasattr(value, "__len__") or not hasattr(value, "__iter__") or len(value) != 3:
        raise InputError(f"{name}={value!r}: expected (channels, height, width)")
    channels, height, width = (as_whole(name, size, at_least=1) for size in value)
    return channels, height, width


def as_size(name: str, value: Any) -> tuple[int, int]:
    """``value``, the side of a square or ``(height, width)``, as the latter.

    Raises:
        InputError: it is neither, or a side is below 1.
    """
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise InputError(f"{name}={value!r}: expected the side of a square, or (height, width)")
        height, width = (as_whole(name, side, at_least=1, of="pixels") for side in value)
        return height, width
    side = as_whole(name, value, at_least=1, of="pixels", otherwise="(height, width)")
    return side, side


def as_range(name: str, value: Any) -> tuple[float, float]:
    """``value`` as the smallest and the largest of a range.

    Raises:
        InputError: not two finite numbers in ascending order.
    """
    try:
        low, high = (as_number(name, bound) for bound in value)
    except (InputError, TypeError, ValueError):
        low = high = math.nan
    if not low < high:
        raise InputError(f"{name}={value!r}: expected two finite numbers (low, high), low below high")
    return low, high


def as_flag(name: str, value: Any) -> bool:
    """``value``, if it is True or False: any other text would count as True.

    Raises:
        InputError: it is neither.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name}={value!r}: expected True or False")
    return value


def as_path(name: str, value: Any) -> Path:
    """``value`` as a path.

    Raises:
        InputError: it is not a text or a path that a file system could hold.
    """
    if not isinstance(value, str | os.PathLike) or "\0" in str(value):
        raise InputError(f"{name}={value!r}: expected a path, as a text or a pathlib.Path")
    path = Path(value)
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in path.parts):
        raise InputError(f"{name}={_shown(str(path))}: expected names of at most {_LONGEST_NAME} bytes in a path")
    return path


def as_device(name: str, value: Any) -> torch.device | None:
    """The device that ``value`` names, after checking that this machine has it; None stays None.

    Raises:
        InputError: no device, or not one of this machine.
    """
    if value is None:
        return None
    import torch  # the command line checks its numbers without it

    try:
        found = torch.device(value)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f'{name}={value!r}: expected a device of this machine, such as "cpu" or "cuda:1", or None to leave the '
            f"teacher where it is ({reason:.120})"
        ) from error
    return found


def as_plain(name: str, value: Any, _within: tuple[int, ...] = ()) -> Any:
    """``value``, if JSON can hold it: finite numbers, texts, True, False, None, and lists and mappings of these.

    Raises:
        InputError: it holds something else, names that are not texts, or itself.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{name or 'value'}={value!r}: expected a finite number")
        return value
    if type(value).__module__ == "numpy" and not getattr(value, "shape", None):
        return as_plain(name, value.item(), _within)
    if id(value) in _within:
        raise InputError(f"{name} holds itself: write its values out")
    inner = (*_within, id(value))
    if isinstance(value, list | tuple):
        return [as_plain(f"{name}[{index}]", item, inner) for index, item in enumerate(value)]
    if not isinstance(value, Mapping):
        raise InputError(
            f"{name or 'value'}={value!r} ({type(value).__name__}): expected a number, a text, true, false, or "
            "a list of them; quote what should be a text"
        )
    for key in value:
        if not isinstance(key, str):
            where = f"{name}: " if name else ""
            raise InputError(f"{where}{key!r} is a {type(key).__name__}: expected a name; quote what should be a text")
    return {key: as_plain(f"{name}.{key}" if name else key, item, inner) for key, item in value.items()}


def as_one_of(name: str, value: Any, known: tuple[str, ...]) -> Any:
    """``value``, if it is one of the ``known`` names.

    Raises:
        InputError: it is not.
    """
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name}={value!r}: expected one of {', '.join(known)}")
    return value


def _bounds(above: float | None, at_least: float | None, below: float | None, at_most: float | None) -> str:
    words: list[tuple[Literal["above", "from", "below", "to"], float | None]] = [
        ("above", above),
        ("from", at_least),
        ("below", below),
        ("to", at_most),
    ]
    return "".join(
        f" {word} {bound if isinstance(bound, int) else format(bound, 'g')}"
        for word, bound in words
        if bound is not None
    )


def _shown(value: Any) -> str:
    """``value`` for a message, of which a tensor would fill the screen."""
    shown = repr(value)
    return shown if len(shown) <= 100 else f"{shown[:100]}..."
