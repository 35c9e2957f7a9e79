"""What was seen running in each suite: a record a suite, and the page that is written from the records."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mekd_plugin.files import writable_directory, write_atomically
from mekd_plugin.harness import find_suite
from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem
from mekd_plugin.harness.evidence.trials import suites_with_trials, trial_of
from mekd_plugin.harness.suite import Suite, how_it_runs
from mekd_plugin.registry import distillers
from mekd_plugin.version import __version__

__all__ = ["METHODS", "record", "render"]

_OF_THE_FIRST_VERSION = (
    'There `mekd` was the paper\'s GAN without a surrogate: `emulation="gan", surrogate=None` today.'
)

METHODS = ("mekd", "logit_mimicry", "distribution_alignment")


def record(found: Suite, directory: Path, *, seeds: Sequence[int] = (0,)) -> Path:
    """Try :data:`METHODS` in a suite and in our own loop, and the control with shuffled answers; write it down.

    Args:
        found: the suite.
        directory: of the records; the trials leave their files in ``trials/`` below it.
        seeds: one suffices where the losses agree step by step.

    Raises:
        InputError: the suite is not one of those that this package has an experiment for.
        MissingDependency: the suite is not there.
    """
    trial, version = trial_of(found.name).trial, found.require()
    methods: dict[str, Any] = {}
    work = writable_directory(directory / "trials" / found.name)
    for method in METHODS:
        theirs, ours = [], []
        for seed in seeds:
            problem = ReferenceProblem(seed=seed, cache=writable_directory(work / "cache"))
            theirs.append(trial(method, problem, writable_directory(work / f"{method}-{seed}")))
            ours.append(problem.ours(method))
        methods[method] = {
            "accuracy": [tried.accuracy for tried in theirs],
            "ours": [tried.accuracy for tried in ours],
            "steps": theirs[-1].steps,
            "queries": theirs[-1].queries,
            "command": theirs[-1].command,
            "last_lines": theirs[-1].last_lines,
        }
    control = ReferenceProblem(shuffled=True, cache=writable_directory(work / "cache"))
    shuffled = trial("logit_mimicry", control, writable_directory(work / "shuffled"))
    content = {
        "suite": found.name,
        "version": version,
        "mekd": __version__,
        "torch": torch.__version__,
        "teacher_accuracy": control.accuracy(ReferenceProblem().teacher),
        "seeds": list(seeds),
        "methods": methods,
        "shuffled": shuffled.accuracy,
    }
    path = writable_directory(directory) / f"{found.name}.json"
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    return path


def render(directory: Path) -> str:
    """The page ``docs/HARNESSES.md``: which method runs where and how, and what was seen running.

    Args:
        directory: of the records.
    """
    lines = [
        "# The suites",
        "",
        "Made by `mekd harness --page` from `results/harness/*.json` and from what each method says it needs.",
        "",
        "## Which method runs where",
        "",
        *_needs_table(),
        "",
        "## What was seen running",
        "",
        "The digits at 16x16, a LeNet5 teacher, a ResNet-8 student, 200 unlabelled images, 3,000 queries. *Ours* is "
        "the same method in our own loop with the same optimiser and as many steps; *shuffled* is the control, whose "
        "answers belong to other images (chance is 10 %). Made by `mekd harness SUITE --record`. Under each table "
        "stands what a user types for MEKD in this suite, on the digits as well and from the root of this repository.",
    ]
    for name in suites_with_trials():
        path = directory / f"{name}.json"
        lines += ["", f"### {name}", ""]
        lines += _section(json.loads(path.read_text())) if path.exists() else ["Not run."]
        lines += ["", trial_of(name).COMMANDS.strip()]
    return "\n".join(lines) + "\n"


def _needs_table() -> list[str]:
    """A letter for each way in which a method runs in a suite, and what the letters mean."""
    registry = distillers()
    names = [entry.name for entry in registry.entries()]
    lines = ["| suite | " + " | ".join(f"`{name}`" for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    letters: dict[str, str] = {}
    for name in suites_with_trials():
        told = [how_it_runs(find_suite(name), registry.get(method).needs) for method in names]
        sentences = [words if runs else f"refused: it {words}" for runs, words in told]
        cells = [letters.setdefault(words, chr(ord("A") + len(letters))) for words in sentences]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, "", *(f"- **{letter}**: {words}." for words, letter in letters.items())]


def _section(content: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Version {content['version']}, mekd-plugin {content['mekd']}, torch {content['torch']}; "
        f"teacher {_percent([content['teacher_accuracy']])}, shuffled answers {_percent([content['shuffled']])}.",
        *([_OF_THE_FIRST_VERSION] if content["mekd"].startswith("0.1.") else []),
        "",
        "| method | accuracy | ours | steps | queries by stage |",
        "|---|---:|---:|---:|---|",
    ]
    for method, trial in content["methods"].items():
        queries = ", ".join(f"{stage} {count:,}" for stage, count in trial["queries"]["by_stage"].items())
        lines.append(
            f"| `{method}` | {_percent(trial['accuracy'])} | {_percent(trial['ours'])} | {trial['steps']} | {queries} |"
        )
    return lines


def _percent(values: Sequence[float]) -> str:
    spread = f" (± {100 * statistics.stdev(values):.2f}, {len(values)} seeds)" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f} %{spread}"
