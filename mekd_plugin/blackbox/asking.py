"""Asking for a bank: what the budget covers, and the shares of several processes."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import InputError, QueryBudgetExceeded
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows

__all__ = ["affordable", "ask_together"]


def affordable(teacher: BlackBox, wanted: int, stage: str, bank: str, held: int = 0) -> int:
    """How many of ``wanted`` rows the budget covers: all of them, or all but those whose answers were lost.

    An answer is lost with a killed process, a failed batch, or an attempt that had to be repeated; the ``held`` rows of
    the bank and the answers in the journal are all that is left of what was spent on ``stage``.

    Answers that the journal holds cost nothing.

    Raises:
        QueryBudgetExceeded: it is short by more than that, or nothing would be in the bank.
    """
    ledger = teacher.ledger
    if ledger.remaining is None:
        return wanted
    ahead = 0 if teacher.journal is None else teacher.journal.images_ahead
    kept = min(wanted, int(ledger.peers.gather(torch.tensor([ahead])).sum()))
    short = wanted - kept - ledger.remaining
    if short <= 0:
        return wanted
    lost = max(ledger.uncertain, ledger.by_stage.get(stage, 0) - held - kept)
    if short > lost or (short >= wanted and not held):  # a bank that holds rows can do without any more
        raise QueryBudgetExceeded(
            f"bank {bank!r} needs {wanted - kept:,} more answers for {stage!r}, and "
            f"{ledger.limit} has {ledger.remaining:,} left ({ledger}); nothing was asked. Raise the budget, or make "
            "the bank smaller"
        )
    short = min(short, wanted)  # rows that were paid for stay, even if others have spent more than the budget
    warnings.warn(
        f"bank {bank!r} gets {short:,} rows fewer: that many answers were paid for and lost, and they count "
        "against the query budget",
        stacklevel=3,
    )
    return wanted - short


def ask_together(
    teacher: BlackBox, rows: Rows, stage: str, label: Callable[[BlackBox, Rows], Response] | None
) -> Response:
    """Answers to all ``rows``, of which this process asks its share; with ``label``, in the method's own way.

    Raises:
        InputError: ``label`` returns another number of answers.
    """
    peers = teacher.ledger.peers
    if label is not None:
        with teacher.asking_for(stage):
            response = label(teacher, rows)
        if len(response) != len(rows):
            raise InputError(f"label returned {len(response)} answers for {len(rows)} rows: expected one each")
        return response
    if peers.world == 1:
        return teacher.query(rows.images, stage=stage)
    own = rows.images[peers.rank :: peers.world]
    if len(own):
        values: Tensor = teacher.query(own, stage=stage).values.cpu()
    else:  # fewer rows than processes: all of them still count together
        teacher.sit_out(stage=stage)
        values = rows.images.new_empty(0, teacher.num_classes).cpu()
        if teacher.responses == "hard":
            values = torch.empty(0, dtype=torch.int64)
    of_row = torch.cat([torch.arange(len(rows))[rank :: peers.world] for rank in range(peers.world)])
    gathered = peers.gather(values)
    answers = torch.empty_like(gathered)
    answers[of_row] = gathered
    return Response(answers, teacher.responses, teacher.num_classes)
