"""Names, aliases, collisions and bad targets; and that listing imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from mekd_plugin.errors import InputError, MekdError, UnknownName
from mekd_plugin.registry import Registry, available, distillers, unknown_name

GROUP = "mekd.distillers"


class _Package:
    def __init__(self, name: str, version: str = "1.0") -> None:
        self.name, self.version = name, version


def point(name: str, value: str, package: str = "somebody") -> EntryPoint:
    made = EntryPoint(name, value, GROUP)
    vars(made).update(dist=_Package(package))
    return made


def test_ours_come_in_by_entry_points() -> None:
    assert {"mekd", "kd", "logit_mimicry", "distribution_alignment"} <= set(available())


@pytest.mark.parametrize("name", [entry.name for entry in distillers().entries() if entry.owner.startswith("mekd")])
def test_each_of_ours_has_the_three_presets(name: str) -> None:
    assert {"quick", "paper", "tiny"} <= set(distillers().get(name).presets)


def test_aliases_stand_for_canonical_names() -> None:
    registry = distillers()
    assert registry.canonical("ml") == "logit_mimicry"
    assert registry.canonical("al") == "distribution_alignment"
    assert registry.canonical("kd") == "kd"
    assert {entry.name: entry.aliases for entry in registry.entries()}["logit_mimicry"] == ("ml",)


def test_listing_imports_no_torch() -> None:
    code = "import sys, mekd_plugin; print(mekd_plugin.available()); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_lazy_names_of_the_package() -> None:
    import mekd_plugin

    assert mekd_plugin.available is available
    assert set(mekd_plugin.__all__) <= set(dir(mekd_plugin))
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        mekd_plugin.distil  # noqa: B018


def test_an_unknown_name_gets_the_list_and_the_closest_match() -> None:
    with pytest.raises(UnknownName, match=r"unknown method 'mekt': expected one of .*kd.*did you mean 'mekd'"):
        distillers().get("mekt")
    assert "(none known)" in str(unknown_name("colour", "red", []))


def test_a_collision_names_both_owners() -> None:
    registry = Registry([point("kd", "a:A", "alpha"), point("kd", "b:B", "beta")])
    with pytest.raises(MekdError, match=r"'kd' is claimed by alpha 1.0 \(a:A\) and beta 1.0 \(b:B\)"):
        registry.get("kd")
    with pytest.raises(MekdError, match="is claimed by"):
        registry.entries()


def test_an_alias_may_not_take_a_method_s_name() -> None:
    registry = Registry([point("kd", "a:A", "alpha")], [point("kd", "other", "beta")])
    with pytest.raises(MekdError, match="claimed by alpha 1.0 .* and beta 1.0"):
        registry.canonical("kd")


def test_an_alias_of_nothing() -> None:
    registry = Registry([point("kd", "a:A")], [point("dk", "kdd", "beta")])
    with pytest.raises(UnknownName, match="to which beta 1.0 points the alias 'dk'.*did you mean 'kd'"):
        registry.canonical("dk")


def test_a_target_that_is_no_distiller() -> None:
    registry = Registry([point("path", "pathlib:Path", "alpha")])
    with pytest.raises(InputError, match="'path' of alpha 1.0: pathlib:Path is .*expected a subclass of"):
        registry.get("path")


@pytest.mark.parametrize("target", ["no_such_module:Thing", "pathlib:NoSuchThing"])
def test_a_target_that_cannot_be_imported(target: str) -> None:
    with pytest.raises(MekdError, match=f"cannot load 'x' of alpha 1.0 from {target}"):
        Registry([point("x", target, "alpha")]).get("x")


class TestCreate:
    @pytest.fixture
    def registry(self, monkeypatch: pytest.MonkeyPatch) -> Registry:
        from mekd_plugin.distiller import Distiller

        class Sample(Distiller):
            presets = {"quick": {"strength": 2.0}, "paper": {}}

            def __init__(
                self, *, num_classes: int, image_shape: tuple[int, int, int], seed: int = 0, strength: float = 1.0
            ) -> None:
                super().__init__(num_classes=num_classes, image_shape=image_shape, seed=seed)
                self.strength = strength

        registry = Registry([point("sample", "unused:Sample")])
        monkeypatch.setattr(registry, "get", lambda name: Sample)
        return registry

    def test_preset_then_settings(self, registry: Registry) -> None:
        shape = {"num_classes": 3, "image_shape": (1, 8, 8)}
        assert registry.create("sample", **shape).strength == 2.0  # type: ignore[attr-defined]
        assert registry.create("sample", preset="paper", **shape).strength == 1.0  # type: ignore[attr-defined]
        assert registry.create("sample", strength=5.0, **shape).strength == 5.0  # type: ignore[attr-defined]

    def test_unknown_preset(self, registry: Registry) -> None:
        with pytest.raises(
            UnknownName, match="unknown preset of sample 'slow': expected one of fast, paper, quick, thorough"
        ):
            registry.create("sample", preset="slow")

    def test_unknown_hyperparameter(self, registry: Registry) -> None:
        with pytest.raises(InputError, match="unknown hyperparameter of Sample 'strenght'.*did you mean 'strength'"):
            registry.create("sample", num_classes=3, image_shape=(1, 8, 8), strenght=1.0)

    def test_hyperparameters_that_a_base_class_takes(self, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        class Narrower(registry.get("sample")):  # type: ignore[misc]
            def __init__(self, *, depth: int = 1, **others: Any) -> None:
                super().__init__(**others)
                self.depth = depth

        monkeypatch.setattr(registry, "get", lambda name: Narrower)
        made = registry.create("sample", num_classes=3, image_shape=(1, 8, 8), depth=2, strength=4.0)
        assert (made.depth, made.strength) == (2, 4.0)  # type: ignore[attr-defined]
        with pytest.raises(InputError, match="unknown hyperparameter of Narrower 'strenght'.*did you mean 'strength'"):
            registry.create("sample", num_classes=3, image_shape=(1, 8, 8), strenght=1.0)
        with pytest.raises(InputError, match="sample: num_classes, image_shape must be given"):
            registry.create("sample")

    def test_hyperparameters_are_named_without_what_every_method_takes(self) -> None:
        assert distillers().hyperparameters("kd") == ["queries", "smoothing", "temperature"]

    def test_missing_argument(self, registry: Registry) -> None:
        with pytest.raises(InputError, match="sample: num_classes, image_shape must be given"):
            registry.create("sample")
