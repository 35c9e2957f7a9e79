"""When a comparison was declared, over the lives of a benchmark's directory."""

from __future__ import annotations

import json
import random

import pytest

from mekd_plugin.bench.comparisons import Comparison
from mekd_plugin.bench.declarations import Declarations
from mekd_plugin.errors import CheckpointError

FIRST, SECOND = Comparison("mekd", "kd"), Comparison("mekd", "kd", "agreement")


@pytest.fixture
def runs(record):
    return [record(name, seed) for name in ("mekd", "kd") for seed in (0, 1, 2)]


def told(out, comparisons, runs):
    return [
        (row["metric"], row["declared"], row["declared_at"]) for row in Declarations(out).compared(comparisons, runs)
    ]


def test_before_there_is_a_pair_and_afterwards(tmp_path, runs) -> None:
    Declarations(tmp_path).declare([FIRST], runs[:3])  # only one of the two rows can be seen
    (before,) = told(tmp_path, [FIRST], runs)
    assert before[:2] == ("student_accuracy", "beforehand") and before[2].endswith("+00:00")
    Declarations(tmp_path).declare([FIRST, SECOND], runs)
    now, late = told(tmp_path, [FIRST, SECOND], runs)
    assert now == before and late[:2] == ("agreement", "afterwards")
    Declarations(tmp_path).declare([Comparison("kd", "mekd")], runs)
    assert told(tmp_path, [Comparison("kd", "mekd")], runs)[0][1] == "beforehand", "the same pair, turned round"


def test_what_is_withdrawn_still_counts(tmp_path, runs) -> None:
    Declarations(tmp_path).declare([FIRST, SECOND], [])
    (both, _), (alone,) = (Declarations(tmp_path).compared(given, runs) for given in ([FIRST, SECOND], [FIRST]))
    assert alone["p_holm"] == both["p_holm"]


def test_pairs_that_are_tried_one_after_the_other_are_corrected_for_all_of_them(tmp_path, record) -> None:
    chance, names = random.Random(0), [f"method {number}" for number in range(12)]
    runs = [record(name, seed, student_accuracy=chance.uniform(0.9, 0.95)) for name in names for seed in range(5)]
    first, *others = (Comparison(names[0], name) for name in names[1:])
    Declarations(tmp_path).declare([first], [])
    for tried, pair in enumerate(others, 1):
        Declarations(tmp_path).declare([pair], runs)
        (row,) = Declarations(tmp_path).compared([pair], runs)
        assert row["declared"] == "afterwards" and row["p"] < 1
        assert row["p_holm"] == pytest.approx(min(1.0, (1 + tried) * row["p"])), "for the first one, too"
    (early,) = Declarations(tmp_path).compared([first], runs)
    assert early["declared"] == "beforehand" and early["p_holm"] == early["p"] < 1, "it suffers from none of them"


def test_a_number_that_no_run_had_yet_could_not_be_seen(tmp_path, record) -> None:
    match = Comparison("mekd", "kd", "generator.class_match")
    Declarations(tmp_path).declare([match], [record("mekd"), record("kd")])
    assert told(tmp_path, [match], []) == []
    audited = [record(name, generator={"class_match": 0.5}) for name in ("mekd", "kd")]
    assert told(tmp_path, [match], audited)[0][1] == "beforehand"


def test_results_of_an_earlier_version_are_believed_and_a_lost_file_is_not(tmp_path, runs) -> None:
    rows = [{"a": "mekd", "b": "kd", "metric": "student_accuracy"}]
    (tmp_path / "results.json").write_text(json.dumps({"comparisons": rows}))
    Declarations(tmp_path).declare([FIRST], runs)
    assert told(tmp_path, [FIRST], runs) == [("student_accuracy", "beforehand", None)]
    (tmp_path / "results.json").write_text(json.dumps({"comparisons": [{**rows[0], "declared": "beforehand"}]}))
    Declarations(tmp_path).declare([FIRST], runs)
    assert told(tmp_path, [FIRST], runs)[0][1] == "afterwards"
    (tmp_path / "declared.json").write_text("[{")
    with pytest.raises(CheckpointError, match=r"declared.json is damaged .*can no longer be told"):
        Declarations(tmp_path)
