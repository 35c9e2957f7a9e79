"""One experiment a suite: a method on the reference problem, through the suite's own loop.

Each module here has a function ``trial(method, problem, directory) -> Trial``, and ``COMMANDS``, what a user types for
as much. The adapters know nothing of them; a third party's suite brings none, and shows what it does in its own tests.

Read ``timm.py`` first, the shortest; the others do the same in their suites.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Protocol

from mekd_plugin.errors import InputError
from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem, Trial

__all__ = ["TrialModule", "suites_with_trials", "trial_of"]


class TrialModule(Protocol):
    """A module of this folder."""

    COMMANDS: str
    """A fenced block of Markdown: MEKD in this suite, on the digits; it runs as it stands."""

    def trial(self, method: str, problem: ReferenceProblem, directory: Path) -> Trial:
        """Train ``method`` through the suite's own loop, in ``directory``."""


def suites_with_trials() -> list[str]:
    """The suites that can be tried, sorted."""
    return sorted(module.name for module in iter_modules(__path__))


def trial_of(suite: str) -> TrialModule:
    """The experiment of a suite.

    Raises:
        InputError: it has none.
    """
    known = suites_with_trials()
    if suite not in known:
        raise InputError(
            f"there is no experiment for the suite {suite!r}, so nothing can be recorded: expected one of "
            f"{', '.join(known)}; a suite of another package shows in its own tests what it does"
        )
    found: TrialModule = import_module(f"{__name__}.{suite}")
    return found
