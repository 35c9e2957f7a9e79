"""Intervals against numbers worked out by hand, and summaries."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from mekd_plugin.bench.statistics import mean_interval, summarize, wilson_interval
from mekd_plugin.errors import InputError


def test_t_interval_of_three_values() -> None:
    # Deviation 1, t(0.975, 2) = 4.3027: half width 4.3027 / sqrt(3) = 2.4841.
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.mean == 2.0
    assert interval.high - 2.0 == pytest.approx(2.4841, abs=1e-4)
    assert interval.low == pytest.approx(4.0 - interval.high)
    assert (interval.values, interval.kind) == (3, "t")


def test_one_value_has_no_interval() -> None:
    assert mean_interval([0.5])[:3] == (0.5, 0.5, 0.5)
    assert mean_interval([0.5]).kind == "none"


def test_two_values_are_shown_and_have_no_interval() -> None:
    assert mean_interval([0.7, 0.5]) == (pytest.approx(0.6), 0.5, 0.7, 2, "seeds")


def test_no_value() -> None:
    with pytest.raises(InputError, match="no values to average"):
        mean_interval([])


def test_wilson_interval() -> None:
    # 9 of 10: centre (0.9 + z2/20) / (1 + z2/10), z = 1.959964.
    z2 = 1.959964**2
    centre = (0.9 + z2 / 20) / (1 + z2 / 10)
    half = 1.959964 / (1 + z2 / 10) * math.sqrt(0.09 / 10 + z2 / 400)
    interval = wilson_interval(0.9, 10)
    assert interval.low == pytest.approx(centre - half, abs=1e-6)
    assert interval.high == pytest.approx(centre + half, abs=1e-6)


@pytest.mark.parametrize(("share", "trials"), [(1.5, 10), (-0.1, 10), (0.5, 0)])
def test_wilson_of_nonsense(share, trials) -> None:
    with pytest.raises(InputError, match="expected a share in"):
        wilson_interval(share, trials)


def test_seeds_are_summarised_and_settings_are_not_mixed(record) -> None:
    rows = summarize([record(seed=0, student_accuracy=0.9), record(seed=1, student_accuracy=1.0),
                      record(budget=100), record("mekd")])  # fmt: skip
    assert [(row["method"], row["budget"], row["finished"]) for row in rows] == [
        ("kd", 5000, 2), ("kd", 100, 1), ("mekd", 5000, 1)
    ]  # fmt: skip
    assert rows[0]["student_accuracy"]["mean"] == pytest.approx(0.95)
    assert rows[0]["student_accuracy"]["kind"] == "seeds"
    assert rows[1]["student_accuracy"]["kind"] == "wilson"
    assert rows[0]["seconds"] == 60.0


def test_failed_runs_are_counted_and_left_out(record) -> None:
    failed = record(seed=1, status="failed", error="no luck", student_accuracy=None)
    (row,) = summarize([record(), failed])
    assert (row["finished"], row["failed"], row["errors"]) == (1, 1, ["no luck"])
    assert row["student_accuracy"]["mean"] == 0.95
    (row,) = summarize([failed])
    assert row["student_accuracy"] is None and row["queries"] is None


def test_the_door_of_bench_loads_scipy_when_an_interval_is_asked_for() -> None:
    code = (
        "import sys, mekd_plugin.bench as bench\n"
        "assert 'scipy' not in sys.modules\n"
        "print(round(bench.wilson_interval(0.9, 100).low, 3), hasattr(bench, 'median'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.826", "False"]
