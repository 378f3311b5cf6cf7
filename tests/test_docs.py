"""The README and the documentation match the code."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import typer.main

import dreamfusion
from dreamfusion.batch.prompts import combinations
from dreamfusion.cli.app import app, main
from dreamfusion.config import nested, sections
from dreamfusion.config.layers import build_config, parse_yaml
from dreamfusion.config.presets import read_settings
from tests.helpers import PAGES, README, ROOT
from tests.plugins.conftest import SETTINGS

EXAMPLES = {  # an example on two pages runs once
    code: f"{page}-{number}"
    for page, text in PAGES.items()
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
}
# Settings that make examples of complete runs short enough for a test.
SHORT = {
    "steps=250": "steps=2", "steps=400": "steps=3", "steps=20)": "steps=2)",
    "range(200)": "range(2)", "size=256": "size=16",
    '"estimator.guidance": 8':
        '"estimator.guidance": 8, "output.video_frames": 2, "output.texture_size": 64, '
        '"output.mesh_resolution": 32, "output.video_size": 32',
    '"scene.name": "gaussians"':
        '"scene.name": "gaussians", "scene.count": 300, "scene.opacity": 0.9, "steps": 2, '
        '"output.texture_size": 64, "output.mesh_resolution": 32, "output.video_frames": 2',
}  # fmt: skip
COMMAND = typer.main.get_command(app)


@pytest.fixture(scope="module")
def extras(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package that docs/extending.md builds, installed for this process."""
    folder = tmp_path_factory.mktemp("extras")
    files = re.findall(
        r"```\{code-block\} \w+\n:caption: (\S+)\n\n(.*?)```",
        PAGES["docs/extending.md"],
        flags=re.DOTALL,
    )
    for name, code in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code)
    (folder / "dream_extras" / "__init__.py").touch()
    project = (folder / "pyproject.toml").read_text()
    entries = re.sub(r'\[project\.entry-points\."(.*?)"\]', r"[\1]", project)
    info = folder / "dream_extras-0.1.0.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text(
        "Metadata-Version: 2.1\nName: dream_extras\nVersion: 0.1\n"
    )
    info.joinpath("entry_points.txt").write_text(
        entries[entries.index("[dreamfusion.") :].replace('"', "")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for function in (sections._entries, sections.find_section):
            function.cache_clear()
        yield folder
    for function in (sections._entries, sections.find_section):
        function.cache_clear()


@pytest.mark.parametrize("code", EXAMPLES, ids=EXAMPLES.values())
def test_a_python_example_runs(
    code: str, extras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    short = code
    for long, quick in SHORT.items():
        short = short.replace(long, quick)
    assert short != code
    space: dict[str, Any] = {}
    exec(short, space)
    if "optimizer" in space:
        (generator,) = space["optimizer"].param_groups[0]["params"]
        assert generator.grad.abs().sum() > 0
    if "again" in space:
        assert space["images"].shape == (8, 16, 16, 3) and len(space["rows"]) == 2
        assert (tmp_path / "corgi.glb").exists() and space["again"].config.steps == 3


def test_the_package_that_the_documentation_builds_passes_its_own_tests(extras: Path):
    tests = runpy.run_path(str(extras / "tests" / "test_dream_extras.py"))
    found = [name for name in tests if name.startswith("test_")]
    assert len(found) == 2
    for name in found:
        tests[name]()


def test_the_package_that_the_documentation_builds_makes_a_mesh(extras: Path, tmp_path: Path):
    settings = {
        "prior": {},
        "render": {"resolution": 16},
        "output": SETTINGS["output"],
        "scene": {"name": "voxels", "cells": 12},
        "estimator": {"name": "centred", "share": 0.5},
    }
    run = dreamfusion.train("a red cube", out=tmp_path / "run", steps=2, settings=settings)
    assert (tmp_path / "run" / "mesh" / "model.glb").exists()
    assert run.metrics[-1]["centred_gradient"] > 0


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of each command line of dreamfusion in the shell blocks of a page."""
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            # Also after "pip install . &&" and "torchrun ... -m", but not "cd dreamfusion".
            words = words[words.index("dreamfusion") + 1 :] if "dreamfusion" in words else []
            if words:
                yield words[: words.index(">")] if ">" in words else words


COMMANDS = sorted({(page, *words) for page, text in PAGES.items() for words in commands(text)})


def test_command_lines_are_found():
    assert len(COMMANDS) > 40
    assert {"train", "resume", "export", "render", "sample", "vocabulary"} <= {
        c[1] for c in COMMANDS
    }


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_line_parses(
    words: tuple[str, ...], extras: Path, capsys: pytest.CaptureFixture[str]
):
    """Commands, options, values and settings exist, and no required argument is missing."""
    _, *rest = words
    if "--help" in rest:
        assert main(rest) == 0
        return
    command = COMMAND
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    given = command.make_context(command.name, rest).params
    preset, assignments = given.get("config"), given.get("set_") or ()
    if estimator := given.get("estimator"):
        assignments = (f"estimator.name={estimator}", *assignments)
    if (prior := given.get("prior")) in sections.section_names(sections.PRIORS):
        assignments = (f"prior.name={prior}", *assignments)
    for changes in combinations(assignments):
        build_config(*(read_settings(preset) if preset else ()), changes)


def test_commands_in_running_text_exist():
    """Names and options, as in `dreamfusion resume --prior PATH`."""
    for page, text in PAGES.items():
        for code in re.findall(r"(?<!`)`dreamfusion ([a-z][^`]*)`", text):
            words = code.split()
            command = COMMAND
            while hasattr(command, "commands") and words:
                assert words[0] in command.commands, (page, code)
                command = command.commands[words.pop(0)]
            options = {option for one in command.params for option in one.opts} | {"--help"}
            used = {word for word in words if word.startswith("--")}
            assert used <= options, (page, code)


def test_settings_in_running_text_exist():
    """As in `--set camera.views=1` and `losses.entropy`."""
    text = "".join(PAGES.values())
    found = re.findall(r"`--set ([a-z_.]+=[^`, ]+)`", text)
    assert len(found) > 4
    for code in found:
        build_config(*combinations([code]))
    scenes = sections.section_names(sections.SCENES)
    configs = [build_config({"scene": {"name": name}}) for name in scenes]
    parts = [part for config in configs for part in nested.flat(asdict(config))]
    known = {name.rsplit(".", i)[0] for name, _ in parts for i in range(3)}
    roots = {name.split(".")[0] for name in known}
    named = {
        name
        for name in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", text)
        if name.split(".")[0] in roots and not name.endswith(".json")
    }
    assert len(named) > 15
    assert named <= known, named - known


def test_yaml_examples_are_settings():
    for text in PAGES.values():
        for block in re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL):
            build_config(
                {k: v for k, v in parse_yaml(block).items() if k not in ("start", "extends")}
            )


def test_the_diagram_of_packages_matches_import_linter():
    """From top to bottom, as in the configuration of import-linter."""
    page = PAGES["docs/concepts.md"]
    drawing = page[page.index("    cli   ") :]
    drawn = [re.split(r"  +", line.strip())[:-1] for line in drawing.strip().splitlines()]
    rules = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r'containers = \["dreamfusion"\]\nlayers = \[(.*?)\]', rules, re.DOTALL)
    layers = [line.split(" | ") for line in re.findall(r'"(.*?)"', listed[1])]
    assert drawn == [layer for layer in layers if layer != ["__main__"]]


def test_references_contain_all_commands_and_public_names():
    pages = runpy.run_path(str(ROOT / "docs" / "references.py"))
    cli, api = pages["cli_reference"](), pages["api_reference"]()
    for name, command in COMMAND.commands.items():
        assert f"## dreamfusion {name}" in cli.replace("###", "##"), name
        options = [option for one in command.params for option in one.opts]
        assert not (missing := {o for o in options if o[0] == "-" and o not in cli}), missing
    for name in set(dreamfusion.__all__) - {"__version__"}:
        assert f":: dreamfusion.{name}\n" in api


def test_linked_images_and_pages_exist():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(((?!http)[^)#]+)[^)]*\)", text):
            assert ((ROOT / page).parent / target).exists(), (page, target)


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200
