"""kill -9, again and again, at random instants of runs of every method: is every image counted, and nothing changed?

    python benchmarks/kills.py [--kills 100] [--seed 0] [--cases mekd kd ...]

The teacher lives in this process, which counts what it really receives; a run lives in another (``killable.py``) and is
killed there from one to four times before it may come to its end: while its question is here, as soon as the answer is
on its way, after a step of the student, or just at some time. Then

- the ledger's total is what was received, or more by what was counted and never arrived, which is ``uncertain``;
- what is not uncertain was answered, and the budget is not passed;
- wherever the budget covers what was lost, as every other run's does, the student has the bytes of an undisturbed run.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import killable
import torch
from killable import CASES, QUESTION, STEPS

from mekd_plugin.testing import ToyTeacher

__all__ = ["Counter", "Instant", "Run", "Tally", "kill_runs", "live", "undisturbed"]

# Lives are forked from a process that has imported everything and done nothing, and are killed like any other.
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["killable"])
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
_MOST_KILLS = 4  # of one run
_PLENTY = 1_000_000  # images
_LIMIT = 120.0  # seconds without a word
_LATE = 0.01  # seconds from an answer to a kill, at most


class Instant(NamedTuple):
    """When to kill.

    Attributes:
        kind: ``"asking"`` (the question is here and has no answer), ``"answered"``, ``"step"`` or ``"time"``.
        at: images received in this life, a step of the student's in this life, or seconds since it began.
        late: seconds to wait then.
    """

    kind: str
    at: float
    late: float = 0.0


@dataclass
class Counter:
    """The teacher of one run, through all its lives.

    Attributes:
        received: images that really arrived here.
        answered: those of them whose answers were sent.
    """

    received: int = 0
    answered: int = 0
    _toy: ToyTeacher = field(default_factory=ToyTeacher)

    def answer(self, images: torch.Tensor) -> torch.Tensor:
        self.answered += len(images)
        with torch.no_grad():
            scores: torch.Tensor = self._toy(images)
        return scores


class Life(NamedTuple):
    """How a life ended: killed (no ledger), or by itself, after so many seconds."""

    ledger: dict[str, Any] | None
    seconds: float


@dataclass
class Run:
    """A run that came to its end.

    Attributes:
        case: of ``killable.CASES``.
        budget: images that may be sent; 0 for no limit.
        student: the bytes of its file.
        ledger: the run's own account.
        counter: ours.
        seconds: that its last life took.
        kills: how often it was killed.
        complaints: what was not as it has to be.
    """

    case: str
    budget: int
    student: bytes
    ledger: dict[str, Any]
    counter: Counter
    seconds: float
    kills: int = 0
    complaints: list[str] = field(default_factory=list)


def live(case: str, directory: Path, counter: Counter, instant: Instant | None = None, *, budget: int = 0) -> Life:
    """One life of a run, to its end or to ``instant``, whichever comes first; with ``budget=0`` there is no limit.

    Raises:
        RuntimeError: it ended otherwise; the message holds its last words.
    """
    child, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=killable.live, args=(case, directory, budget, theirs))
    process.start()
    theirs.close()
    try:
        life = _attend(child, counter, instant)
        if life.ledger is not None:
            process.join(_LIMIT)
        return life
    except (EOFError, OSError, TimeoutError) as error:
        log = directory.parent / f"{directory.name}.log"
        words = log.read_text(errors="replace").strip().splitlines()[-3:] if log.exists() else []
        raise RuntimeError(f"{case} in {directory}: {type(error).__name__}; its last words: {words}") from error
    finally:
        process.kill()
        process.join()
        child.close()


def _attend(child: Connection, counter: Counter, instant: Instant | None) -> Life:
    """Answer what a life asks; returns where it is to be killed, or is at its end."""
    kind, at, late = instant or Instant("never", 0)
    began, deadline, before = time.monotonic(), None, counter.received
    while True:
        if not child.poll(_LIMIT if deadline is None else max(0.0, deadline - time.monotonic())):
            if deadline is None:
                raise TimeoutError
            return Life(None, time.monotonic() - began)
        word, content = child.recv()
        if word == "ready":
            began = time.monotonic()
            deadline = began + at if kind == "time" else None
        elif word == "ask":
            counter.received += len(content)
            reached = counter.received - before >= at
            if kind == "asking" and reached:
                return Life(None, time.monotonic() - began)
            child.send(counter.answer(torch.from_numpy(content)).numpy())
            if kind == "answered" and reached:
                time.sleep(late)
                return Life(None, time.monotonic() - began)
        elif word == "step" and kind == "step" and content >= at:
            time.sleep(late)
            return Life(None, time.monotonic() - began)
        elif word == "end":
            return Life(content, time.monotonic() - began)


def undisturbed(case: str, directory: Path, counter: Counter | None = None) -> Run:
    """A run that nothing happens to, with more budget than it needs, since a method may ask otherwise without any."""
    counter, budget = counter or Counter(), _PLENTY if CASES[case].limited else 0
    ledger, seconds = live(case, directory, counter, budget=budget)
    if ledger is None:
        raise RuntimeError(f"{case} in {directory} was killed, and nobody here did")
    run = Run(case, budget, (directory / "student.safetensors").read_bytes(), ledger, counter, seconds)
    run.complaints = _account(run)
    return run


def disturbed(whole: Run, directory: Path, kills: int, rng: random.Random, *, tight: bool) -> Run:
    """The same run, killed so many times, or less often where it comes to its end before.

    A ``tight`` budget covers the run and nothing that is lost; any other covers a question more for every kill.
    """
    case, counter, killed = whole.case, Counter(), 0
    spare = 0 if tight and not CASES[case].needs_all else kills * QUESTION
    budget = whole.ledger["total"] + spare if CASES[case].limited else 0
    ledger = None
    while ledger is None:
        instant = _draw(whole, counter, rng) if killed < kills else None
        ledger, seconds = live(case, directory, counter, instant, budget=budget)
        killed += ledger is None
    student = (directory / "student.safetensors").read_bytes()
    run = Run(case, budget, student, ledger, counter, seconds, killed)
    run.complaints = _account(run)
    covered = not budget or whole.ledger["total"] + ledger["uncertain"] <= budget
    if covered and student != whole.student:
        run.complaints.append("another student than that of the undisturbed run, though every row was answered")
    return run


def _draw(whole: Run, counter: Counter, rng: random.Random) -> Instant:
    kind = rng.choice(("asking", "answered", "step", "time"))
    reach = {"step": STEPS, "time": whole.seconds}.get(kind, max(1, whole.counter.received - counter.received))
    return Instant(kind, rng.uniform(0, reach), rng.uniform(0, _LATE))


def _account(run: Run) -> list[str]:
    """What is wrong with a ledger."""
    total, uncertain, counter = run.ledger["total"], run.ledger["uncertain"], run.counter
    complaints = []
    if not counter.received <= total <= counter.received + uncertain:
        complaints.append(f"{counter.received} images were received, the ledger has {total}, {uncertain} uncertain")
    if total - uncertain > counter.answered:
        complaints.append(f"{counter.answered} images were answered, the ledger is sure of {total - uncertain}")
    if sum(run.ledger["by_stage"].values()) != total:
        complaints.append(f"the ledger's stages do not add up: {run.ledger}")
    if run.budget and max(total, counter.received) > run.budget:
        complaints.append(f"the budget is {run.budget}: {counter.received} received, {total} counted")
    return complaints


@dataclass
class Tally:
    """What became of the runs.

    Attributes:
        runs: those that were killed and came to their end.
        same: how many of them ended with the undisturbed student.
        complaints: what was not as it has to be, each with its run.
    """

    runs: list[Run] = field(default_factory=list)
    same: int = 0
    complaints: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return sum(run.kills for run in self.runs)

    @property
    def survived(self) -> int:
        return sum(run.kills for run in self.runs if not run.complaints)

    def __str__(self) -> str:
        received = sum(run.counter.received for run in self.runs)
        counted = sum(run.ledger["total"] for run in self.runs)
        lost = sum(run.ledger["uncertain"] for run in self.runs)
        clean = [run for run in self.runs if not run.ledger["uncertain"]]
        return (
            f"{self.survived} of {self.kills} kills survived: {len(self.runs)} runs of "
            f"{len({run.case for run in self.runs})} kinds, {received:,} images received, {counted:,} counted, "
            f"{lost:,} of them uncertain, none past a budget; nothing lost in {len(clean)} runs; {self.same} students "
            "equal to the undisturbed ones, the others short of rows that were paid for and lost"
        )


def kill_runs(cases: Sequence[str], kills: int, seed: int, folder: Path, *, most: int = _MOST_KILLS) -> Tally:
    """Kill runs of ``cases``, by turns, each up to ``most`` times, until there were so many kills.

    A life that cannot go on is a complaint, and so is a ledger that is not exact; the first one ends it.
    """
    rng, tally, whole = random.Random(seed), Tally(), dict[str, Run]()
    number = 0
    while tally.kills < kills and not tally.complaints:
        case = cases[number % len(cases)]
        wanted = min(rng.randint(1, most), kills - tally.kills)
        try:
            if case not in whole:
                whole[case] = undisturbed(case, folder / f"whole-{len(whole)}")
                tally.complaints += [f"{case}, undisturbed: {words}" for words in whole[case].complaints]
            # Whole turns are tight or not, so that every method is both.
            tight = number // len(cases) % 2 == 0
            run = disturbed(whole[case], folder / f"run-{number}", wanted, rng, tight=tight)
        except RuntimeError as error:
            tally.complaints.append(str(error))
            break
        tally.runs.append(run)
        tally.same += run.student == whole[case].student
        tally.complaints += [f"{case}, run {number}, {run.kills} kills: {words}" for words in run.complaints]
        number += 1
        print(f"{case}: {run.kills} kills, {tally.kills} of {kills}", file=sys.stderr)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = kill_runs(chosen.cases, chosen.kills, chosen.seed, Path(folder))
    print(tally)
    for complaint in tally.complaints:
        print(complaint)
    return 1 if tally.complaints or tally.survived < chosen.kills else 0


if __name__ == "__main__":
    sys.exit(main())
