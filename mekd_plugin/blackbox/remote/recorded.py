"""A teacher that is a table: what somebody bought earlier answers again, and no service is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mekd_plugin.blackbox.remote.tables import Table, read_table
from mekd_plugin.errors import InputError, RefusedForGood
from mekd_plugin.responses import Kind

__all__ = ["RecordedTeacher", "recorded_teacher"]

OnMissing = str | Callable[[Tensor], Any]


class RecordedTeacher:
    """Images -> the answers on record.

    Attributes:
        identity: that of the teacher who answered; a digest of the answers where nobody noted it.
        responses: ``"logits"``, ``"probabilities"`` or ``"hard"``.
        num_classes: C.
        value_range: smallest and largest pixel value of the images.
        images: those on record, ``(N, channels, height, width)``; None where only fingerprints are.
        remote: False: nobody changes what is on record.
        recorded: whether nothing else is asked.
    """

    remote = False

    def __init__(self, table: Table, origin: str, on_missing: OnMissing) -> None:
        self._table, self._origin, self._on_missing = table, origin, on_missing
        self.recorded = not callable(on_missing)
        self._row: dict[int, int] = {}
        for row, key in enumerate(table.fingerprints.tolist()):
            self._row.setdefault(key, row)
        self.identity = table.identity
        self.responses: Kind = table.response.kind
        self.num_classes, self.value_range, self.images = table.response.num_classes, table.value_range, table.images

    def __len__(self) -> int:
        return len(self._row)

    def __call__(self, images: Tensor) -> Tensor:
        """The answers to ``images``, scores ``(N, C)`` or class indices ``(N,)``.

        Raises:
            RefusedForGood: some are not on record. They cost nothing.
        """
        rows = [self._row.get(key) for key in self._table.keys_of(images).tolist()]
        missing = [place for place, row in enumerate(rows) if row is None]
        if not missing:
            return self._table.response.values[torch.tensor(rows)]
        if not callable(self._on_missing):
            raise RefusedForGood(
                f"{len(missing):,} of {len(images):,} images are not among the {len(self):,} on record in "
                f"{self._origin}: ask about recorded images alone (a method with as many queries as there are, without "
                "further views), or name a function that answers the others, on_missing="
            )
        told = torch.as_tensor(self._on_missing(images[missing])).to(self._table.response.values)
        known = self._table.response.values[torch.tensor([row or 0 for row in rows])].clone()
        known[missing] = told
        return known


def recorded_teacher(
    source: str | Path,
    on_missing: OnMissing = "error",
    *,
    responses: str | None = None,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    value_range: tuple[float, float] | None = None,
) -> RecordedTeacher:
    """A teacher that answers from a table.

    ``BlackBox(teacher, teacher.responses, teacher.num_classes, value_range=teacher.value_range)`` counts what is asked
    of it, as of any other.

    Args:
        source: a bank's or a run's directory, a ``.safetensors`` file or a directory of ``mekd bank export``, or a CSV
            with the columns ``file`` and ``label`` (or ``score_0``, ``score_1``, ...).
        on_missing: ``"error"``, or a function that is asked about images that are not on record.
        responses: kind of the scores of a CSV that does not say it.
        num_classes: C of such a CSV.
        classes: labels of such a CSV in the order of their indices, where they are texts.
        value_range: that of the images of such a CSV; None is (-1, 1).

    Raises:
        CheckpointError: there are no such answers, or they are damaged. InputError: what they are is not said.
    """
    if on_missing != "error" and not callable(on_missing):
        raise InputError(f'on_missing={on_missing!r}: expected "error", or a function from images to answers')
    table = read_table(source, responses=responses, num_classes=num_classes, classes=classes, value_range=value_range)
    return RecordedTeacher(table, str(source), on_missing)
