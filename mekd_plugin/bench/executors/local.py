"""Jobs in processes of this machine, side by side; a failing one is recorded with its reason and the others go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from mekd_plugin.bench.executors.executor import Job
from mekd_plugin.bench.run_inputs import Place
from mekd_plugin.bench.run_record import blank_record
from mekd_plugin.bench.store import Store
from mekd_plugin.errors import MekdError
from mekd_plugin.files import writable_directory

__all__ = ["LocalExecutor", "latest_metrics"]

_SECONDS_TO_STOP = 20.0


@dataclass(frozen=True)
class _Running:
    process: subprocess.Popen[bytes]
    device: str


class LocalExecutor:
    """Starts ``python -m mekd_plugin.bench.worker`` for each job.

    Args:
        store: where the runs' files go.
        place: where they work; its device is replaced by one of ``devices``.
        slots: how many jobs to run side by side.
        devices: such as ``("cuda:0", "cuda:1")``; each job takes the one with the fewest jobs.
    """

    def __init__(self, store: Store, place: Place, slots: int, devices: Sequence[str]) -> None:
        self._store, self._place, self._slots, self._devices = store, place, slots, tuple(devices)
        self._running: dict[Job, _Running] = {}

    @property
    def slots(self) -> int:
        """How many side by side."""
        return self._slots

    def start(self, job: Job) -> None:
        """Start its process."""
        log = self._log(job)
        device = self._free_device()
        threads = {name: str(job.spec.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "mekd_plugin.bench.worker"],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                env={**os.environ, **threads},
                **_own_group(),
            )
        self._running[job] = _Running(process, device)
        place = replace(self._place, device=device)
        content = {"task": job.task, "spec": asdict(job.spec), "place": asdict(place)}
        try:
            _pipe(process).write(json.dumps(content).encode() + b"\n")
            _pipe(process).flush()
        except BrokenPipeError:
            pass  # it ended already; its log and exit status say why

    def poll(self) -> list[tuple[Job, str | None]]:
        """The jobs whose processes have ended."""
        ended = [job for job, running in self._running.items() if running.process.poll() is not None]
        return [(job, self._end(job, self._running.pop(job).process)) for job in ended]

    def stop(self) -> None:
        """Let the workers write a checkpoint, and end them."""
        for running in self._running.values():
            _interrupt(running.process)
        deadline = time.monotonic() + _SECONDS_TO_STOP
        for running in self._running.values():
            try:
                running.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
            _pipe(running.process).close()
        self._running.clear()

    def _free_device(self) -> str:
        taken = Counter(running.device for running in self._running.values())
        return min(self._devices, key=lambda device: taken[device])

    def _end(self, job: Job, process: subprocess.Popen[bytes]) -> str | None:
        """Why the job failed; None where it did not."""
        _pipe(process).close()
        if process.returncode == 0:
            return None
        record = self._store.read(job.spec.key) if job.task == "run" else None
        if process.returncode == 1 and record is not None and record.status == "failed":
            return record.error or "unknown"
        reason = self._reason(job, process.returncode)
        if job.task == "teacher" or self._store.finished(job.spec.key):  # a failed audit undoes no run
            return reason
        return self._store.write_failure(blank_record(job.spec, error=reason))

    def _reason(self, job: Job, status: int) -> str:
        log = self._log(job)
        if status < 0:
            name = signal.Signals(-status).name
            return f"killed by {name} (out of memory?); --resume goes on with it, {log} is its log"
        lines = log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"ended with status {status} and said nothing"

    def _log(self, job: Job) -> Path:
        if job.task == "teacher":
            # One each: several are prepared side by side, and the last line says why one failed.
            return writable_directory(self._store.out / "teachers") / f"log-{job.spec.key}.txt"
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


def _own_group() -> dict[str, Any]:
    """Ctrl-C comes to the benchmark alone, which passes it on once."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        process.send_signal(signal.CTRL_BREAK_EVENT)
    else:
        process.send_signal(signal.SIGINT)


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    if process.stdin is None:
        raise MekdError("a worker was started without a standard input")
    return process.stdin
