"""The display of a running benchmark: a line for each run, and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from mekd_plugin.bench.executors.executor import Job
from mekd_plugin.bench.executors.local import latest_metrics

__all__ = ["Display"]

_REFRESHES_PER_SECOND = 2


class Display:
    """Live lines on a terminal, plain lines elsewhere.

    Args:
        console: what to print on.
        directory: gives a run's directory by its key.
        total: runs to be done.
        jobs: runs side by side.
    """

    def __init__(self, console: Console, directory: Callable[[str], Path], total: int, jobs: int) -> None:
        self._console, self._directory, self._total, self._jobs = console, directory, total, jobs
        self._began: dict[Job, float] = {}
        self._durations: list[float] = []
        self._done = 0
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._drawn = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def observe(self, event: str, job: Job | None, error: str | None) -> None:
        """Called by the loop over the jobs."""
        if job is not None and event == "start":
            self._began[job] = time.monotonic()
        if job is not None and event == "end":
            seconds = time.monotonic() - self._began.pop(job, time.monotonic())
            if job.task == "run":
                self._done += 1
                self._durations.append(seconds)
            said = f"[red]failed[/red]: {escape(error)}" if error else f"done in {seconds:,.0f} s"
            count = f"{self._done} of {self._total}: " if job.task == "run" else ""
            self._console.print(f"{count}{escape(job.title)}: {said}", highlight=False)
        now = time.monotonic()
        if self._live is not None and now - self._drawn > 1 / _REFRESHES_PER_SECOND:
            self._drawn = now
            self._live.update(self._draw(now), refresh=True)

    def _draw(self, now: float) -> Table:
        table = Table.grid(padding=(0, 2))
        for job, began in self._began.items():
            table.add_row(escape(job.title), f"{now - began:,.0f} s", *self._words(job))
        if self._total:
            table.add_row(f"[bold]{self._done} of {self._total} runs[/bold]", self._left(now))
        return table

    def _words(self, job: Job) -> list[str]:
        if job.task == "teacher":
            return ["training or reading it"]
        latest = latest_metrics(self._directory(job.spec.key))
        if not latest:
            return ["starting"]
        shares = [f"{name} {latest[name]:.3f}" for name in ("loss", "agreement", "accuracy") if name in latest]
        queries = [f"{latest['queries']:,} queries"] if "queries" in latest else []
        return [f"{latest['stage']} {latest['step']:,}", ", ".join(shares + queries)]

    def _left(self, now: float) -> str:
        if not self._durations:
            return ""
        each = sum(self._durations) / len(self._durations)
        ahead = each * (self._total - self._done) - sum(now - began for job, began in self._began.items())
        return f"about {max(ahead, 0) / self._jobs / 60:,.0f} min left"
