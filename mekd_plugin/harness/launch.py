"""Runs a suite's own, untouched script with our methods known to it, or with a meter under its own methods."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from mekd_plugin.errors import InputError
from mekd_plugin.harness.meter import Counted
from mekd_plugin.harness.suite import Suite

__all__ = ["launch"]


def launch(suite: Suite, command: Sequence[str], *, meter: bool) -> Counted | None:
    """Run ``command``, a script and its arguments, as ``python`` would.

    Args:
        suite: whose script it is.
        command: the script's path first; where the suite is used from its sources, relative to these if it is not here.
        meter: whether to count what the suite's methods ask, instead of registering ours.

    Returns:
        What was counted; None where our methods print their own ledgers.

    Raises:
        InputError: there is no such script.
        MissingDependency: the suite is not there.
    """
    if not command:
        raise InputError(f"which script? mekd harness {suite.name} -- SCRIPT ARGUMENTS...")
    suite.require()
    script = _find(suite, command[0])
    counted = Counted() if meter else None
    before, sys.argv = sys.argv, [str(script), *command[1:]]
    with ExitStack() as stack:
        stack.callback(setattr, sys, "argv", before)
        sources = suite.sources()
        for folder in (str(script.parent), *([str(sources)] if sources and suite.home else [])):
            sys.path.insert(0, folder)
            stack.callback(sys.path.remove, folder)
        stack.enter_context(suite.launching())
        if counted is None:
            suite.register()
        else:
            stack.enter_context(suite.metered(counted))
        runpy.run_path(str(script), run_name="__main__")
    return counted


def _find(suite: Suite, script: str) -> Path:
    sources = suite.sources() if suite.home else None
    for path in (Path(script), *([sources / script] if sources else [])):
        if path.is_file():
            return path.resolve()
    where = f", nor in {sources} (${suite.home})" if sources else ""
    raise InputError(f"{script} is not a file here{where}: name the suite's own script")
