"""Settings, their expansion, and what decides a run's key."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace

import pytest

from mekd_plugin.bench.grid import expand
from mekd_plugin.bench.pricing import price_for
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.bench.teacher_names import kind_of_teacher
from mekd_plugin.errors import InputError


def test_a_price_is_that_of_a_service_or_the_users() -> None:
    services = ("http://localhost/v2/models/a", "https://example.org/v2/models/b")
    assert [price_for(name, BenchConfig(teacher=("resnet20", name)).price_per_1000) for name in services] == [1.5, 1.5]
    assert price_for(services[0], BenchConfig(teacher=services, price_per_1000=0.0).price_per_1000) == 0.0
    for name in ("resnet20", "a.safetensors", "a.onnx", "recorded:bank", "module:ask"):
        assert price_for(name, BenchConfig(teacher=(name, services[0])).price_per_1000) is None
        assert price_for(name, BenchConfig(teacher=(name,), price_per_1000=2.0).price_per_1000) == 2.0


def test_the_default_grid() -> None:
    specs = expand(BenchConfig(), device="cpu")
    assert len(specs) == 4 * 3
    assert [spec.seed for spec in specs[:4]] == [0, 1, 2, 0]
    assert {spec.method for spec in specs} == {"mekd", "kd", "logit_mimicry", "distribution_alignment"}
    assert {spec.real_fraction for spec in specs} == {0.1}
    assert {spec.responses for spec in specs} == {"soft"}


def test_axes_multiply() -> None:
    config = BenchConfig(responses=("soft", "hard"), query_budget=(100, 0), methods=("kd",), seeds=(0,))
    specs = expand(config, device="cpu")
    assert [(spec.responses, spec.query_budget) for spec in specs] == [
        ("soft", 100), ("soft", None), ("hard", 100), ("hard", None)
    ]  # fmt: skip


def test_aliases_become_canonical_names() -> None:
    config = BenchConfig(methods=("ml",), hyperparameters={"ml": {"views": 3}, "recipe": {"batch_size": 32}})
    spec = expand(config, device="cpu")[0]
    assert spec.method == "logit_mimicry"
    assert spec.hyperparameters == {"views": 3} and spec.recipe == {"batch_size": 32}


def test_one_key_for_each_setting_that_decides_the_numbers() -> None:
    spec = expand(BenchConfig(), device="cpu")[0]
    changes = [
        {"seed": 5}, {"steps": 7}, {"teacher_steps": 7}, {"disjoint": True}, {"hyperparameters": {"style_dim": 0}},
        {"recipe": {"batch_size": 2}}, {"device": "cuda"}, {"threads": 2}, {"version": "0"}, {"query_budget": None},
        {"teacher_seed": 1},
    ]  # fmt: skip
    keys = {spec.key, *(replace(spec, **change).key for change in changes)}
    assert len(keys) == len(changes) + 1
    assert spec.key == expand(BenchConfig(jobs=7, data_root="/elsewhere", price_per_1000=3), device="cpu")[0].key


def test_a_key_is_a_file_name() -> None:
    key = replace(expand(BenchConfig(), device="cpu")[0], dataset="imagefolder:/some where/x" * 10).key
    assert "/" not in key and " " not in key and len(key) < 100


def test_a_signature_is_one_line_with_every_setting() -> None:
    config = BenchConfig(hyperparameters={"mekd": {"image_weight": 3}}, real_images=50, disjoint=True)
    signature = expand(config, device="cpu")[0].signature()
    for part in (
        "method=mekd",
        "seed=0",
        "real_images=50",
        "disjoint=True",
        "query_budget=5000",
        "{'image_weight': 3}",
    ):
        assert part in signature
    assert "\n" not in signature


def test_a_teacher_that_is_there_is_not_trained_for_each_seed() -> None:
    config = BenchConfig(teacher=("http://there/v2/models/x", "lenet5"), seeds=(3, 4), teacher_per_seed=True)
    seeds = {(spec.teacher, spec.seed): spec.teacher_seed for spec in expand(config, device="cpu")}
    assert [seeds[teacher, seed] for teacher in config.teacher for seed in config.seeds] == [0, 0, 3, 4]
    with pytest.raises(InputError, match="teacher_per_seed: http://there/v2/models/x is there already"):
        expand(replace(config, teacher=config.teacher[:1]), device="cpu")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("resnet20", "network"),
        ("torchvision:resnet18", "network"),
        ("my.module:ask", "function"),
        ("a/b.safetensors", "file"),
        ("resnet20@w.pt", "file"),
        ("torchvision:resnet18@w.pt", "file"),
        ("m.onnx", "onnx"),
    ],
)
def test_kinds(name, kind) -> None:
    assert kind_of_teacher(name) == kind


VARIANTS = {"mekd_no_image": {"method": "mekd", "set": {"image_weight": 0}}, "mekd_soft": {"method": "mekd"}}


def test_a_method_stands_in_a_grid_several_times() -> None:
    config = BenchConfig(methods=("mekd",), variants=VARIANTS, hyperparameters={"mekd": {"balance": True}}, seeds=(0,))
    specs = expand(config, device="cpu")
    assert [spec.label for spec in specs] == ["mekd", "mekd_no_image", "mekd_soft"]
    assert {spec.method for spec in specs} == {"mekd"} and len({spec.key for spec in specs}) == 3
    assert specs[1].hyperparameters == {"balance": True, "image_weight": 0}
    assert specs[1].key.startswith("mekd_no_image-digits-seed0-")
    only = BenchConfig.from_mapping({"methods": [], "variants": VARIANTS})
    assert {spec.label for spec in expand(only, device="cpu")} == set(VARIANTS)


class TestFromMapping:
    def test_texts_and_lists(self) -> None:
        texts = BenchConfig.from_mapping({"seeds": "0, 1", "query-budget": "10,20", "methods": "kd,ml", "steps": "5"})
        lists = BenchConfig.from_mapping(
            {"seeds": [0, 1], "query_budget": [10, 20], "methods": ["kd", "ml"], "steps": 5}
        )
        assert texts == lists
        assert texts.seeds == (0, 1) and texts.steps == 5

    def test_a_single_value_is_a_list_of_one(self) -> None:
        assert BenchConfig.from_mapping({"seeds": 3, "real_fraction": "0.2"}).seeds == (3,)

    def test_what_went_to_json_comes_back(self) -> None:
        config = BenchConfig(seeds=(4,), hyperparameters={"kd": {"temperature": 2.0}})
        assert BenchConfig.from_mapping(config.to_json()) == config


def test_another_file_under_the_old_name_is_another_teacher(tmp_path) -> None:
    path = tmp_path / "teacher.safetensors"
    keys = []
    for content in (b"one", b"two", b"one"):
        path.write_bytes(content)
        keys.append(expand(BenchConfig(teacher=(str(path),)), device="cpu")[0].key)
    assert keys[0] == keys[2] != keys[1]


def test_adapting_is_another_run_and_leaves_the_keys_of_those_without() -> None:
    """The key of version 0.2.0 before there was the switch, computed from the same settings."""
    plain, adapted = (expand(BenchConfig(adapt=adapt), device="cpu")[0] for adapt in (False, True))
    later = ("adapt", "answers", "edge_dataset", "teacher_size", "teacher_seed")
    settings = {name: value for name, value in asdict(plain).items() if name not in later}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
    assert plain.key.endswith(digest) and adapted.key != plain.key


def test_what_is_done_to_answers_is_an_axis() -> None:
    config = BenchConfig.from_mapping({"answers": "full,rounded:2,topk:1,noisy:1e-1", "methods": "kd", "seeds": 0})
    specs = expand(config, device="cpu")
    assert [spec.answers for spec in specs] == ["full", "rounded:2", "top1", "noisy:0.1"]
    assert len({spec.key for spec in specs}) == 4
    assert specs[0].key == expand(BenchConfig.from_mapping({"methods": "kd", "seeds": 0}), device="cpu")[0].key
    with pytest.raises(InputError, match="answers='round:2'.*expected full, rounded:DECIMALS"):
        BenchConfig(answers=("round:2",))
    with pytest.raises(InputError, match="answers=top1,top1: expected each value once"):
        BenchConfig(answers=("top1", "topk:1"))
