"""Jobs in this process, one after another: for methods that are objects, which no other process could import."""

from __future__ import annotations

from collections.abc import Mapping

from mekd_plugin.bench.executors.executor import Job
from mekd_plugin.bench.run_inputs import Method, Place
from mekd_plugin.bench.worker import do

__all__ = ["InProcessExecutor"]


class InProcessExecutor:
    """Does each job when it is started.

    Args:
        place: where the runs work.
        methods: classes and instances by the names that stand for them in the grid.
    """

    def __init__(self, place: Place, methods: Mapping[str, Method]) -> None:
        self._place, self._methods = place, methods
        self._ended: list[tuple[Job, str | None]] = []

    @property
    def slots(self) -> int:
        """One: a run sets the process's threads and random numbers."""
        return 1

    def start(self, job: Job) -> None:
        """Do it."""
        self._ended.append((job, do(job, self._place, self._methods)))

    def poll(self) -> list[tuple[Job, str | None]]:
        """The job that was just done."""
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None:
        """Nothing is under way."""
