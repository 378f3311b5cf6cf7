"""Reference pages, made from the program each time: they cannot be stale."""

from __future__ import annotations

import ast
import inspect
import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import typer.main

import dreamfusion
from dreamfusion.cli.app import app, main

# Where a public name is documented, by the package that it lives in.
SECTIONS = {
    "api": "Runs",
    "training": "Training step by step",
    "config": "Settings",
    "priors": "Diffusion priors",
    "diffusion": "Predictions and guidance",
    "distillation": "Estimators",
    "scenes": "Scenes",
    "graphics": "Cameras and light",
    "mesh": "Meshes",
    "utils": "Errors, state and processes",
}


def api_reference() -> str:
    """Markdown: every public name of the package, by section."""
    stub = Path(dreamfusion.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    imports = [node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom)]
    packages = {
        alias.name: str(node.module).split(".")[0] for node in imports for alias in node.names
    }
    assert set(packages.values()) == set(SECTIONS), set(packages.values()) ^ set(SECTIONS)
    lines = []
    for package, title in SECTIONS.items():
        lines += [f"## {title}", "", "```{eval-rst}"]
        for name in (name for name in packages if packages[name] == package):
            value = getattr(dreamfusion, name)
            kind = "class" if inspect.isclass(value) else "function"
            kind = kind if inspect.isclass(value) or inspect.isfunction(value) else "data"
            lines += [f".. auto{kind}:: dreamfusion.{name}"]
            lines += ["   :members:", ""] if kind == "class" else [""]
        lines += ["```", ""]
    return "\n".join(lines)


def cli_reference() -> str:
    """Markdown: what --help prints for the program and each of its commands."""

    def pages(command: Any, words: list[str]) -> list[str]:
        output = io.StringIO()
        with redirect_stdout(output):
            main([*words[1:], "--help"])
        title = f"{'#' * (len(words) + 1)} {' '.join(words)}" if words[1:] else "## Overview"
        found = [f"{title}\n\n```text\n{output.getvalue().strip()}\n```\n"]
        for name, child in getattr(command, "commands", {}).items():
            if not child.hidden:
                found += pages(child, [*words, name])
        return found

    return "\n".join(pages(typer.main.get_command(app), ["dreamfusion"]))
