"""The benchmark suites that MEKD and the baselines run in, each by its own door: a folder a suite.

    mekd.register("mdistiller")            # then the suite's own commands and configs
    mekd.register(into=my_registry)        # a dictionary, or a decorator, of anybody's

Read ``suite.py`` first (what a suite is to us), then ``guests.py`` (how each takes a method in), then one suite's
folder: its ``__init__.py`` is the suite and what we rely on in it, ``guest.py`` the method inside the suite,
``data.py`` data sets, networks and settings in its words, ``launched.py`` what stands in while its script runs.
``features.py``, ``row_loader.py``, ``meter.py`` and ``stand_ins.py`` are shared, and ``evidence/`` tries every suite
on one problem.

Suites come in by the entry-point group ``mekd.suites``, anybody's as ours; one is imported when it is asked for, never
before.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from mekd_plugin.errors import InputError
from mekd_plugin.registry import Registry, available

if TYPE_CHECKING:
    from mekd_plugin.harness.suite import Suite

__all__ = ["available_suites", "find_suite", "register", "suites"]

_DESCRIPTION = ("package", "tested", "install", "next_step")


def suites() -> Registry:
    """The suites of every installed package, as they stand now; imports none of them."""
    return Registry(entry_points(group="mekd.suites"), what="suite")


def available_suites() -> list[str]:
    """Their names, sorted.

    >>> "timm" in available_suites()
    True
    """
    return [entry.name for entry in suites().entries()]


def find_suite(name: str) -> Suite:
    """The adapter of a suite.

    Raises:
        UnknownName: there is none of that name.
        MekdError: two packages claim the name, or its target cannot be imported.
        InputError: the target is not a suite of that name, or does not describe itself.
    """
    registry = suites()
    entry, found = registry.entry(name), registry.load(name)

    from mekd_plugin.harness.suite import Suite  # loads torch, which the names alone need not

    if not isinstance(found, Suite) or found.name != name:
        raise InputError(
            f"suite {name!r} of {entry.owner}: {entry.target} is {found!r}, expected an instance of "
            f"mekd_plugin.harness.suite.Suite whose name is {name!r}; correct the line in that package's entry points"
        )
    if missing := [field for field in _DESCRIPTION if not hasattr(found, field)]:
        raise InputError(f"suite {name!r} of {entry.owner} has no {', '.join(missing)}: set them on {type(found)}")
    return found


def register(
    name: str | None = None,
    *,
    into: MutableMapping[str, Any] | Callable[[Any], Any] | None = None,
) -> list[str]:
    """Make our methods known to a suite, or to a registry of one's own; prints what to do next in a suite.

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
    if name is None:
        return _register_into(into)
    found = find_suite(name)
    found.require()
    names = found.register()
    print(f"[mekd] {name}: {found.next_step}", flush=True)
    return names


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
