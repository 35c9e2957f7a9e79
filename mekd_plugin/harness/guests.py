"""How every suite's adapter takes a method in: one call, and a ledger printed when the process ends."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mekd_plugin.blackbox.ledger import Ledger
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import InputError
from mekd_plugin.training.hosting import Hosted
from mekd_plugin.training.run import host

__all__ = ["open_guest"]


def open_guest(
    method: str,
    student: nn.Module,
    teacher: BlackBox | nn.Module | Callable[[Tensor], Any],
    images: Tensor,
    *,
    suite: str,
    responses: str | None = None,
    num_classes: int | None = None,
    budget: int | None = None,
    answer: Callable[[Any], Any] | None = None,
    value_range: tuple[float, float] | None = None,
    directory: str | Path | None = None,
    **settings: Any,
) -> Hosted:
    """Put a suite's teacher behind the boundary, and run the stages before the student's.

    Args:
        method: by name.
        student: images -> logits; its weights are not touched.
        teacher: the suite's own; from here on it is only asked. Or one behind the boundary already.
        images: the edge's, as the suite's loader normalises them.
        suite: for the line that is printed when the process ends.
        responses: of :class:`BlackBox`; None takes the answers for logits.
        num_classes: of :class:`BlackBox`.
        budget: of :class:`BlackBox`.
        answer: of :class:`BlackBox`.
        value_range: that the teacher takes; None takes that of ``images``, since suites normalise by statistics of
            their data set and have no declared range.
        directory: where to keep what the earlier stages leave, and to find it again.
        **settings: further ones of :func:`mekd_plugin.host`.

    Raises:
        InputError: a teacher behind the boundary is described a second time.
        MekdError: as :func:`mekd_plugin.host`.
    """
    if isinstance(teacher, BlackBox):
        described = {
            "responses": responses,
            "num_classes": num_classes,
            "budget": budget,
            "answer": answer,
            "value_range": value_range,
        }
        if given := [name for name, value in described.items() if value is not None]:
            raise InputError(
                f"{', '.join(given)}: belong to the BlackBox that was handed in: set them there, not twice"
            )
        boundary = teacher
    else:
        span = value_range or (images.min().item(), images.max().item())
        boundary = BlackBox(teacher, responses or "logits", num_classes, budget=budget, value_range=span, answer=answer)
    hosted = host(
        student, boundary, images, method=method, directory=directory, resume=directory is not None, **settings
    )
    atexit.register(_print_ledger, f"{suite}, {method}", hosted.ledger)
    return hosted


def _print_ledger(who: str, ledger: Ledger) -> None:
    print(f"[mekd] {who}: {ledger}", flush=True)
