"""Writes README's table of methods from what is installed: ``python docs/methods_table.py``."""

from pathlib import Path

from mekd_plugin.listing import as_markdown, methods, written_into

README = Path(__file__).parents[1] / "README.md"


def table() -> str:
    """The methods that this package itself brings."""
    return as_markdown(row for row in methods(needs=True) if row["package"].startswith("mekd-plugin "))


if __name__ == "__main__":
    README.write_text(written_into(README.read_text(), table()))
