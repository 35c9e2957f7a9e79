"""Means, intervals and paired differences over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import scipy

from mekd_plugin.bench.comparisons import Comparison, value_of
from mekd_plugin.errors import InputError
from mekd_plugin.records import RunRecord, described_responses

__all__ = [
    "FEWEST_PAIRS",
    "PANEL",
    "Interval",
    "PairedDifference",
    "compare",
    "holm",
    "mean_interval",
    "paired_difference",
    "panel_name",
    "possible_tests",
    "summarize",
    "wilson_interval",
]

FEWEST_PAIRS = 3
"""Pairs below which there is no test: the t distribution of one degree of freedom says nothing in practice."""


PANEL = ("dataset", "teacher", "student", "responses", "answers", "budget")
"""What the rows of a table have in common, by the keys of a record and of the summary."""

SIGNIFICANT = 0.05


class Interval(NamedTuple):
    """An estimate and its interval.

    Attributes:
        mean: the estimate.
        low: lower end.
        high: upper end.
        values: how many values it comes from.
        kind: ``"t"`` over seeds; ``"wilson"`` over the test images of a single run, and ``"attack"`` over the images
            that a membership attack on it was made with, which say nothing about other seeds; ``"seeds"`` of two seeds,
            which are too few for an interval (the ends are the two themselves); ``"none"`` where nothing is possible
            (then both ends are the estimate).
    """

    mean: float
    low: float
    high: float
    values: int
    kind: Literal["t", "wilson", "attack", "seeds", "none"]


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Mean of at least one value, with Student's t interval where there are three or more.

    That of two has one degree of freedom, and is thirteen times as wide as their distance: it says nothing.

    >>> mean_interval([0.9, 1.0]).mean
    0.95
    """
    if not values:
        raise InputError("no values to average: expected at least one")
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, mean, mean, 1, "none")
    if count == 2:
        return Interval(mean, min(values), max(values), 2, "seeds")
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(scipy.stats.t.ppf(0.5 + confidence / 2, count - 1)) * deviation / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count, "t")


def wilson_interval(share: float, trials: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of the share of ``trials`` that succeeded (Wilson 1927).

    Raises:
        InputError: a share outside [0, 1] or no trials.
    """
    if not 0 <= share <= 1 or trials < 1:
        raise InputError(f"share={share} of {trials} trials: expected a share in [0, 1] of at least one trial")
    interval = scipy.stats.binomtest(round(share * trials), trials).proportion_ci(confidence, method="wilson")
    return Interval(share, float(interval.low), float(interval.high), 1, "wilson")


class PairedDifference(NamedTuple):
    """A difference over pairs.

    Attributes:
        difference: mean of the pairs' differences; None without pairs.
        interval: of that mean, both ends; None where there is no test.
        p: two-sided; None for fewer than ``FEWEST_PAIRS`` pairs, and where every pair has the same difference other
            than 0, since chance is then measured by nothing.
        pairs: how many.
    """

    difference: float | None
    interval: tuple[float, float] | None
    p: float | None
    pairs: int


def paired_difference(a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95) -> PairedDifference:
    """Mean of ``a - b`` with its interval and p-value by the paired t-test (Student 1908), which takes the pairs'
    differences as normal.

    A sign test takes nothing as given, and cannot decide at the usual number of seeds: with five pairs its least
    two-sided p is 2 / 2^5 = 0.0625.

    Args:
        a: a value for each pair.
        b: the values they are compared with, in the same order.
        confidence: of the interval.

    Raises:
        InputError: lengths that differ.

    >>> found = paired_difference([3.0, 5.0, 7.0], [2.0, 3.0, 4.0])
    >>> found.difference, round(found.p, 4)  # differences 1, 2, 3: t = 2 / (1 / sqrt(3))
    (2.0, 0.0742)
    """
    if len(a) != len(b):
        raise InputError(f"{len(a)} values against {len(b)}: expected pairs")
    differences = [one - other for one, other in zip(a, b, strict=True)]
    count = len(differences)
    if count < FEWEST_PAIRS:
        return PairedDifference(math.fsum(differences) / count if count else None, None, None, count)
    interval = mean_interval(differences, confidence=confidence)
    ends = (interval.low, interval.high)
    # Equal accuracies give differences that are equal up to rounding.
    spread = max(differences) - min(differences)
    if spread <= 1e-12 * max(1.0, *map(abs, a), *map(abs, b)):
        same = abs(interval.mean) <= spread
        return PairedDifference(interval.mean, ends if same else None, 1.0 if same else None, count)
    return PairedDifference(interval.mean, ends, float(scipy.stats.ttest_rel(a, b).pvalue), count)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for their number (Holm, *A Simple Sequentially Rejective Multiple Test Procedure*, 1979).

    The smallest of m is multiplied by m, the next one by m - 1, and so on; none comes out smaller than one before it,
    or larger than 1. What could not be tested (None) stays None and counts in m: a run that failed makes no other
    comparison significant.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    reached = 0.0
    for rank, (p, index) in enumerate(order):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p))
        corrected[index] = reached
    return corrected


def possible_tests(pairs: int, comparisons: int = 1) -> str:
    """Which tests can be significant at all with so many pairs, in words.

    A sign test of n pairs has no two-sided p below 2 / 2^n, whatever the differences, and neither has Wilcoxon's
    signed-rank test (exact); Holm multiplies the least p by the number of comparisons.

    Args:
        pairs: seeds that both rows of a comparison have.
        comparisons: of a panel.

    >>> possible_tests(5).partition(": ")[2]
    'a sign test or a signed-rank test cannot be, since its least p is 0.0625 (it takes 6 seeds).'
    """
    of = "" if comparisons < 2 else f" and {comparisons} comparisons a table"
    seeds = f"{pairs} {'seed' if pairs == 1 else 'seeds'}"
    if pairs < FEWEST_PAIRS:
        return f"With {seeds} no test is possible: it takes {FEWEST_PAIRS} for a paired t-test."
    needed = next(count for count in range(1, 64) if comparisons * 2.0 ** (1 - count) < SIGNIFICANT)
    paired = f"With {seeds}{of} only the paired t-test can be significant, which takes the differences as normal"
    if pairs >= needed:
        return f"With {seeds}{of} a paired t-test can be significant, and so can a sign test or a signed-rank test."
    least = f"{2.0 ** (1 - pairs):.4g}" + ("" if comparisons < 2 else f", {comparisons} times that after Holm")
    unable = f"a sign test or a signed-rank test cannot be, since its least p is {least} (it takes {needed} seeds)"
    return f"{paired}: {unable}."


def panel_name(row: Mapping[str, Any]) -> str:
    """What the rows of a table have in common, in words: data set, teacher, student, kind of responses, budget."""
    budget = f"at most {row['budget']:,} queries" if row["budget"] else "no query budget"
    return f"{row['dataset']}: {row['teacher']} to {row['student']}, {described_responses(row)} responses, {budget}"


def compare(
    records: Iterable[RunRecord],
    comparisons: Sequence[Comparison],
    afterwards: Iterable[Comparison] = (),
    withdrawn: int = 0,
    withdrawn_afterwards: int = 0,
) -> list[dict[str, Any]]:
    """Each comparison in each panel, over the seeds that both labels finished; as it stands in ``results.json``.

    Args:
        records: runs of any panels.
        comparisons: by the labels of the runs.
        afterwards: those of them that were declared when there were results already. They do not weaken the others,
            and are themselves corrected for all.
        withdrawn: how many others had been declared beforehand; they count in Holm's correction, or whoever has seen
            the results could do away with what is not significant.
        withdrawn_afterwards: how many others had been declared when there were results already; they count for those of
            ``afterwards``, or whoever tries one pair after the other would be shown each as if it were the only one.

    Returns:
        ``panel`` (see :func:`panel_name`), ``metric``, ``a``, ``b``, ``difference`` (mean of a less b), ``interval``
        (``[low, high]``, 95 %), ``p``, ``p_holm`` (corrected for the panel's comparisons), ``pairs``, ``unpaired``:
        the seeds that only one of the two has a value of, and which are left out; and ``declared``: ``"beforehand"`` or
        ``"afterwards"``.
    """
    late = {comparison.identity for comparison in afterwards}
    early = [comparison.identity not in late for comparison in comparisons]
    panels: dict[str, list[RunRecord]] = {}
    for record in records:
        panels.setdefault(panel_name(vars(record)), []).append(record)
    rows = []
    for panel, runs in panels.items():
        found = [_compared(runs, comparison) for comparison in comparisons]
        first = iter(holm([row["p"] for row, own in zip(found, early, strict=True) if own] + [None] * withdrawn))
        every = holm([row["p"] for row in found] + [None] * (withdrawn + withdrawn_afterwards))
        for row, own, p in zip(found, early, every, strict=False):
            declared = "beforehand" if own else "afterwards"
            rows.append({"panel": panel, **row, "p_holm": next(first) if own else p, "declared": declared})
    return rows


def _compared(runs: Sequence[RunRecord], comparison: Comparison) -> dict[str, Any]:
    a, b = (_by_seed(runs, label, comparison.metric) for label in (comparison.a, comparison.b))
    seeds = sorted(a.keys() & b.keys())
    found = paired_difference([a[seed] for seed in seeds], [b[seed] for seed in seeds])
    return {
        "metric": comparison.metric,
        "a": comparison.a,
        "b": comparison.b,
        "difference": found.difference,
        "interval": None if found.interval is None else list(found.interval),
        "p": found.p,
        "p_holm": None,
        "pairs": found.pairs,
        "unpaired": len(a.keys() ^ b.keys()),
    }


def _by_seed(runs: Sequence[RunRecord], label: str, metric: str) -> dict[int, float]:
    own = [run for run in runs if run.status == "finished" and _label(run) == label]
    values = {run.seed: value_of(run, metric) for run in own}
    return {seed: value for seed, value in values.items() if value is not None}


def summarize(records: Iterable[RunRecord]) -> list[dict[str, Any]]:
    """One row for each label and setting, over its seeds, in order of first appearance.

    Accuracies and agreements are intervals as dicts; runs that failed, or that a rule takes out, are counted, with
    their reasons, and left out of the numbers.
    """
    groups: dict[tuple[Any, ...], list[RunRecord]] = {}
    for record in records:
        identity = (*(getattr(record, name) for name in PANEL), _label(record))
        groups.setdefault(identity, []).append(record)
    return [_row(group) for group in groups.values()]


def _row(group: list[RunRecord]) -> dict[str, Any]:
    first = group[0]
    done = [record for record in group if record.status == "finished"]
    failed = [record for record in group if record.status == "failed"]
    ruled_out = [record for record in group if record.status == "not applicable"]
    return {
        **{name: getattr(first, name) for name in PANEL},
        "method": first.method,
        "label": _label(first),
        "finished": len(done),
        "failed": len(failed),
        "not_applicable": len(ruled_out),
        "errors": sorted({record.error or "unknown" for record in [*failed, *ruled_out]}),
        "real_images": _mean(record.real_images for record in done),
        "pool": first.pool,
        "leaves_edge": first.leaves_edge,
        "white_box": first.white_box,
        "teacher_accuracy": _mean(record.teacher_accuracy for record in done),
        "student_accuracy": _share(done, "student_accuracy"),
        "adapted_accuracy": _share(done, "adapted_accuracy"),
        "best_test_accuracy": _share(done, "best_test_accuracy"),
        "agreement": _share(done, "agreement"),
        "calibration_error": _mean_of(done, "calibration_error"),
        "class_match": _of_generators(done, "class_match"),
        "score_error": _mean(value_of(record, "generator.score_error") for record in done),
        "coverage": _mean(value_of(record, "generator.coverage") for record in done),
        "membership_auc": _attacked(done, "auc"),
        "membership_true_positives": _attacked(done, "true_positives"),
        "queries": _mean(record.queries.total for record in done),
        "evaluation_queries": _mean(record.queries.evaluation for record in done),
        "distinct": _mean(record.queries.distinct for record in done),
        "price": _mean(record.price for record in done),
        "seconds": _mean(record.seconds.prepare + record.seconds.distill for record in done),
        "processor_seconds": _mean(record.seconds.processor for record in done),
        "peak_memory_mb": max((record.peak_memory_mb or 0.0 for record in done), default=None),
        "warnings": sorted({warning for record in done for warning in record.warnings}),
    }


def _label(record: RunRecord) -> str:
    return record.label or record.method


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _of_generators(records: list[RunRecord], name: str) -> dict[str, Any] | None:
    """A share that an audit found, over the seeds; of a single run with the interval of its questions."""
    known = [(value_of(record, f"generator.{name}"), value_of(record, "generator.audited")) for record in records]
    found = [(value, int(count or 0)) for value, count in known if value is not None]
    if len(found) == 1 and found[0][1]:
        return wilson_interval(*found[0])._asdict()
    return mean_interval([value for value, _ in found])._asdict() if found else None


def _mean_of(records: list[RunRecord], name: str) -> dict[str, Any] | None:
    """A number that is no share of images, so that a single run has no interval."""
    values = [value for record in records if (value := getattr(record, name)) is not None]
    return mean_interval(values)._asdict() if values else None


def _share(records: list[RunRecord], name: str) -> dict[str, Any] | None:
    values = [getattr(record, name) for record in records if getattr(record, name) is not None]
    if not values:
        return None
    if len(values) == 1 and records[0].test_images:
        return wilson_interval(values[0], records[0].test_images)._asdict()
    return mean_interval(values)._asdict()


def _attacked(records: list[RunRecord], name: str) -> dict[str, Any] | None:
    """A figure of the membership attacks; of a single run with the attack's own interval."""
    attacks = [record.sent["membership"] for record in records if record.sent is not None]
    found = [attack[name] for attack in attacks if attack is not None]
    if len(found) == 1:
        return Interval(found[0]["value"], found[0]["low"], found[0]["high"], 1, "attack")._asdict()
    return mean_interval([one["value"] for one in found])._asdict() if found else None
