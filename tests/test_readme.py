"""What the README says is true of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dreamfusion.cli.app import main
from tests.helpers import README, ROOT

EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
# What makes the examples of whole runs short enough for a test.
SHORT = {
    "steps=250": "steps=2", "steps=400": "steps=3", "steps=20)": "steps=2)",
    "range(200)": "range(2)", "size=256": "size=16",
    '"estimator.guidance": 8':
        '"estimator.guidance": 8, "output.video_frames": 2, "output.texture_size": 64',
}  # fmt: skip


@pytest.mark.parametrize("code", EXAMPLES, ids=lambda code: code.split("\n")[2][:30])
def test_a_python_example_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
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
        assert space["pictures"].shape == (8, 16, 16, 3) and len(space["rows"]) == 2
        assert (tmp_path / "corgi.glb").exists() and space["again"].config.steps == 3


def test_the_drawing_of_the_layers_is_the_linters():
    """Top down, as import-linter holds them."""
    drawing = README[README.index("    cli   ") : README.index("- World: right-handed")]
    drawn = [re.split(r"  +", line.strip())[:-1] for line in drawing.strip().splitlines()]
    rules = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r'containers = \["dreamfusion"\]\nlayers = \[(.*?)\]', rules, re.DOTALL)
    layers = [line.split(" | ") for line in re.findall(r'"(.*?)"', listed[1])]
    assert drawn == [layer for layer in layers if layer != ["__main__"]]


def test_commands_that_the_readme_names_exist(capsys: pytest.CaptureFixture[str]):
    named = set(re.findall(r"^dreamfusion (\w+)", README, flags=re.MULTILINE))
    assert {"train", "resume", "export", "render", "sample", "vocabulary"} <= named
    for command in named:
        assert main([command, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


def test_pictures_and_pages_that_the_readme_links_exist():
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (ROOT / target).exists(), target
