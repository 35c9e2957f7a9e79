"""docs/adding-a-baseline.md, followed word for word: its package is built, installed, tested and run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "adding-a-baseline.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", PAGE, re.M | re.S)
    return [textwrap.dedent(content) for _, content in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Somebody's folder with the page's three files."""
    made = tmp_path_factory.mktemp("package")
    (module, test), (project,) = blocks("python"), blocks("toml")
    (made / "cosine_mimicry.py").write_text(module)
    (made / "test_cosine_mimicry.py").write_text(test)
    (made / "pyproject.toml").write_text(project)
    return made


@pytest.fixture(scope="module")
def installed(folder, tmp_path_factory) -> dict[str, str]:
    """An environment in which that package is installed."""
    target = tmp_path_factory.mktemp("target")
    command = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target), str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "install", *command], check=True, capture_output=True, text=True)
    path = os.pathsep.join([str(target), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "MEKD_CACHE": str(tmp_path_factory.mktemp("cache"))}


def run(environment, *words, folder=None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words], check=False, capture_output=True, text=True, env=environment, cwd=folder
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_holds_what_it_says_one_needs():
    assert len(blocks("python")) == 2 and len(blocks("toml")) == 1


def test_the_method_is_known_and_fits_where_its_needs_allow(installed):
    listing = {row["name"]: row for row in json.loads(run(installed, "mekd_plugin.cli", "list", "--json", "--needs"))}
    assert listing["cosine_mimicry"]["package"] == "cosine-mimicry 0.1.0"
    assert "  cosine_mimicry: the suite trains" in run(installed, "mekd_plugin.cli", "harness", "timm", "--check")


@pytest.mark.slow
def test_the_tests_of_the_page_pass(folder, installed):
    said = run(installed, "pytest", "-q", "-p", "no:cacheprovider", "test_cosine_mimicry.py", folder=folder)
    assert re.search(r"^(\d+) passed", said, re.M) and int(re.search(r"^(\d+) passed", said, re.M)[1]) > 5


def test_the_benchmark_of_the_page_runs(installed, tmp_path):
    (words,) = re.findall(r"`mekd (bench --methods cosine_mimicry,kd)`", PAGE)
    small = [
        "--teacher",
        "lenet5",
        "--student",
        "lenet5_half",
        "--teacher-steps",
        "30",
        "--steps",
        "30",
        "--seeds",
        "0",
    ]
    small += ["--real-images", "80", "--query-budget", "200", "--device", "cpu", "--out", str(tmp_path)]
    run(installed, "mekd_plugin.cli", *words.split(), *small)
    runs = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert {(run["method"], run["status"]) for run in runs} == {("cosine_mimicry", "finished"), ("kd", "finished")}
