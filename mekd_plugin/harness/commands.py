"""What ``mekd harness`` does, and prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mekd_plugin.harness import find_suite
from mekd_plugin.harness.evidence import records
from mekd_plugin.harness.launch import launch as run_script

__all__ = ["check", "launch", "page", "record"]


def check(name: str, console: Console) -> None:
    """Print the suite's version, the names of our methods there, which methods fit, and what to do next."""
    found = find_suite(name)
    told = found.check()
    tried = "tried" if told.tested else f"never tried; we ran {', '.join(found.tested)}"
    console.print(f"{name} {told.version} ({tried})", highlight=False)
    console.print(f"known there as: {', '.join(told.registered)}", highlight=False, soft_wrap=True)
    for method, words in told.fits.items():
        console.print(f"  {method}: {words}", highlight=False, soft_wrap=True)
    for method, words in told.refused.items():
        console.print(f"  {method}: refused, it {words}", highlight=False, soft_wrap=True)
    console.print(f"next: {found.next_step}", highlight=False, soft_wrap=True, markup=False)


def launch(name: str, command: Sequence[str], *, meter: bool) -> None:
    """Run the suite's script; with ``meter`` say in the end what its own methods asked."""
    counted = run_script(find_suite(name), command, meter=meter)
    if counted is not None:
        print(f"[mekd] {name}: {counted}", flush=True)


def record(name: str, directory: Path, seeds: Sequence[int], console: Console) -> None:
    """Try the methods in the suite, and write the record."""
    path = records.record(find_suite(name), directory, seeds=seeds)
    console.print(f"written: {path}", highlight=False, soft_wrap=True)


def page(directory: Path) -> str:
    """The page of all suites."""
    return records.render(directory)
