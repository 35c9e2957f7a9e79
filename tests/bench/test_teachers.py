"""Teachers by name: trained and cached, read from files, functions; and what is wrong with them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mekd_plugin.bench.benchmark import Benchmark
from mekd_plugin.bench.executors.executor import Job
from mekd_plugin.bench.run_inputs import edge_of, load_data
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.bench.store import Store
from mekd_plugin.bench.teachers import (
    LabelledImages,
    cache_directory,
    evaluation_answers,
    load_teacher,
    prepare_teacher,
    trained_teacher,
)
from mekd_plugin.bench.worker import do, evaluated
from mekd_plugin.blackbox.backends import NameAlone
from mekd_plugin.errors import CheckpointError, InputError, UnknownName
from mekd_plugin.networks import build
from mekd_plugin.training.checkpoint import save_weights

SHAPE = (1, 16, 16)


@pytest.fixture
def data() -> LabelledImages:
    rng = torch.Generator().manual_seed(0)
    return LabelledImages(torch.rand(40, *SHAPE, generator=rng) * 2 - 1, torch.arange(40) % 3, 3)


def test_the_cache_is_where_the_variable_says(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("MEKD_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("MEKD_CACHE")
    assert "mekd-plugin" in str(cache_directory())


class TestTrained:
    def test_it_is_trained_once(self, data, tmp_path) -> None:
        first, path = trained_teacher("lenet5", data, steps=3, directory=tmp_path)
        written = path.stat().st_mtime_ns
        second, again = trained_teacher("lenet5", data, steps=3, directory=tmp_path)
        assert again == path and path.stat().st_mtime_ns == written
        assert not second.training
        for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
            assert torch.equal(one, other)

    def test_everything_that_decides_it_is_in_its_name(self, data, tmp_path) -> None:
        other = LabelledImages(data.images, data.labels.flip(0), 3)
        paths = {
            trained_teacher(name, images, steps=steps, directory=tmp_path)[1]
            for name, images, steps in (
                ("lenet5", data, 1),
                ("lenet5_half", data, 1),
                ("lenet5", other, 1),
                ("lenet5", data, 2),
            )  # fmt: skip
        }
        assert len(paths) == 4

    def test_a_damaged_file_is_made_again(self, data, tmp_path) -> None:
        first, path = trained_teacher("lenet5", data, steps=2, directory=tmp_path)
        path.write_bytes(path.read_bytes()[:100])
        second, _ = trained_teacher("lenet5", data, steps=2, directory=tmp_path)
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))

    def test_its_file_can_be_named(self, data, tmp_path) -> None:
        trained, path = trained_teacher("lenet5", data, steps=2, directory=tmp_path)
        named = load_teacher(str(path), num_classes=3, image_shape=SHAPE)
        assert isinstance(named, nn.Module)
        assert torch.equal(named.eval()(data.images), trained(data.images))
        with pytest.raises(CheckpointError, match=r"a teacher of 3 classes for images of \(1, 16, 16\), and the data"):
            load_teacher(str(path), num_classes=10, image_shape=SHAPE)


class TestLoaded:
    def test_network_and_weights(self, tmp_path) -> None:
        network = build("lenet5", 3, SHAPE, seed=1)
        torch.save(network.state_dict(), tmp_path / "w.pt")
        loaded = load_teacher(f"lenet5@{tmp_path / 'w.pt'}", num_classes=3, image_shape=SHAPE)
        assert isinstance(loaded, nn.Module)
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), loaded.parameters(), strict=True))

    def test_a_file_that_does_not_name_its_network(self, tmp_path) -> None:
        save_weights(build("lenet5", 3, SHAPE), tmp_path / "w.safetensors")
        with pytest.raises(CheckpointError, match="does not say which network it holds: name it, as in resnet20@"):
            load_teacher(str(tmp_path / "w.safetensors"), num_classes=3, image_shape=SHAPE)

    def test_a_missing_file(self, tmp_path) -> None:
        with pytest.raises(CheckpointError, match="no teacher at .*gone.safetensors"):
            load_teacher(str(tmp_path / "gone.safetensors"), num_classes=3, image_shape=SHAPE)

    def test_a_function(self) -> None:
        assert load_teacher("torch:relu", num_classes=3, image_shape=SHAPE) is torch.relu

    @pytest.mark.parametrize("name", ["no_such_module:ask", "torch:no_such_function"])
    def test_a_missing_function(self, name) -> None:
        with pytest.raises(UnknownName, match=f"teacher '{name}'.*expected package.module:function"):
            load_teacher(name, num_classes=3, image_shape=SHAPE)

    def test_something_that_is_no_function(self) -> None:
        with pytest.raises(InputError, match="teacher 'math:pi' is a float: expected a function"):
            load_teacher("math:pi", num_classes=3, image_shape=SHAPE)


def test_evaluation_answers_are_asked_once(tmp_path) -> None:
    asked = []

    def ask(images):
        asked.append(len(images))
        return torch.arange(len(images)) % 3

    for _ in range(2):
        told = evaluation_answers(ask, torch.zeros(5, *SHAPE), name="ask", responses="hard", classes=3, folder=tmp_path)
        assert told.labels.tolist() == [0, 1, 2, 0, 1] and told.asked == 5
    assert asked == [5]


def test_whole_answers_are_kept_beside_the_classes_and_asked_for_once_more_at_most(tmp_path) -> None:
    asked = []

    def ask(images):
        asked.append(len(images))
        return torch.eye(3)[torch.arange(len(images)) % 3]

    def told(responses, whole):
        images = torch.zeros(5, *SHAPE)
        settings = {"responses": responses, "classes": 3, "folder": tmp_path, "whole": whole}
        return evaluation_answers(ask, images, name="ask", **settings)

    assert told("hard", True).response.values.tolist() == [0, 1, 2, 0, 1]
    assert told("soft", False).response is None and asked == [5]
    for _ in range(2):
        soft = told("soft", True)
        assert soft.response.kind == "logits" and torch.equal(soft.response.labels, soft.labels)
        assert torch.equal(soft.response.values, torch.eye(3)[soft.labels]) and soft.asked == 10
    assert told("hard", True).asked == 10 and asked == [5, 5]


def test_evaluations_of_two_kinds_do_not_read_each_others_answers(tmp_path) -> None:
    """Both were cut short: each goes on with its own."""
    asked, images = [], torch.linspace(0, 1, 300).view(-1, 1, 1, 1).expand(300, *SHAPE)

    def ask(batch):
        asked.append(len(batch))
        if len(batch) == 44 and len(asked) < 5:
            raise ConnectionResetError("the server went away")
        return torch.eye(3)[(batch[:, 0, 0, 0] * 2.9).long()]

    def told(responses):
        return evaluation_answers(ask, images, name="ask", responses=responses, classes=3, folder=tmp_path, whole=True)

    for responses in ("hard", "soft"):
        with pytest.raises(ConnectionError, match="went away"):
            told(responses)
    assert told("soft").response.kind == "logits" and told("hard").response.kind == "hard"
    assert torch.equal(told("hard").labels, told("soft").response.labels)
    assert asked == [256, 44, 256, 44, 44]


def test_a_failing_server_answers_nothing_twice_for_an_evaluation(tmp_path) -> None:
    """In batches of the black box's size; what came before the failure is kept for the next attempt."""
    asked, images = [], torch.arange(1000.0).view(-1, 1, 1, 1).expand(1000, *SHAPE) / 1000

    def ask(batch):
        asked.append(len(batch))
        if len(asked) in (2, 4):
            raise ConnectionResetError("the server went away")
        return (batch[:, 0, 0, 0] * 1000).round().long() % 3

    def told():
        return evaluation_answers(ask, images, name="ask", responses="hard", classes=3, folder=tmp_path)

    for _ in range(2):
        with pytest.raises(ConnectionError, match="went away"):
            told()
    answers = told()
    assert answers.labels.tolist() == [index % 3 for index in range(1000)]
    assert asked == [256, 256, 256, 256, 256, 232] and answers.asked == sum(asked)


FUNCTION = "def ask(images):\n    return torch.full((len(images),), {})\n"
HELPER = "def label():\n    return {}\n\n\ndef ask(images):\n    return torch.full((len(images),), label())\n"
WRAPPED = (
    "def times(function):\n    @functools.wraps(function)\n    def wrapper(images):\n"
    "        return function(images)\n\n    return wrapper\n\n\n@times\n" + FUNCTION
)
OBJECT = (
    "class Client:\n    def __call__(self, images):\n        return self.answer(images)\n\n"
    "    def answer(self, images):\n        return torch.full((len(images),), {})\n\n\nask = Client()\n"
)
METHOD = OBJECT.replace("ask = Client()", "ask = Client().answer")
MODULE = (
    "class Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    "        self.register_buffer('label', torch.tensor({}))\n\n    def forward(self, images):\n"
    "        return self.label.expand(len(images))\n\n\nask = Net()\n"
)
SAYS_SO = FUNCTION + "\n\nask.identity = 'version {}'\n"
PARTIAL = FUNCTION.replace("ask(images)", "ask(images, label)").replace("{}", "label") + (
    "\n\nask = functools.partial(ask, label={})\n"
)


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """``theirs(text)``: the teacher of a module with that text, prepared as in a new process: spec, place and it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    settings = {"teacher": "their_teacher:ask", "student": "lenet5_half", "methods": "kd", "responses": "hard",
                "steps": 5, "real_images": 60, "query_budget": 400, "seeds": [0], "device": "cpu"}  # fmt: skip

    def prepared(text):
        (tmp_path / "their_teacher.py").write_text("import functools\n\nimport torch\n\n\n" + text)
        monkeypatch.delitem(sys.modules, "their_teacher", raising=False)
        importlib.invalidate_caches()
        made = Benchmark(BenchConfig.from_mapping(settings), tmp_path / "out")
        (spec,), place = made.specs, made.place
        data = load_data(spec, place)
        return spec, place, data, prepare_teacher(spec, data, edge_of(spec, data))

    yield prepared
    sys.modules.pop("their_teacher", None)


@pytest.mark.parametrize(
    "text",
    [FUNCTION, HELPER, WRAPPED, OBJECT, METHOD, MODULE, MODULE + "ask = ask.forward\n", SAYS_SO, PARTIAL],
    ids=["function", "helper", "wrapped", "object", "method", "module", "its method", "says so", "partial"],
)
def test_a_function_that_was_edited_is_asked_about_the_test_images_anew(theirs, text):
    names = []
    for label, asked in ((1, 540), (1, 540), (2, 540)):
        spec, place, data, prepared = theirs(text.replace("{}", str(label)))
        told = evaluated(spec, place, prepared, data)
        assert told.labels.unique().tolist() == [label] and told.asked == asked
        names.append(prepared.name)
    assert names[0] == names[1] != names[2]
    files = list((Path(place.out) / "teachers").glob("answers-*.safetensors"))
    assert len(files) == 2, "the second time they were read"


def test_only_what_tells_a_function_from_another_makes_its_identity_certain(theirs):
    identity = theirs(FUNCTION.format(1))[3].identity
    assert identity == "their_teacher:ask" and isinstance(identity, NameAlone)
    assert theirs(MODULE.format(1))[3].identity is None
    for text in (SAYS_SO, MODULE + "ask = ask.forward\n"):
        one, other = (theirs(text.replace("{}", label))[3].identity for label in "12")
        assert one != other and not isinstance(one, NameAlone)
    bare = theirs("ask = torch.nn.Flatten()\n")[3]
    assert bare.identity.startswith("torch.nn.modules.flatten.Flatten ") and isinstance(bare.identity, NameAlone)


def test_a_run_that_goes_on_with_a_plain_function_says_that_only_its_name_is_compared(theirs):
    failing = (
        "asked = []\n\n\ndef ask(images):\n    asked.append(len(images))\n    if sum(asked) > 800:\n"
        "        raise ConnectionRefusedError('no more')\n    return torch.arange(len(images)) % 10\n"
    )
    spec, place, _, _ = theirs(failing)
    assert "no more" in do(Job("run", spec), place)
    theirs(FUNCTION.format(1))
    with pytest.warns(UserWarning, match="resumed with a teacher known by its name alone, their_teacher:ask, which"):
        assert do(Job("run", spec), place) is None
    (said,) = (text for text in Store(Path(place.out), resume=True).read(spec.key).warnings if "resumed" in text)
    assert "known by its name alone, their_teacher:ask, which does not tell whether it is the one" in said
