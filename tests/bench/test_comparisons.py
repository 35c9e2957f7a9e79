"""Declared comparisons: how they are written, what is refused, and their numbers against other sources'."""

from __future__ import annotations

import json
import math

import pytest
from scipy import stats

from mekd_plugin.bench.audit import NOT_AUDITED
from mekd_plugin.bench.benchmark import Benchmark
from mekd_plugin.bench.comparison_table import comparison_rows, comparisons_in_markdown
from mekd_plugin.bench.comparisons import GENERATOR, Comparison, declared, resolved, value_of
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.bench.statistics import (
    compare,
    holm,
    paired_difference,
    panel_name,
    possible_tests,
    summarize,
)
from mekd_plugin.bench.table import markdown, panels
from mekd_plugin.errors import InputError, MekdError, UnknownName
from mekd_plugin.mekd.health import Health
from mekd_plugin.records import Queries, Results

A, B = (0.91, 0.93, 0.92, 0.95, 0.90), (0.90, 0.90, 0.91, 0.91, 0.90)


def test_the_difference_is_students_paired_test() -> None:
    # Differences 0.01, 0.03, 0.01, 0.04, 0: mean 0.018, deviation 0.0164317, t(0.975, 4) = 2.776445.
    found = paired_difference(A, B)
    half = 2.776445 * 0.0164317 / math.sqrt(5)
    assert found.difference == pytest.approx(0.018)
    assert found.interval == pytest.approx((0.018 - half, 0.018 + half), abs=1e-6)
    assert found.p == pytest.approx(2 * stats.t.sf(0.018 / (0.0164317 / math.sqrt(5)), 4), rel=1e-4)
    turned = paired_difference(B, A)
    assert turned.difference == pytest.approx(-0.018) and turned.p == pytest.approx(found.p)


def test_a_sign_test_could_not_decide_at_five_seeds() -> None:
    assert stats.binomtest(5, 5).pvalue == stats.wilcoxon([1, 2, 3, 4, 5]).pvalue == 0.0625
    for seeds, comparisons in ((5, 1), (6, 1), (7, 4), (8, 4)):
        least = comparisons * stats.binomtest(seeds, seeds).pvalue
        said = possible_tests(seeds, comparisons)
        assert ("only the paired t-test can be significant" in said) == (least >= 0.05), said
        assert ("so can a sign test" in said) == (least < 0.05), said
    assert "cannot be, since its least p is 0.0625 (it takes 6 seeds)" in possible_tests(5)
    assert "is 0.01562, 4 times that after Holm (it takes 8 seeds)" in possible_tests(7, 4)
    assert possible_tests(2) == "With 2 seeds no test is possible: it takes 3 for a paired t-test."


def test_too_few_pairs_and_pairs_without_spread_are_not_tested() -> None:
    assert paired_difference([], [])[:] == (None, None, None, 0)
    two = paired_difference([0.9, 0.8], [0.8, 0.8])
    assert two.difference == pytest.approx(0.05) and (two.interval, two.p, two.pairs) == (None, None, 2)
    alike = paired_difference([0.3, 0.4, 0.5], [0.2, 0.3, 0.4])  # equal up to rounding
    assert alike.difference == pytest.approx(0.1) and (alike.interval, alike.p) == (None, None)
    assert paired_difference([0.3, 0.4, 0.5], [0.3, 0.4, 0.5]).p == 1.0
    with pytest.raises(InputError, match="3 values against 2: expected pairs"):
        paired_difference([1, 2, 3], [1, 2])


@pytest.mark.parametrize(
    ("given", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # R: p.adjust(c(.01, .04, .03, .005), "holm")
        ([0.04, 0.03], [0.06, 0.06]),
        ([0.9, 0.6], [1.0, 1.0]),
        ([0.02, None, 0.5], [0.06, None, 1.0]),  # what was not tested counts
        ([], []),
    ],
)
def test_holm(given, corrected) -> None:
    assert holm(given) == [None if p is None else pytest.approx(p) for p in corrected]


@pytest.fixture
def runs(record):
    """Two labels over five seeds, one of them without its last."""
    ours = [record("mekd", seed, student_accuracy=value) for seed, value in enumerate(A)]
    theirs = [record("kd", seed, student_accuracy=value) for seed, value in enumerate(B[:4])]
    return [*ours, *theirs, record("kd", 4, status="failed", student_accuracy=None)]


def test_seeds_are_paired_and_the_others_counted(runs) -> None:
    (row,) = compare(runs, [Comparison("mekd", "kd")])
    expected = paired_difference(A[:4], B[:4])
    assert (row["a"], row["b"], row["metric"], row["pairs"], row["unpaired"]) == (
        "mekd",
        "kd",
        "student_accuracy",
        4,
        1,
    )
    assert (row["difference"], row["p"], row["p_holm"]) == (expected.difference, expected.p, expected.p)
    assert row["interval"] == list(expected.interval)
    assert row["panel"] == "digits: resnet20 to resnet8, soft responses, at most 5,000 queries"


def test_panels_are_apart_and_corrected_apart(record) -> None:
    def panel(budget):
        return [record(name, seed, student_accuracy=value, budget=budget)
                for name, values in (("mekd", A), ("kd", B), ("ml", (0.5, 0.6, 0.5, 0.7, 0.6)))
                for seed, value in enumerate(values)]  # fmt: skip

    wanted = [Comparison("mekd", "kd"), Comparison("mekd", "ml")]
    rows = compare([*panel(100), *panel(None)], wanted)
    assert len(rows) == 4 and {row["panel"].split(", ")[-1] for row in rows} == {
        "at most 100 queries",
        "no query budget",
    }
    first, second = rows[:2]
    assert second["p"] < first["p"]
    assert second["p_holm"] == pytest.approx(2 * second["p"]) and first["p_holm"] == pytest.approx(first["p"])


def test_any_number_of_a_record_by_its_key(record) -> None:
    run = record(generator={"class_match": 0.75, "class_shares": [1]}, queries=Queries({"bank": 7}, 9, 8, 1))
    assert value_of(run, "generator.class_match") == 0.75
    assert value_of(run, "queries.by_stage.bank") == 7 and value_of(run, "seconds.distill") == 50
    assert value_of(run, "generator.class_shares") is None and value_of(run, "generator.x.y") is None
    assert value_of(record(), "generator.class_match") is None
    (row,) = compare([record("mekd", 0), record("kd", 0)], [Comparison("mekd", "kd", "generator.class_match")])
    assert (row["difference"], row["p"], row["pairs"], row["unpaired"]) == (None, None, 0, 0)


@pytest.mark.parametrize(
    "given",
    [
        "mekd:kd, mekd:ml:agreement",
        ["mekd:kd", "mekd:ml:agreement"],
        [{"a": "mekd", "b": "kd"}, {"a": "mekd", "b": "ml", "metric": "agreement"}],
    ],
)
def test_ways_to_write_them(given) -> None:
    wanted = (Comparison("mekd", "kd"), Comparison("mekd", "ml", "agreement"))
    assert declared(given) == BenchConfig.from_mapping({"comparisons": given}).comparisons == wanted


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (["mekd"], InputError, "comparison 'mekd': expected ROW:OTHER, ROW:OTHER:METRIC"),
        (["a:b:c:d"], InputError, "comparison 'a:b:c:d': expected ROW:OTHER"),
        ([{"a": "mekd"}], InputError, "comparison {'a': 'mekd'}: expected ROW:OTHER"),
        ([3], InputError, "comparison 3: expected ROW:OTHER"),
        (["kd:kd"], InputError, "comparison of kd with itself"),
        (["mekd:kd", "kd:mekd"], InputError, "comparison kd:mekd of student_accuracy is there twice"),
        ([f"kd:x{index}" for index in range(5)], InputError, "5 comparisons: expected at most 4"),
        (["mekd:kd:acuracy"], UnknownName, "unknown number of a record 'acuracy'"),
        (["mekd:kd:queries.totl"], UnknownName, "did you mean 'queries.total'"),
        (["mekd:kd:teacher"], UnknownName, "unknown number of a record 'teacher'"),
        (["mekd:kd:generator"], UnknownName, "unknown number of a record 'generator'"),
        (["mekd:kd:generator.class_mach"], UnknownName, "did you mean 'generator.class_match'"),
        (["mekd:kd:generator.warnings"], UnknownName, "unknown number of a record 'generator.warnings'"),
    ],
)
def test_what_cannot_be_is_refused(given, error, message) -> None:
    with pytest.raises(error, match=message):
        BenchConfig.from_mapping({"comparisons": given})


def test_labels_are_those_of_the_rows_or_their_aliases() -> None:
    labels = ["mekd", "logit_mimicry", "cold"]
    assert resolved(declared("ml:cold"), labels) == [Comparison("logit_mimicry", "cold")]
    with pytest.raises(UnknownName, match="unknown label of a comparison 'mekt'.*did you mean 'mekd'"):
        resolved(declared("mekt:cold"), labels)
    with pytest.raises(InputError, match="is there twice"):
        resolved(declared("ml:cold,cold:logit_mimicry"), labels)


def test_an_unknown_label_is_refused_before_anything_runs(tmp_path) -> None:
    config = BenchConfig.from_mapping({"teacher": "lenet5", "methods": "kd", "comparisons": "kd:mekd", "device": "cpu"})
    benchmark = Benchmark(config, tmp_path / "out")
    for attempt in (benchmark.plan, lambda: benchmark.execute(resume=False, observe=lambda *_: pytest.fail("started"))):
        with pytest.raises(MekdError, match="unknown label of a comparison 'mekd': expected one of kd"):
            attempt()


def test_only_what_is_significant_is_bold(record) -> None:
    def compared(a, b):
        runs = [record(name, seed, student_accuracy=value)
                for name, values in (("mekd", a), ("kd", b)) for seed, value in enumerate(values)]  # fmt: skip
        return runs, compare(runs, [Comparison("mekd", "kd")])

    _, open_ = compared(A, B)
    runs, clear = compared([value + 0.1 for value in A], B)
    assert open_[0]["p_holm"] > 0.05 > clear[0]["p_holm"]
    assert [row.significant for row in comparison_rows([*open_, *clear])] == [False, True]
    lines = comparisons_in_markdown(comparison_rows([*open_, *clear]))
    assert "| +1.80 | [-0.24, +3.84] | 0.070 | 0.070 | 5 |" in lines[2]
    assert "| **+11.80** | [+9.76, +13.84] | < 0.001 | < 0.001 | 5 |" in lines[3]
    text = markdown(panels(summarize(runs), clear))
    assert "| mekd against kd | student accuracy | **+11.80** |" in text and "declared before anything ran" in text
    assert "declared before anything ran" not in markdown(panels(summarize(runs)))


def test_too_few_seeds_are_said_to_be_too_few(record) -> None:
    rows = compare([record("mekd", 0), record("kd", 0), record("kd", 1)], [Comparison("mekd", "kd")])
    (row,) = comparison_rows(rows)
    assert row.cells[2:] == ["+0.00", "-", "too few seeds", "-", "1 (1 left out)"] and not row.significant


def test_a_benchmark_with_comparisons(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MEKD_CACHE", str(tmp_path / "cache"))
    settings = {"teacher": "lenet5", "student": "lenet5_half", "methods": "kd", "teacher_steps": 30, "steps": 10,
                "real_images": 60, "query_budget": 200, "seeds": "0,1,2", "device": "cpu",
                "variants": {"cold": {"method": "kd", "set": {"temperature": 1.0}}},
                "comparisons": ["kd:cold", "kd:cold:queries.total"]}  # fmt: skip
    config = BenchConfig.from_mapping(settings)
    results = Benchmark(config, tmp_path / "out").execute(resume=False, observe=lambda *_: None)
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    accuracy, queries = kept["comparisons"]
    values = {
        label: [run["student_accuracy"] for run in kept["runs"] if run["label"] == label] for label in ("kd", "cold")
    }
    assert accuracy["difference"] == pytest.approx(sum(values["kd"]) / 3 - sum(values["cold"]) / 3)
    assert accuracy["p"] == pytest.approx(stats.ttest_rel(values["kd"], values["cold"]).pvalue)
    assert (accuracy["pairs"], accuracy["p_holm"]) == (3, pytest.approx(min(1.0, 2 * accuracy["p"])))
    assert (queries["difference"], queries["p"]) == (0.0, 1.0)
    assert accuracy["panel"] == panel_name(kept["summary"][0])
    assert Results.from_json(kept) == results
    for name in ("table.md", "report.html"):
        assert "kd against cold" in (tmp_path / "out" / name).read_text()


def test_every_number_of_a_generator_can_be_compared() -> None:
    health = Health([0.5, 0.5], 0.9, 0.1, 0.1, 0.8, []).as_record()
    numbers = {name for name, value in health.items() if isinstance(value, float)}
    assert numbers | set(NOT_AUDITED) | {"expected_coverage", "audited"} == set(GENERATOR)


def test_what_was_declared_afterwards_neither_shines_nor_dims_the_others(record) -> None:
    told = {"mekd": [value + 0.1 for value in A], "kd": B, "ml": [value + 0.2 for value in B]}
    runs = [
        record(name, seed, student_accuracy=value) for name, values in told.items() for seed, value in enumerate(values)
    ]
    first, second = Comparison("mekd", "kd"), Comparison("mekd", "ml")
    alone, late = compare(runs, [first, second], afterwards=[second])
    assert (alone["declared"], alone["p_holm"]) == ("beforehand", alone["p"])
    assert late["declared"] == "afterwards" and late["p_holm"] < 0.05
    assert late["p_holm"] in (late["p"], 2 * late["p"]), "corrected for all"
    rows = comparison_rows([alone, late])
    assert [row.significant for row in rows] == [True, False]
    assert rows[1].cells[0] == "mekd against ml (declared afterwards)"
    text = markdown(panels(summarize(runs), [alone, late]))
    assert "but for 1 declared afterwards, when there were results" in text and "With 5 seeds only the paired" in text
    (withdrawn,) = compare(runs, [first], withdrawn=3)
    assert withdrawn["p_holm"] == pytest.approx(4 * withdrawn["p"]), "what is not shown any more still counts"
