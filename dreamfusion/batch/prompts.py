"""Lists of what to make: one prompt a line, or YAML, CSV or JSONL with more for each."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dreamfusion.config.layers import nested, parse_assignments
from dreamfusion.utils.errors import UserError, one_line

_KEYS = ("prompt", "seed", "preset", "settings")
_AT_ONCE = 20  # complaints in one message


class BatchError(UserError):
    """A list, or a folder of jobs, that cannot be worked on."""


@dataclass(frozen=True)
class Entry:
    """One thing to make. where: how errors name it ("prompts.txt, line 3"). What is None is left
    to the command's options."""

    where: str
    prompt: str
    seed: int | None = None
    preset: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_entries(source: str) -> list[Entry]:
    """The entries of a .txt, .yaml, .csv or .jsonl file, or of standard input for "-".

    Raises BatchError, which names everything that is wrong at once.
    """
    text = _text(source)
    kind = Path(source).suffix.lower()
    read: Callable[[str], Iterator[tuple[str, Any]]]
    if kind in (".yaml", ".yml"):
        read = _from_yaml
    elif kind == ".csv":
        read = _from_csv
    elif kind in (".jsonl", ".ndjson"):
        read = _from_jsonl
    else:
        read = _from_lines
    try:
        found = list(read(text))
    except (ValueError, csv.Error, yaml.YAMLError) as error:
        raise BatchError(f"{source} cannot be read: {one_line(error)}") from None
    if not found:
        raise BatchError(f"{source} names nothing to make")
    name = "standard input" if source == "-" else source
    return each(found, lambda item: _entry(f"{name}, {item[0]}", item[1]))


def each(items: Sequence[Any], make: Callable[[Any], Any]) -> list[Any]:
    """`make` of every item. What it cannot make is told all at once: raises BatchError."""
    made, wrong = [], []
    for item in items:
        try:
            made.append(make(item))
        except UserError as error:
            wrong.append(str(error))
    if wrong:
        wrong = list(dict.fromkeys(wrong))
        more = f"; and {len(wrong) - _AT_ONCE} more" if len(wrong) > _AT_ONCE else ""
        raise BatchError("; ".join(wrong[:_AT_ONCE]) + more)
    return made


def combinations(assignments: Sequence[str]) -> list[dict[str, Any]]:
    """Every combination of `["sds.guidance=4,8", …]`, each as nested settings.

    A comma within brackets or quotes parts nothing: camera.distance=[2.6,3.2] is one value.
    """
    choices: list[list[str]] = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        values = _parts(text) if equals else [""]
        choices.append([f"{key}{equals}{value}" for value in values])
    return [parse_assignments(chosen) for chosen in itertools.product(*choices)]


def _parts(text: str) -> list[str]:
    return re.findall(r"(?:\[[^\]]*\]|\{[^}]*\}|\"[^\"]*\"|'[^']*'|[^,])+", text) or [""]


def _text(source: str) -> str:
    try:
        if source == "-":
            return sys.stdin.read()
        return Path(source).expanduser().read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BatchError(f"there is no file {source}") from None
    except UnicodeDecodeError:
        raise BatchError(f"{source} is not text in UTF-8") from None


def _from_lines(text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield f"line {number}", line.strip()


def _from_yaml(text: str) -> Iterator[tuple[str, Any]]:
    content = yaml.safe_load(text)
    if not isinstance(content, list):
        raise ValueError("it must hold a list of prompts")
    for number, item in enumerate(content, start=1):
        yield f"entry {number}", item


def _from_csv(text: str) -> Iterator[tuple[str, Any]]:
    rows = csv.DictReader(io.StringIO(text), restkey="", restval="")
    for row in rows:
        where = f"line {rows.line_num}"
        if "" in row:
            raise ValueError(f"{where} has more cells than the head has columns")
        given = {key.strip(): cell.strip() for key, cell in row.items() if cell.strip()}
        item: dict[str, Any] = {key: given.pop(key) for key in _KEYS[:3] if key in given}
        if "seed" in item:
            item["seed"] = yaml.safe_load(item["seed"])
        yield where, item | {"settings": {k: yaml.safe_load(cell) for k, cell in given.items()}}


def _from_jsonl(text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"line {number}", json.loads(line)


def _entry(where: str, item: Any) -> Entry:
    if isinstance(item, str):
        item = {"prompt": item}
    if not isinstance(item, dict):
        raise BatchError(f"{where}: takes a prompt or a mapping, not {item!r}")
    unknown = [str(key) for key in item if key not in _KEYS]
    if unknown:
        raise BatchError(f"{where}: there is no {', '.join(unknown)}; it has {', '.join(_KEYS)}")
    prompt, seed, preset = (item.get(key) for key in _KEYS[:3])
    settings = item.get("settings") or {}
    if not isinstance(prompt, str) or not prompt.strip():
        raise BatchError(f"{where}: the prompt is missing")
    if seed is not None and (type(seed) is not int or seed < 0):
        raise BatchError(f"{where}: seed takes a whole number, not {seed!r}")
    if preset is not None and not isinstance(preset, str):
        raise BatchError(f"{where}: preset takes a name or a file, not {preset!r}")
    if not isinstance(settings, dict):
        raise BatchError(f"{where}: settings takes settings by their names, not {settings!r}")
    return Entry(where, prompt.strip(), seed, preset, nested(settings))
