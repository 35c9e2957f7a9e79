"""POT is imported in one place, which keeps it from starting other array libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


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


def test_another_array_library_is_left_alone(tmp_path):
    """JAX on a GPU would take three quarters of its memory."""
    for library in ("jax", "cupy", "tensorflow"):
        (tmp_path / library).mkdir()
        (tmp_path / library / "__init__.py").write_text(f"raise SystemExit('{library} was started')")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import mekd_plugin.transport, baselines.sinkhorn_alignment
from mekd_plugin.pot import ot
assert "ot" not in sys.modules, "POT was loaded before anybody asked it"
print(ot.__name__, "ot" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.strip()) == (0, "ot True"), ended.stderr
