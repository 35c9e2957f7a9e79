"""Shares of images, with their intervals."""

from __future__ import annotations

from typing import Any, NamedTuple

import scipy

from mekd_plugin.errors import InputError

__all__ = ["Proportion", "proportion_of"]


class Proportion(NamedTuple):
    """A share of ``trials`` images.

    Attributes:
        value: in [0, 1].
        low: lower end of Wilson's score interval (1927), as if every image were an independent trial.
        high: upper end.
        trials: how many images.
    """

    value: float
    low: float
    high: float
    trials: int

    def as_record(self) -> dict[str, Any]:
        """The same as JSON types."""
        return self._asdict()


def proportion_of(hits: float, trials: int, *, confidence: float = 0.95) -> Proportion:
    """The share ``hits / trials``; a tie may count as part of a hit, which the interval rounds.

    Raises:
        InputError: no trials, or hits outside [0, trials].

    >>> [round(number, 3) for number in proportion_of(5, 10)]
    [0.5, 0.237, 0.763, 10]
    """
    if trials < 1 or not 0 <= hits <= trials + 1e-6:
        raise InputError(f"{hits} hits in {trials} trials: expected 0 to {trials} hits of at least one trial")
    ends = scipy.stats.binomtest(min(round(hits), trials), trials).proportion_ci(confidence, method="wilson")
    return Proportion(min(hits / trials, 1.0), float(ends.low), float(ends.high), trials)
