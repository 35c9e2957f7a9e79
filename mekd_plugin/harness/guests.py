"""How every suite's adapter takes a method in: one call that says what happens, and a ledger when the process ends."""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import InputError
from mekd_plugin.training.hosting import Hosted
from mekd_plugin.training.run import host

__all__ = ["open_guest", "run_to_student", "stages_told"]


_OF_THE_BOUNDARY = ("teacher_size", "cost_per_1000", "cost_limit", "classes")


def open_guest(
    method: str,
    student: nn.Module,
    teacher: BlackBox | nn.Module | Callable[[Tensor], Any],
    images: Tensor,
    *,
    suite: str,
    images_at_hand: int | None = None,
    responses: str | None = None,
    num_classes: int | None = None,
    budget: int | None = None,
    answer: Callable[[Any], Any] | None = None,
    value_range: tuple[float, float] | None = None,
    directory: str | Path | None = None,
    stepwise: bool = False,
    **settings: Any,
) -> Hosted:
    """Put a suite's teacher behind the boundary, and run the stages before the student's.

    It prints how many images the edge has, each stage as it begins and ends, and what the method warns of then, such
    as a generator in poor health.

    Args:
        method: by name.
        student: images -> logits; its weights are not touched.
        teacher: the suite's own; from here on it is only asked. Or one that is behind the boundary already.
        images: the edge's, as the suite's loader normalises them.
        suite: whose name stands before each printed line.
        images_at_hand: how many images ``images`` were drawn from; None: they are all there are.
        responses: of :class:`BlackBox`; None takes the answers for logits.
        num_classes: of :class:`BlackBox`.
        budget: of :class:`BlackBox`.
        answer: of :class:`BlackBox`.
        value_range: that the teacher takes; None takes that of ``images``, since suites normalise by statistics of
            their data set and declare no range.
        directory: where to keep what the earlier stages leave, and to find it again.
        stepwise: leave the earlier stages to the caller; :func:`run_to_student` runs those that are left.
        **settings: further ones of :func:`mekd_plugin.host`; ``teacher_size``, ``cost_per_1000``, ``cost_limit`` and
            ``classes`` go to the :class:`BlackBox`.

    Raises:
        InputError: a teacher behind the boundary is described a second time.
        MekdError: as :func:`mekd_plugin.host`.
    """
    own = {name: settings.pop(name) for name in _OF_THE_BOUNDARY if name in settings}
    if isinstance(teacher, BlackBox):
        described = {
            **own,
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
        boundary = BlackBox(
            teacher, responses or "logits", num_classes, budget=budget, value_range=span, answer=answer, **own
        )
    who = f"{suite}, {method}"
    _say(who, f"the edge holds {len(images):,} of {images_at_hand or len(images):,} images")
    with stages_told(who):
        hosted = host(
            student,
            boundary,
            images,
            method=method,
            directory=directory,
            resume=directory is not None,
            stepwise=stepwise,
            **settings,
        )
    if not stepwise:
        _pass_warnings_on(who, hosted)
    atexit.register(lambda ledger: _say(who, str(ledger)), hosted.ledger)
    return hosted


def run_to_student(hosted: Hosted, *, suite: str, method: str) -> None:
    """Run the stages before the student's that are left, as :func:`open_guest` does unless it is ``stepwise``."""
    who = f"{suite}, {method}"
    with stages_told(who):
        hosted.run_to_student()
    _pass_warnings_on(who, hosted)


class _Telling(logging.Handler):
    """Prints what the training logs."""

    def __init__(self, who: str) -> None:
        super().__init__(logging.INFO)
        self._who = who

    def emit(self, record: logging.LogRecord) -> None:
        _say(self._who, record.getMessage())


@contextmanager
def stages_told(who: str) -> Iterator[None]:
    """Prints a line for each stage that begins or ends within, after ``who``."""
    logger, handler = logging.getLogger("mekd_plugin.training"), _Telling(who)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _pass_warnings_on(who: str, hosted: Hosted) -> None:
    for warning in hosted.method.report().get("warnings", []):
        _say(who, f"warning: {warning}")


def _say(who: str, words: str) -> None:
    print(f"[mekd] {who}: {words}", flush=True)
