"""Who may import whom, and who may loop over batches: read off the syntax tree."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEVELS = {
    "mekd_plugin": 0,
    "mekd_plugin.version": 0,
    "mekd_plugin.errors": 0,
    "mekd_plugin.checks": 0,
    "mekd_plugin.code_digest": 0,
    "mekd_plugin.files": 0,
    "mekd_plugin.image_files": 0,
    "mekd_plugin.sealing": 0,
    "mekd_plugin.responses": 0,
    "mekd_plugin.rows": 0,
    "mekd_plugin.replay": 0,
    "mekd_plugin.modes": 0,
    "mekd_plugin.prediction": 0,
    "mekd_plugin.adaptation": 0,
    "mekd_plugin.functional": 0,
    "mekd_plugin.views": 0,
    "mekd_plugin.selection": 0,
    "mekd_plugin.records": 0,
    "mekd_plugin.flags": 0,
    "mekd_plugin.plotting": 0,
    "mekd_plugin.blackbox": 1,
    "mekd_plugin.data": 1,
    "mekd_plugin.networks": 1,
    "mekd_plugin.transport": 1,
    "mekd_plugin.distiller": 2,
    "mekd_plugin.registry": 2.5,
    "mekd_plugin.listing": 2.7,
    "mekd_plugin.transfer": 2.5,
    "mekd_plugin.rounds": 2.75,
    "mekd_plugin.mekd": 3,
    "mekd_plugin.synthetic": 3.2,
    "mekd_plugin.synthetic_steps": 3.3,
    "baselines": 3.5,  # one of them is MEKD's own bank under another loss
    "mekd_plugin.training": 4,
    "mekd_plugin.testing": 5,
    "mekd_plugin.baselines": 3.5,
    "mekd_plugin.bench": 5,
    "mekd_plugin.bench.privacy": 4.5,
    "mekd_plugin.bench.diagnosis": 5.5,
    "mekd_plugin.harness": 5,
    "mekd_plugin.integrations": 5,
    "mekd_plugin.cli": 6,
}
FILES = sorted([*(ROOT / "mekd_plugin").rglob("*.py"), *(ROOT / "baselines").rglob("*.py")])

FOLDERS = sorted({path.parent for path in FILES if path.is_relative_to(ROOT / "mekd_plugin")})


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def home_of(module: str) -> str:
    """The entry of LEVELS that a module falls under: the longest one that begins its name."""
    fitting = [home for home in LEVELS if module == home or module.startswith(home + ".")]
    assert fitting, f"{module} has no level: say in LEVELS who may import it"
    return max(fitting, key=len)


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            nested = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if _is_module(name) else node.module for name in nested}
    return {name for name in found if name.split(".")[0] in ("mekd_plugin", "baselines")}


def _is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_file_imports_lower_levels_or_its_own_folder(path):
    home = home_of(module_of(path))
    if home == "mekd_plugin":  # names only, resolved when they are used
        return
    for imported in imports_of(path):
        other = home_of(imported)
        if home == "baselines":
            assert other != "baselines", f"{path.name} imports another baseline"
        assert other == home or LEVELS[other] < LEVELS[home] or LEVELS[other] == 0, (
            f"{module_of(path)} imports {imported}"
        )


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_methods_and_loop_know_nothing_of_each_other(path):
    home, imported = home_of(module_of(path)), {home_of(name) for name in imports_of(path)}
    if home == "mekd_plugin.training":
        assert not imported & {"mekd_plugin.mekd", "baselines", "mekd_plugin.data"}
    if home in ("mekd_plugin.mekd", "baselines"):
        assert "mekd_plugin.data" not in imported


@pytest.mark.parametrize("path", [path for path in FILES if path != ROOT / "mekd_plugin/__init__.py"], ids=module_of)
def test_only_the_door_speaks_for_the_whole_package(path):
    """A name of the package root comes from everywhere; a file says where it takes it from."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: a relative import hides what it imports"
            if node.module == "mekd_plugin":
                for alias in node.names:
                    assert _is_module(f"mekd_plugin.{alias.name}"), (
                        f"{path.name}:{node.lineno} imports {alias.name} from the package root: import it from its home"
                    )
        elif isinstance(node, ast.Import):
            assert "mekd_plugin" not in {alias.name for alias in node.names}, f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_baselines_are_imported_by_their_installed_name(path):
    """``baselines`` alone may be a folder of the user's."""
    assert not {name for name in imports_of(path) if name.split(".")[0] == "baselines"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_has_a_door_that_gives_the_reading_order(folder):
    words = _words_of_the_door(folder)
    assert words, f"{folder} has no __init__.py with a docstring"
    rooms = _rooms(folder)
    # A suite's folder has the same rooms as its neighbours: the door above them gives the order.
    above = _words_of_the_door(folder.parent) if folder.parent.name == "harness" else ""
    assert not rooms or any(f"``{room}``" in words + above for room in rooms), f"what to read first in {folder}?"
    if not above:  # a suite's own door may speak of the suite's scripts
        gone = set(re.findall(r"``(\w+\.py)``", words)) - {path.name for path in folder.rglob("*.py")}
        assert not gone, f"{folder}: its door names {', '.join(sorted(gone))}, which is not there"


def _words_of_the_door(folder: Path) -> str:
    door = folder / "__init__.py"
    return (ast.get_docstring(ast.parse(door.read_text())) or "") if door.is_file() else ""


def _rooms(folder: Path) -> list[str]:
    """The files and folders of Python below a folder, as a docstring names them: ``name.py`` or ``name/``."""
    files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    return sorted([*files, *(f"{other.name}/" for other in FOLDERS if other.parent == folder)])


def test_transport_is_built_from_statistics_to_questions():
    order = ["statistics", "estimators", "questions"]
    for path in (ROOT / "mekd_plugin/transport").rglob("[a-z]*.py"):
        own = path.parent.name
        for imported in imports_of(path):
            if imported.startswith("mekd_plugin.transport."):
                other = imported.split(".")[2]
                if other in order:
                    assert own in order, f"{path.name} is below the rooms, and imports {imported}"
                    assert order.index(other) <= order.index(own), f"{path.name} imports {imported}"


def test_only_the_diagnosis_the_audit_and_the_measure_of_privacy_ask_for_transport():
    for path in FILES:
        home = home_of(module_of(path))
        asks = "mekd_plugin.transport" in {home_of(name) for name in imports_of(path)}
        may = home in (
            "mekd_plugin",
            "mekd_plugin.transport",
            "mekd_plugin.bench.privacy",
            "mekd_plugin.bench.diagnosis",
        )
        may |= module_of(path) == "mekd_plugin.bench.audit"
        assert may or not asks, module_of(path)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_only_the_loop_steps_an_optimizer_or_differentiates(path):
    if home_of(module_of(path)) in ("mekd_plugin.training", "mekd_plugin.testing"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            assert node.func.attr not in ("backward", "zero_grad"), f"{path.name}:{node.lineno}"
            assert not (node.func.attr == "step" and "optim" in owner), f"{path.name}:{node.lineno}"
            assert "DataLoader" not in ast.unparse(node.func), f"{path.name}:{node.lineno}"


def test_methods_read_nothing_off_the_device_in_a_step():
    for path in FILES:
        if home_of(module_of(path)) == "baselines":
            assert ".item()" not in path.read_text(), path.name


def test_no_copy_is_read_before_it_has_arrived():
    """To the CPU, ``non_blocking`` gives a tensor that is not filled yet; from pageable memory it gains nothing."""
    assert not [path.name for path in FILES if "non_blocking" in path.read_text()]


def test_tutorials_take_names_from_the_door():
    """Readers copy these lines: the package itself, and at most three of its folders."""
    for path in sorted((ROOT / "tutorials").glob("*.py")):
        deep = {name.split(".")[1] for name in imports_of(path) if name.startswith("mekd_plugin.")}
        assert len(deep) <= 3, f"{path.name} imports from {', '.join(sorted(deep))}"
