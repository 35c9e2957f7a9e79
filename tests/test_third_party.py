"""Somebody else's package: built, installed, and its method used by name in a benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "their-distiller"
version = "3.2.1"

[project.entry-points."mekd.distillers"]
their_method = "their_distiller:TheirMethod"

[project.entry-points."mekd.aliases"]
tm = "their_method"

[tool.hatch.build.targets.wheel]
packages = ["their_distiller.py"]
"""

MODULE = '''
"""A method of somebody who has read only the documentation: match the teacher's labels on the images as they are."""

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.distiller import Asking, Distiller, Needs
from mekd_plugin.rows import Rows
from torch.nn import functional as F


class TheirMethod(Distiller):
    needs = Needs(responses="either", leaves_edge="real images")

    def __init__(self, *, num_classes, image_shape, seed=0, strength=1.0):
        super().__init__(num_classes=num_classes, image_shape=image_shape, seed=seed)
        self.strength = strength

    def stages(self, teacher, images, student):
        bank = Bank("transfer")
        yield Asking("ask", bank, lambda start, stop: Rows(images[start:stop]), len(images))
        yield self.align("distill", bank.order(self.seed), student)

    def losses(self, student, rows):
        return {"loss": self.strength * F.cross_entropy(student(rows.images), rows.answers().labels)}

    def report(self):
        return {"warnings": [f"their strength was {self.strength}"]}
'''


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, str]:
    """An environment in which their package is installed."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "their_distiller.py").write_text(MODULE)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "--target", str(target), str(source)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    path = os.pathsep.join([str(target), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "MEKD_CACHE": str(tmp_path_factory.mktemp("cache"))}


def mekd(environment: dict[str, str], *words: str) -> str:
    command = [sys.executable, "-m", "mekd_plugin.cli", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed_beside_ours(installed) -> None:
    listing = {row["name"]: row for row in json.loads(mekd(installed, "list", "--json"))}
    assert listing["their_method"] == {"name": "their_method", "aliases": ["tm"], "package": "their-distiller 3.2.1"}
    assert "mekd" in listing


def test_it_runs_by_its_alias_in_a_benchmark(installed, tmp_path: Path) -> None:
    mekd(installed, "bench", "--methods", "tm", "--set", "tm.strength=2.5", "--teacher", "lenet5", "--student",
         "lenet5_half", "--teacher-steps", "30", "--steps", "30", "--real-images", "80", "--query-budget", "500",
         "--seeds", "0", "--device", "cpu", "--out", str(tmp_path))  # fmt: skip
    (run,) = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert run["method"] == "their_method" and run["status"] == "finished"
    assert run["queries"] == {"by_stage": {"ask": 80}, "total": 80, "distinct": 80, "uncertain": 0, "evaluation": 540}
    assert run["leaves_edge"] == "real images"
    assert run["warnings"] == ["their strength was 2.5"]
    assert "strength=2.5" in run["signature"]
    assert "their_method" in (tmp_path / "table.md").read_text()
