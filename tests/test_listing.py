"""The table of methods: in the terminal, and in README as the registry has it."""

import re
import runpy
from pathlib import Path

import pytest

from mekd_plugin.listing import as_markdown, methods, written_into
from mekd_plugin.registry import distillers

ROOT = Path(__file__).parents[1]
OWN = [row for row in methods(needs=True) if row["package"].startswith("mekd-plugin ")]


def test_readme_shows_what_is_registered():
    """After a change: ``python docs/methods_table.py``."""
    script = runpy.run_path(str(ROOT / "docs" / "methods_table.py"))
    text = (ROOT / "README.md").read_text()
    assert text == written_into(text, script["table"]())
    assert {"mekd", "kd", "dkd", "knockoff"} <= set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))


@pytest.mark.parametrize("row", OWN, ids=lambda row: row["name"])
def test_every_method_says_where_it_is_from(row):
    said = row["reference"]
    assert said.startswith("sanity row") or re.search(r"\b(19|20)\d\d\b", said), (
        f"{row['name']}: which paper, and when?"
    )
    assert "|" not in said and said == said.strip() and not said.endswith(".")


def test_those_that_send_the_least_come_first():
    blank = {"aliases": [], "pool": "edge", "queries": "once", "responses": "soft", "gradients": False, "reference": "R"}
    sent = {"a": "real images", "c": "nothing of the edge", "b": "nothing of the edge"}
    lines = as_markdown([{"name": name, "leaves_edge": what, **blank} for name, what in sent.items()]).splitlines()
    assert [re.match(r"\| `(\w+)`", line).group(1) for line in lines[2:]] == ["b", "c", "a"]
    assert lines[2] == "| `b` | | nothing of the edge | the edge | once | soft | R |"


def test_a_white_box_is_marked():
    row = {"name": "a", "aliases": ["x"], "leaves_edge": "real images", "pool": "none", "queries": "every step"}
    last = as_markdown([{**row, "responses": "either", "gradients": True, "reference": "R"}]).splitlines()[-1]
    assert last == "| `a` | `x` | real images | nowhere | every step | soft or hard, **gradients** | R |"


def test_a_page_without_marks_is_refused():
    with pytest.raises(ValueError, match="has no lines"):
        written_into("a page", "a table")


def test_without_needs_no_method_is_loaded():
    assert [row["name"] for row in methods()] == [entry.name for entry in distillers().entries()]
    assert set(methods()[0]) == {"name", "aliases", "package"}
