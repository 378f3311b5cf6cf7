"""Old names of settings, which files, runs and commands may still use."""

import warnings
from collections.abc import Mapping
from typing import Any

from dreamfusion.config.nested import find, merged
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
        value = _pop(rest, name)
        for section in reversed(RENAMED[name].split(".")):
            value = {section: value}
        found = merged(value, found)
    return merged(found, rest)


def _pop(settings: dict[str, Any], name: str) -> Any:
    """Remove and return a setting. Its section is removed too if it becomes empty."""
    first, _, rest = name.partition(".")
    if not rest:
        return settings.pop(first)
    value = _pop(settings[first], rest)
    if not settings[first]:
        del settings[first]
    return value
