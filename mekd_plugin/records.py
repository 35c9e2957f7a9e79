"""What a benchmark writes down: one record per run, one ``results.json`` for all of them, with a schema number."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Self

from mekd_plugin.errors import InputError

__all__ = [
    "SCHEMA",
    "Queries",
    "Results",
    "RunRecord",
    "Seconds",
    "describe_environment",
    "described_responses",
    "processor_name",
]

SCHEMA = 2
_REPORTED_PACKAGES = ("mekd-plugin", "torch", "torchvision", "accelerate", "numpy", "scipy", "scikit-learn", "pot")


class _Json:
    """Dataclasses to JSON and back; keys that a newer version added are ignored."""

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and scalars."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """The value that ``to_json`` wrote.

        Raises:
            InputError: not a mapping, or a required key is missing.
        """
        if not isinstance(content, Mapping):
            raise InputError(f"a {cls.__name__} is a JSON object, not {type(content).__name__}")
        known = fields(cls)  # type: ignore[arg-type]
        required = {item.name for item in known if item.default is MISSING and item.default_factory is MISSING}
        if missing := sorted(required - content.keys()):
            raise InputError(f"a {cls.__name__} without {', '.join(missing)}: was it written by another program?")
        return cls(**{item.name: content[item.name] for item in known if item.name in content})


@dataclass(frozen=True)
class Queries(_Json):
    """What a run asked the teacher; one image sent is one query.

    Attributes:
        by_stage: images sent, by stage.
        total: images sent, repeats and views included.
        distinct: different images among them.
        uncertain: images that were sent, but whose answers were lost with a killed process.
        evaluation: images asked about besides, to measure agreement on the test set or to audit a generator; outside
            the budget.
    """

    by_stage: dict[str, int] = field(default_factory=dict)
    total: int = 0
    distinct: int = 0
    uncertain: int = 0
    evaluation: int = 0


@dataclass(frozen=True)
class Seconds(_Json):
    """What a run took; where it was resumed, after that.

    Attributes:
        prepare: by the clock, before the student: generator, asking.
        distill: by the clock, the student's training.
        processor: the processor's own seconds of both, all threads together; a generator that another run trained and
            shares counts with what it took there. None in records of earlier versions.
    """

    prepare: float = 0.0
    distill: float = 0.0
    processor: float | None = None


@dataclass(frozen=True)
class RunRecord(_Json):
    """One run: its settings, what it cost, what came out. Accuracies and agreements are fractions in [0, 1].

    Attributes:
        method: canonical name, or that of the user's own class.
        label: what tables and figures call it: the method's name, or that of a variant.
        seed: the seed of the edge's images, the method and the student.
        dataset: name.
        teacher: as it was given.
        student: network name.
        responses: ``"soft"`` (logits), ``"probabilities"`` or ``"hard"``.
        answers: what was done to them before anybody saw them: ``"full"`` for nothing, ``"rounded:2"``, ``"top1"``, ...
            (see :class:`mekd_plugin.blackbox.Degradation`). ``agreement``, ``teacher_accuracy`` and audits are about
            the teacher itself, whose answers to the evaluation are full.
        status: ``"finished"``, ``"failed"``, or ``"not applicable"`` where a rule takes the run out of the grid.
        signature: one line with every setting that decides the numbers, and the version.
        key: name of the run's directory.
        error: why it failed, or why it is not applicable.
        teacher_accuracy: on the test set.
        student_accuracy: on the test set, after the last step.
        best_test_accuracy: the highest over the points of ``curve``: chosen *on the test set*, as many publications
            do; compare it only with theirs.
        agreement: share of the test images on which student and teacher name the same class.
        calibration_error: of the student on the test set, the expected one over 15 bins of its confidence (Guo et al.,
            *On Calibration of Modern Neural Networks*, ICML 2017), in [0, 1]; None in records of earlier versions.
        held_out_agreement: ``agreement`` on held-out answered images, which needs no labels; None without validation.
        queries: what it asked.
        budget: limit on the queries; None where there was none.
        real_images: unlabelled images that the edge holds.
        split: where they come from: ``"teacher's training set"`` or ``"disjoint"`` from it.
        pool: where the method's images come from: ``"edge"``, ``"other domain"`` or ``"none"``.
        leaves_edge: what was sent to the teacher.
        price: of the queries; None without ``price_per_1000``.
        white_box: whether the method needs the teacher's insides, so that it is only a reference.
        steps: student steps.
        seconds: what it took.
        processor: that the run computed on, and the widest of its instructions that torch used, as in ``"AMD EPYC,
            AVX2"``: another one rounds differently. Empty in records of earlier versions.
        peak_memory_mb: of the process, or of the GPU where one was used.
        test_images: size of the test set.
        generator: how healthy the method's generator is, and what an audit found: ``class_match`` (share of images
            G(y, e) that the teacher puts into y's class, with ``class_match_interval``), ``score_error`` (mean absolute
            difference of a class's probability from y's), ``coverage`` (of the teacher's answers to real images, with
            ``expected_coverage``), ``audited`` (how many were asked). Without an audit these are None or missing.
            None for a method without a generator.
        adapted_accuracy: on the test set, of predictions that were adapted to it at test time; None where none were.
        sent: ``{"images", "sample", "membership"}``: how many images were seen on their way, on how many of them a
            membership attack was made, and what it found (``"auc"``, ``"true_positives"``, ``"nearest_ratio"`` and
            others: see :class:`mekd_plugin.transport.Membership`); None where none were seen.
        curve: test accuracy and agreement at points of the student's training, ``{"step", "accuracy", "agreement"}``.
        warnings: what the method has to say about its own health.
    """

    method: str
    seed: int
    dataset: str
    teacher: str
    student: str
    responses: str
    status: Literal["finished", "failed", "not applicable"]
    signature: str
    label: str = ""
    key: str = ""
    error: str | None = None
    teacher_accuracy: float | None = None
    student_accuracy: float | None = None
    best_test_accuracy: float | None = None
    agreement: float | None = None
    calibration_error: float | None = None
    held_out_agreement: float | None = None
    queries: Queries = field(default_factory=Queries)
    budget: int | None = None
    real_images: int | None = None
    split: str = ""
    pool: str = ""
    leaves_edge: str = ""
    price: float | None = None
    white_box: bool = False
    steps: int | None = None
    seconds: Seconds = field(default_factory=Seconds)
    processor: str = ""
    peak_memory_mb: float | None = None
    test_images: int | None = None
    generator: dict[str, Any] | None = None
    adapted_accuracy: float | None = None
    answers: str = "full"
    sent: dict[str, Any] | None = None
    curve: list[dict[str, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """From JSON, the nested records too; keys that a newer version added are ignored."""
        if isinstance(content, Mapping):
            content = dict(content)
            if "queries" in content:
                content["queries"] = Queries.from_json(content["queries"])
            if "seconds" in content:
                content["seconds"] = Seconds.from_json(content["seconds"])
        return super().from_json(content)


@dataclass(frozen=True)
class Results(_Json):
    """The content of ``results.json``.

    Attributes:
        environment: see :func:`describe_environment`.
        config: the benchmark's settings.
        runs: a record each.
        summary: over the seeds, a row for each label and setting.
        comparisons: of labels, paired over the seeds: ``panel``, ``metric``, ``a``, ``b``, ``difference`` (mean of a
            less b), ``interval`` (95 %), ``p``, ``p_holm``, ``pairs``, ``unpaired``, and when it was declared:
            ``declared`` (``"beforehand"``, or ``"afterwards"``: once there was a pair to compare) and ``declared_at``;
            what cannot be worked out is None.
        schema: the number of this file's layout.
    """

    environment: dict[str, Any]
    config: dict[str, Any]
    runs: list[RunRecord]
    summary: list[dict[str, Any]]
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    schema: int = SCHEMA

    def __str__(self) -> str:
        lines = []
        for row in self.summary:
            accuracy = row["student_accuracy"]
            shown = "-" if accuracy is None else f"{100 * accuracy['mean']:.2f} %"
            lines.append(
                f"{row['label']:<24} {row['dataset']:<14} {described_responses(row):<6} {shown:>9}  "
                f"{row['finished']} runs"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """With the schema number first."""
        content = super().to_json()
        return {"schema": content.pop("schema"), **content}

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """From JSON; keys that a newer version added are ignored.

        Raises:
            InputError: also for another schema number.
        """
        if isinstance(content, Mapping):
            if content.get("schema") != SCHEMA:
                raise InputError(
                    f"results with schema {content.get('schema')!r}: this version reads schema {SCHEMA}; "
                    "run the benchmark again, or read it with the version that wrote it"
                )
            content = {**content, "runs": [RunRecord.from_json(run) for run in content.get("runs", [])]}
        return super().from_json(content)


def described_responses(run: Mapping[str, Any]) -> str:
    """The kind of responses of a run or a row of the summary, with what was done to them: ``"soft (rounded:2)"``."""
    answers = run.get("answers", "full")
    return run["responses"] if answers == "full" else f"{run['responses']} ({answers})"


def describe_environment(*, device: str, jobs: int, threads: int) -> dict[str, Any]:
    """Where the numbers were made: time, machine, device, versions; no host or user name."""
    packages = {}
    for name in _REPORTED_PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "platform": platform.platform(terse=True),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "device": device,
        "jobs": jobs,
        "threads_per_job": threads,
        "packages": packages,
    }


def processor_name() -> str:
    """The processor's marketing name where Linux reports it; its architecture elsewhere."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
