"""Runs side by side, each in its own process; a failing one is recorded with its reason and the others go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from mekd_plugin.bench.grid import RunSpec
from mekd_plugin.bench.store import Store
from mekd_plugin.bench.worker import Place, blank_record
from mekd_plugin.errors import MekdError
from mekd_plugin.files import writable_directory

__all__ = ["Job", "Runner", "latest_metrics", "teacher_jobs"]

_POLL_SECONDS = 0.2
_SECONDS_TO_STOP = 20.0


@dataclass(frozen=True, eq=False)
class Job:
    """What a worker is started for.

    Attributes:
        task: ``"run"``, or ``"teacher"`` to prepare one before the runs that ask it.
        spec: the run, or any of those that share the teacher.
    """

    task: Literal["teacher", "run"]
    spec: RunSpec

    @property
    def title(self) -> str:
        """For a person."""
        if self.task == "teacher":
            return f"teacher {self.spec.teacher} on {self.spec.dataset}"
        budget = "" if self.spec.query_budget is None else f", {self.spec.query_budget:,} queries"
        return f"{self.spec.method} on {self.spec.dataset}, {self.spec.responses}{budget}, seed {self.spec.seed}"


def teacher_jobs(specs: Sequence[RunSpec]) -> list[Job]:
    """One job for each different teacher; where edge and teacher share no image, each seed has its own."""
    found: dict[tuple[object, ...], Job] = {}
    for spec in specs:
        identity = (spec.dataset, spec.image_size, spec.teacher, spec.responses, spec.seed if spec.disjoint else None)
        found.setdefault(identity, Job("teacher", spec))
    return list(found.values())


class Runner:
    """Executes jobs.

    Args:
        store: where the runs' files go.
        place: where they work.
        jobs: how many side by side.
        observe: called with ``("start" | "end" | "tick", job, error or None)``; ``"tick"`` comes with no job.
    """

    def __init__(
        self, store: Store, place: Place, jobs: int, observe: Callable[[str, Job | None, str | None], None]
    ) -> None:
        self._store, self._place, self._jobs, self._observe = store, place, jobs, observe
        self.running: dict[Job, subprocess.Popen[bytes]] = {}

    def execute(self, queue: Sequence[Job]) -> dict[Job, str]:
        """Do every job; returns the reasons of those that failed.

        A KeyboardInterrupt lets the workers write a checkpoint, stops them, and goes on to the caller.
        """
        waiting, failed = list(queue), {}
        try:
            while waiting or self.running:
                while waiting and len(self.running) < self._jobs:
                    self._start(waiting.pop(0))
                for job in [job for job, process in self.running.items() if process.poll() is not None]:
                    error = self._end(job, self.running.pop(job))
                    if error is not None:
                        failed[job] = error
                    self._observe("end", job, error)
                self._observe("tick", None, None)
                time.sleep(_POLL_SECONDS)
        finally:
            self._stop()
        return failed

    def fail(self, spec: RunSpec, reason: str) -> None:
        """Record a run that could not be done."""
        self._store.write(blank_record(spec, error=reason))

    def _start(self, job: Job) -> None:
        log = self._log(job)
        threads = {name: str(job.spec.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "mekd_plugin.bench.worker"],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                env={**os.environ, **threads},
                start_new_session=True,  # Ctrl-C comes to the runner alone, which passes it on once
            )
        self.running[job] = process
        content = {"task": job.task, "spec": asdict(job.spec), "place": asdict(self._place)}
        try:
            _pipe(process).write(json.dumps(content).encode() + b"\n")
            _pipe(process).flush()
        except BrokenPipeError:
            pass  # it ended already; its log and exit status say why
        self._observe("start", job, None)

    def _end(self, job: Job, process: subprocess.Popen[bytes]) -> str | None:
        """Why the job failed; None where it did not."""
        _pipe(process).close()
        if process.returncode == 0:
            return None
        record = self._store.read(job.spec.key) if job.task == "run" else None
        if process.returncode == 1 and record is not None and record.status == "failed":
            return record.error or "unknown"
        reason = self._reason(job, process.returncode)
        if job.task == "run":
            try:
                self.fail(job.spec, reason)
            except MekdError as error:  # a full disk must not take the others down
                reason = f"{reason}; its record could not be written: {error}"
        return reason

    def _reason(self, job: Job, status: int) -> str:
        log = self._log(job)
        if status < 0:
            name = signal.Signals(-status).name
            return f"killed by {name} (out of memory?); --resume goes on with it, {log} is its log"
        lines = log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"ended with status {status} and said nothing"

    def _stop(self) -> None:
        for process in self.running.values():
            process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + _SECONDS_TO_STOP
        for process in self.running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _pipe(process).close()
        self.running.clear()

    def _log(self, job: Job) -> Path:
        if job.task == "teacher":
            return writable_directory(self._store.out / "teachers") / "log.txt"
        return writable_directory(self._store.directory(job.spec.key)) / "log.txt"


def latest_metrics(directory: Path) -> dict[str, Any]:
    """The last whole line of a run's metrics; empty where there is none yet."""
    try:
        with (directory / "metrics.jsonl").open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 4096))
            lines = stream.read().split(b"\n")
        latest: dict[str, Any] = json.loads(lines[-2])
        return latest
    except (OSError, IndexError, ValueError):
        return {}


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    if process.stdin is None:
        raise MekdError("a worker was started without a standard input")
    return process.stdin
