"""What every suite has in common: names, versions, which methods fit, and scripts that run untouched."""

from __future__ import annotations

import subprocess
import sys
import warnings
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import EntryPoint
from types import ModuleType, SimpleNamespace

import pytest
import torch
from rich.console import Console

import mekd_plugin as mekd
from mekd_plugin import harness
from mekd_plugin.distiller import Needs
from mekd_plugin.errors import InputError, MekdError, MissingDependency, UnknownName
from mekd_plugin.harness import available_suites, commands, find_suite
from mekd_plugin.harness.launch import launch
from mekd_plugin.harness.stand_ins import without_gpu
from mekd_plugin.harness.suite import Suite, how_it_runs, put_beside
from mekd_plugin.registry import available


class Toy(Suite):
    """A suite that is a folder with a script and a dictionary."""

    name, package, home, tested, install = "toy", "", "TOY_HOME", ("unknown",), "get it"
    next_step = "toy in a loop of yours"

    def __init__(self):
        self.known = {}
        self.launched = False

    def register(self):
        self.known.update({name: object() for name in available()})
        return sorted(self.known)

    @contextmanager
    def metered(self, counted):
        counted.count(torch.zeros(4, 1, 2, 2))
        yield

    @contextmanager
    def launching(self):
        self.launched = True
        yield


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_HOME", str(tmp_path))
    (tmp_path / "beside.py").write_text("value = 3\n")
    (tmp_path / "train.py").write_text(
        "import sys, beside\nif __name__ == '__main__':\n    print('ran', beside.value, sys.argv[1:])\n"
    )
    return Toy()


def test_a_script_runs_untouched_with_our_methods_known(toy, capsys):
    before = list(sys.argv), list(sys.path)
    assert launch(toy, ["train.py", "--epochs", "2"], meter=False) is None
    assert "ran 3 ['--epochs', '2']" in capsys.readouterr().out
    assert toy.launched and "mekd" in toy.known
    assert (sys.argv, sys.path) == before


def test_a_script_runs_under_the_meter(toy):
    counted = launch(toy, ["train.py"], meter=True)
    assert counted.ledger.total == 4 and not toy.known


@pytest.mark.parametrize(("command", "words"), [([], "which script"), (["no.py"], "no.py is not a file here, nor in")])
def test_a_missing_script_is_named(toy, command, words):
    with pytest.raises(InputError, match=words):
        launch(toy, command, meter=False)


def test_a_suite_that_is_not_there_says_how_to_get_it(monkeypatch):
    monkeypatch.delenv("TOY_HOME", raising=False)
    with pytest.raises(MissingDependency, match="toy is not installed: get it"):
        Toy().require()


def test_an_untested_version_warns_once(toy, monkeypatch):
    monkeypatch.setattr(Toy, "name", "toy of another version")
    monkeypatch.setattr(Toy, "tested", ("1.2",))
    with pytest.warns(UserWarning, match=r"never tried .* 1\.2"):
        toy.require()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        toy.require()


def test_check_says_what_fits(toy):
    told = toy.check()
    assert told.tested and told.version == "unknown"
    assert set(told.fits) | set(told.refused) == set(available()) and "mekd" in told.registered


NEEDS = Needs(responses="either", leaves_edge="real images")


@pytest.mark.parametrize(
    ("changes", "runs", "words"),
    [
        ({}, True, "earlier stages"),
        ({"queries": "every step"}, True, "the rows come with their answers"),
        ({"queries": "every step", "in_step": True}, False, "inside the student's step"),
        ({"queries": "rounds"}, False, "rounds"),
        ({"gradients": True}, False, "differentiates"),
    ],
)
def test_how_a_method_runs_follows_from_its_needs(changes, runs, words):
    told = how_it_runs(Toy(), replace(NEEDS, **changes))
    assert told[0] == runs and words in told[1]


def test_a_suite_that_hard_codes_a_gpu_stays_on_the_cpu(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    kept = torch.Tensor.cuda
    with without_gpu():
        assert torch.zeros(2).cuda(non_blocking=True).device.type == "cpu"
        assert next(torch.nn.Linear(2, 2).cuda().parameters()).device.type == "cpu"
    assert torch.Tensor.cuda is kept and "there is none" in capsys.readouterr().out


def test_every_suite_is_described():
    assert set(available_suites()) >= {"torchdistill", "mdistiller", "timm", "art", "kd_lib", "repdistiller"}
    for name in available_suites():
        found = find_suite(name)
        assert found.name == name and found.tested and ("install" in found.install or "clone" in found.install)
        assert found.next_step and "\n" not in found.next_step


def test_each_says_what_to_do_next(capsys, monkeypatch):
    assert mekd.register("timm") == [f"mekd_plugin.harness.timm.{name}" for name in find_suite("timm").check().fits]
    assert capsys.readouterr().out.startswith("[mekd] timm: from mekd_plugin.harness.timm import mekd, then task = ")
    commands.check("timm", Console(width=400))
    assert "\nnext: from mekd_plugin.harness.timm import mekd" in capsys.readouterr().out


def brought(monkeypatch, *points):
    """Suites of these packages only."""

    def entry(name, target, package):
        made = EntryPoint(name, target, "mekd.suites")
        vars(made).update(dist=SimpleNamespace(name=package, version="1.0"))
        return made

    monkeypatch.setattr(harness, "entry_points", lambda group: [entry(*point) for point in points])


def test_a_suite_of_two_packages_names_both(monkeypatch):
    brought(monkeypatch, ("toy", "a:SUITE", "alpha"), ("toy", "b:SUITE", "beta"))
    with pytest.raises(MekdError, match=r"suite name 'toy' is claimed by alpha 1.0 \(a:SUITE\) and beta 1.0"):
        find_suite("toy")


@pytest.mark.parametrize(
    "point", [("toy", "pathlib:Path", "alpha"), ("toy", "mekd_plugin.harness.timm:SUITE", "alpha")]
)
def test_what_is_not_a_suite_of_that_name_is_named(monkeypatch, point):
    brought(monkeypatch, point)
    with pytest.raises(InputError, match=f"suite 'toy' of alpha 1.0: {point[1]} is .*expected an instance of"):
        find_suite("toy")


def test_a_suite_that_does_not_describe_itself_is_told(monkeypatch):
    module = ModuleType("silent_suite")
    module.SUITE = type("Silent", (Toy,), {})()
    monkeypatch.setitem(sys.modules, "silent_suite", module)
    monkeypatch.delattr(Toy, "next_step")
    brought(monkeypatch, ("toy", "silent_suite:SUITE", "alpha"))
    with pytest.raises(InputError, match="suite 'toy' of alpha 1.0 has no next_step: set them on .*Silent"):
        find_suite("toy")


def test_a_suite_that_cannot_be_imported_names_its_package(monkeypatch):
    brought(monkeypatch, ("toy", "no_such_module:SUITE", "alpha"))
    with pytest.raises(MekdError, match="cannot load 'toy' of alpha 1.0 from no_such_module:SUITE"):
        find_suite("toy")


def test_names_load_neither_torch_nor_a_suite():
    code = (
        "import sys; from mekd_plugin.harness import available_suites; available_suites(); "
        "print(sorted({'torch', 'mekd_plugin.harness.timm', 'mekd_plugin.harness.suite'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_classes_are_put_beside_a_suites_own_all_or_none():
    owner, ours, other = ModuleType("owner"), type("Ours", (), {}), type("Taken", (), {})
    owner.Taken = object()
    with pytest.raises(InputError, match="owner.Taken is there already and not ours"):
        put_beside(owner, [ours, other])
    assert not hasattr(owner, "Ours")
    assert put_beside(owner, [ours]) == put_beside(owner, [ours]) == ["Ours"] and owner.Ours is ours


def test_an_unknown_suite_gets_the_list():
    with pytest.raises(UnknownName, match="did you mean 'timm'"):
        mekd.register("tim")


def test_a_registry_of_ones_own():
    found, called = {}, {}
    assert mekd.register(into=found) == available() == list(found)
    mekd.register(into=lambda function: called.update({function.__name__: function}))
    assert called["mekd"].func is mekd.host and called["mekd"].keywords == {"method": "mekd"}
    with pytest.raises(InputError, match="holds .*mekd.* already"):
        mekd.register(into=found)
    with pytest.raises(InputError, match="give one of the two"):
        mekd.register()
    with pytest.raises(InputError, match="give one of the two"):
        mekd.register("timm", into={})
