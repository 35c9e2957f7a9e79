"""Settings tried on what no table shows: who is judged on what, and the page."""

from __future__ import annotations

import json
import re

import pytest
import torch
import tuning

from mekd_plugin.bench.benchmark import Benchmark
from mekd_plugin.bench.grid import expand
from mekd_plugin.bench.run_inputs import Place, edge_of, load_data
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.errors import InputError
from mekd_plugin.flags import read_yaml
from mekd_plugin.registry import distillers

CONFIG = """
teacher: tuning_service:ask
student: lenet5_half
methods: []
variants:
  warm: {method: kd, set: {temperature: 8.0}}
steps: 5
real_images: 40
query_budget: 60
seeds: [3]
jobs: 1
device: cpu
"""

TEACHER = """
import torch

weights = torch.randn(256, 10, generator=torch.Generator().manual_seed(0))
asked = []

def ask(images):
    asked.append(images)
    return images.flatten(1) @ weights
"""


@pytest.fixture
def service(tmp_path, monkeypatch):
    """A teacher that is a function of this process and of its workers."""
    (tmp_path / "tuning_service.py").write_text(TEACHER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "tuning_service", raising=False)
    import tuning_service

    return tuning_service


@pytest.mark.slow
def test_students_are_judged_by_the_teacher_on_images_that_no_edge_holds(tmp_path, service):
    (tmp_path / "mine.yaml").write_text(CONFIG)
    words = ["--out", str(tmp_path / "runs"), "--records", str(tmp_path / "kept"), "--page", str(tmp_path / "page.md")]
    tuning.main([str(tmp_path / "mine.yaml"), *words])
    content = json.loads((tmp_path / "kept" / "mine.json").read_text())
    (warm,) = content["runs"]
    assert (warm["label"], warm["set"], warm["status"]) == ("warm", {"temperature": 8.0}, "finished")
    (spec,) = expand(BenchConfig.from_mapping(read_yaml(tmp_path / "mine.yaml")), device="cpu")
    data = load_data(spec, Place("."))
    common = data.train_images[tuning.common_images(data, [spec])]
    assert torch.equal(torch.cat(service.asked), common), "once, and about nothing else in this process"
    assert warm["evaluation"] == warm["images"] == len(common) and warm["queries"] == 60
    folder = tmp_path / "runs/mine/runs" / spec.key
    student = tuning.load_weights(tuning.build("lenet5_half", 10, (1, 16, 16)), folder / "student.safetensors")
    with torch.inference_mode():
        guesses = student.eval()(common).argmax(1)
    same = guesses == service.ask(common).argmax(1)
    assert warm["agreement"] == pytest.approx(float(same.double().mean()))
    text = (tmp_path / "page.md").read_text()
    test_accuracy = json.loads((folder / "record.json").read_text())["student_accuracy"]
    assert "student_accuracy" not in json.dumps(content) and f"{100 * test_accuracy:.2f} " not in text


def test_the_common_images_are_in_no_edge_and_the_same_for_all():
    def specs(*seeds):
        return expand(BenchConfig(methods=("kd",), seeds=seeds), device="cpu")

    data = load_data(specs(0)[0], Place("."))
    rows = tuning.common_images(data, specs(0, 1))
    assert torch.equal(rows, tuning.common_images(data, specs(7))) and len(rows.unique()) == len(rows) >= 100
    for seed in range(10):
        assert not set(rows.tolist()) & set(edge_of(specs(seed)[0], data).indices.tolist())
    large = expand(BenchConfig(methods=("kd",), real_fraction=0.5), device="cpu")
    with pytest.raises(InputError, match="the edges leave . of 1257 training images of digits: expected 100 at least"):
        tuning.common_images(data, large)


def content(name, *agreements, common="abc", **changes):
    run = {"method": "kd", "dataset": "digits", "responses": "soft", "budget": 1000, "status": "finished",
           "images": 400, "common": common, "queries": 990, "evaluation": 400, "error": None, "seed": 0}  # fmt: skip
    runs = [
        {**run, "label": f"t{index}", "set": {"temperature": index}, "agreement": value, **changes}
        for index, value in enumerate(agreements)
    ]
    return {"config": name, "teacher": ["resnet20"], "student": ["resnet8"], "runs": runs}


def test_the_page_marks_what_is_taken():
    text = tuning.page([content("kd.yaml", 0.5, 0.75, 0.7)], made_by="this")
    assert re.findall(r"\| → \| `(\w+)` \|", text) == ["t1"] and "(400 of digits)" in text
    assert "|  | `t2` | `temperature: 2` | 70.00 | 990 | 1 |" in text and "`configs/tuning/kd.yaml`" in text
    failed = tuning.page([content("kd.yaml", None, status="failed", error="no luck")], made_by="this")
    assert "| failed | - | 0 |" in failed and "- `t0`: no luck" in failed and "→" not in failed


@pytest.mark.parametrize(
    ("agreements", "label"),
    [((0.7, 0.705, 0.709), "t0"), ((0.7, 0.71, 0.705), "t1"), ((0.7, None, 0.8), "t2"), ((None, 0.1), "t1")],
)
def test_the_first_setting_is_taken_unless_another_is_a_point_ahead(agreements, label):
    assert tuning.taken(content("kd.yaml", *agreements)) == {"kd": (label, {"temperature": int(label[1])})}


def test_the_tables_of_a_method_are_judged_together():
    soft, hard = content("kd.yaml", 0.5, 0.75), content("kd.yaml", 0.5, 0.2, responses="hard")
    both = {**soft, "runs": soft["runs"] + hard["runs"]}
    assert tuning.taken(both) == {"kd": ("t0", {"temperature": 0})}
    assert re.findall(r"\| → \| `(\w+)` \|", tuning.page([both], made_by="this")) == ["t0", "t0"]
    failed = content("kd.yaml", 0.4, None, responses="hard")
    both = {**soft, "runs": soft["runs"] + failed["runs"]}
    assert tuning.taken(both) == {"kd": ("t0", {"temperature": 0})}, "nothing is gained by failing"


def test_what_was_judged_on_other_images_stands_on_no_page(tmp_path, capsys):
    with pytest.raises(InputError, match="ml.yaml was judged on other images of digits than the others"):
        tuning.page([content("kd.yaml", 0.5), content("ml.yaml", 0.5, common="abd")], made_by="this")
    with pytest.raises(SystemExit):
        tuning.main(["--records", str(tmp_path)])
    assert "holds no judgements: name a directory for the runs, --out DIR" in capsys.readouterr().err


def test_the_field_takes_what_was_tuned():
    field = {}
    for path in (tuning.CONFIGS / "field").glob("*.yaml"):
        field |= read_yaml(path).get("hyperparameters", {})
    records = sorted((tuning.CONFIGS.parent / "results" / "tuning").glob("*.json"))
    chosen = {}
    for path in records:
        chosen |= tuning.taken(json.loads(path.read_text()))
    tuned = {path.stem for path in (tuning.CONFIGS / "tuning").glob("*.yaml")}
    assert tuned == {path.stem for path in records} == set(chosen)
    assert {name: settings for name, (_, settings) in chosen.items() if settings} == field
    ours = {entry.name for entry in distillers().entries() if entry.owner.startswith("mekd-plugin")}
    assert ours - tuned == {"logit_mimicry", "mekd_bank"}, "nothing to set; what mekd has"


def test_every_configuration_of_ours_has_three_settings_a_method():
    paths = sorted((tuning.CONFIGS / "tuning").glob("*.yaml"))
    assert paths, "no method was tuned"
    for path in paths:
        config = BenchConfig.from_mapping(read_yaml(path))
        methods = [variant["method"] for variant in config.variants.values()]
        assert {methods.count(name) for name in methods} == {3} and set(config.seeds) <= set(range(10)), path.name
        assert Benchmark(config, path.parent).specs
