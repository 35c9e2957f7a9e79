"""That the check of the notebooks can fail: nbval, as `tox -e notebooks` calls it, on copies with something broken."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

FOLDER = Path(__file__).parents[2] / "tutorials"
BUDGET = "BUDGET = 2000"
COPIES = {
    "untouched": None,
    "another_api": ("mekd.BlackBox(", "mekd.BlackBoxes("),
    "another_result": (BUDGET, "BUDGET = 3000"),
}


def beginning() -> NotebookNode:
    """The cells of the first notebook up to its first query, without those whose output is not compared.

    They train the teacher; a network that was not trained answers as well.
    """
    notebook = nbformat.read(FOLDER / "01_distill_a_black_box.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    last = next(index for index, cell in enumerate(code) if BUDGET in cell.source)
    stand_in = nbformat.v4.new_code_cell('network = mekd.networks.build("resnet20", 10, (1, 16, 16), seed=0)')
    kept = [cell for cell in code[:last] if "nbval-ignore-output" not in cell.metadata.get("tags", [])]
    return nbformat.v4.new_notebook(cells=[*kept, stand_in, code[last]], metadata=notebook.metadata)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("lessons")
    for name, change in COPIES.items():
        notebook = copy.deepcopy(beginning())
        if change:
            for cell in notebook.cells:
                cell.source = cell.source.replace(*change)
        nbformat.write(notebook, folder / f"{name}.ipynb")
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", "-rA", "--nbval",
               "--nbval-current-env", "--nbval-sanitize-with", str(FOLDER / "sanitize.cfg"), str(folder)]  # fmt: skip
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def results(outcome: str, name: str) -> set[str]:
    """The results of a copy's cells."""
    found = re.findall(rf"^(PASSED|FAILED|ERROR) \S*{name}.ipynb::", outcome, re.MULTILINE)
    assert len(found) == len(beginning().cells), outcome
    return set(found)


@pytest.mark.slow
def test_an_untouched_copy_passes(outcome) -> None:
    assert results(outcome, "untouched") == {"PASSED"}


@pytest.mark.slow
def test_a_broken_api_is_red(outcome) -> None:
    assert "FAILED" in results(outcome, "another_api")
    assert "has no attribute 'BlackBoxes'" in outcome


@pytest.mark.slow
def test_another_output_is_red(outcome) -> None:
    assert "FAILED" in results(outcome, "another_result")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", outcome)  # nbval colours the difference whatever NO_COLOR says
    assert "mismatch 'stdout'" in plain and "4 of 2,000 imag" in plain and "4 of 3,000 imag" in plain, plain
