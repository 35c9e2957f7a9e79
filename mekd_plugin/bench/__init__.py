"""Experiments: a grid of runs, and what is made of their records. Nothing here knows a method by name.

Read ``benchmark.py`` first (a whole benchmark), then ``settings.py`` with ``values.py`` and ``teacher_names.py``,
``grid.py`` and ``run_spec.py`` (its settings, how they are read, and the runs that they expand into), ``executors/``,
``worker.py`` and ``run_inputs.py`` (how each is run, and on what), ``run_record.py`` and ``store.py`` (what is kept),
``privacy.py`` (what the images that were sent say), ``statistics.py``, ``table.py``, ``figures.py`` and ``report.py``
(what is said about them), ``published.py`` (what others say); ``comparisons.py`` has what is declared beforehand.
``commands.py``, ``student_command.py`` and ``bank_commands.py`` have the command lines, and ``diagnosis/`` puts the
questions of optimal transport to a run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mekd_plugin.bench.statistics import (
        Interval,
        PairedDifference,
        mean_interval,
        paired_difference,
        wilson_interval,
    )

__all__ = ["Interval", "PairedDifference", "mean_interval", "paired_difference", "wilson_interval"]


def __getattr__(name: str) -> Any:
    """The public names, when they are first used: the command line passes here, and must not wait for SciPy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("mekd_plugin.bench.statistics"), name)
