"""docs/adding-a-suite.md, followed word for word: its adapter is built, installed, registered, checked and tested."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "adding-a-suite.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", PAGE, re.M | re.S)
    return [textwrap.dedent(content) for _, content in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Somebody's folder with the page's files."""
    made = tmp_path_factory.mktemp("package")
    (suite, adapter, test), (project,) = blocks("python"), blocks("toml")
    (made / "mekd_miniloop.py").write_text(adapter)
    (made / "test_mekd_miniloop.py").write_text(test)
    (made / "pyproject.toml").write_text(project)
    theirs = made / "theirs"
    theirs.mkdir()
    (theirs / "miniloop.py").write_text(suite)
    lines = project.replace("mekd-miniloop", "miniloop").replace("mekd_miniloop.py", "miniloop.py")
    lines = re.sub(r"\[project\.entry-points.*?\n\n|dependencies = .*?\n", "", lines, flags=re.S)
    (theirs / "pyproject.toml").write_text(lines.replace('"0.1.0"', '"1.0"'))
    return made


@pytest.fixture(scope="module")
def installed(folder, tmp_path_factory) -> dict[str, str]:
    """An environment with the made-up suite and the adapter for it."""
    target = tmp_path_factory.mktemp("target")
    for source in (folder, folder / "theirs"):
        command = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target), str(source)]
        subprocess.run([sys.executable, "-m", "pip", "install", *command], check=True, capture_output=True, text=True)
    path = os.pathsep.join([str(target), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def run(environment, *words, folder=None, fails=False) -> str:
    done = subprocess.run(
        [sys.executable, *words], check=False, capture_output=True, text=True, env=environment, cwd=folder
    )
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_it_stands_beside_ours_without_a_changed_file(installed):
    code = "import json, sys; from mekd_plugin.harness import available_suites; print(json.dumps([available_suites(), "
    code += "sorted({'torch', 'mekd_miniloop', 'miniloop'} & set(sys.modules))]))"
    names, imported = json.loads(run(installed, "-c", code))
    assert {"miniloop", "timm", "torchdistill"} <= set(names) and imported == []


def test_it_is_checked(installed):
    said = run(installed, "-m", "mekd_plugin.cli", "harness", "miniloop", "--check")
    assert "miniloop 1.0 (tried)" in said and "  mekd: the suite trains the student" in said
    assert 'next: miniloop.train("mekd", student, teacher, images, epochs=10, budget=10_000)' in said


def test_it_is_registered_and_says_what_to_do_next(installed):
    said = run(installed, "-c", "import mekd_plugin as mekd; print(mekd.register('miniloop'))")
    assert said.startswith('[mekd] miniloop: miniloop.train("mekd", ') and "'mekd'" in said.splitlines()[1]


def test_it_has_no_experiment_and_record_says_so(installed, tmp_path):
    words = ["harness", "miniloop", "--record", "--out", str(tmp_path)]
    said = run(installed, "-m", "mekd_plugin.cli", *words, fails=True)
    assert "there is no experiment for the suite 'miniloop', so nothing can be recorded" in said
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_nearly_right(installed):
    said = run(installed, "-m", "mekd_plugin.cli", "harness", "minilop", "--check", fails=True)
    assert "unknown suite 'minilop'" in said and "did you mean 'miniloop'" in said


@pytest.mark.slow
def test_the_tests_of_the_page_pass(folder, installed):
    said = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mekd_miniloop.py", folder=folder)
    assert re.search(r"^5 passed", said, re.M), said
