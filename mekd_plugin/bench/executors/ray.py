"""Jobs on a Ray cluster, on machines that share no disk with this one; Ray schedules them, and begins lost ones anew.

A run's directory travels (``travel.py``). Its home is this machine, so the benchmark runs on a machine of the cluster.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from mekd_plugin.bench.executors.executor import Job, same_teacher
from mekd_plugin.bench.executors.travel import GIVEN, Change, Home, Luggage
from mekd_plugin.bench.run_inputs import Place
from mekd_plugin.bench.run_record import blank_record
from mekd_plugin.bench.store import Store
from mekd_plugin.bench.teacher_names import file_of_teacher, kind_of_teacher
from mekd_plugin.bench.teachers import cached_as
from mekd_plugin.bench.worker import do
from mekd_plugin.errors import InputError, MissingDependency
from mekd_plugin.files import cache_directory, writable_directory
from mekd_plugin.version import __version__

__all__ = ["RayExecutor"]

ATTEMPTS = 3
"""How often a job is begun whose workers die."""

_SECONDS_TO_STOP = 20.0


class RayExecutor:
    """Hands each job to Ray as a task with its own process.

    Args:
        store: where the runs' files come home to.
        place: where they work, except for its directory; every machine finds ``data_root`` at the same path.
        address: of the cluster, such as ``"auto"`` or ``"10.0.0.1:6379"``; None takes the one that Ray is connected to
            in this process, or ``$RAY_ADDRESS``, or starts one on this machine.
        cpus: that a job takes.
        gpus: that a job takes; may be a fraction.
        jobs: how many to hand to Ray at a time; None as many as the cluster has room for.

    Raises:
        MissingDependency: Ray is not installed.
        InputError: the cluster cannot be reached, or no machine of it is large enough.
    """

    def __init__(
        self, store: Store, place: Place, *, address: str | None, cpus: float, gpus: float, jobs: int | None = None
    ) -> None:
        ray = _ray()
        root = None if place.data_root is None else str(Path(place.data_root).expanduser().resolve())
        self._ray, self._store, self._place, self._jobs = ray, store, replace(place, data_root=root), jobs
        self._needs = {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}
        self._running: dict[Job, Any] = {}
        self._ended: list[tuple[Job, str | None]] = []
        self._claims: dict[Job, FileLock] = {}
        self._opened = not ray.is_initialized()
        if self._opened:
            _connect(ray, address)
        try:
            self._check_size()
            out, cache = store.out.resolve(), writable_directory(cache_directory()).resolve()
            here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(_node(ray), soft=False)
            self._home = ray.remote(num_cpus=0, scheduling_strategy=here)(Home).remote(out, cache)
            # Each job gets a process of its own, as a local one does.
            self._work = ray.remote(num_cpus=cpus, num_gpus=gpus, max_calls=1, max_retries=ATTEMPTS - 1)(_work)
        except BaseException:
            self._disconnect()
            raise

    @property
    def slots(self) -> int:
        """How many jobs the cluster has room for, or ``jobs``; machines may come and go."""
        if self._jobs is not None:
            return self._jobs
        total = self._ray.cluster_resources()
        return max(1, min(int(total.get(name, 0) / amount) for name, amount in self._needs.items()))

    def start(self, job: Job) -> None:
        """Hand it to Ray."""
        if job.task == "run":
            claim = FileLock(writable_directory(self._store.directory(job.spec.key)) / "claim.lock")
            try:
                claim.acquire(timeout=0)
            except Timeout:
                self._ended.append((job, f"another process has the run {job.spec.key} under way: --resume goes on"))
                return
            self._claims[job] = claim
        # Teachers that differ in the kind of their answers alone are asked about the test images once.
        after = [task for other, task in self._running.items() if _one_teacher(other, job)]
        # Recorded answers are a directory, which every machine finds at the same path, as it does the data.
        recorded = kind_of_teacher(job.spec.teacher) == "recorded"
        file = None if recorded else file_of_teacher(job.spec.teacher)
        given = None if file is None else str(file.resolve())
        self._running[job] = self._work.remote(self._home, job, self._place, given, after)

    def poll(self) -> list[tuple[Job, str | None]]:
        """The jobs whose tasks have ended."""
        ended, self._ended = self._ended, []
        jobs = {task: job for job, task in self._running.items()}
        if jobs:
            ready, _ = self._ray.wait(list(jobs), num_returns=len(jobs), timeout=0)
            ended += [(jobs[task], self._end(jobs[task], task)) for task in ready]
        return ended

    def stop(self) -> None:
        """Let the workers write a checkpoint and bring it home, and end them."""
        for task in self._running.values():
            self._ray.cancel(task, recursive=False)  # their calls home are tasks, too
        left = list(self._running.values())
        if left:
            _, left = self._ray.wait(left, num_returns=len(left), timeout=_SECONDS_TO_STOP)
        for task in left:
            self._ray.cancel(task, force=True, recursive=False)
        for claim in self._claims.values():
            claim.release()
        self._running.clear()
        self._claims.clear()
        self._ray.kill(self._home)
        del self._home, self._work  # what belongs to a connection goes before it
        self._disconnect()

    def _end(self, job: Job, task: Any) -> str | None:
        """Why the job failed; None where it did not."""
        del self._running[job]
        reason: str | None
        try:
            reason = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            said = str(error).strip().splitlines()
            reason = (
                f"no worker came to its end, in up to {ATTEMPTS} attempts ({type(error).__name__}: "
                f"{said[-1] if said else ''}); what they asked is counted, and --resume goes on"
            )
            if job.task == "run" and not self._store.finished(job.spec.key):
                reason = self._store.write_failure(blank_record(job.spec, error=reason))
        if (claim := self._claims.pop(job, None)) is not None:
            claim.release()
        return reason

    def _check_size(self) -> None:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= amount for name, amount in self._needs.items()) for node in nodes):
            wanted = ", ".join(f"{amount:g} {name}" for name, amount in self._needs.items())
            there = "; ".join(", ".join(f"{node.get(name, 0):g} {name}" for name in ("CPU", "GPU")) for node in nodes)
            raise InputError(
                f"a run takes {wanted}, and no machine of the cluster has that (they have {there}): see "
                "--cpus-per-run and --gpus-per-run"
            )

    def _disconnect(self) -> None:
        if self._opened:
            self._ray.shutdown()


def _work(home: Any, job: Job, place: Place, given: str | None, after: Sequence[Any]) -> str | None:
    """Do a job on whatever machine Ray chose; returns why it failed, as :func:`do` does."""
    ray = _ray()
    if after:
        ray.wait(list(after), num_returns=len(after))
    found = (__version__, str(torch.__version__).partition("+")[0])
    wanted = (job.spec.version, job.spec.torch.partition("+")[0])
    if found != wanted:
        return (
            "mekd-plugin {} and torch {} on a machine of the cluster, {} and {} where the benchmark runs: others round "
            "differently, install the same everywhere".format(*found, *wanted)
        )
    key = job.spec.key if job.task == "run" else f"teacher-{job.spec.key}"
    attempt, files = ray.get(home.begin.remote(key, _wanted(job), given))

    def send(changes: list[Change], gone: list[str]) -> None:
        ray.get(home.receive.remote(key, attempt, changes, gone))

    folder = Path(tempfile.mkdtemp(prefix="mekd-"))
    try:
        luggage = Luggage(folder, files, send)
        here = replace(place, out=str(folder / "out"), cache=str(folder / "cache"))
        if given is not None:
            network, at, _ = job.spec.teacher.rpartition("@")
            here = replace(here, teacher=f"{network}{at}{folder / GIVEN / Path(given).name}")
        log = f"runs/{key}/log.txt" if job.task == "run" else f"teachers/log-{job.spec.key}.txt"
        (folder / "out" / log).parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.callback(luggage.send)
            stream = stack.enter_context((folder / "out" / log).open("a", buffering=1))
            stack.enter_context(redirect_stdout(stream))
            stack.enter_context(redirect_stderr(stream))
            print(f"attempt {attempt} on machine {_node(ray)}, process {os.getpid()}")
            return do(job, here, note=luggage.send)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wanted(job: Job) -> list[str]:
    """The files that a job starts from."""
    own = [f"out/runs/{job.spec.key}/**/*"] if job.task == "run" else []
    return [*own, "out/teachers/**/*", "out/shared/**/*", f"cache/teachers/{cached_as(job.spec.teacher)}-*.safetensors"]


def _one_teacher(other: Job, job: Job) -> bool:
    return job.task == other.task == "teacher" and same_teacher(
        replace(other.spec, responses=job.spec.responses), job.spec
    )


def _connect(ray: Any, address: str | None) -> None:
    if address is not None and address.startswith("ray://"):
        raise InputError(
            f"ray={address}: runs come home to this machine, so it has to be one of the cluster: start the benchmark "
            "there, with --ray auto or HOST:PORT"
        )
    own = {} if address is not None or os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"ray={address}: no cluster could be joined ({' '.join(str(error).split())}): start one with "
            "`ray start --head`, and name its address"
        ) from error
    finally:
        for name, handler in before.items():  # Ray ends the process where ours saves the runs first
            signal.signal(name, handler)


def _node(ray: Any) -> str:
    """Identity of the machine that this process is on."""
    return str(ray.get_runtime_context().get_node_id())


def _ray() -> Any:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise MissingDependency("--executor ray needs Ray: pip install 'mekd-plugin[ray]'") from error
    return ray
