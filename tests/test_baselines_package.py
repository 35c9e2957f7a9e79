"""The baselines of an installed package are found, whatever else is called ``baselines`` where the user works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
OURS = sorted(path.name for path in (ROOT / "baselines").glob("*.py"))
LOAD = """
import sys
from mekd_plugin.registry import distillers

method = distillers().get("kd")
print(sys.modules[method.__module__].__file__)
assert method.__module__ == "mekd_plugin.baselines.kd", method.__module__
assert "baselines" not in sys.modules
"""


def built(builder: type, root: Path, out: Path, version: str = "standard") -> Path:
    """What hatchling makes of the project in ``root``."""
    (made,) = builder(str(root)).build(directory=str(out), versions=[version])
    return Path(made)


@pytest.fixture(scope="module", params=["standard", "editable"])
def path(request, tmp_path_factory) -> list[str]:
    """The search path that an installation leaves.

    A wheel of Python files is installed by unpacking it. An editable one holds, besides, a ``.pth`` file, whose lines
    Python puts at the end of the search path.
    """
    target = tmp_path_factory.mktemp(f"{request.param}-site")
    made = built(WheelBuilder, ROOT, tmp_path_factory.mktemp(request.param), request.param)
    zipfile.ZipFile(made).extractall(target)
    pointers = [line for file in target.glob("*.pth") for line in file.read_text().split()]
    assert pointers == ([str(ROOT)] if request.param == "editable" else [])
    return [str(target), *pointers]


@pytest.fixture(params=["nothing", "an empty folder", "a folder with a kd.py"])
def here(request, tmp_path) -> Path:
    """Where the user works."""
    if request.param != "nothing":
        (tmp_path / "baselines").mkdir()
    if request.param == "a folder with a kd.py":
        (tmp_path / "baselines" / "kd.py").write_text("raise RuntimeError('the user has a kd.py, too')\n")
    return tmp_path


def run(path: list[str], here: Path, *words: str) -> str:
    """What Python prints in the folder ``here``, which it searches before ``path``."""
    done = subprocess.run(
        [sys.executable, *words],
        check=False,
        capture_output=True,
        text=True,
        cwd=here,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_folder_of_the_users_hides_nothing_of_ours(path, here) -> None:
    listed = {row["name"] for row in json.loads(run(path, here, "-m", "mekd_plugin.cli", "list", "--json"))}
    assert {name.removesuffix(".py") for name in OURS} < listed
    file = run(path, here, "-c", LOAD).strip()
    assert any(Path(file).is_relative_to(place) for place in path)
    if (here / "baselines").is_dir():
        first = run(path, here, "-c", "import mekd_plugin, baselines; print(next(iter(baselines.__path__)))")
        assert first.strip() == str(here / "baselines")


@pytest.mark.parametrize("by_way_of_the_sources", [False, True], ids=["checkout", "sdist"])
def test_a_wheel_holds_each_baseline_once(by_way_of_the_sources, tmp_path) -> None:
    root = ROOT
    if by_way_of_the_sources:
        with tarfile.open(built(SdistBuilder, ROOT, tmp_path / "sdist")) as archive:
            archive.extractall(tmp_path / "sources", filter="data")
        (root,) = (tmp_path / "sources").iterdir()
    names = zipfile.ZipFile(built(WheelBuilder, root, tmp_path / "wheel")).namelist()
    assert OURS, "no baseline: this test would compare nothing"
    for name in OURS:
        assert [held for held in names if held.endswith(f"baselines/{name}")] == [f"mekd_plugin/baselines/{name}"]
    assert {held.partition("/")[0] for held in names if ".dist-info" not in held} == {"mekd_plugin"}
