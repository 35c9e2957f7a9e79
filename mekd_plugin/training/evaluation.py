"""How often a trained network is right, and how often it agrees with its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy
from torch import Tensor, nn

from mekd_plugin.errors import InputError
from mekd_plugin.prediction import predict
from mekd_plugin.responses import Response

__all__ = ["Agreement", "accuracy", "agreement", "agreement_of", "as_scalars", "measured_agreement"]


def accuracy(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share, in [0, 1], of ``images`` whose highest logit is that of their label ``(N,)``."""
    return _share_equal(predict(module, images), labels)


def agreement(module: nn.Module, images: Tensor, response: Response) -> float:
    """Share, in [0, 1], of ``images`` on which ``module`` and the teacher's answers name the same class."""
    return _share_equal(predict(module, images), response.labels)


class Agreement(NamedTuple):
    """How often two networks name the same class, as a rule a student and its teacher.

    Attributes:
        value: share of the images, in [0, 1].
        low: lower end of Wilson's 95 % score interval (1927) of it.
        high: upper end.
        images: how many there were.
    """

    value: float
    low: float
    high: float
    images: int


def measured_agreement(module: nn.Module, images: Tensor, response: Response) -> Agreement:
    """:func:`agreement`, with its interval and the number of ``images``."""
    logits = predict(module, images)
    return agreement_of(logits.argmax(dim=1) == response.labels.to(logits.device))


def agreement_of(equal: Tensor) -> Agreement:
    """The agreement of two networks that name the same class where ``equal``, bool ``(N,)`` with N at least 1."""
    same, count = int(equal.sum()), len(equal)
    ends = scipy.stats.binomtest(same, count).proportion_ci(0.95, method="wilson")
    return Agreement(float(equal.double().mean()), float(ends.low), float(ends.high), count)


def as_scalars(told: Any) -> dict[str, int | float]:
    """What ``evaluate`` returned, as numbers that JSON holds; tensors and arrays of one number are that number.

    Raises:
        InputError: it is no mapping of names to such numbers.
    """
    if not isinstance(told, Mapping):
        raise InputError(f"evaluate returned {told!r}: expected names and numbers, {{'accuracy': 0.9}}")
    scalars: dict[str, int | float] = {}
    for name, value in told.items():
        if isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim == 0:
            value = value.item()
        if not isinstance(name, str) or not isinstance(value, int | float):
            raise InputError(f"evaluate returned {value!r} for {name!r}: expected a number, such as float(value)")
        scalars[name] = value
    return scalars


def _share_equal(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(dim=1) == labels.to(logits.device)).double().mean())
