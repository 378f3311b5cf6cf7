"""Merges nested settings and accesses them by dotted name."""

from collections.abc import Iterator, Mapping
from typing import Any


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the nested settings `below`, overridden by those of `above`.

    >>> merged({"sds": {"guidance": 4, "t_min": 0.02}}, {"sds": {"guidance": 8}})
    {'sds': {'guidance': 8, 't_min': 0.02}}
    """
    result = {k: merged(v, {}) if isinstance(v, Mapping) else v for k, v in below.items()}
    for key, value in above.items():
        if isinstance(value, Mapping):
            current = result.get(key)
            value = merged(current if isinstance(current, Mapping) else {}, value)
        result[key] = value
    return result


def flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Iterate over nested settings by dotted name: the inverse of `layers.nested`.

    >>> dict(flat({"estimator": {"guidance": 4}}))
    {'estimator.guidance': 4}
    """
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def find(settings: Mapping[str, Any], name: str, default: object = None) -> Any:
    """The value of a dotted name in nested settings, or `default`."""
    value: Any = settings
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    return value
