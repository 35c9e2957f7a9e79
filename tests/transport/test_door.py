"""Everything public of the three rooms can be imported from the door."""

from __future__ import annotations

from importlib import import_module
from inspect import isclass, isfunction
from pathlib import Path

import pytest

from mekd_plugin import transport

ROOMS = [
    f"mekd_plugin.transport.{path.parent.name}.{path.stem}"
    for path in sorted(Path(transport.__path__[0]).glob("*/[a-z]*.py"))
]


def test_the_rooms_are_there() -> None:
    assert {name.split(".")[2] for name in ROOMS} == {"estimators", "statistics", "questions"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_public_function_or_class_can_be_imported_from_the_door(room: str) -> None:
    module = import_module(room)
    public = {name: getattr(module, name) for name in module.__all__}
    for name, item in public.items():
        if isfunction(item) or isclass(item):
            assert getattr(transport, name, None) is item, f"{name} of {room}"
            assert name in transport.__all__


def test_the_doors_list_is_sorted() -> None:
    assert transport.__all__ == sorted(transport.__all__)
