"""The nouns of the toy world, as nouns.yaml describes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamfusion.config.layers import read_yaml
from dreamfusion.toyworld.parts import KINDS, Part, pair, parts_of

Draw = Callable[[float, float], float]
_FUNCTIONS = {
    "__builtins__": {},
    "sin": lambda degrees: math.sin(math.radians(degrees)),
    "cos": lambda degrees: math.cos(math.radians(degrees)),
}


@dataclass(frozen=True)
class Noun:
    """A kind of object. color: its natural main colour. group: what it is listed under. parts,
    where: its description; see nouns.yaml. synonyms: its other names."""

    name: str
    color: str
    group: str
    parts: Sequence[Mapping[str, Any]]
    where: Mapping[str, Any] = field(default_factory=dict)
    synonyms: Sequence[str] = ()

    def build(self, draw: Draw) -> list[Part]:
        """Its parts. draw: gives a number from a range."""
        known: dict[str, Any] = {}
        for name, value in self.where.items():
            known[name] = draw(*value) if isinstance(value, list) else _value(value, known)
        return [part for entry in self.parts for part in _parts(entry, known)]


def _parts(entry: Mapping[str, Any], known: Mapping[str, Any]) -> list[Part]:
    """The parts that an entry describes. known: the numbers that `where` names."""
    (kind,) = KINDS & entry.keys()
    options = {key: entry[key] for key in entry.keys() - {kind, "color", "pair", "for"}}
    color = {"color": entry["color"]} if "color" in entry else {}
    columns = _value(entry.get("for", {}), known)
    rows = zip(*columns.values(), strict=True) if columns else [()]
    found: list[Part] = []
    for row in rows:
        names = {**known, **dict(zip(columns, row, strict=True))}
        made = parts_of(kind, *_value(entry[kind], names), **_value(options, names), **color)
        found += [twin for part in made for twin in pair(part)] if "pair" in entry else made
    return found


def _value(written: Any, known: Mapping[str, Any]) -> Any:
    """What is written in the file, with its formulas computed. The file ships with the package, and
    is trusted as code is."""
    if isinstance(written, str):
        return eval(written, _FUNCTIONS, dict(known))
    if isinstance(written, list):
        return tuple(_value(part, known) for part in written)
    if isinstance(written, dict):
        return {key: _value(part, known) for key, part in written.items()}
    return written


NOUNS = tuple(
    Noun(name, **about) for name, about in read_yaml(Path(__file__).with_name("nouns.yaml")).items()
)
