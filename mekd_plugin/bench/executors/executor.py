"""What an executor is, and the one loop that hands it the jobs of a grid."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from mekd_plugin.bench.run_spec import RunSpec

__all__ = ["Event", "Executor", "Job", "execute", "same_teacher", "teacher_jobs"]

_POLL_SECONDS = 0.2


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
        """In words, for the progress display."""
        if self.task == "teacher":
            return f"teacher {self.spec.teacher} on {self.spec.dataset}"
        budget = "" if self.spec.query_budget is None else f", {self.spec.query_budget:,} queries"
        return f"{self.spec.label} on {self.spec.dataset}, {self.spec.responses}{budget}, seed {self.spec.seed}"


class Executor(Protocol):
    """Does jobs, several at a time or one after another; each by :func:`mekd_plugin.bench.worker.do`, which says why it
    failed and raises nothing.

    A job's record is written where it is done; an executor on other machines brings its run's directory back whole
    before it says that the job has ended.
    """

    def start(self, job: Job) -> None:
        """Begin a job; returns at once, or when it is done. Never called for more than ``slots`` jobs at a time."""

    def poll(self) -> list[tuple[Job, str | None]]:
        """The jobs that ended since the last call, each with the reason why it failed, or None."""

    def stop(self) -> None:
        """Stop what is under way in a state to go on from; called exactly once, however the loop ends."""

    @property
    def slots(self) -> int:
        """How many jobs it takes at a time."""


Event = Callable[[str, Job | None, str | None], None]
"""Called with ``("start" | "end" | "tick", job, error or None)``; ``"tick"`` comes with no job."""


def execute(executor: Executor, queue: Sequence[Job], observe: Event) -> dict[Job, str]:
    """Do every job; returns the reasons of those that failed.

    A KeyboardInterrupt is passed on to the caller, who stops the executor.
    """
    waiting, running, failed = list(queue), 0, dict[Job, str]()
    while waiting or running:
        while waiting and running < executor.slots:
            job = waiting.pop(0)
            executor.start(job)
            running += 1
            observe("start", job, None)
        ended = executor.poll()
        for job, error in ended:
            running -= 1
            if error is not None:
                failed[job] = error
            observe("end", job, error)
        observe("tick", None, None)
        if not ended:
            time.sleep(_POLL_SECONDS)
    return failed


def teacher_jobs(specs: Sequence[RunSpec]) -> list[Job]:
    """One job for each different teacher; each seed may have its own, and has where edge and teacher share no image."""
    found: dict[tuple[object, ...], Job] = {}
    for spec in specs:
        split = spec.seed if spec.disjoint else None
        identity = (spec.dataset, spec.image_size, spec.teacher, spec.responses, spec.teacher_seed, split)
        found.setdefault(identity, Job("teacher", spec))
    return list(found.values())


def same_teacher(one: RunSpec, other: RunSpec) -> bool:
    """Whether two runs ask the same teacher."""
    return len(teacher_jobs([one, other])) == 1
