"""The table's cells."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mekd_plugin.bench.statistics import summarize
from mekd_plugin.bench.table import COLUMNS, FAIR_PLAY, format_interval, interval_note, markdown, panels, terminal


def test_intervals_as_text() -> None:
    assert format_interval({"mean": 0.98, "low": 0.97, "high": 0.99, "kind": "t"}) == "98.00 ± 1.00"
    assert format_interval({"mean": 0.98, "low": 0.97, "high": 0.99, "kind": "seeds"}) == "98.00 (97.00, 99.00)"
    assert format_interval({"mean": 0.9, "low": 0.8, "high": 0.95, "kind": "wilson"}) == "90.00 [80.00, 95.00]"
    assert format_interval({"mean": 0.9, "low": 0.9, "high": 0.9, "kind": "none"}) == "90.00"
    assert format_interval(None) == "-"


def test_a_panel_for_each_comparable_group(record) -> None:
    parts = panels(summarize([record(), record("mekd"), record(responses="hard"), record(budget=None)]))
    assert [len(part.rows) for part in parts] == [2, 1, 1]
    assert parts[0].title == (
        "digits: resnet20 (99.00 %) to resnet8, soft responses, 125 unlabelled images, at most 5,000 queries"
    )
    assert parts[2].title.endswith("no query budget")


def test_degraded_answers_are_a_panel_of_their_own(record) -> None:
    parts = panels(summarize([record(), record(answers="rounded:2"), record("mekd", answers="rounded:2")]))
    assert [len(part.rows) for part in parts] == [1, 2]
    assert "soft (rounded:2) responses" in parts[1].title and "soft responses" in parts[0].title
    old = [{name: value for name, value in row.items() if name != "answers"} for row in summarize([record()])]
    assert panels(old)[0].title == parts[0].title, "results of an earlier version"


def test_the_note_tells_each_kind_of_interval(record) -> None:
    def note(*runs):
        return interval_note(panels(summarize(runs)))

    generator = {"class_match": 0.9, "audited": 50}
    attacked = {"images": 9, "sample": 9, "membership": ATTACK}
    one, three = (
        record(generator=generator, sent=attacked),
        [record(seed=seed, generator=generator) for seed in (0, 1, 2)],
    )
    for text in ("over the test images of a single run", "over the questions of a single run's audit", "attack, [low"):
        assert text in note(one) and text not in note(*three)
    assert "half the 95 % interval" in note(*three) and "half the 95 %" not in note(one)
    assert "No comparison was declared" in note(*three) and "With 3 seeds only the paired t-test" in note(*three)
    assert "With 1 seed no test is possible" in note(one)


def test_calibration_stands_beside_agreement_where_it_is_known(record) -> None:
    text = markdown(panels(summarize([record(calibration_error=0.031)])))
    assert "| Agreement % | ECE % |" in text and "] | 3.10 | 5,000 |" in text
    assert "expected calibration error" in text and "ECE" not in markdown(panels(summarize([record()])))


def test_markdown_has_columns_notes_and_the_rules(record) -> None:
    failed = record("mekd", status="failed", error="no luck", student_accuracy=None)
    text = markdown(
        panels(summarize([record(seed=0), record(seed=1), failed, record("kn", warnings=["class 6 is rare"])]))
    )
    row = "| kd | 95.00 (95.00, 95.00) | 96.00 (96.00, 96.00) | 94.00 (94.00, 94.00) | 5,000 | $7.50 | real images |"
    assert f"{row} edge | 60 | 2 |" in text
    assert "Two seeds are too few for an interval" in text and "Student's t" not in text
    assert "| mekd | failed | - |" in text and "mekd: 1 failed: no luck" in text and "0 of 1" in text
    assert "kn: class 6 is rare" in text
    assert all(rule in text for rule in FAIR_PLAY)
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {len(COLUMNS) + 2}, "and the price"


@pytest.mark.parametrize("width", [80, 160])
def test_nothing_is_cut_in_the_terminal(record, width) -> None:
    methods = ("mekd", "distribution_alignment")
    parts = panels(summarize([record(method, seed) for method in methods for seed in (0, 1)]))
    console = Console(file=io.StringIO(), width=width)
    console.print(terminal(parts[0], console))
    shown = console.file.getvalue()
    assert "…" not in shown
    assert "5,000" in shown and "$7.50" in shown and "real" in shown and "alignment" in shown


def test_a_price_stands_where_there_is_one(record) -> None:
    free, paid = panels(summarize([record(price=None), record(price=7.5, budget=None)]))
    assert "Price" in [column.title for column in paid.columns]
    assert free.columns == COLUMNS and "Price" not in markdown([free]) and "$" not in markdown([free])


def test_a_white_box_is_marked(record) -> None:
    assert "white box" in panels(summarize([record(white_box=True)]))[0].cells[0][0]


ATTACK = {
    "auc": {"value": 0.93, "low": 0.9, "high": 0.96},
    "true_positives": {"value": 0.4, "low": 0.3, "high": 0.5},
    "nearest_ratio": 0.5,
}


def test_columns_that_not_every_run_has_stand_where_some_run_has_them(record) -> None:
    sent = {"images": 9, "sample": 9, "membership": ATTACK}
    parts = panels(summarize([record(adapted_accuracy=0.97, sent=sent), record("mekd"), record(budget=None)]))
    assert len(parts[0].columns) == len(COLUMNS) + 4 and len(parts[1].columns) == len(COLUMNS) + 1
    text = markdown(parts)
    titles = "| Method | Accuracy % | Adapted % | Best on test † % |"
    assert titles in text and "| Leaves the edge | Membership AUC | TPR at 1 % FPR % | Pool |" in text
    assert "| 0.93 [0.90, 0.96] | 40.00 [30.00, 50.00] |" in text and "| mekd | 95.00 [92.82, 96.54] | - |" in text
    assert "Membership AUC: somebody" in text and "Adapted is the accuracy" in text
    assert "somebody" not in markdown(panels(summarize([record()])))
    console = Console(file=io.StringIO(), width=160)
    console.print(terminal(parts[0], console))
    assert "Adapted" in console.file.getvalue() and "Membership" not in console.file.getvalue()


def test_the_attacks_of_several_seeds_are_averaged(record) -> None:
    other = {**ATTACK, "auc": {"value": 0.95, "low": 0.9, "high": 1.0}}
    runs = [
        record(seed=seed, sent={"images": 9, "sample": 9, "membership": found})
        for seed, found in enumerate((ATTACK, other, None))
    ]
    row = summarize([*runs, record(seed=3, sent=None)])[0]
    assert row["membership_auc"]["mean"] == pytest.approx(0.94) and row["membership_auc"]["kind"] == "seeds"
    assert summarize([record()])[0]["membership_auc"] is None
