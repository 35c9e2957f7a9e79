"""The transfer set of real images: what methods that send the edge's own images to the teacher ask about.

The images first, each once; then, as far as the number of queries allows, label-preserving views of them, each a query
of its own. All such methods ask about the very same rows, so that what differs is what they learn from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_whole
from mekd_plugin.distiller import Asking, Distiller, Stage
from mekd_plugin.errors import InputError, QueryBudgetExceeded
from mekd_plugin.rows import Rows, ShuffledIndices
from mekd_plugin.views import affine

__all__ = ["WITHOUT_BUDGET", "TransferSetDistiller", "as_queries", "images_and_views", "number_of_queries"]

WITHOUT_BUDGET = 5000
"""Queries of a method that makes what it asks about, where neither a budget nor an argument says how many."""


def images_and_views(images: Tensor, seed: int, *, fill: float = -1.0) -> Callable[[int, int], Rows]:
    """Rows to ask about: row ``i < N`` is an image itself, in shuffled order, every later one a view of an image.

    Args:
        images: ``(N, channels, height, width)``.
        seed: the seed of the order and the views.
        fill: what a view shows beyond the image's border.

    Returns:
        ``draw(start, stop) -> rows``, a pure function of the range.
    """
    order = ShuffledIndices(len(images), seed)

    def draw(start: int, stop: int) -> Rows:
        chosen = images[order.take(start, stop)]
        originals = max(0, min(stop, len(images)) - start)
        if originals == stop - start:
            return Rows(chosen)
        rng = torch.Generator().manual_seed(seed * 1_000_003 + start)
        views = affine(chosen[originals:].cpu(), fill=fill, rng=rng).to(images.device)
        return Rows(torch.cat([chosen[:originals], views]))

    return draw


def number_of_queries(teacher: BlackBox, stage: str, wanted: int | None, otherwise: int, *, held: int = 0) -> int:
    """How many rows a stage asks about: what was ``wanted``, else what the budget leaves, else ``otherwise``.

    Args:
        teacher: asked.
        stage: which asks.
        wanted: rows in all; None for what the budget leaves.
        otherwise: rows where there is no budget either.
        held: rows that are answered already.

    Raises:
        InputError: fewer than 2.
        QueryBudgetExceeded: the stage has asked nothing yet, and what was wanted cannot be paid for: refused here, so
            before a generator is trained for it.
    """
    ledger = teacher.ledger
    available = ledger.available(stage)
    if wanted is not None and available is not None and stage not in ledger.by_stage and not held:
        if wanted - available > ledger.uncertain:
            raise QueryBudgetExceeded(
                f"queries={wanted} needs {wanted:,} more answers for {stage!r}, and "
                f"{ledger.limit} has {available:,} left ({ledger}); nothing was asked. Raise the budget, or lower "
                "queries"
            )
    count = wanted if wanted is not None else otherwise if available is None else available
    if count < 2:
        raise InputError(
            f"{count} queries for stage {stage!r}: expected at least 2; raise the budget (what other stages spent "
            f"leaves {available})"
        )
    return count


def as_queries(queries: Any) -> int | None:
    """A method's argument ``queries``, checked.

    Raises:
        InputError: it is neither None nor a whole number of at least 2.
    """
    return None if queries is None else as_whole("queries", queries, at_least=2)


class TransferSetDistiller(Distiller):
    """Base of the methods that ask about real images and views of them, then train the student on the answers.

    Args:
        queries: rows of the transfer set; None takes what the teacher's budget leaves, or, without a budget, the images
            themselves.
        **world: see :class:`Distiller`.
    """

    def __init__(self, *, queries: int | None = None, **world: Any) -> None:
        super().__init__(**world)
        self.queries = as_queries(queries)

    def stages(self, teacher: BlackBox, images: Tensor, student: nn.Module) -> Iterator[Stage]:
        size = number_of_queries(teacher, "transfer_set", self.queries, otherwise=len(images))
        bank = Bank("transfer_set")
        yield Asking("transfer_set", bank, images_and_views(images, self.seed, fill=teacher.value_range[0]), size)
        yield self.align("student", bank.order(self.seed), student)
