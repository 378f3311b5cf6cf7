"""Lists of prompts with optional seeds, presets and settings."""

import itertools
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dreamfusion.batch.formats import BatchError, name_of, read_items
from dreamfusion.config.layers import ConfigError, nested, parse_assignments
from dreamfusion.utils.errors import UserError, one_line

_KEYS = ("prompt", "seed", "preset", "settings")
_VALUE = r"(?:\[[^\]]*\]|\{[^}]*\}|\"[^\"]*\"|'[^']*'|[^,])+"
_MAX_ERRORS = 20  # in one message


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
    """The entries of a list in any of the formats of `formats`, or of standard input for "-".
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
