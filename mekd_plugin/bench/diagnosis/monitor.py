"""Transport distances while a student trains, at a bounded cost."""

from __future__ import annotations

import time

from torch import Tensor, nn

from mekd_plugin.errors import InputError
from mekd_plugin.prediction import predict
from mekd_plugin.responses import Response, centre_scores
from mekd_plugin.transport.estimators.distances import paired_cost, wasserstein

__all__ = ["Monitor"]


class Monitor:
    """Measures how far a student's responses are from the teacher's; for ``evaluate=`` of :func:`mekd_plugin.distill`.

        monitor = Monitor(images, teacher.query(images, stage="monitor"))
        mekd.distill(..., evaluate=monitor, evaluate_steps=monitor.steps(2000, every=100))
        print(monitor)   # the share of time it took

    A call that would take its share of the time above ``share`` measures nothing and returns ``{}``.

    Args:
        images: ``(N, channels, height, width)``; at most 1,000 of them are looked at.
        response: the teacher's answers to them, asked once.
        share: the largest share of the time since the first call, in (0, 1].

    Raises:
        InputError: numbers of images and answers that differ, or a share out of its range.
    """

    def __init__(self, images: Tensor, response: Response, *, share: float = 0.1) -> None:
        if len(images) != len(response):
            raise InputError(f"{len(images)} images and {len(response)} answers: expected one answer per image")
        if not 0 < share <= 1:
            raise InputError(f"share={share}: expected a share of the time in (0, 1]")
        self._images, self._response, self._limit = images[:1000], response[:1000], share
        self._began: float | None = None
        self._spent = self._last = 0.0
        self._skipped = self._measured = 0

    @staticmethod
    def steps(total: int, *, every: int) -> range:
        """Every ``every``-th step of ``total``."""
        return range(every, total + 1, every)

    @property
    def share(self) -> float:
        """Share of the time since the first call that measuring took, in [0, 1]."""
        elapsed = time.perf_counter() - self._began if self._began is not None else 0.0
        return self._spent / elapsed if elapsed > 0 else 0.0

    def __call__(self, student: nn.Module) -> dict[str, float]:
        """``{"paired": ..., "w1": ..., "agreement": ...}`` in logits, or ``{}`` when the limit leaves no time."""
        start = time.perf_counter()
        if self._began is None:
            self._began = start
        elif self._spent + self._last > self._limit * (start - self._began):
            self._skipped += 1
            return {}
        scores = centre_scores(predict(student, self._images))
        teacher = self._response.scores().to(scores)
        found = {
            "paired": paired_cost(scores, teacher).value,
            "w1": wasserstein(scores, teacher).value,
            "agreement": float((scores.argmax(dim=1) == self._response.labels.to(scores.device)).float().mean()),
        }
        self._last = time.perf_counter() - start
        self._spent += self._last
        self._measured += 1
        return found

    def __str__(self) -> str:
        return (
            f"{self._measured} measurements, {self._skipped} left out, {100 * self.share:.1f} % of the time "
            f"(limit {100 * self._limit:.0f} %)"
        )
