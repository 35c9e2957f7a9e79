"""Copycat CNN: the teacher's labels of random images of another domain (Correia-Silva et al. 2018).

Source: Correia-Silva, Berriel, Badue, de Souza, Oliveira-Santos, *Copycat CNN: Stealing Knowledge by Persuading
Confession with Random Non-Labeled Data*, IJCNN 2018: ask about images that have nothing to do with the problem, keep
the class of each answer, and train a network on that labelled set.

Departures:
- the network is the run's student, trained from its own initial weights by every method's recipe; the paper fine-tunes
  one that was trained on ImageNet;
- the paper's copies that saw images of the problem's own domain besides are left out: that is
  :class:`~mekd_plugin.baselines.kd.KD` on hard responses;
- preset ``quick``: smoothed labels, as all methods that learn from classes have here, and rows of rare classes are
  shown more often, at most four times, since images of another domain fall into few of the teacher's classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor, nn

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_flag, as_number
from mekd_plugin.distiller import Asking, Needs, Stage, Student
from mekd_plugin.functional import cross_entropy_labels
from mekd_plugin.mekd.generated import balancing_weights
from mekd_plugin.rows import Rows
from mekd_plugin.transfer import TransferSetDistiller, images_and_views, number_of_queries

__all__ = ["Copycat"]


class Copycat(TransferSetDistiller):
    """Minimises the cross-entropy with the classes that the teacher gives to another domain's images.

    Of scores it takes the arg max.

    Args:
        smoothing: share of a label that is spread over all classes, in [0, 1).
        balance: whether rows of rare classes are drawn more often.
        queries: see :class:`TransferSetDistiller`.

    Raises:
        InputError: a value cannot be used.
    """

    needs = Needs(responses="either", leaves_edge="nothing of the edge", pool="other domain")
    presets: ClassVar = {"quick": {}, "paper": {"smoothing": 0.0, "balance": False}, "tiny": {}}
    reference: ClassVar = "Correia-Silva et al., *Copycat CNN*, IJCNN 2018"

    def __init__(
        self, *, smoothing: float = 0.05, balance: bool = True, queries: int | None = None, **world: Any
    ) -> None:
        super().__init__(queries=queries, **world)
        self.smoothing = as_number("smoothing", smoothing, at_least=0, below=1)
        self.balance = as_flag("balance", balance)

    def stages(self, teacher: BlackBox, images: Tensor, student: nn.Module) -> Iterator[Stage]:
        size = number_of_queries(teacher, "transfer_set", self.queries, otherwise=len(images))
        bank = Bank("transfer_set")
        yield Asking("transfer_set", bank, images_and_views(images, self.seed, fill=teacher.value_range[0]), size)
        weights = balancing_weights(bank.response) if self.balance else None
        yield self.align("student", bank.order(self.seed, weights), student)

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        return {"loss": cross_entropy_labels(student(rows.images), rows.answers().labels, self.smoothing)}
