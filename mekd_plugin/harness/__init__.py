"""The benchmark suites that MEKD and the baselines run in, each by its own door: one file a suite.

    mekd.register("mdistiller")            # then the suite's own commands and configs
    mekd.register(into=my_registry)        # a dictionary, or a decorator, of anybody's

A suite is imported when it is registered, never before.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mekd_plugin.errors import InputError
from mekd_plugin.registry import available, unknown_name

if TYPE_CHECKING:
    from mekd_plugin.harness.suite import Suite

__all__ = ["SUITES", "register", "find_suite"]

SUITES = ("torchdistill", "mdistiller", "timm", "art", "kd_lib", "repdistiller")


def find_suite(name: str) -> Suite:
    """The adapter of a suite.

    Raises:
        UnknownName: there is none of that name.
    """
    if name not in SUITES:
        raise unknown_name("suite", name, SUITES)
    found: Suite = import_module(f"mekd_plugin.harness.{name}").SUITE
    return found


def register(
    name: str | None = None,
    *,
    into: MutableMapping[str, Any] | Callable[[Any], Any] | None = None,
) -> list[str]:
    """Make our methods known to a suite, or to a registry of one's own.

    Args:
        name: of the suite.
        into: a dictionary, which gets an entry a method; or a decorator, which is called with a function for each,
            named like the method. An entry is :func:`mekd_plugin.host` with its method chosen:
            ``into["mekd"](student, teacher, images, ...)``.

    Returns:
        The names under which they are known now.

    Raises:
        UnknownName: no such suite.
        MissingDependency: it is not installed.
        InputError: neither or both were given, or a dictionary holds one of the names already.

    >>> mine = {}
    >>> "mekd" in register(into=mine), mine["mekd"].keywords
    (True, {'method': 'mekd'})
    """
    if (name is None) == (into is None):
        raise InputError("register() takes the name of a suite, or into= a registry of your own: give one of the two")
    if name is not None:
        found = find_suite(name)
        found.require()
        return found.register()
    return _register_into(into)


def _register_into(registry: Any) -> list[str]:
    from mekd_plugin.training.run import host  # loads torch, which `mekd harness --help` need not

    names = available()
    if isinstance(registry, MutableMapping) and (taken := sorted(set(names) & set(registry))):
        raise InputError(f"the dictionary holds {', '.join(taken)} already: these entries would be replaced")
    for name in names:
        entry: Any = partial(host, method=name)
        entry.__name__ = name
        if isinstance(registry, MutableMapping):
            registry[name] = entry
        else:
            registry(entry)
    return names
