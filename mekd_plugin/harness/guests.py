"""How every suite's adapter takes a method in: one call, and a ledger printed when the process ends."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mekd_plugin.blackbox.ledger import Ledger
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.training.hosting import Hosted
from mekd_plugin.training.run import host

__all__ = ["open_guest"]


def open_guest(
    method: str,
    student: nn.Module,
    teacher: nn.Module | Callable[[Tensor], Any],
    images: Tensor,
    *,
    suite: str,
    responses: str = "logits",
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
        teacher: the suite's own; from here on it is only asked.
        images: the edge's, as the suite's loader normalises them.
        suite: for the line that is printed when the process ends.
        responses: of :class:`BlackBox`.
        num_classes: of :class:`BlackBox`.
        budget: of :class:`BlackBox`.
        answer: of :class:`BlackBox`.
        value_range: that the teacher takes; None takes that of ``images``, since suites normalise by statistics of
            their data set and have no declared range.
        directory: where to keep what the earlier stages leave, and to find it again.
        **settings: further ones of :func:`mekd_plugin.host`.
    """
    if value_range is None:
        value_range = (images.min().item(), images.max().item())
    boundary = BlackBox(teacher, responses, num_classes, budget=budget, value_range=value_range, answer=answer)
    hosted = host(
        student, boundary, images, method=method, directory=directory, resume=directory is not None, **settings
    )
    atexit.register(_print_ledger, f"{suite}, {method}", hosted.ledger)
    return hosted


def _print_ledger(who: str, ledger: Ledger) -> None:
    print(f"[mekd] {who}: {ledger}", flush=True)
