"""The edge's images from another data set than the teacher's: who learns, holds and is tested on what."""

from __future__ import annotations

import pytest
import torch

from mekd_plugin.bench import teachers
from mekd_plugin.bench.benchmark import Benchmark
from mekd_plugin.bench.executors.executor import Job
from mekd_plugin.bench.run_inputs import Place, edge_of, load_data
from mekd_plugin.bench.run_spec import RunSpec
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.bench.store import Store
from mekd_plugin.bench.worker import do
from mekd_plugin.data import load
from mekd_plugin.errors import InputError

SMALL = {
    "dataset": "rendered_digits:16", "edge_dataset": "digits", "teacher": "lenet5", "student": "lenet5_half",
    "methods": "kd", "teacher_steps": 5, "steps": 5, "real_images": 60, "query_budget": 80, "seeds": "0",
    "device": "cpu",
}  # fmt: skip


@pytest.fixture(autouse=True)
def few(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MEKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mekd_plugin.data.datasets._RENDERED_IMAGES", (200, 50))


def spec_of(out, **changes) -> RunSpec:
    return Benchmark(BenchConfig.from_mapping({**SMALL, **changes}), out).specs[0]


def test_the_teacher_learns_one_and_the_edge_holds_and_tests_the_other(tmp_path, monkeypatch) -> None:
    learnt, train = [], teachers.train_teacher

    def seen(module, images, labels, **settings):
        learnt.append((images, labels))
        return train(module, images, labels, **settings)

    monkeypatch.setattr(teachers, "train_teacher", seen)
    spec = spec_of(tmp_path / "out")
    place = Place(str(tmp_path / "out"))
    data, domain = load("digits"), load("rendered_digits:16")
    assert torch.equal(load_data(spec, place).test_images, data.test_images)
    edge = edge_of(spec, load_data(spec, place))
    assert torch.equal(edge.images, data.train_images[edge.indices])
    assert do(Job("run", spec), place) is None
    ((images, labels),) = learnt
    assert torch.equal(images, domain.train_images) and torch.equal(labels, domain.train_labels)
    record = Store(tmp_path / "out", resume=True).read(spec.key)
    assert record.dataset == "rendered_digits:16 to digits" and record.split == "another data set"
    assert record.test_images == 540 and record.real_images == 60


def test_it_is_part_of_what_a_run_is_and_a_run_without_it_keeps_its_directory(tmp_path) -> None:
    keys = {spec_of(tmp_path, edge_dataset=name).key for name in (None, "digits", "mnist")}
    assert len(keys) == 3
    spec = spec_of(tmp_path)
    spec.keep(tmp_path / "run", None)
    assert RunSpec.of_run(tmp_path / "run")[0].key == spec.key


def test_what_does_not_go_together_is_refused_before_anything_is_trained(tmp_path) -> None:
    with pytest.raises(InputError, match="edge_dataset=digits and disjoint: images of two data sets are apart"):
        BenchConfig.from_mapping({**SMALL, "disjoint": True})
    with pytest.raises(InputError, match="edge_dataset=digits is the teacher's data set, too"):
        BenchConfig.from_mapping({**SMALL, "dataset": "digits"})
    with pytest.raises(
        InputError, match=r"edge_dataset=digits has images of \(1, 16, 16\) and 10 classes, and .*:color "
    ):
        Benchmark(BenchConfig.from_mapping({**SMALL, "dataset": "rendered_digits:color"}), tmp_path).check()
