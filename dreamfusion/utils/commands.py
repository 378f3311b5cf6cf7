"""Formats commands in messages, quoted for copying into a shell."""

import shlex
import subprocess
import sys
from pathlib import Path


def command(*arguments: object) -> str:
    """`dreamfusion` with these arguments, quoted for the shell of this system.

    >>> command("resume", Path("runs/a b"), "--steps", 20)
    "dreamfusion resume 'runs/a b' --steps 20"
    """
    words = ["dreamfusion", *map(_word, arguments)]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def _word(argument: object) -> str:
    text = str(argument)
    # A path like "-x" would be parsed as an option.
    return f"./{text}" if isinstance(argument, Path) and text.startswith("-") else text
