"""Rounds: ask, train the student, ask again by what it has learnt; and how budget and steps are shared between them.

A method in rounds writes its own loop over :func:`rounds_of`, with whatever is particular to it in between::

    bank = Bank("transfer_set")
    for round_ in rounds_of(size, shares, student_share=0.4):
        images = self._choose(round_.until - len(bank), bank, student)
        yield round_.asking(bank, Rows(images))
        yield self.align(round_.student, bank.order(self.seed), student, fraction=round_.fraction)

What it chooses has to follow from the seed, the bank and the student alone, so that a resumed run, whose bank is full
already, asks the same again. The student goes on from one round to the next, and takes the recipe's steps in the last
one, on all answers, as the student of any other method does. What it learns before serves the choice, and comes on top.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.checks import as_number, as_whole
from mekd_plugin.distiller import Asking
from mekd_plugin.errors import InputError
from mekd_plugin.rows import Rows
from mekd_plugin.transfer import images_and_views

__all__ = ["Round", "as_shares", "candidates", "fewest_in_rounds", "rounds_of", "shares_of"]

_FEWEST = 2  # rows of a round: batch norm takes no batch of one
_AT_A_TIME = 1024


@dataclass(frozen=True)
class Round:
    """One of several rounds.

    Attributes:
        number: from 1.
        until: rows of the bank when it is over.
        last: whether no further one follows.
        fraction: the student's steps in it, as a part of the recipe's; 1 in the last round, 0 where it does not train.
    """

    number: int
    until: int
    last: bool
    fraction: float

    @property
    def student(self) -> str:
        """Name of the stage in which the student trains: ``student_N``, and ``student`` in the last round."""
        return "student" if self.last else f"student_{self.number}"

    def asking(self, bank: Bank, rows: Rows) -> Asking:
        """The stage that asks about ``rows``, in order, under the bank's own name.

        Args:
            bank: with the rows of the rounds before.
            rows: ``until - len(bank)`` new ones; no image twice, nor any that was asked about before, since each costs
                a query.

        Raises:
            InputError: another number of rows.
        """
        held = len(bank)
        if len(rows) != self.until - held:
            raise InputError(
                f"round {self.number} chose {len(rows)} rows: expected {self.until - held}, which fill bank "
                f"{bank.name!r} from {held} to {self.until}"
            )

        def draw(start: int, stop: int) -> Rows:
            # A bank that is taken over is asked for its first row, to compare shapes: it has the shape of any other.
            return rows[max(0, start - held) : max(0, start - held) + stop - start]

        return Asking(bank.name, bank, draw, self.until, grows=not self.last)


def rounds_of(size: int, shares: Sequence[float], *, student_share: float) -> list[Round]:
    """The rounds in which ``size`` rows are asked.

    Args:
        size: rows in all.
        shares: of the rows, one a round, in order, positive; they are brought to a sum of 1.
        student_share: steps of all rounds but the last together, which share them equally, as a part of the recipe's;
            at least 0. They come on top of the recipe's own, which the last round takes whole.

    Raises:
        InputError: a round would have fewer than two rows, or a value cannot be used.

    >>> [(round_.until, round_.fraction) for round_ in rounds_of(100, [0.5, 0.25, 0.25], student_share=0.5)]
    [(50, 0.25), (75, 0.25), (100, 1.0)]
    """
    bounds, before = _bounds(size, shares), len(shares) - 1
    student_share = as_number("student_share", student_share, at_least=0)
    if min(_sizes(bounds)) < _FEWEST:
        raise InputError(
            f"{size} queries in {len(shares)} rounds: expected at least {fewest_in_rounds(shares):,}, which leave "
            f"{_FEWEST} to the smallest; raise the budget, or ask in fewer rounds"
        )
    fraction = student_share / before if before else 0.0
    return [
        Round(number, until, number > before, fraction if number <= before else 1.0)
        for number, until in enumerate(bounds, start=1)
    ]


def fewest_in_rounds(shares: Sequence[float]) -> int:
    """The smallest number of rows that leaves at least two to every round; ``shares`` as for :func:`rounds_of`.

    >>> fewest_in_rounds([0.45, 0.45, 0.1])
    16
    """
    # Bounds are rounded, so a round may have a row less than its share: with one to spare, all is well.
    size = math.ceil((_FEWEST + 1) / min(as_shares("shares", shares)))
    while min(_sizes(_bounds(size - 1, shares))) >= _FEWEST:
        size -= 1
    return size


def shares_of(rounds: int, first: float) -> list[float]:
    """Shares for ``rounds`` rounds, of which the first takes ``first`` and the others equal parts of the rest.

    Args:
        rounds: at least 2.
        first: in (0, 1).

    >>> shares_of(3, 0.5)
    [0.5, 0.25, 0.25]
    """
    rounds = as_whole("rounds", rounds, at_least=2)
    first = as_number("first_share", first, above=0, below=1)
    return [first, *[(1 - first) / (rounds - 1)] * (rounds - 1)]


def as_shares(name: str, value: Sequence[float]) -> tuple[float, ...]:
    """``value`` as shares, brought to a sum of 1.

    Raises:
        InputError: it is not one positive number or several.
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise InputError(f"{name}={value!r}: expected a list of positive shares, one a round, such as [0.5, 0.5]")
    shares = [as_number(f"{name}[{index}]", share, above=0) for index, share in enumerate(value)]
    return tuple(share / sum(shares) for share in shares)


def candidates(images: Tensor, count: int, seed: int, *, fill: float) -> Tensor:
    """What may be asked about where real images may: each of them, in shuffled order, then views of them.

    Args:
        images: ``(N, channels, height, width)``.
        count: how many, at least 1.
        seed: of the order and the views.
        fill: what a view shows beyond the image's border.

    Returns:
        ``(count, channels, height, width)``.
    """
    draw = images_and_views(images, seed, fill=fill)
    return torch.cat([draw(at, min(at + _AT_A_TIME, count)).images for at in range(0, count, _AT_A_TIME)])


def _bounds(size: int, shares: Sequence[float]) -> list[int]:
    """Rows after each round."""
    size = as_whole("size", size, at_least=1, of="queries")
    return [round(size * share) for share in itertools.accumulate(as_shares("shares", shares))]


def _sizes(bounds: Sequence[int]) -> list[int]:
    return [until - since for since, until in itertools.pairwise([0, *bounds])]
