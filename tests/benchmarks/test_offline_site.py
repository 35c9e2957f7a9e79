"""Wheels and this checkout on a path, with neither network nor pip."""

import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import offline_site
import pytest
from markupsafe import _speedups

import mekd_plugin

CHECKOUT = Path(__file__).parents[2]
OURS = f"cp{sys.version_info.major}{sys.version_info.minor}"


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """A list of three packages, one of them installed already."""
    path = tmp_path / "wheels.txt"
    path.write_text("# ours\nnowhere-installed>=1  # why\nnowhere_either==2\ntorch>=2\n")
    monkeypatch.setattr(offline_site, "LISTED", path)


def wheel(folder: Path, name: str, tag: str, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, content in files.items():
            archive.writestr(inner, content)
    return path


def test_unpacks_what_is_lacking_and_names_what_is_missing(tmp_path, listed):
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    wheel(wheels, "nowhere_installed", "py3-none-any", {"nowhere_installed.py": b"HERE = 1\n"})
    wheel(wheels, "torch", "py3-none-any", {"torch.py": b"raise ImportError\n"})
    assert offline_site.fill(site, wheels) == ["nowhere-either"]
    assert [path.name for path in site.iterdir()] == ["nowhere_installed.py"]


@pytest.mark.parametrize(
    ("tag", "fitting"),
    [
        (f"{OURS}-{OURS}-manylinux_2_28_x86_64", True),
        ("cp39-abi3-manylinux2014_x86_64", True),
        ("py2.py3-none-any", True),
        ("cp27-cp27m-manylinux2014_x86_64", False),
    ],
)
def test_a_wheel_for_another_python_is_as_good_as_missing(tmp_path, listed, tag, fitting):
    wheels = tmp_path / "wheels"
    wheel(wheels, "nowhere_either", tag, {"nowhere_either.py": b""})
    assert ("nowhere-either" not in offline_site.fill(tmp_path / "site", wheels)) == fitting


def test_the_checkout_is_found_with_its_methods(tmp_path):
    """In a Python of its own, which sees nothing of an installed one but through the folder."""
    offline_site.register_checkout(tmp_path)
    (found,) = metadata.distributions(path=[str(tmp_path)])
    entries = {(entry.group, entry.name): entry for entry in found.entry_points}
    assert found.version == mekd_plugin.__version__
    assert {"mekd", "kd", "logit_mimicry"} <= {name for group, name in entries if group == "mekd.distillers"}
    assert entries["console_scripts", "mekd"].value == "mekd_plugin.cli:main"
    code = "import sys; sys.path[:0] = sys.argv[1:]; from importlib.metadata import entry_points as e; "
    code += "print(*sorted(x.name for x in e(group='mekd.suites')))"
    command = [sys.executable, "-S", "-c", code, str(tmp_path), str(CHECKOUT)]
    assert "torchdistill" in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_slim_leaves_out_what_is_named_and_keeps_the_rest(tmp_path):
    path = wheel(tmp_path, "big", "py3-none-any", {"big/model.onnx": b"0" * 10_000, "big/__init__.py": b"A = 1\n"})
    offline_site.slim(path, "big/*.onnx")
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["big/__init__.py"]
        assert archive.read("big/__init__.py") == b"A = 1\n"


def test_a_stripped_library_still_loads(tmp_path):
    source = Path(_speedups.__file__)
    library = tmp_path / source.name
    library.write_bytes(offline_site.stripped(source.read_bytes()))
    assert library.stat().st_size <= source.stat().st_size
    code = "import sys; sys.path.insert(0, sys.argv[1]); import _speedups; print(_speedups.__file__)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == str(library)
