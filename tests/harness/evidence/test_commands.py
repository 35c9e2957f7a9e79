"""Every command on the page of the suites runs as it is printed, on the suites or on what states them anew."""

from __future__ import annotations

import glob
import importlib
import os
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from mekd_plugin.cli import app
from mekd_plugin.harness import find_suite
from mekd_plugin.harness.evidence.trials import suites_with_trials
from mekd_plugin.mekd.method import MEKD

ROOT = Path(__file__).parents[3]
SUITES = Path(__file__).parents[1] / "suites"
PAGE = (ROOT / "docs" / "HARNESSES.md").read_text()
BLOCKS = re.findall(r"^### (\w+)$.*?^```(\w+)\n(.*?)^```", PAGE, re.M | re.S)

# The suites stated anew have no commit of their own.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.* was never tried with this package")]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder like the repository's root, in which files may be left."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shutil.copy(SUITES / "torchdistill" / "image_classification.py", tmp_path)
    for name in suites_with_trials():
        variable = find_suite(name).home
        if variable and variable not in os.environ:
            monkeypatch.setenv(variable, str(SUITES / name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    # A generator that is trained for seconds: what is tried here are the commands.
    monkeypatch.setattr(MEKD, "presets", {**MEKD.presets, "quick": MEKD.presets["tiny"]})
    return tmp_path


def run_shell(block, monkeypatch):
    for line in re.sub(r"\\\n", " ", block).splitlines():
        program, *words = shlex.split(line, comments=True) or [""]
        words = [found for word in words for found in (sorted(glob.glob(word)) if "*" in word else [word])]
        if program == "mekd":
            app(words, standalone_mode=False)
        elif program == "python":
            monkeypatch.setattr(sys, "argv", words)
            runpy.run_path(words[0], run_name="__main__")
        else:
            assert not program, f"what is {program}?"


def test_every_suite_has_its_commands():
    assert [name for name, _, _ in BLOCKS] == suites_with_trials()


@pytest.mark.parametrize(("name", "language", "block"), BLOCKS, ids=[name for name, _, _ in BLOCKS])
def test_the_commands_run_as_they_are_printed(name, language, block, root, monkeypatch, capsys):
    if language == "python":
        exec(compile(block, f"docs/HARNESSES.md, {name}", "exec"), {"__name__": "__main__"})
    else:
        run_shell(block, monkeypatch)
    said = capsys.readouterr().out
    assert re.search(rf"^\[mekd\] {name}, mekd: the edge holds 200 of [\d,]+ images$", said, re.M)
    assert re.search(rf"^\[mekd\] {name}, mekd: stage bank ended: 3,000 ", said, re.M)
    importlib.invalidate_caches()
