"""Numbers that a caller hands in, checked at the door: one wording for all of them."""

from __future__ import annotations

import math
from typing import Any, Literal

from mekd_plugin.errors import InputError

__all__ = ["as_number", "as_one_of", "as_whole"]


def as_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> float:
    """``value`` as a finite number within its bounds; a text that spells one, as YAML gives ``1e-3``, is that number.

    Raises:
        InputError: it is not one; the message names it and the bounds.

    >>> as_number("temperature", "1e-3", above=0)
    0.001
    """
    number = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool) or hasattr(value, "__float__"):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            number = math.nan
    if isinstance(value, bool):
        number = math.nan
    fits = (
        math.isfinite(number)
        and (above is None or number > above)
        and (at_least is None or number >= at_least)
        and (below is None or number < below)
        and (at_most is None or number <= at_most)
    )
    if not fits:
        raise InputError(f"{name}={value!r}: expected a number{_bounds(above, at_least, below, at_most)}")
    return number


def as_whole(name: str, value: Any, *, at_least: int | None = None, at_most: int | None = None) -> int:
    """``value`` as a whole number within its bounds; never rounded.

    Raises:
        InputError: it is not one; the message names it and the bounds.

    >>> as_whole("steps", 20.0, at_least=1)
    20
    """
    exact: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        exact = value
    elif isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
        exact = int(value)
    else:  # 20.0, "1e3", a number of NumPy's
        try:
            number = as_number(name, value)
        except InputError:
            number = math.nan
        if not math.isnan(number) and number == int(number):
            exact = int(number)
    if exact is None or (at_least is not None and exact < at_least) or (at_most is not None and exact > at_most):
        raise InputError(f"{name}={value!r}: expected a whole number{_bounds(None, at_least, None, at_most)}")
    return exact


def as_one_of(name: str, value: Any, known: tuple[str, ...]) -> Any:
    """``value``, if it is one of the ``known`` names.

    Raises:
        InputError: it is not.
    """
    if value not in known:
        raise InputError(f"{name}={value!r}: expected one of {', '.join(known)}")
    return value


def _bounds(above: float | None, at_least: float | None, below: float | None, at_most: float | None) -> str:
    words: list[tuple[Literal["above", "from", "below", "to"], float | None]] = [
        ("above", above),
        ("from", at_least),
        ("below", below),
        ("to", at_most),
    ]
    said = [f"{word} {bound:g}" for word, bound in words if bound is not None]
    return "".join(f" {text}" for text in said)
