"""Presets: the files in `configs/`, each holding only what differs from the defaults."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from dreamfusion.config.schema import ConfigError, read_yaml
from dreamfusion.utils.resources import shipped


def preset_names() -> list[str]:
    """The names of all presets, sorted."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def preset_for(pipeline: str, *, has_card: bool) -> str:
    """The preset that suits a prior of a diffusers pipeline class, where the user chose none.

    has_card: the prior says itself how to speak to it, as the embedded one does.
    """
    if has_card:
        return "embedded"
    return {
        "IFPipeline": "deepfloyd-if",
        "StableDiffusionPipeline": "stable-diffusion",
        "StableDiffusion3Pipeline": "stable-diffusion",
        "StableDiffusionXLPipeline": "sdxl",
    }[pipeline]


def describe_preset(name: str) -> str:
    """The one line that a preset says of itself: the comment that its file begins with."""
    return _path(name).read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()


def read_preset(name: str) -> dict[str, Any]:
    """The settings of a preset. Raises ConfigError for a name that there is none of."""
    return read_yaml(_path(name))


def read_settings(name_or_file: str) -> dict[str, Any]:
    """The settings in a file (anything that exists or ends in .yaml or .yml) or of a preset.

    Raises ConfigError if there is neither.
    """
    path = Path(name_or_file)
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return read_yaml(path)
    return read_preset(name_or_file)


def _path(name: str) -> Path:
    names = preset_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
        raise ConfigError(f"no preset and no file {name}; {hint}")
    return _folder() / f"{name}.yaml"


def _folder() -> Path:
    return shipped("configs")
