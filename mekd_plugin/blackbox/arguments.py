"""Checks of the boundary's own arguments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from mekd_plugin.errors import InputError

__all__ = ["checked_device", "checked_range", "checked_seconds", "whole_number"]


def whole_number(name: str, value: Any, smallest: int, expected: str) -> int:
    """``value``, a Python or NumPy integer from ``smallest``, as an int.

    Raises:
        InputError: it is something else; the message says ``expected``.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < smallest:
        raise InputError(f"{name}={value!r}: expected a whole number {expected}")
    return int(value)


def checked_range(value_range: tuple[float, float]) -> tuple[float, float]:
    """Smallest and largest pixel value.

    Raises:
        InputError: not two finite numbers in ascending order.
    """
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"value_range={value_range!r}: expected two finite numbers (low, high), low below high")
    return low, high


def checked_seconds(name: str, value: Any) -> float:
    """A finite number above 0.

    Raises:
        InputError: it is something else.
    """
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise InputError(f"{name}={value!r}: expected a finite number above 0")
    return float(value)


def checked_device(device: torch.device | str | None) -> torch.device | None:
    """The device that ``device`` names, after checking that this machine has it.

    Raises:
        InputError: no device, or not one of this machine.
    """
    if device is None:
        return None
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f'device={device!r}: expected a device of this machine, such as "cpu" or "cuda:1", or None to leave the '
            f"teacher where it is ({reason:.120})"
        ) from error
    return found
