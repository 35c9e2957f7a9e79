"""An environment of one's own on top of this interpreter's packages, made with neither network nor pip.

    python benchmarks/offline_site.py FOLDER --wheels benchmarks/wheels    # then FOLDER/bin/python
    python benchmarks/offline_site.py --slim WHEEL [--leave-out PATTERN]

A wheel is a zip file laid out as it is installed, so unpacking is enough here: none brings a script or a header that is
needed, and none is checked against its own list of files, so what is not used can be taken out of it (``--slim``).
What the interpreter has already is left alone, since other packages were built against it, and seen from the new
environment, even where the interpreter is that of a virtual environment itself. The checkout is used as it stands; its
``pyproject.toml`` says what Python must find in a ``*.dist-info`` folder to know its methods.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
LISTED = Path(__file__).with_name("wheels.txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="the environment to make; with --slim the wheel to make smaller")
    parser.add_argument("--wheels", type=Path, default=Path(__file__).with_name("wheels"))
    parser.add_argument("--slim", action="store_true", help="take the debugging symbols out of a wheel, given strip")
    parser.add_argument("--leave-out", metavar="PATTERN", default="", help="and these files")
    options = parser.parse_args()
    if options.slim:
        slim(options.path, options.leave_out)
        return
    place = make_environment(options.path)
    if missing := fill(place, options.wheels):
        print(f"missing, so what needs them will fail: {', '.join(missing)} (run fetch_wheels.sh for this Python)")
    register_checkout(place)


def make_environment(folder: Path) -> Path:
    """A virtual environment in ``folder`` that sees the checkout and this interpreter's packages: where its own go."""
    venv.create(folder, symlinks=True)
    place = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder)}))
    theirs = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    found = "".join(f"import site; site.addsitedir({path!r})\n" for path in theirs)
    (place / "on_gpu.pth").write_text(f"{CHECKOUT}\n{found}")
    return place


def fill(place: Path, wheels: Path) -> list[str]:
    """Unpack into ``place`` what this interpreter lacks of wheels.txt; the names that there is no fitting wheel for."""
    place.mkdir(parents=True, exist_ok=True)
    found = {plain(wheel.name.partition("-")[0]): wheel for wheel in sorted(wheels.glob("*.whl")) if fits(wheel)}
    missing = []
    for line in LISTED.read_text().splitlines():
        requirement = line.partition("#")[0].strip()
        name = plain(re.split(r"[<>=]", requirement)[0])
        if not name or is_installed(name):
            continue
        if name not in found:
            missing.append(name)
            continue
        with zipfile.ZipFile(found[name]) as archive:
            archive.extractall(place)
    return missing


def fits(wheel: Path) -> bool:
    """Whether the wheel is for this Python, by its name (PEP 425); it is for this platform if it was fetched for it."""
    python, abi, _ = wheel.stem.split("-")[-3:]
    ours = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return abi in ("none", "abi3") or ours in python.split(".")


def plain(name: str) -> str:
    """A name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def register_checkout(place: Path) -> None:
    """Write what an installed package says of itself: name, version and entry points."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    found = re.search(r'"([^"]+)"', (CHECKOUT / "mekd_plugin" / "version.py").read_text().partition("__version__")[2])
    if found is None:
        raise SystemExit('mekd_plugin/version.py: expected a line __version__ = "..."')
    name, version = project["name"], found[1]
    folder = place / f"{name.replace('-', '_')}-{version}.dist-info"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, named in {"console_scripts": project["scripts"], **project["entry-points"]}.items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in named.items()), ""]
    (folder / "entry_points.txt").write_text("\n".join(lines))


def slim(wheel: Path, pattern: str) -> None:
    """Rewrite ``wheel`` without debugging symbols and without the files that match ``pattern``."""
    smaller = wheel.with_suffix(".smaller")
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED) as rest:
        for entry in whole.infolist():
            if fnmatch.fnmatch(entry.filename, pattern):
                continue
            content = whole.read(entry)
            rest.writestr(entry, stripped(content) if entry.filename.endswith(".so") else content)
    os.replace(smaller, wheel)


def stripped(library: bytes) -> bytes:
    """A shared library without its debugging symbols; as it is where there is no ``strip``."""
    if shutil.which("strip") is None:
        return library
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(library)
        file.flush()
        subprocess.run(["strip", "--strip-debug", file.name], check=True)
        return Path(file.name).read_bytes()


if __name__ == "__main__":
    main()
