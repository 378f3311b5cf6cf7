"""Lists of prompts with optional seeds, presets and settings, and the formats of their files: plain
text, YAML, JSON, JSON lines and tables.

The file suffix determines the format. Content in another format is an error, so that no line of it
is mistaken for a prompt.
"""

import csv
import itertools
import json
import re
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamfusion.config.layers import ConfigError, nested, parse_assignments, parse_yaml
from dreamfusion.utils.errors import UserError, one_line

Item = tuple[str, Any]  # a position ("line 3"), and a prompt or a mapping
_KEYS = ("prompt", "seed", "preset", "settings")
_VALUE = r"(?:\[[^\]]*\]|\{[^}]*\}|\"[^\"]*\"|'[^']*'|[^,])+"
_MAX_ERRORS = 20  # in one message


class BatchError(UserError):
    """A list of prompts or a folder of jobs that cannot be used."""


def read_items(source: str) -> list[Item]:
    """The entries of a file, or of standard input for "-", in order. Raises BatchError, which names
    the expected format."""
    name = name_of(source)
    suffix = Path(source).suffix.lower()
    suffix = {"": ".txt", ".yml": ".yaml", ".ndjson": ".jsonl"}.get(suffix, suffix)
    if suffix not in _READERS:
        raise BatchError(
            f"{name} is not a list of prompts: unsupported format {suffix}. Use .txt with one "
            "prompt per line, .yaml, .json, .jsonl, .csv or .tsv."
        )
    kind, read = _READERS[suffix]
    text = _text(source)
    try:
        return list(read(text))
    except (ValueError, csv.Error, RecursionError) as error:
        raise BatchError(f"{name} cannot be read as {kind}: {one_line(error)}") from None


def name_of(source: str) -> str:
    """The name of a source in messages."""
    return "standard input" if source == "-" else source


def _text(source: str) -> str:
    """Read the text, with "\\n" as the only line end. U+2028 does not end a line."""
    try:
        content = (
            sys.stdin.buffer.read() if source == "-" else Path(source).expanduser().read_bytes()
        )
    except FileNotFoundError:
        raise BatchError(f"no such file: {source}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BatchError(
            f"{name_of(source)} is not text in UTF-8. Save it as UTF-8; in Excel, that is the "
            "format CSV UTF-8."
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _from_lines(text: str) -> Iterator[Item]:
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if lines and (other := _other_format(text, [line for _, line in lines])):
        kind, ending = other
        raise ValueError(f"it looks like {kind}. Save it as a file with the suffix {ending}.")
    for number, line in lines:
        yield f"line {number}", line


def _other_format(text: str, lines: list[str]) -> tuple[str, str] | None:
    """The detected format of the text and its file suffix; None for a list of lines."""
    whole = _as_json(text)
    if isinstance(whole, (list, dict)) or lines[0] in ("[", "{"):
        return "JSON", ".json"
    if all(isinstance(_as_json(line), (str, list, dict)) for line in lines):
        return "JSON lines", ".jsonl"
    if all(line.startswith("- ") for line in lines):
        return "YAML", ".yaml"
    if "prompt" in [cell.strip(' "').lower() for cell in re.split(r"[,;\t]", lines[0])]:
        return "a table", ".csv or .tsv"
    return None


def _as_json(text: str) -> Any:
    """The content of JSON text; None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _from_json(text: str) -> Iterator[Item]:
    try:
        content = json.loads(text)
    except ValueError as error:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and all(_as_json(line) is not None for line in lines):
            raise ValueError("every line is a separate value. Use the suffix .jsonl.") from None
        line = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "a number"
        raise ValueError(f"{line} is not valid JSON") from None
    return _numbered(content)


def _numbered(content: Any) -> Iterator[Item]:
    if not isinstance(content, list):
        raise ValueError('it must hold a list of prompts, such as ["a corgi", "a red mug"]')
    for number, item in enumerate(content, start=1):
        yield f"entry {number}", item


def _from_json_lines(text: str) -> Iterator[Item]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except ValueError:
            hint = ""
            if isinstance(_as_json(text), (list, dict)):
                hint = ". Values over several lines belong in a file with the suffix .json."
            raise ValueError(f"line {number} is not a value in JSON{hint}") from None


def _from_csv(text: str) -> Iterator[Item]:
    """A table from a spreadsheet, with commas, semicolons or tabs between the cells."""
    skipped = 0
    if separator := re.match(r"sep=(.)\n", text):  # written by Excel
        text, skipped = text[separator.end() :], 1
    delimiters = [separator.group(1)] if separator else [",", ";", "\t"]
    head = next((line for line in text.split("\n") if line.strip(" ,;\t")), "")
    valid = (d for d in delimiters if "prompt" in _columns(next(csv.reader([head], delimiter=d))))
    return _from_table(text, next(valid, delimiters[0]), skipped)


def _from_table(text: str, delimiter: str = "\t", skipped: int = 0) -> Iterator[Item]:
    """The rows of a table. skipped: number of file lines before `text`."""
    lines = (f"{line}\n" for line in text.removesuffix("\n").split("\n"))
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    columns: list[str] = []
    for row in rows:
        where = f"line {rows.line_num + skipped}"
        if not any(cell.strip(" ,;\t") for cell in row):
            continue
        if not columns:
            columns = _columns(row)
            _check_columns(columns)
            continue
        yield where, _row(where, columns, row)


def _columns(row: list[str]) -> list[str]:
    return [cell.strip().lower() for cell in row]


def _check_columns(columns: list[str]) -> None:
    names = [column for column in columns if column]
    if "prompt" not in names:
        raise ValueError(
            "its first row must name the columns, one of them prompt; it holds "
            f"{', '.join(map(repr, names))}"
        )
    if duplicate := next((column for column in names if names.count(column) > 1), None):
        raise ValueError(f"two columns are called {duplicate}")


def _row(where: str, columns: list[str], row: list[str]) -> dict[str, Any]:
    """One row as a mapping without empty cells."""
    given: dict[str, str] = {}
    for number, cell in enumerate(map(str.strip, row)):
        if not cell:
            continue
        if number >= len(columns):
            raise ValueError(
                f"{where} has more cells than there are columns. Put quotes around a cell that "
                "contains a comma."
            )
        if not columns[number]:
            raise ValueError(f"{where} has {cell!r} in a column without a name")
        given[columns[number]] = cell
    item: dict[str, Any] = {key: given.pop(key) for key in _KEYS[:3] if key in given}
    if "seed" in item:
        item["seed"] = _value(where, "seed", item["seed"])
    return item | {"settings": {key: _value(where, key, cell) for key, cell in given.items()}}


def _value(where: str, column: str, cell: str) -> Any:
    try:
        return parse_yaml(cell)
    except ValueError:
        raise ValueError(f"{where}: cannot read {cell!r} in the column {column}") from None


_Reader = Callable[[str], Iterator[Item]]
_READERS: dict[str, tuple[str, _Reader]] = {
    ".txt": ("text with one prompt a line", _from_lines),
    ".yaml": ("YAML", lambda text: _numbered(parse_yaml(text))),
    ".json": ("JSON", _from_json),
    ".jsonl": ("JSON lines", _from_json_lines),
    ".csv": ("CSV", _from_csv),
    ".tsv": ("TSV", _from_table),
}


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
    """The entries of a list in any of these formats, or of standard input for "-".
    Raises BatchError, which reports all errors at once."""
    found, name = read_items(source), name_of(source)
    if not found:
        raise BatchError(f"{name} contains no prompts")
    return make_all(found, lambda item: _entry(f"{name}, {item[0]}", item[1]))


def make_all(items: Sequence[Any], make: Callable[[Any], Any]) -> list[Any]:
    """Call `make` for every item. Raises BatchError with the errors of all items, in short form if
    there are several."""
    made: list[Any] = []
    errors: dict[str, UserError] = {}
    for item in items:
        try:
            made.append(make(item))
        except UserError as error:
            errors[str(error)] = error
    if errors:
        texts = list(errors) if len(errors) == 1 else [error.brief for error in errors.values()]
        more = f"; and {len(texts) - _MAX_ERRORS} more" if len(texts) > _MAX_ERRORS else ""
        raise BatchError("; ".join(texts[:_MAX_ERRORS]) + more)
    return made


def combinations(assignments: Sequence[str]) -> list[dict[str, Any]]:
    """All combinations of `["estimator.guidance=4,8", …]`, as nested settings. Raises ConfigError.

    Commas within brackets or quotes do not separate: camera.distance=[2.6,3.2] is one value.
    """
    choices: list[list[str]] = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        values = re.findall(_VALUE, text) or [""]
        choices.append([f"{key}{equals}{value}" for value in values])
    return [parse_assignments(chosen) for chosen in itertools.product(*choices)]


def _entry(where: str, item: Any) -> Entry:
    if isinstance(item, str):
        item = {"prompt": item}
    if not isinstance(item, dict):
        raise BatchError(f"{where}: expected a prompt or a mapping, not {_shown(item)}")
    unknown = [str(key) for key in item if key not in _KEYS]
    if unknown:
        raise BatchError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(_KEYS)}")
    prompt, seed, preset = (item.get(key) for key in _KEYS[:3])
    settings = {} if item.get("settings") is None else item["settings"]
    if prompt is None or (isinstance(prompt, str) and not prompt.strip()):
        raise BatchError(f"{where}: the prompt is missing")
    if not isinstance(prompt, str):
        raise BatchError(f"{where}: prompt must be text, not {_shown(prompt)}. Put it in quotes.")
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise BatchError(f"{where}: the prompt is not valid Unicode text")
    if seed is not None and (type(seed) is not int or seed < 0):
        raise BatchError(f"{where}: seed must be a whole number, not {_shown(seed)}")
    if preset is not None and not isinstance(preset, str):
        raise BatchError(f"{where}: preset must be a name or a file, not {_shown(preset)}")
    if not isinstance(settings, dict):
        raise BatchError(f"{where}: settings must map names to values, not {_shown(settings)}")
    try:
        return Entry(where, prompt.strip(), seed, preset, nested(settings))
    except ConfigError as error:
        raise BatchError(f"{where}: {error}") from None


def _shown(value: Any) -> str:
    """A value in a message. Nested lists are truncated: YAML's anchors can make them infinite."""
    return one_line(reprlib.repr(value), 80)
