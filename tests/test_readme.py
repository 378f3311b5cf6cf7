"""What the README says is true of the code."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dreamfusion.cli.app import main
from tests.helpers import README, ROOT


def test_python_examples_run(monkeypatch: pytest.MonkeyPatch):
    examples = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert examples
    for code in examples:
        short, replaced = re.subn(r"range\(200\)", "range(2)", code)
        assert replaced == 1
        space: dict[str, Any] = {}
        exec(short, space)
        (generator,) = space["optimizer"].param_groups[0]["params"]
        assert generator.grad.abs().sum() > 0


def test_commands_that_the_readme_names_exist(capsys: pytest.CaptureFixture[str]):
    named = set(re.findall(r"^dreamfusion (\w+)", README, flags=re.MULTILINE))
    assert {"train", "resume", "export", "render", "sample", "vocabulary"} <= named
    for command in named:
        assert main([command, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


def test_pictures_and_pages_that_the_readme_links_exist():
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (ROOT / target).exists(), target
