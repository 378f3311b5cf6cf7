"""Settings that had other names: files, runs and commands that use the old ones still work."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from dreamfusion.utils.errors import RunWarning

# Old name -> new name, of whole sections or single settings.
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


def with_new_names(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Nested settings with new names in place of old ones; the same where none is old. What has a
    value under its new name keeps it.

    The first old name of a process is reported with a RunWarning.
    """
    moved = [name for name in RENAMED if _get(settings, name) is not None]
    if not moved:
        return settings
    _warn(moved[0])
    result = _copy(settings)
    for name in moved:
        _put(result, RENAMED[name].split("."), _pop(result, name))
    return result


def _warn(name: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            RunWarning(
                f"{name} is now called {RENAMED[name]}; old names of settings still work "
                "(`dreamfusion configs embedded` prints the new ones)"
            ),
            stacklevel=4,
        )


def _get(settings: Mapping[str, Any], name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _pop(settings: dict[str, Any], name: str) -> Any:
    """Remove a setting, and the section around it if nothing is left in it."""
    first, _, rest = name.partition(".")
    if not rest:
        return settings.pop(first)
    value = _pop(settings[first], rest)
    if not settings[first]:
        del settings[first]
    return value


def _put(settings: dict[str, Any], path: Sequence[Any], value: Any) -> None:
    """Set a value, or every part of a section, unless something is set there."""
    first, *rest = path
    if isinstance(value, Mapping):
        for key, part in value.items():
            _put(settings, [*path, key], part)
    elif not rest:
        settings.setdefault(first, value)
    elif isinstance(place := settings.setdefault(first, {}), dict):
        _put(place, rest, value)


def _copy(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in settings.items()}
