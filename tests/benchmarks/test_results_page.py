"""A page made from results: numbers of a small benchmark that really ran, and the words of its first line."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import results_page
from results_page import Table, command, main, page, read, verdict
from scipy import stats
from typer.testing import CliRunner

from mekd_plugin.bench import commands
from mekd_plugin.bench.benchmark import Benchmark
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.bench.statistics import mean_interval
from mekd_plugin.cli import app
from mekd_plugin.errors import InputError, UnknownName
from mekd_plugin.flags import read_yaml
from mekd_plugin.records import Results, RunRecord

SETTINGS = """
teacher: lenet5
student: lenet5_half
methods: [mekd_bank]
variants:
  with_image_term: {method: mekd}
  warm: {method: mekd_bank, set: {temperature: 8.0}}
teacher_steps: 60
steps: 20
real_images: 60
query_budget: 200
seeds: [0, 1, 2]
device: cpu
audit: 100
hyperparameters:
  mekd: {surrogate_steps: 5, emulation.surrogate_steps: 5}
  mekd_bank: {surrogate_steps: 5, emulation.surrogate_steps: 5}
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """The folder of the configuration, and the directory of its results."""
    place = tmp_path_factory.mktemp("page")
    (place / "configs").mkdir()
    (place / "configs" / "small.yaml").write_text(SETTINGS)
    (place / "configs" / "theirs.yaml").write_text("models: {}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEKD_CACHE", str(place / "cache"))
        config = BenchConfig.from_mapping(read_yaml(place / "configs" / "small.yaml"))
        Benchmark(config, place / "out").execute(resume=False, observe=lambda *_: None)
    return place / "configs", place / "out"


def cells_of(text: str, label: str) -> list[str]:
    (row,) = [line for line in text.splitlines() if line.startswith(f"| `{label}` |")]
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.slow
def test_the_numbers_are_those_of_the_records(bench):
    configs, out = bench
    claim = {"reference": "mekd_bank", "claim": "with_image_term:mekd_bank"}
    text = page([read(out)], title="Ablations", made_by="this", configs=configs, **claim)
    runs = json.loads((out / "results.json").read_text())["runs"]
    values = {}
    for run in runs:
        assert run["status"] == "finished" and run["generator"]["audited"] == 100
        values.setdefault(run["label"], []).append(run)
    on, off = ([run["student_accuracy"] for run in values[label]] for label in ("with_image_term", "mekd_bank"))
    row = cells_of(text, "with_image_term")
    interval = mean_interval(on)
    assert row[1:3] == ["3", f"{100 * interval.mean:.2f} ± {50 * (interval.high - interval.low):.2f}"]
    match = mean_interval([run["generator"]["class_match"] for run in values["with_image_term"]])
    assert row[3].startswith(f"{100 * match.mean:.2f} ± ")
    processor = sum(run["seconds"]["processor"] for run in values["with_image_term"]) / 3
    assert float(row[4]) == pytest.approx(processor, abs=0.5) and row[5] == "200"
    assert row[6].strip("*") == f"{100 * (interval.mean - sum(off) / 3):+.2f}"
    p = [stats.ttest_rel([run["student_accuracy"] for run in values[label]], off).pvalue
         for label in ("with_image_term", "warm")]  # fmt: skip
    smaller = min(p) == p[0]
    assert float(row[8].strip("< ")) == pytest.approx(min(1, 2 * p[0] if smaller else max(p[0], 2 * p[1])), abs=6e-4)
    assert cells_of(text, "mekd_bank")[6:] == ["-", "-", "-"]
    assert text.startswith("**The image-space term ") and "`with_image_term` less `mekd_bank`" in text.splitlines()[0]
    assert "\n# Ablations\n" in text and "mekd bench --config configs/small.yaml --out " in text


@pytest.mark.slow
def test_any_number_may_be_the_pages(bench):
    configs, out = bench
    text = page([read(out)], title="t", made_by="m", configs=configs, metric="held_out_agreement")
    assert "| held out agreement % |" in text and cells_of(text, "warm")[2] == "-", "200 answers hold too few out"
    assert "| queries.total |" in page([read(out)], title="t", made_by="m", configs=configs, metric="queries.total")
    with pytest.raises(UnknownName, match="unknown label in .*out 'mekd': expected one of mekd_bank"):
        page([read(out)], title="t", made_by="m", configs=configs, reference="mekd")


@pytest.mark.slow
def test_from_the_command_line_to_the_file(bench, tmp_path, capsys):
    configs, out = bench
    main([str(out), "--title", "Tuning", "--configs", str(configs), "--out", str(tmp_path / "page.md")])
    text = (tmp_path / "page.md").read_text()
    assert text.startswith("# Tuning\n\nMade by `python benchmarks/results_page.py ") and "| `warm` |" in text
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--title", "Tuning"])
    assert "expected the results of `mekd bench" in capsys.readouterr().err


def results(config: BenchConfig, **accuracies: list[float]) -> Table:
    """Results that nobody ran, with a seed for each accuracy."""
    runs = [
        RunRecord(label, seed, "digits", "t", "s", "soft", "finished", "", label, student_accuracy=value, budget=50)
        for label, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    return Table(Path("somewhere"), Results({}, {**config.to_json(), "recipe": {}}, runs, []))


BASE, ABOVE, ABOUT = [0.90, 0.91, 0.92, 0.90], [0.95, 0.955, 0.97, 0.952], [0.91, 0.90, 0.92, 0.901]


@pytest.mark.parametrize(
    ("on", "off", "said"),
    [
        ([ABOVE], [BASE], "The image-space term helps** (`on` less `off`, corrected by Holm for this line alone):"),
        ([BASE], [ABOVE], "The image-space term hurts**"),
        ([ABOUT], [BASE], "is worth nothing that can be told from chance**"),
        ([ABOVE, ABOUT], [BASE, BASE], "helps in 1 of 2 settings**"),
        ([ABOVE, BASE], [BASE, ABOVE], "helps in 1 and hurts in 1 of 2 settings**"),
        ([ABOVE[:2]], [BASE[:2]], "cannot be judged: too few seeds**"),
    ],
)
def test_the_first_line(on, off, said):
    tables = [results(BenchConfig(), on=one, off=other) for one, other in zip(on, off, strict=True)]
    line = verdict(tables, "on:off", "The image-space term")
    assert said in line and "\n" not in line
    assert re.search(
        r"at most 50 queries: [+-]\d\.\d\d (\[.*\]|-), (p = 0\.\d{3}|p < 0\.001|not tested), \d seeds", line
    )


def test_what_did_not_run_says_why(tmp_path):
    table = results(BenchConfig(), on=BASE)
    failed = RunRecord("off", 0, "digits", "t", "s", "soft", "failed", "", "off", error="no luck", budget=50)
    table.results.runs.append(failed)
    text = page([table], title="t", made_by="m")
    assert cells_of(text, "off")[1:] == ["0", "failed", "-", "-", "-", "-", "-", "too few seeds"]
    assert "- `off`: no luck" in text


@pytest.mark.parametrize(
    ("row", "bold"),
    [
        ({"p_holm": 0.01, "declared": "beforehand"}, True),
        ({"p_holm": 0.01, "declared": "afterwards"}, False),
        ({"p_holm": 0.2, "declared": "beforehand"}, False),
        (None, False),
    ],
)
def test_bold_is_what_was_declared_beforehand_and_is_significant(row, bold):
    table = results(BenchConfig(), on=ABOVE, off=BASE)
    panel = "digits: t to s, soft responses, at most 50 queries"
    if row is not None:
        about = {"panel": panel, "metric": "student_accuracy", "a": "off", "b": "on", "pairs": 4}
        table.results.comparisons.append({**about, "difference": -0.05, "interval": None, "p": 0.01, **row})
    text = page([table], title="t", made_by="m", reference="off")
    assert cells_of(text, "on")[6] == ("**+4.92**" if bold else "+4.92") and cells_of(text, "on")[8] == "< 0.001"


def test_claims_that_nothing_shows():
    with pytest.raises(InputError, match="--claim on: expected ON:OFF"):
        verdict([], "on", "It")
    with pytest.raises(InputError, match="--claim on:gone: no results have both rows"):
        verdict([results(BenchConfig(), on=BASE)], "on:gone", "It")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"methods": "kd,ml", "seeds": "0,1,2,3,4", "white_box": True, "steps": 7, "image_size": 20},
        {"hyperparameters": {"mekd": {"emulation.steps": 5, "norm": "l2"}, "recipe": {"batch_size": 16}}},
        {"comparisons": ["mekd:kd", "mekd:ml:agreement"], "audit": 100},
    ],
)
def test_a_command_gives_the_settings_again(settings, tmp_path, monkeypatch):
    wanted = BenchConfig.from_mapping(settings)
    said = command(results(wanted, kd=BASE), tmp_path)
    assert said.startswith("mekd bench") and said.endswith("--out somewhere")
    taken = []
    monkeypatch.setattr(commands, "bench", lambda config, *_, **__: taken.append(config) or 0)
    assert CliRunner().invoke(app, shlex.split(said)[1:], catch_exceptions=False).exit_code == 0
    assert taken == [wanted]


def test_variants_need_a_file_and_the_nearest_one_is_named(tmp_path):
    variants = {"cold": {"method": "kd", "set": {"temperature": 1.0}}}
    table = results(BenchConfig.from_mapping({"variants": variants, "seeds": "0,1", "dataset": "mnist"}), cold=BASE)
    with pytest.raises(InputError, match="somewhere: no file of .* has its variants and hyperparameters"):
        command(table, tmp_path)
    (tmp_path / "mine.yaml").write_text(json.dumps({"variants": variants, "dataset": "mnist"}))
    folder = tmp_path.name
    assert command(table, tmp_path) == (
        f"mekd bench --config {folder}/mine.yaml --seeds 0,1 --data-root DIR --out somewhere"
    )


def test_a_configuration_in_a_folder_below_is_named_with_it():
    path = results_page.CONFIGS / "races/digits_soft.yaml"
    config = BenchConfig.from_mapping(read_yaml(path))
    assert command(results(config, kd=BASE)) == "mekd bench --config configs/races/digits_soft.yaml --out somewhere"


def test_our_own_configurations_are_found():
    for path in results_page.CONFIGS.glob("*.yaml"):
        config = BenchConfig.from_mapping(read_yaml(path))
        said = command(results(config, kd=BASE))
        assert said in (
            f"mekd bench --config configs/{path.name} --data-root DIR --out somewhere",
            f"mekd bench --config configs/{path.name} --out somewhere",
            "mekd bench --out somewhere",  # the embedded default, written out
        )
