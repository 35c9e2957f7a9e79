"""A benchmark from Python: methods in a cell, ablations, rows for a data frame."""

import importlib.util

import pytest
import torch

import mekd_plugin as mekd
from mekd_plugin.bench.api import benchmark, load_records
from mekd_plugin.distiller import Distiller, Needs, Training
from mekd_plugin.errors import InputError, MissingDependency
from mekd_plugin.functional import logit_mse
from mekd_plugin.rows import NoiseRows
from mekd_plugin.transfer import TransferSetDistiller

SMALL = {
    "teacher": "lenet5", "student": "lenet5_half", "teacher_steps": 40, "steps": 20, "real_images": 60,
    "query_budget": 200, "seeds": [0, 1], "device": "cpu",
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MEKD_CACHE", str(tmp_path_factory.mktemp("cache")))


def cell():
    """A class that no other process could import."""

    class InACell(TransferSetDistiller):
        needs = Needs(responses="soft", leaves_edge="real images")

        def losses(self, student, rows):
            return {"loss": logit_mse(student(rows.images), rows.answers().scores())}

    return InACell


def test_a_method_in_a_cell_is_compared_with_registered_ones(tmp_path) -> None:
    results = mekd.benchmark(["ml", cell()], out=tmp_path, **SMALL)
    by_label = {}
    for run in results.runs:
        assert run.status == "finished", run.error
        by_label.setdefault(run.label, []).append(run.student_accuracy)
    assert by_label["InACell"] == by_label["logit_mimicry"], "the same mathematics, by another name"
    assert "InACell" in str(results) and "| InACell |" in (tmp_path / "table.md").read_text()
    for run in results.runs:
        assert run.sent is not None and run.sent["images"] == run.queries.total and run.adapted_accuracy is None
        assert run.sent["membership"]["auc"]["value"] > 0.9, "real images were sent"
    again = mekd.benchmark(["ml", cell()], out=tmp_path, resume=True, **SMALL)
    assert again.runs == results.runs


def test_names_of_ones_own_and_variants(tmp_path) -> None:
    settings = {**SMALL, "seeds": [0]}
    methods = {"cold": "kd", "mine": cell()}
    variants = {"warm": {"method": "kd", "set": {"temperature": 8.0}}}
    results = benchmark(methods, out=tmp_path, variants=variants, **settings)
    assert sorted(run.label for run in results.runs) == ["cold", "mine", "warm"]


def test_an_instance_with_other_settings_is_another_run(tmp_path) -> None:
    def totals(queries):
        shape = {"num_classes": 10, "image_shape": (1, 16, 16)}
        methods = {"mine": type(mekd.create("kd", **shape))(**shape, queries=queries)}
        results = benchmark(methods, out=tmp_path, resume=True, **{**SMALL, "seeds": [0]})
        return [run.queries.total for run in results.runs]

    assert totals(50) == [50] and totals(100) == [100]
    with pytest.raises(InputError, match="mine is an instance with seed=0, and the runs have the seeds 0, 1"):
        shape = {"num_classes": 10, "image_shape": (1, 16, 16)}
        benchmark({"mine": mekd.create("kd", **shape)}, out=tmp_path / "two", **SMALL)


def test_a_teacher_that_fails_in_this_process_fails_its_runs_only(tmp_path) -> None:
    results = benchmark({"mine": cell()}, out=tmp_path, **{**SMALL, "seeds": [0], "teacher": "json:dumps"})
    assert [run.status for run in results.runs] == ["failed"]
    assert "the teacher could not be prepared" in results.runs[0].error


class Pilfered(TransferSetDistiller):
    """Asks about images of another domain."""

    needs = Needs(responses="soft", leaves_edge="nothing of the edge", pool="other domain")

    def losses(self, student, rows):
        return {"loss": logit_mse(student(rows.images), rows.answers().scores())}


class Through(Distiller):
    """A white-box reference: needs no image, and differentiates through the teacher."""

    needs = Needs(
        responses="soft", leaves_edge="nothing of the edge", pool="none", queries="every step", in_step=True,
        gradients=True,
    )  # fmt: skip

    def stages(self, teacher, images, student):
        def step(rows, update, query):
            seeds = rows.images.requires_grad_()
            (slope,) = torch.autograd.grad(teacher.differentiate(seeds, stage="student").amax(dim=1).sum(), seeds)
            found = (seeds + slope.sign()).detach().clamp(-1, 1)
            loss = logit_mse(student(found), query(found).scores())
            update({"student": loss})
            return {"loss": loss.detach()}

        noise = NoiseRows(*self.image_shape, seed=self.seed)
        yield Training("student", noise, step, trains_student=True, batch_size=4)


def test_a_pool_of_another_domain_and_a_white_box(tmp_path) -> None:
    settings = {**SMALL, "seeds": [0]}
    results = benchmark(
        [Pilfered, Through, "kd"], out=tmp_path / "with", pool_dataset="digits", white_box=True, **settings
    )
    told = {run.label: run for run in results.runs}
    assert {run.status for run in results.runs} == {"finished"}, [run.error for run in results.runs]
    assert told["Pilfered"].pool == "other domain" and told["Pilfered"].leaves_edge == "nothing of the edge"
    assert told["Through"].white_box and not told["kd"].white_box
    assert (
        told["Through"].queries.total == 2 * 4 * 20
        and "white box: a reference" in (tmp_path / "with/table.md").read_text()
    )
    without = benchmark([Pilfered, Through, "kd"], out=tmp_path / "without", **settings)
    reasons = {run.label: (run.status, run.error or "") for run in without.runs}
    assert reasons["Pilfered"] == (
        "not applicable",
        "Pilfered asks about images of another domain: name them, --pool-dataset",
    )
    assert reasons["Through"][0] == "not applicable" and "--white-box" in reasons["Through"][1]


def test_a_method_and_a_variant_of_one_name_are_refused(tmp_path) -> None:
    variants = {"mine": {"method": "kd"}}
    with pytest.raises(InputError, match="mine: a method or variant of the grid has that name already"):
        benchmark({"mine": cell()}, out=tmp_path, variants=variants, **SMALL)


def test_records_are_flat_rows_with_the_same_keys(tmp_path) -> None:
    benchmark(["kd", "ml"], out=tmp_path, **SMALL)
    rows = load_records(tmp_path)
    assert len(rows) == 4 and len({tuple(row) for row in rows}) == 1
    first = rows[0]
    assert first["label"] == "kd" and first["queries_total"] == 200 and first["seconds_distill"] > 0
    assert not any(isinstance(value, dict) for value in first.values())
    assert len(first["curve_step"]) == len(first["curve_accuracy"]) > 3
    assert first["answers"] == "full" and 0 <= first["calibration_error"] <= 1
    if importlib.util.find_spec("pandas"):
        table = rows.to_pandas()
        assert len(table) == 4 and list(table.columns) == list(first)
        assert set(table.groupby("label").student_accuracy.mean().index) == {"kd", "logit_mimicry"}
    else:
        with pytest.raises(MissingDependency, match=r"need pandas: pip install 'mekd-plugin\[pandas\]'"):
            rows.to_pandas()
    with pytest.raises(InputError, match="holds no results that can be read"):
        load_records(tmp_path / "elsewhere")


def test_adapted_answers_are_measured_where_wanted(tmp_path) -> None:
    plain = mekd.benchmark([cell()], out=tmp_path / "plain", **{**SMALL, "seeds": [0]})
    wanted = mekd.benchmark([cell()], out=tmp_path / "adapted", adapt=True, **{**SMALL, "seeds": [0]})
    one, other = plain.runs[0], wanted.runs[0]
    assert one.student_accuracy == other.student_accuracy and one.key != other.key
    assert one.adapted_accuracy is None and 0 <= other.adapted_accuracy <= 1
    off = any("adaptation is off" in warning for warning in other.warnings)
    assert not off or other.adapted_accuracy == other.student_accuracy
    row = load_records(tmp_path / "adapted")[0]
    assert row["adapted_accuracy"] == other.adapted_accuracy
    assert row["membership_auc_low"] <= row["membership_auc"] <= row["membership_auc_high"]
    assert "Adapted %" in (tmp_path / "adapted" / "report.html").read_text()
    assert "Adapted %" not in (tmp_path / "plain" / "table.md").read_text()


@pytest.mark.parametrize("kept", [True, False])
def test_an_interrupted_run_measures_what_it_sent_or_says_what_is_lost(tmp_path, kept) -> None:
    """The answers are in the journal and the bank, and nothing is sent again."""

    class Interrupted(cell()):
        broken = True

        def losses(self, student, rows):
            if type(self).broken:
                raise RuntimeError("the power failed")
            return super().losses(student, rows)

    settings = {**SMALL, "seeds": [0]}
    first = mekd.benchmark([Interrupted], out=tmp_path, **settings)
    assert "the power failed" in first.runs[0].error
    (sample,) = tmp_path.glob("runs/*/sent_sample.npz")
    if not kept:
        sample.unlink()
    Interrupted.broken = False
    run = mekd.benchmark([Interrupted], out=tmp_path, resume=True, **settings).runs[0]
    assert run.status == "finished" and run.queries.total == 200
    assert (run.sent["images"] == 200) if kept else (run.sent is None)
    assert kept != any("measured on 0 of 200 images" in warning for warning in run.warnings)
