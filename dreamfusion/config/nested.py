"""Merges nested settings, accesses them by dotted name, and replaces their old names."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from dreamfusion.utils.errors import RunWarning

# Old name -> new name, of sections or single settings, which files, runs and commands may use.
_ADAM = ("grid_lr", "network_lr", "background_lr", "ema", "beta1", "beta2", "epsilon")
RENAMED = {
    "sds": "estimator",
    "field": "scene.field",
    "occupancy": "scene.occupancy",
    **{f"render.{x}": f"scene.marching.{x}" for x in ("step_size", "min_transmittance", "backend")},
    **{f"losses.{x}": f"scene.losses.{x}" for x in ("sparsity", "orientation", "smoothness")},
    **{f"optimizer.{x}": f"scene.optimizer.{x}" for x in _ADAM},
}
_warned = False


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


def with_new_names(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Replace old names in nested settings by new ones. A value under a new name takes precedence.

    Warns once per process, with a RunWarning.
    """
    moved = [name for name in RENAMED if find(settings, name) is not None]
    if not moved:
        return settings
    global _warned
    if not _warned:
        _warned = True
        text = (
            f"{moved[0]} is now called {RENAMED[moved[0]]}; old names of settings still work "
            "(`dreamfusion configs embedded` prints the new ones)"
        )
        warnings.warn(RunWarning(text), stacklevel=3)
    rest, found = merged(settings, {}), dict[str, Any]()
    for name in moved:
        section, _, last = name.rpartition(".")
        value = (find(rest, section) if section else rest).pop(last)
        for part in reversed(RENAMED[name].split(".")):
            value = {part: value}
        found = merged(value, found)
    return merged(found, rest)
