"""Two exercises a notebook, and solutions that run: at a small size, on what the notebook's cells make for them."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path
from typing import Any

import jupytext
import pytest

import mekd_plugin as mekd
from mekd_plugin.mekd.method import MEKD

FOLDER = Path(__file__).parents[2] / "tutorials"
TEXTS = sorted(FOLDER.glob("*.py"))
PAGE = (FOLDER / "solutions.md").read_text()
FEW = {"surrogate": "lenet5", "surrogate_steps": 3}
SIZES = ("teacher", "gan", "student", "quick surrogate", "quick student", "bank")
SMALL: dict[str, Any] = {
    "TEACHER_STEPS": 12,
    "GENERATOR_STEPS": 10,
    "STUDENT_STEPS": 12,
    "TEXT_STEPS": 4,
    "EPOCHS": 1,
    "SEEDS": (0,),
    "SETTINGS": {"emulation_settings": FEW, **FEW},
    "OWN": {"mekd": {"emulation_settings": FEW, **FEW}},
    "sizes": dict(zip(SIZES, (12, 2, 2, 3, 4, 300), strict=True)),
}
"""What replaces a notebook's constants of the same names."""
FEWER = {6: ("edge", "test_images", "test_labels")}
"""Images of which the first hundred will do."""
BY_FILES = {5: ("source",), 8: ("quick",)}
"""Names whose cells leave files that a solution needs: syntax does not show it."""
WITHOUT_FLOWER = 9


def solutions(number: int) -> dict[str, tuple[str, str]]:
    """By title, the code of a notebook's solutions, and what is said to be printed."""
    (part,) = re.findall(rf"^## {number}\. .*?(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    found = re.findall(r"^### (.*?)\n+```python\n(.*?)^```\n+```text\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
    return {title: (code, printed) for title, code, printed in found}


class WithoutAssertions(ast.NodeTransformer):
    """A network that has hardly been trained knows nothing; what it is asked afterwards works all the same."""

    def visit_Assert(self, node: ast.Assert) -> ast.Pass:
        return ast.Pass()


def parsed(code: str) -> ast.Module:
    return ast.fix_missing_locations(WithoutAssertions().visit(ast.parse(code)))


def bound(tree: ast.Module) -> set[str]:
    """The names that a cell gives a value to."""
    return made(tree) | added(tree)


def made(tree: ast.Module) -> set[str]:
    """Those that it need not know before."""
    found: set[str] = set()
    changed = [node.target for node in ast.walk(tree) if isinstance(node, ast.AugAssign)]
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.ClassDef() | ast.ExceptHandler(name=str()):
                found.add(node.name)
            case ast.Name(ctx=ast.Store()) if node not in changed:
                found.add(node.id)
            case ast.alias():
                found.add(node.asname or node.name)
    return found


def added(tree: ast.Module) -> set[str]:
    """Those that it adds to, as ``+=`` does."""
    targets = [node.target for node in ast.walk(tree) if isinstance(node, ast.AugAssign)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def free(tree: ast.Module) -> set[str]:
    """The names that a cell takes from elsewhere."""
    loaded, arguments = set[str](), set[str]()
    for node in ast.walk(tree):
        match node:
            case ast.Name(ctx=ast.Load()):
                loaded.add(node.id)
            case ast.arg():
                arguments.add(node.arg)
    return (loaded | added(tree)) - made(tree) - arguments - set(dir(builtins))


def needed(cells: list[ast.Module], names: set[str], before: int) -> set[int]:
    """The numbers of the cells that make the names, and of those that these need in turn."""
    found: set[int] = set()
    for name in names:
        makers = [number for number, tree in enumerate(cells) if name in bound(tree)]
        assert makers, f"no cell makes {name!r}"
        earlier = [number for number in makers if number < before]
        maker = earlier[-1] if earlier else makers[0]
        if maker != before and maker not in found:
            found |= {maker} | needed(cells, free(cells[maker]), maker)
    return found


class ShortRecipe:
    """A recipe of a few steps, whatever was asked for."""

    preset = mekd.Recipe.preset
    whole = mekd.Recipe

    def __new__(cls, **settings: Any) -> Any:
        return cls.whole(**{**settings, "steps": min(settings["steps"], SMALL["STUDENT_STEPS"])})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mekd, "Recipe", ShortRecipe)
    for preset in ("quick", "fast"):
        monkeypatch.setitem(MEKD.presets, preset, {**MEKD.presets["tiny"], **FEW, "emulation_settings": FEW})
    monkeypatch.setenv("MEKD_CACHE", str(tmp_path))  # a notebook sets it, too: this undoes it
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.stem)
def test_each_notebook_has_two_exercises_and_the_page_their_solutions(text: Path) -> None:
    number = int(text.name[:2])
    exercises = text.read_text().partition("# ## Two exercises")[2]
    asked = re.findall(r"^# \d\. \*\*(.*?)\*\*", exercises, re.MULTILINE)
    assert len(asked) == 2 and "[solutions.md](solutions.md)" in exercises
    titles = [f"{number}.{place} {title.rstrip('.')}" for place, title in enumerate(asked, start=1)]
    assert [title.rstrip(".") for title in solutions(number)] == titles
    for code, printed in solutions(number).values():
        assert code.count("print(") and printed.strip()


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.stem)
def test_the_solutions_run_on_what_their_notebook_makes(text: Path, small: None, capsys) -> None:
    number = int(text.name[:2])
    namespace: dict[str, Any] = {"__name__": "lesson"}
    codes = [parsed(code) for code, _ in solutions(number).values()]
    assert len(codes) == 2
    if number == WITHOUT_FLOWER:
        import torch

        namespace |= {"torch": torch, "mekd": mekd, "data": mekd.data.load("digits")}
    else:
        cells = [
            parsed(cell.source)
            for cell in jupytext.read(text).cells
            if cell.cell_type == "code" and "widget" not in cell.metadata.get("tags", [])
        ]
        names = set(BY_FILES.get(number, ()))
        own: set[str] = set()
        for code in codes:
            names |= free(code) - own
            own |= bound(code)
        for place in sorted({0} | needed(cells, names, len(cells))):
            exec(compile(cells[place], f"{text.stem}, cell {place + 1}", "exec"), namespace)
            namespace |= {name: value for name, value in SMALL.items() if name in namespace}
            namespace |= {name: namespace[name][:100] for name in FEWER.get(number, ()) if name in namespace}
    for code in codes:
        capsys.readouterr()
        exec(compile(code, f"solution of {text.stem}", "exec"), namespace)
        assert capsys.readouterr().out.strip()
