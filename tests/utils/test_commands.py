"""Commands in messages can be copied into a shell."""

import re
import shlex
from pathlib import Path

import pytest

from dreamfusion.utils.errors import command
from tests.helpers import ROOT


@pytest.mark.parametrize("path", ["runs/a b", "runs/it's", "a;rm -rf b", "$HOME", "runs/größe"])
def test_a_path_is_one_word_of_the_shell(path):
    said = command("resume", Path(path), "--steps", 20)
    assert shlex.split(said) == ["dreamfusion", "resume", path, "--steps", "20"]


def test_a_plain_path_needs_no_quotes():
    assert command("view", Path("runs/a-corgi")) == "dreamfusion view runs/a-corgi"


def test_a_path_is_not_an_option():
    assert command("view", Path("-x")) == "dreamfusion view ./-x"


def test_messages_build_commands_with_the_quoting_function():
    for path in (ROOT / "dreamfusion").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found = re.findall(r'f".*dreamfusion (?:train|resume|batch|[erv]\w+) [^"]*\{.*', text)
        assert not found, (path, found)
