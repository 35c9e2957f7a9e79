"""What others have published, beside ours: the file as it is, whom it concerns, and where it is shown."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

import mekd_plugin as mekd
from mekd_plugin.bench.published import FILE, PublishedResult, published_for, published_results, read_published
from mekd_plugin.bench.published_table import PUBLISHED_NOTE, in_markdown, in_terminal, published_beside
from mekd_plugin.bench.report import write_report
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.bench.statistics import summarize
from mekd_plugin.bench.store import Store
from mekd_plugin.bench.table import markdown, panels
from mekd_plugin.data.datasets import dataset_names
from mekd_plugin.errors import InputError
from mekd_plugin.records import Results
from mekd_plugin.transfer import TransferSetDistiller

ENTRY = """
- source: Somebody, Something, Somewhere 2030
  where: table 1
  dataset: mnist
  protocol: all of it
  rows:
    - {method: kd, accuracy: "98.40"}
    - {method: bad, VALUE}
"""


@pytest.fixture
def on_mnist(record):
    """A record of the setting in which one source's numbers were measured."""
    return lambda **changes: record(
        **{"dataset": "mnist", "teacher": "lenet5", "student": "lenet5_half", "real_images": 2000, **changes}
    )


def test_the_file_names_data_sets_and_methods_once() -> None:
    results = published_results()
    assert len(results) > 30
    assert {one.dataset for one in results} <= {*dataset_names(), "imagenet"}
    same = [one._replace(accuracy="", where="", protocol="", differs="") for one in results]
    assert len(set(same)) == len(same), "one number twice"
    for one in results:
        assert re.search(r"\b20\d\d\b", one.source), one.source
        assert 0 < float(re.findall(r"[\d.]+", one.accuracy)[0]) < 100


def test_a_row_says_otherwise_than_its_entry() -> None:
    by_method = {one.method: one for one in published_for("mnist", "soft")}
    plain, starred = by_method["FS-BBT"], by_method["FS-BBT*"]
    assert (plain.accuracy, plain.student, plain.queries) == ("98.42", "lenet5_half", 26_000)
    assert (starred.accuracy, starred.student, starred.teacher) == ("98.91", None, "lenet5")
    assert starred.differs.startswith("the source marks") and not plain.differs and starred.protocol == plain.protocol


@pytest.mark.parametrize(
    ("dataset", "responses", "inside", "outside"),
    [
        ("mnist", "soft", {"FS-BBT", "MEKD"}, {"IDEAL"}),
        ("mnist", "probabilities", {"FS-BBT", "MEKD"}, {"IDEAL"}),
        ("mnist", "hard", {"IDEAL", "MEKD"}, {"FS-BBT"}),
        ("rendered_digits:color to svhn", "soft", {"MEKD"}, set()),
        ("imagefolder:/data/ImageNet", "soft", {"MEKD"}, set()),
    ],
)
def test_whom_a_number_concerns(dataset, responses, inside, outside) -> None:
    found = {one.method for one in published_for(dataset, responses)}
    assert inside <= found and not outside & found


def test_nothing_is_known_of_most_data_sets() -> None:
    assert published_for("digits", "soft") == published_for("imagefolder:cats", "soft") == []


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("accuracy: 98.4", r'entry 1, row 2 \(bad\): accuracy=98.4: expected a text; .* in quotes'),
        ('accuracy: "good"', r"row 2 \(bad\): accuracy='good': expected per cent as printed"),
        ('acuracy: "98.4"', r"row 2 \(bad\): unknown acuracy; expected source, where"),
        ("student: lenet5", r"row 2 \(bad\): accuracy is missing"),
        ('accuracy: "98.4", queries: many', r"row 2 \(bad\): queries=.*many.*: expected a whole number"),
        ('accuracy: "98.4", responses: mild', r"row 2 \(bad\): responses='mild': expected one of soft, hard"),
        ('accuracy: "98.4", dataset: null', r"row 2 \(bad\): dataset is missing"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(value, complaint) -> None:
    with pytest.raises(InputError, match=complaint):
        read_published(ENTRY.replace("VALUE", value), "numbers.yaml")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [", "numbers.yaml is not YAML"),
        ("a: b", "numbers.yaml: expected a list of entries"),
        ("- {source: me}", "entry 1: expected names and values, one of them `rows`"),
        ("- {source: me, rows: [1]}", "entry 1, row 1: expected names and values, got 1"),
    ],
)
def test_a_bad_entry_is_named(text, complaint) -> None:
    with pytest.raises(InputError, match=complaint):
        read_published(text, "numbers.yaml")


def test_a_good_entry_is_read() -> None:
    first, second = read_published(ENTRY.replace("VALUE", "accuracy: 88.9 ± 1.1, images: 5"), "numbers.yaml")
    assert first == PublishedResult(
        "Somebody, Something, Somewhere 2030", "table 1", "mnist", "kd", "98.40", "all of it"
    )
    assert (second.accuracy, second.images) == ("88.9 ± 1.1", 5)


def test_what_differs_is_told_of_each_network_alone_of_no_limit_and_of_degraded_answers(on_mnist) -> None:
    here = on_mnist(budget=None, teacher="lenet5", student="resnet8", answers="top1")
    block = published_beside(summarize([here]))
    rows = {row[0].split(" [")[0]: row[-1] for row in block.cells}
    assert "mnist, soft responses; not runs" in block.title
    assert all("answers in full (here top1)" in told for told in rows.values())
    assert "queries not said (here no limit)" in rows["MEKD"] and "other networks" not in rows["MEKD"]
    assert "other networks" in rows["FS-BBT"]
    other_teacher = published_beside(summarize([on_mnist(teacher="resnet20", student="resnet8")]))
    assert all("other networks" in row[-1] for row in other_teacher.cells if row[0].startswith("FS-BBT*"))


def test_each_number_says_what_differs(on_mnist) -> None:
    block = published_beside(summarize([on_mnist(budget=26_000)]))
    rows = {row[0]: row for row in block.cells}
    assert "mnist, soft responses; not runs of this benchmark" in block.title
    assert rows["FS-BBT [1]"][2:] == ["lenet5 (99.18 %) to lenet5_half", "see [1]"], "as here in all that is known"
    assert rows["standard KD [1]"][-1].startswith("2,000 queries (here 26,000); learns the true labels")
    assert "images not said (here 2,000)" in rows["MEKD [2]"][-1] and rows["MEKD [2]"][2] == "not known"
    assert "other networks" in rows["k-center [3]"][-1] and "soft or hard not known" in rows["k-center [3]"][-1]
    names = [row[0] for row in block.cells]
    assert names.index("FS-BBT [1]") < names.index("FS-BBT* [1]") < names.index("k-center [3]"), "same networks first"
    assert block.notes[0] == PUBLISHED_NOTE and block.notes[1].startswith("[1] Nguyen") and "Keras" in block.notes[1]
    assert block.notes[2].startswith("[2] Ma, Xiang") and "best epoch on the test set" in block.notes[2]
    unlimited = published_beside(summarize([on_mnist(budget=None)])).cells[0]
    assert "(here no limit)" in unlimited[-1]


def test_the_block_stands_apart_and_only_on_request(on_mnist) -> None:
    parts = panels(summarize([on_mnist(), on_mnist(responses="hard")]))
    text = markdown(parts, published=True)
    own, _, others = text.partition("## Published for mnist, soft")
    assert own.rstrip() == markdown(parts).rstrip() and "FS-BBT" not in own
    soft, _, hard = others.partition("## Published for mnist, hard")
    assert "| FS-BBT [1] | 98.42 |" in soft and "| IDEAL [2] | about 94 |" in hard and "FS-BBT" not in hard
    assert PUBLISHED_NOTE in soft and PUBLISHED_NOTE in hard


def test_where_nothing_is_published_it_says_so(record) -> None:
    block = published_beside(summarize([record()]))
    assert "- No published number is known here." in in_markdown(block)
    console = Console(file=io.StringIO(), width=80)
    in_terminal(block, console)
    assert "No published number" in console.file.getvalue() and "not measured here" not in console.file.getvalue()


@pytest.mark.parametrize("width", [60, 160])
def test_nothing_is_cut_in_the_terminal(on_mnist, width) -> None:
    console = Console(file=io.StringIO(), width=width)
    in_terminal(published_beside(summarize([on_mnist()])), console)
    assert "…" not in console.file.getvalue() and "98.42" in console.file.getvalue()


def test_table_and_report_have_it_and_nothing_else_does(tmp_path, on_mnist) -> None:
    runs = [on_mnist()]
    results = Results({}, {"published": True}, runs, summarize(runs))
    write_report(Store(tmp_path), results)
    for name in ("table.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "98.42" in text and "not measured here" in text and "results_mnist.jpg" in text, name
    for name in ("table.csv", "table.tex", "results.json"):
        assert "98.42" not in (tmp_path / name).read_text(), name


def test_it_is_asked_for_when_a_benchmark_is_finished_too(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MEKD_CACHE", str(tmp_path / "cache"))

    class Mine(TransferSetDistiller):
        needs = mekd.Needs(responses="soft", leaves_edge="real images")

        def losses(self, student, rows):
            return {"loss": mekd.functional.logit_mse(student(rows.images), rows.answers().scores())}

    settings = {
        "teacher": "lenet5", "student": "lenet5_half", "teacher_steps": 5, "steps": 5, "real_images": 40,
        "query_budget": 50, "seeds": [0], "device": "cpu",
    }  # fmt: skip
    out = tmp_path / "out"
    plain = mekd.benchmark([Mine], out=out, **settings)
    assert "Published" not in (out / "table.md").read_text()
    again = mekd.benchmark([Mine], out=out, published=True, resume=True, **settings)
    assert again.runs == plain.runs and again.summary == plain.summary, "nothing is run again, nothing is mixed in"
    assert "## Published for digits" in (out / "table.md").read_text()
    assert json.loads((out / "results.json").read_text())["config"]["published"] is True


def test_it_is_a_setting_like_any_other() -> None:
    assert BenchConfig.from_mapping({"published": True}).published and not BenchConfig().published
    assert FILE.is_file() and FILE.parent.name == "bench"
