"""Settings of Sphinx for the guide and the reference; ``tox -e docs`` writes them to ``build/index.html``."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from pydoc import locate
from typing import Any

from docutils.nodes import Element
from nbconvert import HTMLExporter
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from mekd_plugin.registry import distillers
from mekd_plugin.version import __version__

project = "mekd-plugin"
version = release = __version__
copyright = ""  # noqa: A001 (Sphinx's own word)
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
html_theme = "alabaster"
html_theme_options = {
    "page_width": "1180px",
    "body_max_width": "none",
    "code_font_size": "0.8em",
    "show_powered_by": False,
    "description": "Black-box knowledge distillation with a metered teacher",
    "fixed_sidebar": True,
}
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_copyright = html_show_sourcelink = False
add_module_names = False

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# Every name that a docstring points at must be somebody's. Those of other packages cannot be looked up offline, and a
# type that only stands in a signature need not be on these pages.
nitpicky = True
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(abc|importlib|torch|numpy|matplotlib|collections|pathlib|typing|types|contextlib|lightning|transformers|pandas|flwr)\..*",
    ),
    ("py:class", r"(nn\.)?Module|Tensor|Choice|Path|Grid|Message|dict\[str|mekd_plugin\..*\._\w+"),
    ("py:class", r"(PIL|Image)\..*"),
    ("py:class", r"mekd_plugin\.training\.(processes\.Processes|execution\.Run)"),
    ("py:class", r"mekd_plugin\.blackbox\.(journal\.Forgotten|spending\.(Question|Staged))"),
]
_COLON = "\0"
_NOTEBOOK = re.compile(r"\[([^\]]+)\]\(\.\./\.\./tutorials/(\w+)\.ipynb\)")
_LINK_TO_NOTEBOOK = re.compile(r'href="(\w+)\.ipynb')
_NO_CODE_AFTER = re.compile(r"^$|^- |^\.\. |^\w+:$|::$")  # nothing, a list, a directive, a section, code already


def list_methods(app: Sphinx, page: str, source: list[str]) -> None:
    """Put every registered method's module where ``methods.rst`` has its mark."""
    modules = dict.fromkeys(entry.target.partition(":")[0] for entry in distillers().entries())
    source[0] = source[0].replace("[[methods]]", "\n\n".join(f".. automodule:: {module}" for module in modules))


def link_outwards(app: Sphinx, page: str, source: list[str]) -> None:
    """Have links out of ``docs/``, right where a page lies, lead to rendered notebooks, or to copies of files."""
    source[0] = _NOTEBOOK.sub(r'<a href="../tutorials/\2.html">\1</a>', source[0])
    source[0] = source[0].replace("](../../", "](path:../../")


def render_tutorials(app: Sphinx, error: Exception | None) -> None:
    """Write the notebooks, with their saved outputs, as pages beside the others."""
    if error is not None or app.builder.name != "html":
        return
    folder = Path(app.outdir) / "tutorials"
    folder.mkdir(exist_ok=True)
    course = Path(app.srcdir).parent / "tutorials"
    for notebook in sorted(course.glob("*.ipynb")):
        page, _ = HTMLExporter().from_filename(str(notebook))
        (folder / f"{notebook.stem}.html").write_text(_LINK_TO_NOTEBOOK.sub(r'href="\1.html', page))
    shutil.copy(course / "solutions.md", folder)


def as_markup(app: Sphinx, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Our docstrings are to be read in an editor, too, and leave to this what is plain to a reader.

    A list may follow its sentence without an empty line, an indented block after a paragraph is code, and a colon in
    the first line of a property does not name a type, as Google's style has it.
    """
    if lines and what in ("property", "attribute", "data"):
        lines[0] = lines[0].replace(":", _COLON)
    written: list[str] = []
    paragraph = ""
    for line in lines:
        if line.startswith("- ") and written and written[-1] and not paragraph.startswith("- "):
            written.append("")
        if line.startswith("    ") and not _NO_CODE_AFTER.search(paragraph) and not written[-1]:
            paragraph = "::"
            written += [paragraph, ""]
        if line and not line.startswith(" "):
            paragraph = line
        written.append(line)
    lines[:] = written


def with_colons(app: Sphinx, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Put back the colons that :func:`as_markup` hid from napoleon."""
    lines[:] = [line.replace(_COLON, ":") for line in lines]


def find_by_last_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Element) -> Element | None:
    """Resolve a name as its own file knows it, or an object's home, to the place on these pages that has it."""
    if node.get("refdomain") != "py":
        return None
    domain: Any = env.get_domain("py")
    target = node["reftarget"]
    last = "." + (target if locate(target) is None else target.rpartition(".")[2])
    homes = {domain.objects[name].node_id: name for name in domain.objects if name.endswith(last)}
    if len(homes) != 1:
        return None
    found: Element | None = domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], next(iter(homes.values())), node, content
    )
    return found


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", list_methods)
    app.connect("source-read", link_outwards)
    app.connect("build-finished", render_tutorials)
    app.connect("autodoc-process-docstring", as_markup, priority=400)  # napoleon's is 500
    app.connect("autodoc-process-docstring", with_colons, priority=600)
    app.connect("missing-reference", find_by_last_name)
