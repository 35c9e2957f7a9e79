"""The table for other programs: read back, and checked for what would break a LaTeX file."""

from __future__ import annotations

import csv
import io
import re

import pytest

from mekd_plugin.bench.comparisons import Comparison
from mekd_plugin.bench.statistics import compare, summarize
from mekd_plugin.bench.table import panels
from mekd_plugin.bench.table_files import as_csv, as_latex


@pytest.fixture
def runs(record):
    better = [record("mekd", seed, student_accuracy=0.99 + seed / 1000) for seed in (0, 1, 2)]
    failed = record("kn", status="failed", error="100 % of it_s {gone} & ~lost", student_accuracy=None)
    return [*(record("kd", seed, student_accuracy=0.9 + seed / 900) for seed in (0, 1, 2)), *better, failed]


def test_a_line_for_each_row_with_plain_numbers(runs):
    rows = list(csv.DictReader(io.StringIO(as_csv(summarize(runs)))))
    assert [row["label"] for row in rows] == ["kd", "mekd", "kn"]
    mekd = rows[1]
    assert float(mekd["student_accuracy"]) == pytest.approx(0.991) and mekd["student_accuracy_kind"] == "t"
    assert float(mekd["student_accuracy_low"]) < 0.991 < float(mekd["student_accuracy_high"])
    assert (mekd["answers"], mekd["budget"], mekd["queries"], mekd["class_match"]) == ("full", "5000", "5000.0", "")
    assert rows[2]["student_accuracy"] == "" and rows[2]["errors"] == "100 % of it_s {gone} & ~lost"


def test_latex_has_every_cell_and_bold_where_a_declared_comparison_is_significant(runs):
    summary, wanted = summarize(runs), [Comparison("mekd", "kd"), Comparison("mekd", "kd", "queries.total")]
    text = as_latex(panels(summary, compare(runs, wanted)))
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2
    for begin, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.S):
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) > 1 and {len(re.split(r"(?<!\\)&", line)) for line in lines} == {len(begin)}
    assert re.findall(r"\\textbf\{(.*?)\}", text) == ["+9.00"] or re.findall(r"\\textbf\{(.*?)\}", text) == ["+8.99"]
    assert r"99.10 $\pm$ 0.25" in text and r"100 \% of it\_s \{gone\} \& \textasciitilde{}lost" in text
    bare = re.sub(r"\\[{}%&$#_]", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert "_" not in re.sub(r"tab:mekd-\d", "", bare) and "±" not in bare and "†" not in bare
