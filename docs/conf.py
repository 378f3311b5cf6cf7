"""Configuration of the documentation site: sphinx-build -W -b html docs OUT."""

from __future__ import annotations

import inspect
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.ext.napoleon import Config, GoogleDocstring

import dreamfusion

sys.path.insert(0, str(Path(__file__).parent))
from references import api_reference, cli_reference

project = "dreamfusion"
author = "The dreamfusion authors"
copyright = author
release = dreamfusion.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"dreamfusion {release}"


def add_generated(app: Any, docname: str, source: list[str]) -> None:
    """Replace the markers in api.md and cli.md by what they stand for."""
    for marker, generate in (
        ("% api-reference", api_reference),
        ("% cli-reference", cli_reference),
    ):
        if marker in source[0]:
            source[0] = source[0].replace(marker, generate())


def convert_docstring(
    app: Any, kind: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """Docstrings are plain text: escape markup, and list what `name: what` explains."""
    known = set(getattr(value, "__annotations__", {}))
    with suppress(TypeError, ValueError):
        known |= set(inspect.signature(value).parameters)
    text = re.sub(r"(?<!`)`([^`\n]+)`(?!`)", r"``\1``", "\n".join(lines))
    parts = re.split(r"(``[^`]*``)", text)  # code, at odd places, stays as it is
    parts[::2] = [re.sub(r"[*|]|(?<=\w)_\b", r"\\\g<0>", part) for part in parts[::2]]
    lines.clear()
    for paragraph in "".join(parts).split("\n\n"):
        joined = " ".join(line.strip() for line in paragraph.splitlines())
        # "a, b: what" at the beginning of a sentence, where a and b are arguments or attributes.
        starts = re.finditer(r"(?:^|(?<=[.;)…] ))((?:\w+, )*\w+): ", joined)
        found = [match for match in starts if set(match[1].split(", ")) <= known]
        if not found or paragraph.startswith((" ", ">>>")):
            lines += [*paragraph.splitlines(), ""]
            continue
        lines += [joined[: found[0].start()].strip(), ""]
        ends = [*(match.start() for match in found[1:]), len(joined)]
        for match, end in zip(found, ends, strict=True):
            names = ", ".join(f"**{one}**" for one in match[1].split(", "))
            lines.append(f"- {names}: {joined[match.end() : end].strip()}")
        lines.append("")
    if any(re.match(r"(Args|Returns|Raises|Yields):$", line) for line in lines):
        lines[:] = str(GoogleDocstring(lines, Config(), app, kind, name, value)).splitlines()


def write_formula(writer: Any, node: Any) -> None:
    """Write a formula as MathML, which browsers show without a script from the network."""
    block = isinstance(node, nodes.math_block)
    before, after = ('<div class="math" style="padding: 0.4em 0">', "</div>") if block else ("", "")
    writer.body.append(f"{before}{tex2mathml(node.astext(), as_block=block)}{after}")
    raise nodes.SkipNode


def setup(app: Any) -> None:
    app.add_html_math_renderer("mathml", (write_formula, None), (write_formula, None))
    app.connect("source-read", add_generated)
    app.connect("autodoc-process-docstring", convert_docstring, priority=400)
