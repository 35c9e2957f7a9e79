"""The notebooks as they are saved: in step with their text form, run to the end, small, and clean to read."""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TEXTS = sorted(FOLDER.glob("*.py"))
MOST_BYTES = 3_000_000
MOST_LINES = 40
IGNORED = "nbval-ignore-output"
DEBRIS = {
    "a machine's path": re.compile(
        r"(?<![\w.:/])/(home|root|Users|tmp|var|opt|usr|mnt|private)/|[A-Z]:\\|site-packages"
    ),
    "a progress bar": re.compile(r"\r|\d(it|s)/(s|it)\b|\d%\||[█▏▎▍▌▋▊▉━]"),
    "a traceback": re.compile(r"Traceback \(most recent call last\)"),
}


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def texts_of(output: NotebookNode) -> list[str]:
    """What a person reads of an output."""
    return [output.get("text", ""), *(text for kind, text in output.get("data", {}).items() if "image/" not in kind)]


def test_there_are_pairs() -> None:
    assert len(NOTEBOOKS) >= 3
    assert [path.stem for path in NOTEBOOKS] == [path.stem for path in TEXTS]


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.stem)
def test_a_notebook_is_in_step_with_its_text(text: Path) -> None:
    written, saved = jupytext.read(text), read(text.with_suffix(".ipynb"))
    pairs = [
        [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in side.cells]
        for side in (written, saved)
    ]
    assert pairs[0] == pairs[1], f"write the notebook anew: tox -e notebooks-write -- {text.stem}"
    assert saved.metadata.jupytext.formats == "ipynb,py:percent"
    assert saved.metadata.kernelspec.name == "python3"


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < MOST_BYTES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_was_run_from_top_to_bottom(self, path: Path) -> None:
        for number, cell in enumerate(code_cells(path), start=1):
            # A widget's output lives in a kernel: it is not saved, and the cell's number goes with it.
            assert cell.execution_count == (None if "widget" in cell.metadata.get("tags", []) else number)

    def test_begins_with_a_device_switch_and_ends_with_assertions(self, path: Path) -> None:
        first, *_, last = code_cells(path)
        assert "torch.cuda.is_available()" in first.source
        assert last.source.count("assert ") >= 3

    def test_outputs_are_clean(self, path: Path) -> None:
        for number, cell in enumerate(code_cells(path), start=1):
            for output in cell.outputs:
                assert output.output_type != "error", f"cell {number} failed"
                assert output.get("name") != "stderr", f"cell {number} warned: {output.text}"
                for text in texts_of(output):
                    assert text.count("\n") <= MOST_LINES, f"cell {number} prints a wall"
                    for name, pattern in DEBRIS.items():
                        found = pattern.search(text)
                        assert found is None, f"cell {number} shows {name}: {found}"

    def test_no_widget_is_saved(self, path: Path) -> None:
        assert "widgets" not in read(path).metadata
        kinds = {kind for cell in code_cells(path) for output in cell.outputs for kind in output.get("data", {})}
        assert not [kind for kind in kinds if "widget" in kind]

    def test_an_output_that_is_not_compared_says_why(self, path: Path) -> None:
        for number, cell in enumerate(code_cells(path), start=1):
            if IGNORED in cell.metadata.get("tags", []):
                assert cell.source.startswith("# Output not "), f"cell {number} does not say why it is not compared"
            assert "NBVAL" not in cell.source, f"cell {number}: use a tag, which a reader does not see"

    def test_is_in_the_table_of_the_course(self, path: Path) -> None:
        assert f"]({path.name})" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a machine's path", "kept in /tmp/tmpab12/run"),
        ("a machine's path", r"C:\Users\me"),
        ("a progress bar", "alignment:  40%|████      | 80/200"),
        ("a progress bar", "80/200 [00:01<00:02, 61.2it/s]"),
        ("a traceback", "Traceback (most recent call last):\n"),
    ],
)
def test_debris_is_recognised(name: str, text: str) -> None:
    assert DEBRIS[name].search(text)
    assert not DEBRIS[name].search("93.3 % of 2,000 and/or https://example.org/home/page")
