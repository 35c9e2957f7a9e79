"""POT is imported in one place, which keeps it from starting other array libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
MODULES = ("mekd_plugin.transport", "baselines.sinkhorn_alignment")


def imported(path: Path) -> set[str]:
    """Top-level names of the modules that a file imports."""
    tree = ast.parse(path.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("folder", ["mekd_plugin", "baselines", "tutorials", "benchmarks"])
def test_nobody_else_imports_it(folder):
    files = sorted((CHECKOUT / folder).rglob("*.py"))
    assert {path.relative_to(CHECKOUT).as_posix() for path in files if "ot" in imported(path)} <= {"mekd_plugin/pot.py"}


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("library", ["jax", "cupy", "tensorflow"])
def test_another_array_library_is_left_alone(tmp_path, module, library):
    """JAX on a GPU would take three quarters of its memory."""
    (tmp_path / library).mkdir()
    (tmp_path / library / "__init__.py").write_text("raise SystemExit('started')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {module}; print('ot' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.strip()) == (0, "True"), ended.stderr
