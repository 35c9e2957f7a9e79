"""What `mekd tutorials DIR` hands to a reader."""

from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner

from mekd_plugin.cli import app

FOLDER = Path(__file__).parents[2] / "tutorials"


def test_notebooks_and_their_pages_without_what_only_their_writers_need(tmp_path) -> None:
    said = CliRunner().invoke(app, ["tutorials", str(tmp_path / "my lessons")], catch_exceptions=False).output
    copied = {path.name for path in (tmp_path / "my lessons").iterdir()}
    assert copied == {path.name for path in FOLDER.glob("*.ipynb")} | {"README.md", "solutions.md"}
    assert said.splitlines()[-1] == f"  jupyter lab '{tmp_path / 'my lessons'}'"


def test_every_link_from_one_to_another_leads_somewhere() -> None:
    for page in [*FOLDER.glob("*.py"), *FOLDER.glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
            assert (FOLDER / target).exists(), f"{page.name} links {target}, which is not there"
