"""Benchmarks that cannot be: refused in words that say why, with nothing asked, trained or written."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mekd_plugin as mekd
from mekd_plugin.bench.benchmark import Benchmark
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.errors import InputError, MekdError
from mekd_plugin.transfer import TransferSetDistiller

NAN, INF = float("nan"), float("inf")
WHOLE, NUMBER = "expected a whole number", "expected a number"
SEED = f"{WHOLE} from 0 to 4294967295"
NAMES = "expected names and values"
FORM = "expected {method: NAME, set: {HYPERPARAMETER: VALUE}}"
TEACHER = "import torch\nasked = []\ndef ask(images):\n    asked.append(len(images))\n    return torch.eye(10)[:1]\n"
BASE = {"teacher": "asked_here:ask", "student": "lenet5_half", "device": "cpu", "steps": 5, "seeds": [0],
        "query_budget": 100, "real_images": 60}  # fmt: skip

CASES = [
    ({"methods": 5}, "methods=5: expected a list of names, classes or instances, or a mapping of them"),
    ({"methods": []}, "methods is empty: expected at least one value"),
    ({"methods": "kd,mekt"}, "unknown method 'mekt': expected one of"),
    ({"methods": ["kd", 3]}, "method=3: expected a name of mekd_plugin.available()"),
    ({"methods": ["ml", "logit_mimicry"]}, "a method is there twice, under an alias"),
    ({"methods": {"a ": "kd"}}, "variants: 'a ': expected a name of its own"),
    ({"methods": {3: "kd"}}, "variants: 3: expected a name of its own"),
    ({"out": 5}, "out=5: expected a path"),
    ({"out": "x" * 300}, "expected names of at most 255 bytes in a path"),
    ({"resume": "yes"}, "resume='yes': expected True or False"),
    ({"step": 3}, "unknown benchmark setting 'step': expected one of"),
    ({"real-images": 60}, "real_images is given twice, once spelled with a dash: keep one of them"),
    ({"seeds": ()}, "seeds is empty: expected at least one value"),
    ({"seeds": [1, 1]}, "seeds=1,1: expected each value once"),
    ({"seeds": [-1]}, f"seeds=-1: {SEED}"),
    ({"seeds": [0.5]}, f"seeds=0.5: {WHOLE}"),
    ({"seeds": np.arange(3)}, f"seeds=array([0, 1, 2]): {WHOLE}"),
    ({"seeds": 10**23}, f"seeds=100000000000000000000000: {SEED}"),
    ({"steps": True}, f"steps=True: {WHOLE}"),
    ({"steps": 1.9}, f"steps=1.9: {WHOLE}"),
    ({"steps": 0}, f"steps=0: {WHOLE} from 1"),
    ({"steps": INF}, f"steps=inf: {WHOLE}"),
    ({"threads": 0}, f"threads=0: {WHOLE} from 1"),
    ({"jobs": 0}, f"jobs=0: {WHOLE} from 1"),
    ({"validation": -0.5}, f"validation=-0.5: {NUMBER} from 0 below 1"),
    ({"validation": NAN}, f"validation=nan: {NUMBER}"),
    ({"price_per_1000": -1}, f"price_per_1000=-1.0: {NUMBER} from 0"),
    ({"price_per_1000": INF}, f"price_per_1000=inf: {NUMBER}"),
    ({"query_budget": -5}, f"query_budget=-5: {WHOLE} of images from 0 to 1000000000, or 0 for no limit"),
    ({"query_budget": [1]}, "no run of this grid can be done: a budget of 1 buys nothing"),
    ({"real_images": 0}, f"real_images=0: {WHOLE} from 2"),
    ({"real_images": None, "real_fraction": 0}, f"real_fraction=0.0: {NUMBER} above 0 to 1"),
    ({"real_fraction": 0.1}, "real_fraction=0.1 and real_images=60: give one of the two"),
    ({"real_fraction": [1]}, "real_fraction=[1]: expected a number"),
    ({"dataset": True}, "dataset=True: expected a list of str"),
    ({"dataset": "digit"}, "unknown data set 'digit': did you mean 'digits'?"),
    ({"download": "perhaps"}, "download='perhaps': expected bool"),
    ({"responses": "loud"}, "responses='loud': expected \"logits\""),
    ({"teacher": ":f"}, "teacher ':f': ValueError: Empty module name; expected package.module:function"),
    ({"hyperparameters": 3}, f"hyperparameters=3: {NAMES}"),
    ({"hyperparameters": {"kd": 3}}, f"hyperparameters of kd: 3: {NAMES}"),
    ({"hyperparameters": {"kdd": {}}}, "unknown method 'kdd'"),
    ({"hyperparameters": {3: {}}}, "hyperparameters: 3 is a int: expected a name"),
    ({"hyperparameters": {"kd": {"seed": 4}}}, "kd.seed: the grid sets it for every method; see --seeds"),
    ({"hyperparameters": {"kd": {"temperature": NAN}}}, "hyperparameters.kd.temperature=nan: expected a finite number"),
    ({"hyperparameters": {"kd": {"queries": datetime.date(2026, 9, 9)}}}, "(date): expected a number, a text"),
    ({"hyperparameters": {"kd": {"tempereture": 4}}}, "unknown hyperparameter of KD 'tempereture'"),
    (
        {"hyperparameters": {"mekd": {"imge_weight": 4}}},
        "hyperparameters of mekd, which no run of this grid uses: unknown",
    ),
    ({"hyperparameters": {"ml": {}, "logit_mimicry": {}}}, "ml and logit_mimicry are one method"),
    ({"hyperparameters": {"recipe": {"steps": 4}}}, "steps=5 and recipe.steps: both are the student's steps"),
    ({"hyperparameters": {"recipe": {"lr": 4}}}, "a recipe has no setting ['lr']"),
    ({"variants": 3}, f"variants=3: {NAMES}"),
    ({"variants": {"kd": {"method": "mekd"}}}, "variants: kd: a method of the grid has that name"),
    ({"variants": {"a": {"method": "mekt"}}}, "unknown method 'mekt'"),
    ({"variants": {"a": {"set": {}}}}, f"variants: a: of which method? {FORM}"),
    ({"variants": {"a": {"method": "kd", "with": {}}}}, f"variants: a: with: {FORM}"),
    ({"variants": {"a": 3}}, f"variants: a: 3: {FORM}"),
    ({"variants": {"a": {"method": "kd", "set": 3}}}, FORM),
    ({"variants": {"a": {"method": "kd", "set": {3: 4}}}}, "variants.a: 3 is a int: expected a name"),
    ({"variants": {"a": {"method": "kd", "set": {"queries": INF}}}}, "variants.a.queries=inf: expected a finite"),
    ({"variants": {"a": {"method": "kd"}, "A": {"method": "kd"}}}, "variants: A: tables and files would not tell"),
    ({"variants": {"a b": {"method": "kd"}, "a  B": {"method": "kd"}}}, "variants: a  B: tables and files would not"),
    ({"steps": 5000 * "9"}, f"...: {WHOLE}"),
    ({"variants": {"mekd": {"method": "kd"}}}, "variants: mekd: mekd is another method"),
]


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """How many images a teacher was asked about, batch by batch."""
    (tmp_path / "asked_here.py").write_text(TEACHER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "asked_here", raising=False)
    monkeypatch.setenv("MEKD_CACHE", str(tmp_path / "cache"))
    import asked_here

    return asked_here.asked


@pytest.mark.parametrize(("given", "words"), CASES, ids=lambda value: value[:40] if isinstance(value, str) else "")
def test_it_is_refused_and_nothing_is_asked(given, words, asked, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(MekdError) as refused:
        mekd.benchmark(**{"methods": ["kd"], "out": out, **BASE, **given})
    assert words in str(refused.value)
    assert not asked and not out.exists()


STUDENTS = """
import torch
from torch import nn

seen = []


class Small(nn.Module):
    def __init__(self, inputs, classes, kind):
        super().__init__()
        self.layer, self.kind = nn.Linear(inputs, classes), kind

    def forward(self, images):
        seen.append(len(images))
        scores = self.layer(images.flatten(1))
        if self.kind == "auxiliary" and self.training:
            return scores, scores
        return scores.detach() if self.kind == "detached" else scores


def make(num_classes, image_shape, extra=0, size=None, kind=""):
    channels, height, width = image_shape
    return Small(channels * (size or height) * (size or width), num_classes + extra, kind)


def wider(**settings):
    return make(**settings, extra=1)


def larger(**settings):
    return make(**settings, size=32)


def auxiliary(**settings):
    return make(**settings, kind="auxiliary")


def detached(**settings):
    return make(**settings, kind="detached")


def frozen(**settings):
    return make(**settings).requires_grad_(False)
"""


@pytest.fixture
def students(tmp_path, monkeypatch):
    """How many images the students of the module ``students_here`` were tried on, batch by batch."""
    (tmp_path / "students_here.py").write_text(STUDENTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "students_here", raising=False)
    import students_here

    return students_here.seen


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wider", r"num_classes=10, but the student has 11 outputs"),
        ("larger", r"cannot take images of shape \(2, 1, 16, 16\)"),
        ("auxiliary", r"in training mode the student Small returns tuple: expected logits \(4, 10\)"),
        ("detached", "returns logits without a gradient to its weights"),
        ("frozen", "has no weight that requires a gradient"),
    ],
)
def test_a_student_that_no_run_could_train_is_refused_before_anything_is_paid(name, words, asked, students, tmp_path):
    out = tmp_path / "out"
    student = ["lenet5_half", f"students_here:{name}"]
    with pytest.raises(InputError, match=f"student students_here:{name} on digits: .*{words}"):
        mekd.benchmark(["kd"], out=out, **{**BASE, "student": student})
    assert not asked and not out.exists()


def test_a_student_is_tried_once_for_each_data_set(asked, students, tmp_path, monkeypatch):
    monkeypatch.setattr("mekd_plugin.data.datasets._RENDERED_IMAGES", (200, 50))
    settings = {"student": "students_here:make", "seeds": range(5), "query_budget": [100, 200], "disjoint": True}
    grid = {**BASE, **settings, "dataset": ["digits", "rendered_digits:16"], "methods": ["kd", "ml", "mekd"]}
    state = torch.get_rng_state()
    assert Benchmark(BenchConfig.from_mapping(grid), tmp_path / "out").check() == {}
    assert students == [2, 4, 2, 4] and not asked and torch.equal(torch.get_rng_state(), state)


def test_a_pool_of_another_shape_is_refused_where_a_method_asks_about_it(asked, tmp_path, monkeypatch):
    monkeypatch.setattr("mekd_plugin.data.datasets._RENDERED_IMAGES", (200, 50))
    out, settings = tmp_path / "out", {**BASE, "query_budget": 200, "pool_dataset": "rendered_digits:color"}
    with pytest.raises(InputError, match=r"pool_dataset=rendered_digits:color has images of \(3, .* \(1, 16, 16\): im"):
        mekd.benchmark(["kd", "copycat"], out=out, **settings)
    assert not asked and not out.exists()
    for methods, pool in ((["kd"], "rendered_digits:color"), (["kd", "copycat"], "rendered_digits:16")):
        grid = {**settings, "methods": methods, "pool_dataset": pool}
        assert Benchmark(BenchConfig.from_mapping(grid), out).check() == {}


def test_a_method_of_ones_own_needs_a_name_of_its_own(asked, tmp_path):
    class Mine(TransferSetDistiller):
        pass

    with pytest.raises(MekdError, match="two methods have one name: hand them in as a mapping"):
        mekd.benchmark([Mine, Mine], out=Path(tmp_path) / "out", **BASE)
    assert not asked


def test_a_grid_is_looked_at_once(asked, tmp_path):
    made = Benchmark(BenchConfig.from_mapping({"methods": ["kd", "ml"], **BASE, "responses": "hard"}), tmp_path / "out")
    ruled_out = made.check()
    assert len(ruled_out) == 1 and made.check() is ruled_out and not asked


def test_good_values_of_many_kinds_are_taken():
    settings = BenchConfig.from_mapping(
        {
            "seeds": range(2),
            "steps": "1e3",
            "validation": "1e-2",
            "query_budget": np.int64(100),
            "hyperparameters": {
                "mekd": {
                    "image_weight": np.float32(0.5),
                    "emulation": "gan",
                    "emulation.learning_rates": (1e-3, 1e-3),
                }
            },
            "variants": {"kd": {"method": "kd", "set": {"temperature": 8}}, "logit mimicry": {"method": "ml"}},
            "methods": ["mekd"],
        }
    )
    assert settings.seeds == (0, 1) and settings.steps == 1000 and settings.query_budget == (100,)
    assert BenchConfig.from_mapping(settings.to_json()) == settings
