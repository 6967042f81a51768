"""Sphinx settings. Build with: sphinx-build -W -b html docs docs/_build"""

import re

import maxslope

project = "maxslope"
author = "maxslope developers"
version = release = maxslope.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"maxslope {release}"
html_static_path: list[str] = []
html_copy_source = False
html_show_sourcelink = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
pygments_style = "default"

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

_SECTION = re.compile(r"\s*(Args|Attributes|Raises|Returns|References|Yields):$")
_SPECIAL = re.compile(r"([\\*|_])")


def _prose(line: str) -> str:
    """A line of plain text as reStructuredText: `code` in literals, everything else shown as it is."""
    parts = line.split("`")
    if len(parts) % 2 == 0:  # a lone backtick
        return _SPECIAL.sub(r"\\\1", line).replace("`", "\\`")
    return "".join(f"``{p}``" if i % 2 else _SPECIAL.sub(r"\\\1", p) for i, p in enumerate(parts))


def plain_docstrings(app, what, name, obj, options, lines: list[str]) -> None:
    """The docstrings are plain text with Google sections and doctests: make reStructuredText of them.

    Runs before napoleon, which reads the sections. Bars, stars and underscores of formulas lose their meaning for
    reStructuredText; an indented formula becomes a literal block; names before the colon of an argument stay as they are.
    """
    out: list[str] = []
    test = section = formula = False
    for line in lines:
        text = line.strip()
        if text.startswith(">>>"):
            test = True
        elif not text:
            test = False
        if not text or test:
            out.append(line)
            formula = formula and not text
            continue
        if _SECTION.match(line):
            section = True
            out.append(line)
            continue
        indent = len(line) - len(line.lstrip())
        section = section and indent > 0
        if indent and not section:
            if not formula:
                out += [".. code-block:: none", ""]
                formula = True
            out.append(line)
            continue
        formula = False
        head = re.match(r"(\s+[\w, *]+:)(.*)", line) if section else None
        out.append(head[1] + _prose(head[2]) if head else _prose(line))
    # napoleon would read what stands before the colon of a property's first line as its type
    lines[:] = ["", *out] if what in ("property", "attribute") else out


def setup(app) -> None:
    app.connect("autodoc-process-docstring", plain_docstrings, priority=100)
