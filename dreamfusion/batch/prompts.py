"""Lists of prompts with optional seeds, presets and settings, from files in several formats.

The file suffix determines the format. Content in another format is an error, never a prompt.
"""

import csv
import io
import itertools
import json
import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamfusion.config.layers import ConfigError, nested, parse_assignments, parse_yaml
from dreamfusion.utils.errors import UserError, one_line

_VALUE = r"(?:\[[^\]]*\]|\{[^}]*\}|\"[^\"]*\"|'[^']*'|[^,])+"
# The keys of an entry, with the type and a description of their values.
_KEYS: dict[str, tuple[Any, str]] = {
    "prompt": (str, "text, in quotes if it looks like something else"),
    "seed": (int, "a whole number of at least 0"),
    "preset": (str, "the name of a preset or a settings file"),
    "settings": (dict, "a mapping of names to values"),
}


class BatchError(UserError):
    """A list of prompts or a folder of jobs that cannot be used."""


@dataclass(frozen=True)
class Entry:
    """One entry of a list. where: its position, for errors ("prompts.txt, line 3"). None takes the
    option of the command."""

    where: str
    prompt: str
    seed: int | None = None
    preset: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_entries(source: str) -> list[Entry]:
    """The entries of a file, or of standard input for "-", in order. Raises BatchError, which
    reports all invalid entries at once."""
    name = "standard input" if source == "-" else source
    suffix = Path(source).suffix.lower() or ".txt"
    if suffix not in _READERS:
        raise BatchError(f"{name} is not a list of prompts: save it as {', '.join(_READERS)}")
    try:
        binary = (
            sys.stdin.buffer.read() if source == "-" else Path(source).expanduser().read_bytes()
        )
        # Other signs that end a line in Python, such as U+2028, may be part of a prompt.
        text = binary.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        items = list(_READERS[suffix](text))
    except FileNotFoundError:
        raise BatchError(f"no such file: {source}") from None
    except UnicodeDecodeError:
        raise BatchError(
            f"{name} is not text in UTF-8; save it as UTF-8, in Excel as CSV UTF-8"
        ) from None
    except (ValueError, csv.Error, RecursionError) as error:
        raise BatchError(f"{name} cannot be read as {suffix[1:]}: {one_line(error)}") from None
    if not items:
        raise BatchError(f"{name} contains no prompts")
    return make_all(items, lambda item: _entry(f"{name}, {item[0]}", item[1]))


def make_all(items: Sequence[Any], make: Callable[[Any], Any]) -> list[Any]:
    """Call `make` for every item. Raises BatchError with all errors, in short form if several."""
    made: list[Any] = []
    errors: dict[str, UserError] = {}
    for item in items:
        try:
            made.append(make(item))
        except UserError as error:
            errors[str(error)] = error
    if errors:
        texts = list(errors) if len(errors) == 1 else [error.brief for error in errors.values()]
        raise BatchError("; ".join(texts))
    return made


def combinations(assignments: Sequence[str]) -> list[dict[str, Any]]:
    """All combinations of `["estimator.guidance=4,8", …]`, as nested settings. Raises ConfigError.

    Commas within brackets or quotes do not separate: camera.distance=[2.6,3.2] is one value.
    """
    choices: list[list[str]] = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        choices.append([f"{key}{equals}{value}" for value in re.findall(_VALUE, text) or [""]])
    return [parse_assignments(chosen) for chosen in itertools.product(*choices)]


Items = Iterator[tuple[str, Any]]  # a position ("line 3"), and a prompt or a mapping


def _from_lines(text: str) -> Items:
    first = True
    for number, line in enumerate(map(str.strip, text.split("\n")), start=1):
        if not line or line.startswith("#"):
            continue
        columns = [cell.strip(' "').lower() for cell in re.split(r"[,;\t]", line)]
        if first and (line.startswith(("[", "{", '"', "- ")) or "prompt" in columns):
            raise ValueError(
                f"line {number} looks like a list in JSON, YAML or CSV; save it as such"
            )
        first = False
        yield f"line {number}", line


def _from_json_lines(text: str) -> Items:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _parsed(json.loads, line, f"line {number}")


def _from_table(text: str) -> Items:
    """The rows of a table with commas, semicolons or tabs. Its first row names the columns."""
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names = [name.strip().lower() for name in rows.fieldnames or []]
    used = [name for name in names if name]
    if "prompt" not in used or len(set(used)) < len(used):
        raise ValueError("its first row must name the columns, one of them prompt, each once")
    rows.fieldnames = names
    for row in rows:
        where = f"line {rows.line_num}"
        if any([*row.pop(None, []), row.pop("", None)]):
            raise ValueError(f"{where} has cells without a column; quote cells with {delimiter!r}")
        cells = {name: cell.strip() for name, cell in row.items() if cell and cell.strip()}
        if cells:
            prompt, preset = cells.pop("prompt", None), cells.pop("preset", None)
            settings = {name: _parsed(parse_yaml, cell, where) for name, cell in cells.items()}
            item = {"prompt": prompt, "preset": preset, "seed": settings.pop("seed", None)}
            yield where, item | {"settings": settings}


def _parsed(parse: Callable[[str], Any], text: str, where: str) -> Any:
    try:
        return parse(text)
    except ValueError:
        raise ValueError(f"{where}: cannot read {one_line(text, 80)!r}") from None


def _numbered(items: Any) -> Items:
    if not isinstance(items, list):
        raise ValueError('it must hold a list of prompts, such as ["a corgi", "a red mug"]')
    return ((f"entry {number}", item) for number, item in enumerate(items, start=1))


_READERS: dict[str, Callable[[str], Iterable[tuple[str, Any]]]] = {
    ".txt": _from_lines,
    ".yaml": lambda text: _numbered(parse_yaml(text)),
    ".json": lambda text: _numbered(json.loads(text)),
    ".jsonl": _from_json_lines,
    ".csv": _from_table,
    ".tsv": _from_table,
}


def _entry(where: str, item: Any) -> Entry:
    given: dict[str, Any] = {"prompt": item} if isinstance(item, str) else item
    if not isinstance(given, dict) or not given.keys() <= _KEYS.keys():
        raise BatchError(
            f"{where}: expected a prompt, or a mapping with {', '.join(_KEYS)}; not {_shown(item)}"
        )
    for key, (kind, what) in _KEYS.items():
        value = given.get(key)
        if value is not None and (type(value) is not kind or (key == "seed" and value < 0)):
            raise BatchError(f"{where}: {key} must be {what}, not {_shown(value)}")
    if not (prompt := (given.get("prompt") or "").strip()):
        raise BatchError(f"{where}: the prompt is missing")
    try:
        prompt.encode()
        settings = nested(given.get("settings") or {})
    except (ConfigError, UnicodeEncodeError) as error:
        raise BatchError(f"{where}: {error}") from None
    return Entry(where, prompt, given.get("seed"), given.get("preset"), settings)


def _shown(value: Any) -> str:
    """A value in a message. Nested lists are truncated: YAML's anchors can make them infinite."""
    return one_line(reprlib.repr(value), 80)
