"""The nouns of the toy world, read from nouns.yaml, and compound parts, read from parts.yaml."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamfusion.config.layers import read_yaml
from dreamfusion.toyworld.parts import KINDS, Part, pair, primitive

Draw = Callable[[float, float], float]
_FUNCTIONS = {
    "__builtins__": {},
    "sin": lambda degrees: math.sin(math.radians(degrees)),
    "cos": lambda degrees: math.cos(math.radians(degrees)),
}


@dataclass(frozen=True)
class Noun:
    """A kind of object. color: its natural main colour. group: its category in lists. parts, where:
    its description; see nouns.yaml. synonyms: its other names."""

    name: str
    color: str
    group: str
    parts: Sequence[Mapping[str, Any]]
    where: Mapping[str, Any] = field(default_factory=dict)
    synonyms: Sequence[str] = ()

    def build(self, draw: Draw) -> list[Part]:
        """Build its parts. draw: returns a number from a range (low, high)."""
        variables: dict[str, Any] = {}
        for name, value in self.where.items():
            variables[name] = draw(*value) if isinstance(value, list) else _value(value, variables)
        return [part for entry in self.parts for part in _parts(entry, variables)]


def _parts(entry: Mapping[str, Any], variables: Mapping[str, Any]) -> list[Part]:
    """The parts that an entry describes. variables: the numbers defined by `where`."""
    (kind,) = {*KINDS, *_COMPOUNDS} & entry.keys()
    options = {key: entry[key] for key in entry.keys() - {kind, "color", "pair", "for"}}
    color = {"color": entry["color"]} if "color" in entry else {}
    columns = _value(entry.get("for", {}), variables)
    rows = zip(*columns.values(), strict=True) if columns else [()]
    found: list[Part] = []
    for row in rows:
        scope = {**variables, **dict(zip(columns, row, strict=True))}
        arguments, chosen = _value(entry[kind], scope), _value(options, scope)
        if kind in _COMPOUNDS:
            known, inside = _COMPOUNDS[kind]["arguments"], _COMPOUNDS[kind]["parts"]
            given = {**known, **dict(zip(known, arguments, strict=False)), **chosen}
            parts = [part for one in inside for part in _parts({**color, **one}, given)]
        else:
            parts = [primitive(kind, *arguments, **(chosen | color))]
        found += [part for left in parts for part in pair(left)] if "pair" in entry else parts
    return found


def _value(value: Any, variables: Mapping[str, Any]) -> Any:
    """Evaluate the formulas in a value from the file. The file is shipped with the package and as
    trusted as its code."""
    if isinstance(value, str):
        return eval(value, _FUNCTIONS, dict(variables))
    if isinstance(value, list):
        return tuple(_value(part, variables) for part in value)
    if isinstance(value, dict):
        return {key: _value(part, variables) for key, part in value.items()}
    return value


_FOLDER = Path(__file__).parent
_COMPOUNDS: dict[str, dict[str, Any]] = read_yaml(_FOLDER / "parts.yaml")
NOUNS = tuple(Noun(name, **about) for name, about in read_yaml(_FOLDER / "nouns.yaml").items())
