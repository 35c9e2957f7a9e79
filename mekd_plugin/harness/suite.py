"""What a benchmark suite is to us: its name, its versions, its door, and which methods fit through it."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from mekd_plugin.distiller import Needs
from mekd_plugin.errors import InputError, MissingDependency
from mekd_plugin.harness.meter import Counted
from mekd_plugin.registry import distillers

__all__ = ["Check", "Suite", "how_it_runs", "put_beside"]

_WARNED: set[str] = set()


@dataclass(frozen=True)
class Check:
    """What ``mekd harness SUITE --check`` says.

    Attributes:
        version: of the suite: a release, or the commit of its checkout.
        tested: whether we have run this version.
        registered: the names under which our methods are known there now.
        fits: how each method runs there.
        refused: the methods that do not run there, with the reason.
    """

    version: str
    tested: bool
    registered: list[str]
    fits: dict[str, str]
    refused: dict[str, str]


class Suite(ABC):
    """One benchmark suite; its adapter subclasses this, and an entry point in ``mekd.suites`` names the instance.

    Attributes:
        name: as on the command line.
        package: what is imported.
        distribution: its name on PyPI; empty for a suite that is used from its sources.
        home: environment variable with the folder of its sources, where it is used from there.
        tested: versions, or commits, that we ran.
        install: the command that gets it.
        next_step: what the user does when our methods are registered, in a line: a command, or an import.
        drives_stages: whether its own loop can train the stages before the student's; else ours does, first.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    distribution: ClassVar[str] = ""
    home: ClassVar[str] = ""
    tested: ClassVar[tuple[str, ...]]
    install: ClassVar[str]
    next_step: ClassVar[str]
    drives_stages: ClassVar[bool] = False

    @abstractmethod
    def register(self) -> list[str]:
        """Make our methods known to the suite, by its own door; returns their names there."""

    @abstractmethod
    def metered(self, counted: Counted) -> AbstractContextManager[None]:
        """Within it, whatever the suite's own methods ask their teacher is counted by ``counted``."""

    def launching(self) -> AbstractContextManager[None]:
        """What must hold while a script of the suite runs."""
        return nullcontext()

    def version(self) -> str | None:
        """The release that is installed, or the commit of the sources; None where the suite is missing."""
        if self.distribution:
            try:
                return version(self.distribution)
            except PackageNotFoundError:
                return None
        folder = self.sources()
        return None if folder is None else _commit(folder)

    def sources(self) -> Path | None:
        """The folder of the suite's sources: the environment variable's, or that of the installed package."""
        if self.home and os.environ.get(self.home):
            return Path(os.environ[self.home]).expanduser().resolve()
        spec = find_spec(self.package) if self.package else None
        return None if spec is None or spec.origin is None else Path(spec.origin).resolve().parents[1]

    def require(self) -> str:
        """Its version.

        Raises:
            MissingDependency: it is not there.

        Warns:
            UserWarning: once, if we never ran this version.
        """
        found = self.version()
        if found is None:
            raise MissingDependency(f"{self.name} is not installed: {self.install}")
        if found not in self.tested and self.name not in _WARNED:
            _WARNED.add(self.name)
            warnings.warn(
                f"{self.name} {found} was never tried with this package, which was run with "
                f"{', '.join(self.tested)}; `mekd harness {self.name} --check` tells what still fits",
                stacklevel=3,
            )
        return found

    def reach(self, module: str) -> ModuleType:
        """A module of a suite that is used from its sources, imported.

        Raises:
            MissingDependency: the sources are not there, or something that they import is not installed.
        """
        self.require()
        folder = str(self.sources())
        if folder not in sys.path:
            sys.path.append(folder)
        try:
            return import_module(module)
        except ImportError as error:
            raise MissingDependency(f"{self.name} in {folder} cannot be imported ({error}): {self.install}") from error

    def methods(self) -> list[str]:
        """The installed methods that can be guests in this suite."""
        registry = distillers()
        names = [entry.name for entry in registry.entries()]
        return [name for name in names if how_it_runs(self, registry.get(name).needs)[0]]

    def check(self) -> Check:
        """Register, and say what fits."""
        found = self.require()
        registry = distillers()
        needs = {entry.name: registry.get(entry.name).needs for entry in registry.entries()}
        told = {name: how_it_runs(self, wanted) for name, wanted in needs.items()}
        fits = {name: words for name, (runs, words) in told.items() if runs}
        refused = {name: words for name, (runs, words) in told.items() if not runs}
        return Check(found, found in self.tested, self.register(), fits, refused)


def how_it_runs(suite: Suite, needs: Needs) -> tuple[bool, str]:
    """Whether a method with ``needs`` runs in ``suite``, and in which way, or why not.

    :func:`mekd_plugin.host` refuses what is refused here, and a method whose student's stage asks in its own step
    although its needs do not say so.
    """
    if needs.gradients:
        return False, "differentiates through the teacher, which a black box refuses"
    if needs.queries == "rounds":
        return False, "works in rounds, each of which needs the student of the last one: run it with mekd.distill"
    if needs.in_step:
        return False, "asks inside the student's step, which a host's loop cannot run: run it with mekd.distill"
    if needs.queries == "every step":
        return True, "asks at every step: the rows come with their answers (one that asks in its own step is refused)"
    if suite.drives_stages:
        return True, "every stage in the suite's loop, or the earlier ones in ours"
    return True, "the suite trains the student; earlier stages and questions come first, in our loop"


def put_beside(owner: ModuleType, ours: Iterable[Any]) -> list[str]:
    """Put classes of ours into a module of a suite that has no registry, each under its own name.

    Returns:
        The names, sorted.

    Raises:
        InputError: a name there is taken by somebody else.
    """
    named = {found.__name__: found for found in ours}
    for name, found in named.items():
        if getattr(owner, name, found) is not found:
            raise InputError(f"{owner.__name__}.{name} is there already and not ours: rename one of the two")
    for name, found in named.items():
        setattr(owner, name, found)
    return sorted(named)


def _commit(folder: Path) -> str:
    found = subprocess.run(
        ["git", "-C", str(folder), "log", "-1", "--format=%h", "--abbrev=7"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"
